"""Looking only at native chunks of a manifest finds the same as decoding it, or refuses where that refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk_virtual.errors import CorruptFile
from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.ids import ManifestId, NodeId
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.repo.format.envelope import FileType, unwrap, wrap
from icechunk_virtual.repo.format.manifest import decode_manifest, encode_manifest
from icechunk_virtual.repo.format.manifest_native import native_chunks


@st.composite
def references(draw: st.DrawFn) -> ChunkRefs:
    """Chunks of every kind in one dimension."""
    kinds = draw(st.lists(st.sampled_from("nvi"), max_size=40))
    parts = [ChunkRefs.empty(1)]
    for i, kind in enumerate(kinds):
        coord, length = [[i]], draw(st.integers(0, 2**40))
        if kind == "n":
            id = np.frombuffer(draw(st.binary(min_size=12, max_size=12)), np.uint8).reshape(1, 12)
            parts.append(ChunkRefs.native(coord, id, [length], [draw(st.integers(0, 3))]))
        elif kind == "v":
            parts.append(ChunkRefs.virtual(coord, Locations.of(["file:///a"], etags=["x"]), [0], [7], [length]))
        else:
            parts.append(ChunkRefs.inline(coord, [b"abc"]))
    return ChunkRefs.concat(parts)


def plain(data: bytes) -> list[tuple[bytes, int]]:
    manifest = decode_manifest(data, file="x")
    found = []
    for node in manifest.nodes:
        refs = manifest.refs(node)
        if refs is not None:
            rows = np.flatnonzero(refs.kind == ChunkKind.NATIVE)
            found += [(refs.chunk_ids[refs.source[row]].tobytes(), int(refs.length[row])) for row in rows]
    return sorted(found)


def quick(data: bytes) -> list[tuple[bytes, int]]:
    ids, lengths = native_chunks([("x", data)])
    return sorted((row.tobytes(), int(n)) for row, n in zip(ids, lengths, strict=True))


def manifest(arrays: list[ChunkRefs]) -> bytes:
    nodes = [(NodeId(bytes([i]) * 8), refs) for i, refs in enumerate(arrays)]
    return encode_manifest(ManifestId(bytes(12)), nodes)


@given(st.lists(references(), max_size=3))
def test_the_same_as_decoding(arrays: list[ChunkRefs]) -> None:
    data = manifest(arrays)
    assert quick(data) == plain(data)


@given(st.lists(st.lists(references(), max_size=3), max_size=5), st.data())
def test_many_files_at_once(contents: list[list[ChunkRefs]], data: st.DataObject) -> None:
    """The same as one by one; a damaged one among them is named, or does the same harm as alone."""
    files = [(f"manifests/{n}", manifest(arrays)) for n, arrays in enumerate(contents)]
    if files and data.draw(st.booleans()):
        number = data.draw(st.integers(0, len(files) - 1))
        content = bytearray(unwrap(files[number][1], file_type=FileType.MANIFEST, file="x"))
        at = data.draw(st.integers(0, len(content) - 1)) // 4 * 4
        content[at : at + 4] = data.draw(st.integers(0, 2**32 - 1) | st.integers(0, 2000)).to_bytes(4, "little")
        files[number] = (files[number][0], wrap(FileType.MANIFEST, bytes(content)))
    try:
        alone = [native_chunks([file]) for file in files]
    except CorruptFile as error:
        with pytest.raises(CorruptFile, match=error.file):
            native_chunks(files)
        return
    ids, lengths = native_chunks(files)
    assert ids.tolist() == [row.tolist() for one, _ in alone for row in one]
    assert lengths.tolist() == [n for _, one in alone for n in one.tolist()]


@given(st.lists(references(), min_size=1, max_size=2), st.data())
def test_damage(arrays: list[ChunkRefs], data: st.DataObject) -> None:
    """Never anything but an error of ours; and what decodes is found the same way."""
    content = bytearray(unwrap(manifest(arrays), file_type=FileType.MANIFEST, file="x"))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    damaged = wrap(FileType.MANIFEST, bytes(content))
    try:
        found = quick(damaged)
    except CorruptFile:
        with pytest.raises(CorruptFile):
            plain(damaged)
        return
    try:
        expected = plain(damaged)
    except CorruptFile:
        return  # damage elsewhere
    assert set(expected) <= set(found)
