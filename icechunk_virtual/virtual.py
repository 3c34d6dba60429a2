"""Scanning archives and writing what was found: `scan` and `VirtualDataset`, where scanners and engine meet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from icechunk_virtual.containers.container import VirtualChunkContainer, local_filesystem_store
from icechunk_virtual.containers.source import expand, open_source
from icechunk_virtual.containers.url import check_prefix, local_path
from icechunk_virtual.errors import ScanError
from icechunk_virtual.scanners import registry
from icechunk_virtual.scanners.combine import concat as concat_scanned
from icechunk_virtual.scanners.dataset import Scanned, Stored, VirtualArray, VirtualGroup, human_bytes, tree
from icechunk_virtual.scanners.spec import ScannerSpec, ScanOptions
from icechunk_virtual.session import Session
from icechunk_virtual.store import IcechunkStore
from icechunk_virtual.writing import Mode, Region, Writer

__all__ = ["VirtualDataset", "scan"]

SourceLike = str | os.PathLike[str]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class VirtualDataset:
    """What was found in one or several files: groups, arrays and attributes, with references instead of data.

    Made by `scan`.

    Attributes
    ----------
    root : VirtualGroup
        The tree.
    sources : tuple of str
        URLs of the files.
    format : str
        Name of the file format.
    stored : tuple of Stored
        What will be copied into the repository instead of being referenced, with reason and price in bytes.
    warnings : tuple of str
        What is not as it stands in the files.
    """

    root: VirtualGroup
    sources: tuple[str, ...]
    format: str
    stored: tuple[Stored, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def groups(self) -> Mapping[str, VirtualGroup]:
        """Groups directly below the root, by name."""
        return self.root.groups

    @property
    def arrays(self) -> Mapping[str, VirtualArray]:
        """Arrays directly below the root, by name."""
        return self.root.arrays

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the root."""
        return self.root.attributes

    @property
    def nrefs(self) -> int:
        """Number of chunks."""
        return self.root.nrefs

    @property
    def nbytes(self) -> int:
        """Encoded bytes of all chunks, referenced or to be stored."""
        return self.nbytes_virtual + self.nbytes_stored

    @property
    def nbytes_virtual(self) -> int:
        """Encoded bytes that stay where they are."""
        return self.root.nbytes_virtual

    @property
    def nbytes_stored(self) -> int:
        """Encoded bytes that will be stored in the repository."""
        return self.root.nbytes_stored

    @property
    def prefixes(self) -> tuple[str, ...]:
        """URL prefixes of virtual chunk containers that cover every source: their folders, as few as possible."""
        return container_prefixes(self.sources)

    def __repr__(self) -> str:
        files = self.sources[0] if len(self.sources) == 1 else f"{len(self.sources)} files"
        sizes = f"{human_bytes(self.nbytes_virtual)} virtual, {human_bytes(self.nbytes_stored)} stored"
        head = [f"VirtualDataset of {files} ({self.format})", f"{self.nrefs} chunks, {sizes}"]
        stored = [f"  {s.path}: {s.reason} ({human_bytes(s.nbytes)})" for s in self.stored]
        warnings = [f"  {warning}" for warning in self.warnings]
        tail = (["stored:", *stored] if stored else []) + (["warnings:", *warnings] if warnings else [])
        return "\n".join([*head, *tree(self.root), *tail])

    def to_icechunk(
        self,
        store_or_session: IcechunkStore | Session,
        *,
        group: str | None = None,
        mode: Mode | None = None,
        append_dim: str | None = None,
        region: Region | None = None,
    ) -> None:
        """Write groups, arrays and references into a session. The caller commits.

        Parameters
        ----------
        store_or_session
            Writable.
        group
            Path of the group that the root becomes; created with its parents. Default: the root.
        mode
            ``w-`` (default): the group must be empty; ``w``: replace it; ``a``: add, replacing arrays of the same name;
            ``r+`` (default with `region`): change existing arrays only.
        append_dim
            Append to the existing arrays along this dimension. Arrays without it must be the same as those there.
        region
            Write into these slices of existing arrays: dimension name to slice.

        Raises
        ------
        NoContainer
            The repository's configuration has no virtual chunk container for a source.
        NodeExists, InconsistentFiles, ReadOnlyError, ValueError
            Then nothing was changed.
        """
        session = store_or_session.session if isinstance(store_or_session, IcechunkStore) else store_or_session
        if append_dim is not None and region is not None:
            raise ValueError("give append_dim or region, not both")
        if append_dim is not None and mode not in (None, "a"):
            raise ValueError(f"append_dim needs mode='a', got {mode!r}")
        if region is not None and mode not in (None, "a", "r+"):
            raise ValueError(f"region needs mode='r+' or 'a', got {mode!r}")
        if mode not in (None, "w", "w-", "a", "r+"):
            raise ValueError(f"mode must be 'w', 'w-', 'a' or 'r+', got {mode!r}")
        Writer(session, group).write(self.root, mode=mode or "w-", append_dim=append_dim, region=region)


def scan(
    source: SourceLike | Iterable[SourceLike],
    *,
    concat: str | None = None,
    scanner: str | ScannerSpec | None = None,
    options: ScanOptions | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> VirtualDataset:
    """Read the structure of files and make references to their chunks. No chunk data is read or copied.

    Parameters
    ----------
    source
        Path or URL of a file; or several: a list of them, a glob pattern, or a directory.
    concat
        Name of an existing dimension along which several files are joined into one array per variable.
    scanner
        Name of the scanner; default: by the content of each file.
    options
        What to leave out, what to store.
    executor
        Where files are scanned side by side (threads or processes). Default: one after the other.
    progress
        Called with the number of files done, their total, and the URL of the last one.

    Raises
    ------
    ScanError
        A file cannot be found, read, or represented; `InconsistentFiles` when files do not fit together.
    ValueError
        Several files without `concat`.

    Examples
    --------
    >>> vds = scan("archive/*.nc", concat="time")  # doctest: +SKIP
    >>> vds.to_icechunk(session)  # doctest: +SKIP
    """
    urls = expand([source] if isinstance(source, (str, os.PathLike)) else list(source))
    if len(urls) > 1 and concat is None:
        raise ValueError(
            f"{len(urls)} files were named, from {urls[0]} to {urls[-1]}. Say along which dimension they are joined, for "
            "example concat='time', or scan them one by one."
        )
    found = list(_scan_all(urls, scanner, options or ScanOptions(), executor, progress))
    whole = found[0] if concat is None else concat_scanned(found, concat)
    sources = tuple(item.url for item in found)
    return VirtualDataset(whole.root, sources, whole.format, whole.stored, whole.warnings)


def _scan_all(
    urls: Sequence[str],
    scanner: str | ScannerSpec | None,
    options: ScanOptions,
    executor: Executor | None,
    progress: Progress | None,
) -> Iterator[Scanned]:
    jobs = ((url, scanner, options) for url in urls)
    results = map(scan_file, *zip(*jobs, strict=True)) if executor is None else executor.map(scan_file, *zip(*jobs, strict=True))
    for done, item in enumerate(results, 1):
        if progress is not None:
            progress(done, len(urls), item.url)
        yield item


def scan_file(url: str, scanner: str | ScannerSpec | None, options: ScanOptions) -> Scanned:
    """Scan one file; a function of its own so that other processes can run it."""
    with open_source(url) as source:
        return registry.scan(source, options, scanner)


def container_prefixes(urls: Iterable[str]) -> tuple[str, ...]:
    """Folders that cover all URLs, as few as possible but never a file system's or a host's root.

    >>> container_prefixes(["file:///data/a/1.nc", "file:///data/b/2.nc", "s3://bucket/x/3.nc"])
    ('file:///data/', 's3://bucket/x/')
    """
    folders: dict[tuple[str, str], list[list[str]]] = {}
    for url in dict.fromkeys(url.rsplit("/", 1)[0] for url in urls):
        parts = urlsplit(url)
        folders.setdefault((parts.scheme, parts.netloc), []).append(parts.path.split("/")[1:])
    prefixes: list[str] = []
    for (scheme, host), paths in folders.items():
        common = os.path.commonprefix(paths)
        chosen = [common] if any(common) or host else paths
        prefixes += (f"{scheme}://{host}/" + "".join(part + "/" for part in path) for path in chosen)
    return tuple(dict.fromkeys(prefixes))


def container_for(prefix: str) -> VirtualChunkContainer:
    """A virtual chunk container for a prefix.

    Raises
    ------
    ScanError
        This version has no containers for its scheme.
    """
    if not prefix.startswith("file:"):
        raise ScanError(f"virtual chunk containers for {prefix} are not supported by this version; use file:// sources")
    return VirtualChunkContainer(prefix, local_filesystem_store(str(local_path(check_prefix(prefix)))))
