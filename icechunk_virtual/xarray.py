"""The xarray engine ``icechunk-virtual``: opens a version of a repository by path or URL.

`to_icechunk` can be had here too.

Loaded by xarray, through its entry point, with every engine it knows: so nothing heavy beside xarray may come along.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from xarray import Dataset, DataTree
from xarray.backends import BackendEntrypoint
from xarray.backends.zarr import ZarrBackendEntrypoint

from icechunk_virtual.errors import IcechunkError
from icechunk_virtual.opening import Authorize, local_folder, moment, open_repository
from icechunk_virtual.repository import Repository
from icechunk_virtual.session import ForkSession, Session
from icechunk_virtual.store import IcechunkStore
from icechunk_virtual.xarray_write import to_icechunk

__all__ = ["ForkSession", "IcechunkStore", "IcechunkVirtualBackend", "Session", "to_icechunk"]

_DEFAULT_BRANCH = "main"


class IcechunkVirtualBackend(BackendEntrypoint):
    """Opens a version of a repository with xarray.

    Examples
    --------
    >>> import xarray as xr
    >>> ds = xr.open_dataset(
    ...     "archive.icechunk", engine="icechunk-virtual", tag="v1", authorize=["file:///data/archive/"]
    ... )  # doctest: +SKIP
    """

    description = "Open versions of Icechunk repositories with virtual chunks"
    supports_groups = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether it is a folder that holds a repository."""
        if not isinstance(filename_or_obj, (str, os.PathLike)):
            return False
        try:
            folder = local_folder(filename_or_obj)
        except (IcechunkError, ValueError):
            return False
        return folder is not None and (folder / "refs" / "branch.main" / "ref.json").is_file()

    def open_dataset(  # type: ignore[override]  # xarray wants engines to add keywords of their own
        self,
        filename_or_obj: str | os.PathLike[str] | Repository,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        branch: str | None = None,
        tag: str | None = None,
        snapshot_id: str | None = None,
        as_of: datetime | str | None = None,
        authorize: Authorize | None = None,
        mask_and_scale: bool | Mapping[str, bool] = True,
        decode_times: Any = True,
        concat_characters: bool | Mapping[str, bool] = True,
        decode_coords: bool | str = True,
        use_cftime: bool | Mapping[str, bool] | None = None,
        decode_timedelta: Any = None,
    ) -> Dataset:
        """Open a group of a version as a dataset.

        Parameters
        ----------
        filename_or_obj
            Path or URL of a repository, or an open `Repository`.
        drop_variables
            Variables to leave out.
        group
            Path of the group; default: the root.
        branch, tag, snapshot_id
            At most one, the version; default: branch ``main``.
        as_of
            With a branch: its newest version at or before this moment. A datetime with a time zone, or ISO 8601 text,
            which is UTC without one.
        authorize
            URL prefixes of virtual chunk containers that may be read, alone or in a mapping to credentials.
        mask_and_scale, decode_times, concat_characters, decode_coords, use_cftime, decode_timedelta
            As for ``xr.open_dataset``.
        """
        store = _store(filename_or_obj, branch, tag, snapshot_id, as_of, authorize)
        with _foreign_codecs_expected():
            return ZarrBackendEntrypoint().open_dataset(
                store,  # type: ignore[arg-type]  # it takes zarr stores, though its signature does not say so
                mask_and_scale=mask_and_scale,
                decode_times=decode_times,
                concat_characters=concat_characters,
                decode_coords=decode_coords,
                drop_variables=drop_variables,
                use_cftime=use_cftime,
                decode_timedelta=decode_timedelta,
                group=group,
                consolidated=False,
                zarr_format=3,
            )

    def open_groups_as_dict(  # type: ignore[override]  # as above
        self,
        filename_or_obj: str | os.PathLike[str] | Repository,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        branch: str | None = None,
        tag: str | None = None,
        snapshot_id: str | None = None,
        as_of: datetime | str | None = None,
        authorize: Authorize | None = None,
        **decoding: Any,
    ) -> dict[str, Dataset]:
        """Every group of a version as a dataset, by path; parameters as `open_dataset`."""
        store = _store(filename_or_obj, branch, tag, snapshot_id, as_of, authorize)
        with _foreign_codecs_expected():
            return ZarrBackendEntrypoint().open_groups_as_dict(
                store,  # type: ignore[arg-type]  # as above
                drop_variables=drop_variables,
                group=group,
                consolidated=False,
                zarr_format=3,
                **decoding,
            )

    def open_datatree(self, filename_or_obj: Any, **kwargs: Any) -> DataTree:
        """Every group of a version as a tree; parameters as `open_dataset`."""
        return DataTree.from_dict(self.open_groups_as_dict(filename_or_obj, **kwargs))


@contextlib.contextmanager
def _foreign_codecs_expected() -> Iterator[None]:
    """Without zarr's warning about codecs of HDF5 that its specification lacks: here they are the rule."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")
        yield


def _store(
    repo: str | os.PathLike[str] | Repository,
    branch: str | None,
    tag: str | None,
    snapshot_id: str | None,
    as_of: datetime | str | None,
    authorize: Authorize | None,
) -> IcechunkStore:
    if isinstance(repo, Repository):
        if authorize is not None:
            raise ValueError(
                "authorize is for repositories given by path or URL; this one is open already. Give "
                "repo.reopen(authorize_virtual_chunk_access=...) instead of it"
            )
    else:
        repo = open_repository(repo, authorize=authorize)
    if branch is None and tag is None and snapshot_id is None:
        branch = _DEFAULT_BRANCH
    when = None if as_of is None else moment(as_of)
    return repo.readonly_session(branch, tag=tag, snapshot_id=snapshot_id, as_of=when).store
