"""Scanning archives and writing what was found: `scan` and `VirtualDataset`, where scanners and engine meet."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from icechunk_virtual.containers.container import VirtualChunkContainer
from icechunk_virtual.containers.expand import expand
from icechunk_virtual.containers.source import Source
from icechunk_virtual.errors import ReadOnlyError, ScanError
from icechunk_virtual.scanners import registry
from icechunk_virtual.scanners.combine import concat as concat_scanned
from icechunk_virtual.scanners.dataset import Scanned, Stored, VirtualArray, VirtualGroup, count, overview
from icechunk_virtual.scanners.spec import ScannerSpec, ScanOptions
from icechunk_virtual.session import Session
from icechunk_virtual.sources import Containers, SourceAccess, containers_for, prefixes_for, secrets_in
from icechunk_virtual.store import IcechunkStore
from icechunk_virtual.writing import Mode, Region, write

__all__ = ["VirtualDataset", "open_source", "scan"]

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
    reached_through : tuple of VirtualChunkContainer
        The containers that were given to `scan`.
    """

    root: VirtualGroup
    sources: tuple[str, ...]
    format: str
    stored: tuple[Stored, ...] = ()
    warnings: tuple[str, ...] = ()
    reached_through: tuple[VirtualChunkContainer, ...] = ()

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
        """URL prefixes that cover every source: what a repository needs containers for, and readers authorise."""
        return prefixes_for(self.sources, self.reached_through)

    @property
    def containers(self) -> tuple[VirtualChunkContainer, ...]:
        """Virtual chunk containers for `prefixes`, to be set in a repository's configuration.

        Those that were given to `scan`; for other files in the way that their URLs alone say.
        """
        return containers_for(self.sources, self.reached_through)

    def __repr__(self) -> str:
        files = self.sources[0] if len(self.sources) == 1 else count(len(self.sources), "file")
        return overview(f"VirtualDataset of {files} ({self.format})", self.root, self.stored, self.warnings)

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
            ``w-`` (default): the group must be empty; ``w``: replace it with everything below; ``a``: add, replacing
            arrays of the same name; ``r+`` (needs `region`): change existing arrays only.
        append_dim
            Append to the existing arrays along this dimension, in every group that has it. Arrays without it must be
            the same as those there. Times are converted to the units of the repository.
        region
            Write into slices of existing arrays: dimension name to slice, or to ``"auto"``, which finds the values of
            the dataset's coordinate in the repository's; ``"auto"`` alone does so for every coordinate. References
            fill whole chunks only.

        Raises
        ------
        NoContainer
            The repository's configuration has no virtual chunk container for a source.
        NodeExists
            `mode` keeps what is there.
        InconsistentFiles
            Arrays do not fit those that they are appended to; `differences` has one text per array.
        NodeNotFound, ReadOnlyError, ValueError

        Notes
        -----
        After an error the session is as it was before.
        """
        if isinstance(store_or_session, IcechunkStore):
            if store_or_session.read_only:
                raise ReadOnlyError("the store is read-only; use repo.writable_session(branch).store")
            session = store_or_session.session
        elif isinstance(store_or_session, Session):
            session = store_or_session
        else:
            raise TypeError(
                f"a session or its store is needed, got {type(store_or_session).__name__}. Get one with "
                "repo.writable_session(branch)."
            )
        write(session, self.root, group=group, mode=mode, append_dim=append_dim, region=region)


def scan(
    source: SourceLike | Iterable[SourceLike],
    *,
    concat: str | None = None,
    scanner: str | ScannerSpec | None = None,
    options: ScanOptions | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    containers: Containers | None = None,
    credentials: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
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
    containers
        Virtual chunk containers that say how remote files below their prefixes are reached: region, endpoint, account
        ... The dataset's `containers` are these. Files that are below none are reached as their URLs alone say.
    credentials
        URL prefix to credentials, as for `authorize_virtual_chunk_access`. Files that are below none, or below
        one with ``None``, are read on S3 with the credentials of the environment, elsewhere without; Azure needs some.
    storage_options
        Read remote files through fsspec, with these options for its file system. Other protocols than those of
        containers are always read so.

    Raises
    ------
    ScanError
        A file cannot be found, read, or represented; `InconsistentFiles` when files do not fit together.
    ValueError
        Several files without `concat`.

    Examples
    --------
    Join files and write the references::

        vds = scan("archive/*.nc", concat="time")
        vds.to_icechunk(session)

    A file in a bucket, with a key pair::

        keys = icechunk_virtual.s3_static_credentials(access_key_id=..., secret_access_key=...)
        vds = scan("s3://bucket/a.nc", credentials={"s3://bucket/": keys})
    """
    urls, skipped = find_files(source, scanner)
    if not urls:
        raise ScanError("no source was given")
    if len(urls) > 1 and concat is None:
        raise ValueError(
            f"{len(urls)} files were named, from {urls[0]} to {urls[-1]}. Say along which dimension they are joined, "
            "for example concat='time', or scan them one by one."
        )
    access = SourceAccess(containers, credentials, storage_options)
    one = functools.partial(_scan_file, access=access, scanner=scanner, options=options or ScanOptions())
    found = list(_scan_all(urls, one, executor, progress))
    whole = found[0] if concat is None else concat_scanned(found, concat)
    notes = (*whole.warnings, *secrets_in(urls), *([_skipped_text(skipped)] if skipped else []))
    sources = tuple(item.url for item in found)
    return VirtualDataset(whole.root, sources, whole.format, whole.stored, notes, access.containers)


def open_source(
    url_or_path: SourceLike | Source,
    *,
    containers: Containers | None = None,
    credentials: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    """Open one file as scanners read it.

    Parameters
    ----------
    url_or_path
        Local path or URL. A `Source` is returned as it is.
    containers, credentials, storage_options
        See `scan`.

    Raises
    ------
    ScanError
        The file is missing, unreadable, or not a file; the message names it. Or its URL holds a password.
    MissingDependency
        A package is needed for this protocol.
    """
    return SourceAccess(containers, credentials, storage_options).open(url_or_path)


def find_files(
    source: SourceLike | Iterable[SourceLike], scanner: str | ScannerSpec | None = None
) -> tuple[list[str], list[str]]:
    """The files that `scan` would take: their URLs, and the names of files in folders that no scanner knows.

    Raises
    ------
    ScanError
        A name, pattern or folder without files.
    ValueError
        There is no scanner of that name.
    """
    endings = _endings(scanner)
    skipped: list[str] = []

    def accept(name: str) -> bool:
        fits = name.lower().endswith(endings)
        if not fits:
            skipped.append(name)
        return fits

    patterns = [source] if isinstance(source, (str, os.PathLike)) else source
    if not isinstance(patterns, Iterable):
        raise TypeError(f"a path, a URL, or several of them are needed, got {source!r}")
    try:
        urls = expand(patterns, accept=accept)
    except ScanError as error:
        if not skipped:
            raise
        raise ScanError(
            f"no file in the folder `{error.source}` has a known ending ({', '.join(endings)}). Name the files, or "
            "give a pattern, to scan them whatever they are called.",
            source=error.source,
        ) from None
    return urls, skipped


def _endings(scanner: str | ScannerSpec | None) -> tuple[str, ...]:
    if isinstance(scanner, ScannerSpec):
        return scanner.suffixes
    if scanner is None:
        specs = registry.scanners()
        return tuple(dict.fromkeys(suffix for spec in specs.values() for suffix in spec.suffixes))
    return registry.scanner_named(scanner).suffixes


def _skipped_text(skipped: Sequence[str]) -> str:
    some = ", ".join(skipped[:3]) + (" ..." if len(skipped) > 3 else "")
    return f"{count(len(skipped), 'file')} in folders left out, since no scanner knows their endings: {some}"


def _scan_all(
    urls: Sequence[str], one: Callable[[str], Scanned], executor: Executor | None, progress: Progress | None
) -> Iterator[Scanned]:
    results = map(one, urls) if executor is None else executor.map(one, urls)
    for done, item in enumerate(results, 1):
        if progress is not None:
            progress(done, len(urls), item.url)
        yield item


def _scan_file(url: str, access: SourceAccess, scanner: str | ScannerSpec | None, options: ScanOptions) -> Scanned:
    with access.open(url) as source:
        return registry.scan(source, options, scanner)
