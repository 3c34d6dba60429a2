"""The same promise for manifests: encoding and decoding take no step of the interpreter per chunk."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from icechunk_virtual.model.chunk_refs import ChunkKind, ChunkRefs
from icechunk_virtual.model.ids import ManifestId, NodeId
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.repo.format import manifest
from tests.support.steps import count_steps

SMALL, LARGE = 1_000, 100_000
SPARE = LARGE // 10  # steps: files are coded in blocks of thousands of rows, which take some steps each
NODE = NodeId(b"\x01" * 8)
MANIFEST = ManifestId(b"\x02" * 12)


def mixed(n: int) -> ChunkRefs:
    """Virtual, native and inline references in turns."""
    rows = np.arange(n)
    kind = np.array([ChunkKind.VIRTUAL, ChunkKind.NATIVE, ChunkKind.INLINE], np.uint8)[rows % 3]
    source = np.where(kind == ChunkKind.VIRTUAL, rows % 20, np.where(kind == ChunkKind.NATIVE, rows, 0))
    offset = np.where(kind == ChunkKind.INLINE, rows * 8, rows * 512)
    length = np.where(kind == ChunkKind.INLINE, 8, 512)
    return ChunkRefs.from_rows(
        np.stack(np.unravel_index(rows, (n // 10, 10)), axis=1),
        kind,
        source,
        offset,
        length,
        locations=Locations.of([f"file:///data/{i}.nc" for i in range(20)], last_modified=[1_700_000_000] * 20),
        chunk_ids=np.random.default_rng(1).integers(0, 256, (n, 12)).astype(np.uint8),
        heap=bytes(8 * n),
    )


def virtual(n: int) -> ChunkRefs:
    refs = mixed(3 * n)
    return refs.take(refs.kind == ChunkKind.VIRTUAL).compact()


@pytest.mark.parametrize("make", [virtual, mixed])
def test_encoding(make) -> None:
    steps = []
    for n in (SMALL, LARGE):
        encode = partial(manifest.encode_manifest, MANIFEST, [(NODE, make(n))])
        encode()
        steps.append(count_steps(encode))
    assert steps[1] <= steps[0] + SPARE


@pytest.mark.parametrize("make", [virtual, mixed])
def test_decoding(make) -> None:
    steps = []
    for n in (SMALL, LARGE):
        data = manifest.encode_manifest(MANIFEST, [(NODE, make(n))])

        def decode(data: bytes = data) -> ChunkRefs:
            return manifest.decode_manifest(data, file="manifests/x").refs(NODE)

        assert len(decode()) == len(make(n))
        steps.append(count_steps(decode))
    assert steps[1] <= steps[0] + SPARE
