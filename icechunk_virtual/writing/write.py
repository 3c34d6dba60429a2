"""Which way a tree is written: the one door to this package. Arguments and containers are judged here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import numpy as np

from icechunk_virtual.errors import NoContainer
from icechunk_virtual.repo import chunks
from icechunk_virtual.repo.keys import parse_path
from icechunk_virtual.scanners.dataset import VirtualGroup
from icechunk_virtual.session import Session
from icechunk_virtual.writing.groups import plan_groups
from icechunk_virtual.writing.pieces import plan_pieces
from icechunk_virtual.writing.places import Region
from icechunk_virtual.writing.plan import Plan

Mode: TypeAlias = Literal["w", "w-", "a", "r+"]


def write(
    session: Session,
    root: VirtualGroup,
    *,
    group: str | None,
    mode: Mode | None,
    append_dim: str | None,
    region: Region | None,
) -> None:
    """Check everything, then change the session; see `VirtualDataset.to_icechunk`."""
    _check_arguments(mode, append_dim, region)
    session._workspace.check_writable()
    plan = Plan(session)
    at = parse_path(group or "")
    _check_containers(plan, root)
    if append_dim is None and region is None:
        plan_groups(plan, root, at, mode or "w-")
    else:
        plan_pieces(plan, root, at, append_dim, region)
    plan.apply()


def _check_arguments(mode: str | None, append_dim: str | None, region: Region | None) -> None:
    if mode is not None and mode not in get_args(Mode):
        raise ValueError(f"mode must be 'w-', 'w', 'a' or 'r+', got {mode!r}")
    if region is not None and region != "auto":
        _check_region(region)
    if append_dim is not None and region is not None:
        raise ValueError("give append_dim or region, not both")
    if append_dim is not None and mode not in (None, "a"):
        raise ValueError(f"append_dim needs mode='a', got mode={mode!r}")
    if region is not None and mode not in (None, "a", "r+"):
        raise ValueError(f"region needs mode='r+', got mode={mode!r}")
    if mode == "r+" and region is None:
        raise ValueError("mode='r+' only changes what exists: it needs a region")


def _check_region(region: object) -> None:
    parts = list(region.values()) if isinstance(region, Mapping) else []
    if not parts or not all(isinstance(part, slice) or part == "auto" for part in parts):
        raise ValueError(f"region must be 'auto', or map dimensions to slices or to 'auto', got {region!r}")


def _check_containers(plan: Plan, root: VirtualGroup) -> None:
    for path, array in root.walk_arrays():
        fits = chunks.check_containers(plan.workspace, array.refs)
        if fits.all():
            continue
        url = array.refs.locations.urls[int(array.refs.source[int(np.argmin(fits))])]
        try:
            plan.workspace.authorization.container_for(url)
        except NoContainer as error:
            raise NoContainer(f"array `{path}`: {error.message}", location=url, path=path) from None
