"""xarray objects into a session: `to_icechunk`.

Metadata and what is in memory go straight into the store; dask arrays go through a fork, one task per chunk. xarray's
own Zarr backend decides about encodings, modes and regions; what changed there between releases is handled here.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, MutableMapping
from typing import Any, Literal

import xarray
from xarray import DataArray, Dataset
from xarray.backends import ZarrStore
from xarray.backends.common import ArrayWriter

from icechunk_virtual.dask import store_dask
from icechunk_virtual.requirements import require
from icechunk_virtual.session import ForkSession, Session
from icechunk_virtual.store import IcechunkStore

try:
    from xarray.backends.writers import _validate_dataset_names, dump_to_store
except ImportError:  # before 2025.9.1
    from xarray.backends.api import _validate_dataset_names, dump_to_store  # type: ignore[attr-defined,no-redef]

__all__ = ["to_icechunk"]

Mode = Literal["w", "w-", "a", "a-", "r+"]
Region = Mapping[str, slice | Literal["auto"]] | Literal["auto"] | None

OLDEST = "2025.6.0"  # those before cannot read fill values of the data types that zarr has since 3.1
require("xarray", xarray.__version__, OLDEST, "Writing to icechunk")

# As in `DataArray.to_zarr` and `open_dataarray`, which undoes it.
_ARRAY_NAME = "__xarray_dataarray_name__"
_ARRAY_VARIABLE = "__xarray_dataarray_variable__"


def to_icechunk(
    obj: DataArray | Dataset,
    session: Session,
    *,
    group: str | None = None,
    mode: Mode | None = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    append_dim: Hashable | None = None,
    region: Region = None,
    encoding: Mapping[Any, Any] | None = None,
    chunkmanager_store_kwargs: MutableMapping[Any, Any] | None = None,
    split_every: int | None = None,
) -> None:
    """Write a dataset or an array to a group of a session, with any scheduler of dask. It is left to you to commit.

    Parameters
    ----------
    obj
        What to write. A `DataArray` becomes a dataset that ``xr.open_dataarray`` turns back.
    session
        A writable session. If `obj` has dask arrays, it must have no uncommitted changes.
    group
        Path of the group; default: the root.
    mode
        ``w``: create, replace what is there; ``w-``: create, fail if there is something; ``a``: create or replace
        variables; ``a-``: append only variables that have `append_dim`; ``r+``: values only, nothing that changes
        metadata or shapes. Default: ``a`` with `append_dim`, ``r+`` with `region`, else ``w-``.
    safe_chunks
        Refuse dask chunks of which two would write to one Zarr chunk.
    align_chunks
        Rechunk dask arrays so that every Zarr chunk is written by one task.
    append_dim
        Append along this dimension. All others must fit.
    region
        Write into this part of arrays that exist: slices by dimension, or ``"auto"`` to find a slice by comparing
        coordinates, for one dimension or for all. Every variable needs a dimension of the region. ``r+`` refuses to
        write parts of Zarr chunks, ``a`` does not.
    encoding
        Encoding by variable, as for ``Dataset.to_zarr``.
    chunkmanager_store_kwargs
        Passed on to ``dask.array.store``, which gives them to the scheduler: ``scheduler``, ``num_workers``.
    split_every
        How many forks a task of the tree of merges takes; default: dask's.

    Raises
    ------
    ValueError
        Uncommitted changes and dask arrays; arguments that contradict each other or the arrays that exist; a session
        that is read-only.

    Notes
    -----
    Always Zarr format 3, never consolidated: a snapshot holds all metadata in one file already.
    """
    lazy = _is_dask(obj)
    if lazy and session.has_uncommitted_changes:
        raise ValueError(
            "Calling `to_icechunk` is not allowed on a Session with uncommitted changes. Please commit first."
        )
    fork = session._fork() if lazy else None  # comes home below, or the write has failed
    store = _open_group(
        (fork or session).store,
        group=group,
        mode=_choose_mode(mode, append_dim, region),
        append_dim=append_dim,
        region=region,
        safe_chunks=safe_chunks,
        align_chunks=align_chunks,
    )
    writer = _Writer()
    _write_metadata(_as_dataset(obj), store, writer, encoding or {})
    writer.write_eager()
    if fork is not None:
        session.merge(writer.write_lazy(chunkmanager_store_kwargs or {}, split_every) or fork)


class _Writer(ArrayWriter):
    """Collects arrays in memory and dask arrays apart, each with its Zarr array and region."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eager: list[tuple[Any, Any, tuple[slice, ...] | None]] = []

    def add(self, source: Any, target: Any, region: tuple[slice, ...] | None = None) -> None:
        """Remember an array; nothing is written yet, and never is what has no elements."""
        if not source.size:
            return
        if _is_dask(source):
            self.sources.append(source)
            self.targets.append(target)
            self.regions.append(region)
        else:
            self.eager.append((source, target, region))

    def write_eager(self) -> None:
        """Write the arrays in memory."""
        for source, target, region in self.eager:
            target[region or ...] = source

    def write_lazy(self, kwargs: Mapping[Any, Any], split_every: int | None) -> ForkSession | None:
        """Write the dask arrays; the fork with all changes, or ``None`` if there are no dask arrays."""
        if not self.sources:
            return None
        kwargs = {name: value for name, value in kwargs.items() if name not in {"load_stored", "return_stored"}}
        return store_dask(
            sources=self.sources,
            targets=self.targets,
            regions=self.regions,
            split_every=split_every,
            **kwargs,
        )


def _is_dask(obj: Any) -> bool:
    """Whether something waits to be computed by dask, without loading dask."""
    graph = getattr(obj, "__dask_graph__", None)
    return callable(graph) and graph() is not None


def _choose_mode(mode: Mode | None, append_dim: Hashable | None, region: Region) -> Mode:
    if mode is None:
        mode = "a" if append_dim is not None else "r+" if region is not None else "w-"
    if mode not in {"w", "w-", "a", "a-", "r+"}:
        raise ValueError(f"The only supported options for mode are 'w', 'w-', 'a', 'a-', and 'r+', but mode={mode!r}")
    if append_dim is not None and mode not in {"a", "a-"}:
        raise ValueError("cannot set append_dim unless mode='a', mode='a-' or mode=None")
    if region is not None and mode not in {"a", "a-", "r+"}:
        raise ValueError("cannot set region unless mode='a', mode='a-', mode='r+' or mode=None")
    return mode


def _open_group(
    store: IcechunkStore,
    *,
    group: str | None,
    mode: Mode,
    append_dim: Hashable | None,
    region: Region,
    safe_chunks: bool,
    align_chunks: bool,
) -> ZarrStore:
    opened: ZarrStore = ZarrStore.open_group(
        store=store,
        group=group,
        mode=mode,
        zarr_format=3,
        consolidated=False,
        consolidate_on_close=False,
        append_dim=append_dim,
        write_region=region,
        safe_chunks=safe_chunks,
        align_chunks=align_chunks,
    )
    return opened


def _as_dataset(obj: DataArray | Dataset) -> Dataset:
    """The dataset as which an array is stored."""
    if isinstance(obj, Dataset):
        return obj
    if obj.name is None:
        return obj.to_dataset(name=_ARRAY_VARIABLE)
    if obj.name in obj.coords or obj.name in obj.dims:
        dataset = obj.to_dataset(name=_ARRAY_VARIABLE)
        dataset.attrs[_ARRAY_NAME] = obj.name
        return dataset
    return obj.to_dataset()


def _write_metadata(dataset: Dataset, store: ZarrStore, writer: _Writer, encoding: Mapping[Any, Any]) -> None:
    """Create and resize arrays, write attributes; the values are left to the writer."""
    _validate_dataset_names(dataset)
    hollow = [name for name, variable in dataset.variables.items() if not variable.size and _is_dask(variable)]
    if hollow:  # chunks of length zero, which dask has, are none that zarr makes
        dataset = dataset.assign({name: dataset.variables[name].compute() for name in hollow})
    dataset = store._validate_and_autodetect_region(dataset)
    store._validate_encoding(encoding)
    dump_to_store(dataset, store, writer, encoding=encoding)  # type: ignore[no-untyped-call]
