"""The same steps through either library: `icechunk_virtual` and the original `icechunk` have one public interface."""

from __future__ import annotations

import functools
import importlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import zarr

Side = Literal["ours", "theirs"]
SIDES: tuple[Side, Side] = ("ours", "theirs")
_MODULES = {"ours": "icechunk_virtual", "theirs": "icechunk"}


@functools.cache
def engine(side: Side) -> Any:
    """The library's module."""
    module = importlib.import_module(_MODULES[side])
    if side == "theirs":
        module.set_logs_filter("error")  # it warns of local disks at every opening
    return module


def temporary_directory() -> Path:
    """A new directory; whoever makes it removes it with `remove`."""
    return Path(tempfile.mkdtemp(prefix="icechunk-virtual-bench-"))


def remove(path: Path) -> None:
    """Delete a directory and everything in it."""
    shutil.rmtree(path, ignore_errors=True)


def config(side: Side, archive: Path | None, inline_threshold: int | None = None) -> Any:
    """A configuration with a container for the files below `archive`."""
    ic = engine(side)
    made = ic.RepositoryConfig.default()
    if archive is not None:
        made.set_virtual_chunk_container(
            ic.VirtualChunkContainer(prefix(archive), ic.local_filesystem_store(str(archive)))
        )
    if inline_threshold is not None:
        made.inline_chunk_threshold_bytes = inline_threshold
    return made


def prefix(archive: Path) -> str:
    """URL prefix of the files below a directory."""
    return f"file://{archive}/"


def _authorized(side: Side, archive: Path | None) -> Any:
    return None if archive is None else engine(side).containers_credentials({prefix(archive): None})


def create(side: Side, path: Path, archive: Path | None = None, inline_threshold: int | None = None) -> Any:
    """A new repository on local disk."""
    ic = engine(side)
    storage = ic.local_filesystem_storage(str(path))
    return ic.Repository.create(storage, config(side, archive, inline_threshold), _authorized(side, archive))


def reopen(side: Side, path: Path, archive: Path | None = None) -> Any:
    """An existing repository, nothing cached."""
    ic = engine(side)
    storage = ic.local_filesystem_storage(str(path))
    return ic.Repository.open(storage, None, _authorized(side, archive))


def make_array(store: Any, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str = "u1") -> zarr.Array[Any]:
    """An uncompressed array `a`."""
    return zarr.create_array(
        store, name="a", shape=shape, chunks=chunks, dtype=dtype, compressors=None, filters=None, fill_value=0
    )


def all_set(left_out: object) -> None:
    """Check what `set_virtual_refs` answers: the chunks that it left out."""
    if left_out is not None:
        raise RuntimeError(f"not set: {left_out}")


def size_on_disk(path: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@dataclass(frozen=True)
class Fresh:
    """A directory with an empty repository of each library and a writable session on each."""

    directory: Path
    sessions: dict[Side, Any]

    @classmethod
    def make(
        cls,
        shape: tuple[int, ...],
        chunks: tuple[int, ...],
        *,
        dtype: str = "u1",
        archive: Path | None = None,
        inline_threshold: int | None = None,
        sides: tuple[Side, ...] = SIDES,
    ) -> Fresh:
        """The array `a` exists in both and is committed."""
        directory, sessions = temporary_directory(), {}
        for side in sides:
            repository = create(side, directory / side, archive, inline_threshold)
            session = repository.writable_session("main")
            make_array(session.store, shape, chunks, dtype)
            session.commit("array")
            sessions[side] = repository.writable_session("main")
        return cls(directory, sessions)

    def remove(self) -> None:
        """Delete the directory."""
        remove(self.directory)
