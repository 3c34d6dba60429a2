"""Writing all manifests of a branch anew, cut as the configuration says now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icechunk_virtual.errors import IcechunkError
from icechunk_virtual.model.ids import SnapshotId
from icechunk_virtual.repo import history, refs
from icechunk_virtual.repo.commit import commit
from icechunk_virtual.repo.conditions import ManifestSplitCondition, ManifestSplitDimCondition
from icechunk_virtual.repo.config import CHUNK_COUNT, ManifestSplittingConfig, RepositoryConfig
from icechunk_virtual.repo.creation import Opened

PROPERTY = "splitting_config"
"""The commit property that says how the manifests were cut."""


async def rewrite_manifests(opened: Opened, message: str, branch: str, metadata: Mapping[str, Any]) -> SnapshotId:
    """Commit a version with the same content whose manifests are all new."""
    properties = {**metadata, PROPERTY: describe_splitting(opened.config)}
    try:
        tip, _ = await refs.read_branch(opened.assets.objects, branch)
        workspace = opened.workspace(await history.fetch(opened.assets, tip), branch=branch)
        return await commit(workspace, message, properties, rewrite_all=True)
    except IcechunkError as error:
        error.message = f"error rewriting manifests: {error.message}"
        error.args = (error.message,)
        raise


def describe_splitting(config: RepositoryConfig) -> dict[str, Any]:
    """The splitting in force as JSON values, in the words of ``config.yaml``."""
    splitting = config.manifest.splitting if config.manifest is not None else None
    if splitting is None or splitting.split_sizes is None:
        everything = ManifestSplitCondition.path_matches(".*")
        splitting = ManifestSplittingConfig.from_dict({everything: {ManifestSplitDimCondition.Any(): CHUNK_COUNT.high}})
    return {
        "split_sizes": [
            [_condition(condition), [{"condition": _axis(axis), "num_chunks": count} for axis, count in rules]]
            for condition, rules in splitting.split_sizes or ()
        ]
    }


def _condition(condition: ManifestSplitCondition) -> Any:
    match condition:
        case ManifestSplitCondition.Or(parts):
            return {"or": [_condition(part) for part in parts]}
        case ManifestSplitCondition.And(parts):
            return {"and": [_condition(part) for part in parts]}
        case ManifestSplitCondition.PathMatches(regex):
            return {"path_matches": {"regex": regex}}
        case ManifestSplitCondition.NameMatches(regex):
            return {"name_matches": {"regex": regex}}
    return "any_array"


def _axis(condition: ManifestSplitDimCondition) -> Any:
    match condition:
        case ManifestSplitDimCondition.Axis(number):
            return {"Axis": number}
        case ManifestSplitDimCondition.DimensionName(regex):
            return {"DimensionName": regex}
    return "Any"
