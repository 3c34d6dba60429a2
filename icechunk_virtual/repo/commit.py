"""From a session's changes to files: manifests, a snapshot, a transaction log, and the branch moved onto them.

Planning is pure (`split.plan_array`, `transaction_of`, `overlay_nodes`); the coroutines carry plans out. Ids are
fixed before the first write, so a write whose answer is lost can be looked up.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.errors import ConflictError, IcechunkError, NothingToCommit, ReadOnlyError, RefNotFound
from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.ids import OBJECT_ID_SIZE, ChunkId, ManifestId, NodeId, SnapshotId, decode_id, encode_id
from icechunk_virtual.model.nodes import ArrayNode, ManifestRef, Node
from icechunk_virtual.repo import chunks, history, refs, tree
from icechunk_virtual.repo.assets import keys_of
from icechunk_virtual.repo.bounded import together
from icechunk_virtual.repo.change_set import ChangeSet
from icechunk_virtual.repo.chunk_edits import Overlay
from icechunk_virtual.repo.format.manifest import Manifest, encode_manifest
from icechunk_virtual.repo.format.metadata_values import normalise
from icechunk_virtual.repo.format.snapshot import (
    ManifestFile,
    Snapshot,
    changed_files,
    decode_snapshot,
    encode_changed_snapshot,
)
from icechunk_virtual.repo.format.transaction_log import MAX_TABLES, TransactionLog, encode_transaction_log
from icechunk_virtual.repo.info import utc_from_us
from icechunk_virtual.repo.object_store import Version
from icechunk_virtual.repo.split import ArrayPlan, Boxes, Rewrite, automatic_boxes, max_refs, plan_array
from icechunk_virtual.repo.workspace import UnclearCommit, Workspace, WrittenManifest

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

MAX_CLOCK_DRIFT_US = 600 * 1_000_000
_SEARCHED_BYTES = 1 << 30  # of a snapshot, to find who else uses a manifest: less work than reading every node
_MANIFESTS_AT_ONCE = 4  # each holds its columns and its encoded form in memory
_COMPUTED_ON_LOOP = 1 << 18  # bytes; more is encoded in a thread
_REUSABLE_US = 600 * 1_000_000  # later, garbage collection may have found a manifest that no snapshot refers to


@dataclass(frozen=True, slots=True)
class WrittenArray:
    """An array after its manifests were written.

    Attributes
    ----------
    edits
        Of its chunks, inside its grid.
    manifests
        Where its chunks are now.
    files, chunks
        New manifests and chunk objects.
    """

    edits: Overlay
    manifests: tuple[ManifestRef, ...]
    files: tuple[ManifestFile, ...]
    chunks: tuple[ChunkId, ...]


async def commit(
    ws: Workspace, message: str, metadata: Mapping[str, Any] | None, *, rewrite_all: bool = False
) -> SnapshotId:
    """Write the changes as a new snapshot and move the branch onto it, if it is still where the session began.

    Parameters
    ----------
    rewrite_all
        Write every manifest anew with the present splitting, even without changes.

    Raises
    ------
    ConflictError
        The branch moved or is gone; the session keeps its changes.
    NothingToCommit
        There are no changes.
    ReadOnlyError
        The session is read-only.
    """
    if ws.branch is None:
        raise ReadOnlyError("Read only sessions cannot modify the repository. Open one with repo.writable_session().")
    properties = _properties(ws, message, metadata)
    with ws.exclusively():
        try:
            snapshot = await _commit_to(ws, ws.branch, message, properties, rewrite_all=rewrite_all)
        except ConflictError as conflict:
            landed = await _landed_before(ws, conflict)
            if landed is None:
                raise
            snapshot = landed
        ws.finish(snapshot)
    return snapshot.id


async def _commit_to(
    ws: Workspace, branch: str, message: str, properties: dict[str, Any], *, rewrite_all: bool
) -> Snapshot:
    base = ws.base_id
    version = await _check_tip(ws, branch, base)
    snapshot, files = await write_snapshot(ws, message, properties, rewrite_all=rewrite_all)
    try:
        await refs.update_branch(
            ws.assets.objects,
            branch,
            expected=base,
            new=snapshot.id,
            version=version,
            after=files,
            passed=lambda tip: history.descends(ws.assets, tip, snapshot.id, until=base),
        )
    except ConflictError:
        raise
    except BaseException:  # the answer was lost, or nobody waited for it
        ws.unclear.append(UnclearCommit(snapshot, ws.changes.copy()))
        raise
    return snapshot


async def _landed_before(ws: Workspace, conflict: ConflictError) -> Snapshot | None:
    """An earlier commit of the same changes whose answer was lost, if that is what the branch has moved to, or over."""
    if conflict.actual_parent is None or not ws.unclear:
        return None
    tip = SnapshotId(decode_id(conflict.actual_parent))
    for attempt in ws.unclear:
        if attempt.had(ws.changes) and await history.descends(ws.assets, tip, attempt.snapshot.id, until=ws.base_id):
            return attempt.snapshot
    return None


async def flush(ws: Workspace, message: str, metadata: Mapping[str, Any] | None) -> SnapshotId:
    """Write the changes as a new snapshot without moving any branch; the session becomes read-only on it."""
    if ws.branch is None:
        raise ReadOnlyError("Read only sessions cannot modify the repository. Open one with repo.writable_session().")
    properties = _properties(ws, message, metadata)
    with ws.exclusively():
        snapshot, files = await write_snapshot(ws, message, properties)
        await ws.assets.objects.sync(files)
        ws.finish(snapshot)
    return snapshot.id


def _properties(ws: Workspace, message: str, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Properties of a commit, defaults included. Raises `TypeError` for what cannot be stored."""
    if not isinstance(message, str):
        raise TypeError(f"the commit message must be str, got {type(message).__name__}")
    properties: dict[str, Any] = normalise({**ws.default_metadata, **(metadata or {})})
    return properties


async def _check_tip(ws: Workspace, branch: str, base: SnapshotId) -> Version:
    """The state of the branch, which is at `base`: whoever is late is told so before anything is written."""
    try:
        tip, version = await refs.read_branch(ws.assets.objects, branch)
    except RefNotFound:
        raise ConflictError(encode_id(base), None) from None
    if tip != base:
        raise ConflictError(encode_id(base), encode_id(tip))
    return version


async def write_snapshot(
    ws: Workspace, message: str, properties: dict[str, Any], *, rewrite_all: bool = False
) -> tuple[Snapshot, list[str]]:
    """Write manifests, snapshot and transaction log of the session's changes; no ref is touched.

    Parameters
    ----------
    rewrite_all
        Write every manifest anew with the present splitting, even without changes.

    Returns
    -------
    snapshot : Snapshot
    files : list of str
        Keys of all new objects. They do not survive a power cut yet: nothing leads to any of them, so their order does
        not matter, and one call makes all of them durable.
    """
    if not (ws.changes or ws.changes.superseded or rewrite_all):
        raise NothingToCommit("cannot commit, no changes made to the session")
    written = await _write_manifests(ws, rewrite_all=rewrite_all)
    changed = overlay_nodes(ws.changes, {path: array.manifests for path, (_, array) in written.items()}, ws)
    id = SnapshotId(ws.world.random_bytes(OBJECT_ID_SIZE))
    now, before = ws.world.now_us(), ws.snapshot.flushed_at_us
    if now <= before:
        raise IcechunkError(
            f"invalid snapshot timestamp ordering. parent: {utc_from_us(before)}, child: {utc_from_us(now)}. "
            "Set the clock of this machine right and commit again."
        )
    log = transaction_of(ws, id, {path: array.edits for path, (_, array) in written.items()})
    _warn_of_many_chunks(log)
    level = ws.config.effective_compression_level
    encoded = await _compute(
        ws.snapshot.nbytes,
        encode_changed_snapshot,
        ws.snapshot,
        id=id,
        parent_id=ws.snapshot.id,
        flushed_at_us=now,
        message=message,
        metadata=properties,
        changed=changed,
        manifest_files=await _files_in_use(ws, changed, written),
        level=level,
    )
    log_bytes = await _compute(_log_bytes(log), encode_transaction_log, log, level=level)
    snapshot = decode_snapshot(encoded.data, file=f"snapshots/{encode_id(id)}")
    snapshot.blob_bounds = encoded.blob_bounds
    snapshot.remember(node for node in changed.values() if node is not None)
    snapshot.preloaded = True  # the new manifests are at hand, and the others were fetched for the base
    await together(
        [
            partial(ws.assets.store_snapshot, id, encoded.data, decoded=snapshot, durable=False),
            partial(ws.assets.store_transaction_log, log, log_bytes, durable=False),
        ],
        in_turn=ws.assets.at_once,
    )
    await _check_clock(ws, id, now)
    arrays = [array for _, array in written.values()]
    files = keys_of((id for a in arrays for id in a.chunks), (file.id for a in arrays for file in a.files), [id])
    return snapshot, files


async def _compute(nbytes: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that works on so many bytes: in a thread, unless that would cost more than the work."""
    if nbytes > _COMPUTED_ON_LOOP:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)


def _warn_of_many_chunks(log: TransactionLog) -> None:
    count = sum(map(len, log.updated_chunks.values()))
    if count > MAX_TABLES // 2:
        logger.warning(
            "this commit changes %d chunks, and at most %d fit into one: commit in smaller steps", count, MAX_TABLES
        )


def _log_bytes(log: TransactionLog) -> int:
    return sum(coords.nbytes for coords in log.updated_chunks.values())


async def _check_clock(ws: Workspace, id: SnapshotId, now: int) -> None:
    stored = await ws.assets.snapshot_last_modified_us(id)
    if abs(stored - now) > MAX_CLOCK_DRIFT_US:
        raise IcechunkError(
            "snapshot timestamp is invalid, please verify if the machine clock has drifted: "
            f"local clock: {utc_from_us(now)}, object store clock: {utc_from_us(stored)}. "
            "They may differ by 10 minutes; nothing was committed."
        )


# -- manifests -------------------------------------------------------------------------------------------------


async def _write_manifests(ws: Workspace, *, rewrite_all: bool) -> dict[str, tuple[ArrayNode, WrittenArray]]:
    """Carry out the plans of all arrays that need one; a bounded number of manifests at once."""
    slots = asyncio.Semaphore(_MANIFESTS_AT_ONCE)
    nodes = list(_arrays_to_write(ws, rewrite_all=rewrite_all))
    arrays = await together([partial(_write_array, ws, node, slots, rewrite_all=rewrite_all) for node in nodes])
    return {node.path: (node, array) for node, array in zip(nodes, arrays, strict=True)}


def _arrays_to_write(ws: Workspace, *, rewrite_all: bool) -> Iterable[ArrayNode]:
    if rewrite_all:
        return [node for node in tree.walk(ws) if isinstance(node, ArrayNode)]
    nodes = (*ws.changes.updated.values(), *ws.changes.new.values())
    arrays = {node.path: node for node in nodes if isinstance(node, ArrayNode)}
    arrays.update((path, tree.get_array(ws, path)) for path in ws.changes.edited_arrays())
    return [arrays[path] for path in sorted(arrays)]


def _boxes_of(ws: Workspace, node: ArrayNode, added: int, *, rewrite_all: bool) -> Boxes:
    """The boxes of an array: as configured, else one, else automatic ones if it is large or was split before."""
    grid, names = node.layout.grid_shape, node.layout.dimension_names
    rule = ws.config.split_rule(node.path, names)
    if rule is not None:
        return Boxes.of(grid, rule)
    limit = max_refs(ws.config.effective_inline_threshold)

    def num_refs() -> int:
        files = (ws.snapshot.manifest_file(ref.id) for ref in node.manifests)
        return added + sum(file.num_chunk_refs for file in files if file is not None)

    if (len(node.manifests) > 1 and not rewrite_all) or num_refs() > limit:
        return automatic_boxes(grid, names, limit, num_refs)
    return Boxes(grid, grid)


async def _write_array(ws: Workspace, node: ArrayNode, slots: asyncio.Semaphore, *, rewrite_all: bool) -> WrittenArray:
    edits = chunks.edits_in_grid(ws, node)
    boxes = _boxes_of(ws, node, len(edits.refs), rewrite_all=rewrite_all)
    plan = plan_array(node.manifests, edits, boxes, rewrite_all=rewrite_all)
    held = await _fetch_for_several(ws, plan)
    written = await together([partial(_write_manifest, ws, node, rewrite, slots) for rewrite in plan.rewrites])
    del held  # whoever asked for them until here found them in memory
    made = [pair for pair in written if pair is not None]
    return WrittenArray(
        edits=edits,
        manifests=(*plan.kept, *(ref for ref, _ in made)),
        files=tuple(file for _, file in made),
        chunks=tuple(_native_ids(edits.refs)),
    )


async def _fetch_for_several(ws: Workspace, plan: ArrayPlan) -> list[Manifest]:
    """Manifests too large for the cache that are cut up, so that they are not fetched for each of the new ones."""
    uses = Counter(ref for rewrite in plan.rewrites for ref in rewrite.old)
    files = {ref: ws.snapshot.manifest_file(ref.id) for ref, count in uses.items() if count > 1}
    large = [ref for ref, file in files.items() if file is not None and not ws.assets.keeps(file.num_chunk_refs)]
    return [await chunks.fetch_manifest(ws, ref) for ref in large]


async def _write_manifest(
    ws: Workspace, node: ArrayNode, rewrite: Rewrite, slots: asyncio.Semaphore
) -> tuple[ManifestRef, ManifestFile] | None:
    earlier = ws.written.get((node.id, rewrite.box))
    if earlier is not None and earlier.serves(rewrite, ws.world.now_us() - _REUSABLE_US):
        return earlier.result
    async with slots:
        begun = ws.world.now_us()
        old = [refs async for refs in chunks.committed_refs(ws, node, rewrite.old, rewrite.box)]
        content = rewrite.edits.apply(ChunkRefs.concat([ChunkRefs.empty(node.layout.ndim), *old])).detached()
        if not len(content):
            return None
        id = ManifestId(ws.world.random_bytes(OBJECT_ID_SIZE))
        level = ws.config.effective_compression_level
        data = await _compute(content.nbytes, encode_manifest, id, [(node.id, content)], level=level)
        await ws.assets.store_manifest(Manifest.of(id, [(node.id, content)]), data, durable=False)
        made = ManifestRef(id, content.extents()), ManifestFile(id, len(data), len(content))
        ws.written[node.id, rewrite.box] = WrittenManifest(rewrite, made, begun)
        return made


def _native_ids(content: ChunkRefs) -> list[ChunkId]:
    """Ids of the native chunks, a step per stored object."""
    if not len(content.chunk_ids):
        return []
    rows = np.unique(content.source[content.kind == ChunkKind.NATIVE])
    return [ChunkId(row.tobytes()) for row in content.chunk_ids[rows]]


async def _files_in_use(
    ws: Workspace, changed: Mapping[str, Node | None], written: Mapping[str, tuple[ArrayNode, WrittenArray]]
) -> bytes:
    """Every manifest file that a node of the new snapshot refers to, for `encode_changed_snapshot`."""
    base = ws.snapshot
    replaced = [node for path in changed if (node := tree.find_committed(ws, path)) is not None]
    before = Counter(ref.id for node in replaced for ref in _manifests(node))
    after = {ref.id for node in changed.values() if node is not None for ref in _manifests(node)}
    dropped = before.keys() - after
    if dropped:  # a foreign writer may have put several arrays into one manifest
        dropped -= await _compute(len(dropped) * base.nbytes, _used_elsewhere, base, dropped, changed, before)
    return changed_files(base, dropped, [file for _, array in written.values() for file in array.files])


def _used_elsewhere(
    base: Snapshot, ids: Collection[ManifestId], changed: Mapping[str, Node | None], known: Counter[ManifestId]
) -> set[ManifestId]:
    """Which of some manifests the unchanged nodes of a snapshot refer to; `known`: how often the changed ones do."""
    if base.blob_bounds is not None and len(ids) * base.nbytes <= _SEARCHED_BYTES:
        # No two nodes of such a snapshot share bytes: every ref that is not a changed node's is somebody else's.
        return {id for id in ids if base.occurrences(id) > 1 + known[id]}  # 1: in the list of files
    others = (node for node in base.nodes() if node.path not in changed)
    return {ref.id for node in others for ref in _manifests(node)}.intersection(ids)


def _manifests(node: Node) -> tuple[ManifestRef, ...]:
    return node.manifests if isinstance(node, ArrayNode) else ()


# -- pure parts ------------------------------------------------------------------------------------------------


def overlay_nodes(
    changes: ChangeSet, manifests: Mapping[str, tuple[ManifestRef, ...]], ws: Workspace
) -> dict[str, Node | None]:
    """What the snapshot has to say differently from its base: path to node, ``None`` where it is gone."""
    changed: dict[str, Node | None] = {**dict.fromkeys(changes.deleted), **changes.updated, **changes.new}
    for path, refs_of_path in manifests.items():
        changed[path] = replace(tree.get_array(ws, path), manifests=refs_of_path)
    return changed


def transaction_of(ws: Workspace, id: SnapshotId, edits: Mapping[str, Overlay]) -> TransactionLog:
    """What the session did, by node ids; `edits` are those of the chunks, by path, inside the grids."""
    changes = ws.changes
    updated_chunks: dict[NodeId, NDArray[np.uint32]] = {}
    for path in changes.edited_arrays():
        updated_chunks[tree.get_array(ws, path).id] = edits[path].refs.replace(edits[path].deleted).coords
    new, updated, deleted = changes.new.values(), changes.updated.values(), changes.deleted.values()
    return TransactionLog(
        id=id,
        new_groups=_ids(new, arrays=False),
        new_arrays=_ids(new, arrays=True),
        deleted_groups=_ids(deleted, arrays=False),
        deleted_arrays=_ids(deleted, arrays=True),
        updated_groups=_ids(updated, arrays=False),
        updated_arrays=_ids(updated, arrays=True),
        updated_chunks=updated_chunks,
    )


def _ids(nodes: Iterable[Node], *, arrays: bool) -> frozenset[NodeId]:
    return frozenset(node.id for node in nodes if isinstance(node, ArrayNode) is arrays)
