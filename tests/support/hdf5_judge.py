"""What our HDF5 parsers say of a file, held against h5py: everything that both can say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from icechunk_virtual.scanners.hdf5.format.context import Context
from icechunk_virtual.scanners.hdf5.format.driver import run
from icechunk_virtual.scanners.hdf5.format.elements import read_elements
from icechunk_virtual.scanners.hdf5.format.layout import Chunked, Compact, Contiguous, Virtual
from icechunk_virtual.scanners.hdf5.format.links import External, Hard, Soft
from icechunk_virtual.scanners.hdf5.format.objects import CommittedType, Dataset, File, Group, read_file
from icechunk_virtual.scanners.hdf5.format.steps import Step
from icechunk_virtual.scanners.hdf5.format.superblock import find_superblock


class Bytes:
    """A file in memory that counts how it is read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)
        self.batches: list[list[tuple[int, int]]] = []

    def read_many(self, ranges: Iterable[tuple[int, int]]) -> list[bytes]:
        self.batches.append(list(ranges))
        assert all(offset >= 0 and length > 0 and offset + length <= self.size for offset, length in self.batches[-1])
        return [self.data[offset : offset + length] for offset, length in self.batches[-1]]


def parsed(path: Path) -> File:
    data = Bytes(path.read_bytes())
    return run(read_file(data.size), data)


def assert_same(path: Path, **options: Any) -> File:
    """Compare a whole file; gives what our parsers said."""
    data = Bytes(path.read_bytes())
    found = run(read_file(data.size), data)
    with h5py.File(path, "r", **options) as file:
        judge = _Judge(file, found, data)
        judge.group(file["/"], found.root)
    assert judge.seen == set(found.objects)
    return found


class _Judge:
    def __init__(self, file: h5py.File, found: File, data: Bytes) -> None:
        self.file, self.found, self.data = file, found, data
        self.seen: set[int] = set()

    def group(self, node: h5py.Group, address: int) -> None:
        group = self.found.objects[address]
        assert isinstance(group, Group)
        if address in self.seen:
            return
        self.seen.add(address)
        self.attributes(node, group)
        ordered = node.id.get_create_plist().get_link_creation_order() & h5py.h5p.CRT_ORDER_INDEXED
        names: list[bytes] = []
        index = h5py.h5.INDEX_CRT_ORDER if ordered else h5py.h5.INDEX_NAME
        node.id.links.iterate(names.append, idx_type=index)
        assert [link.name for link in group.links] == names
        for link in group.links:
            expected = node.get(link.name, getlink=True)
            match link.target:
                case Hard(target):
                    assert type(expected) is h5py.HardLink
                    self.object(node[link.name], target)
                case Soft(path):
                    assert path.decode() == expected.path
                case External(file, path):
                    assert (file.decode(), path.decode()) == (expected.filename, expected.path)
                case _:
                    raise AssertionError(link)

    def object(self, node: Any, address: int) -> None:
        found = self.found.objects[address]
        if isinstance(node, h5py.Group):
            self.group(node, address)
        elif isinstance(node, h5py.Dataset):
            assert isinstance(found, Dataset)
            self.seen.add(address)
            self.attributes(node, found)
            self.dataset(node, found)
        else:
            assert isinstance(found, CommittedType)
            self.seen.add(address)
            self.attributes(node, found)
            assert found.type.size == node.id.get_size()

    def attributes(self, node: Any, found: Any) -> None:
        assert [each.name for each in found.attributes] == [name.encode() for name in node.attrs]
        for each in found.attributes:
            low = h5py.h5a.open(node.id, each.name)
            expected = node.attrs[each.name.decode()]
            if low.get_space().get_simple_extent_type() == h5py.h5s.NULL:
                assert each.space.shape is None
                continue
            self.equal(each.values, expected)

    def dataset(self, node: h5py.Dataset, found: Dataset) -> None:
        assert found.space.shape == node.shape
        if not node.dtype.hasobject:
            assert found.type.size == node.id.get_type().get_size()
        if node.shape is None:
            return
        assert found.space.limits == node.maxshape
        plist = node.id.get_create_plist()
        steps = [plist.get_filter(i) for i in range(plist.get_nfilters())]
        assert [(f.code, f.values) for f in found.filters] == [(code, values) for code, _, values, _ in steps]
        assert [(p.name.decode(), p.offset, p.size) for p in found.external] == [
            (name, offset, None if size == h5py.h5f.UNLIMITED else size) for name, offset, size in node.external or ()
        ]
        self.fill(node, found)
        match found.layout:
            case Compact(data):
                assert plist.get_layout() == h5py.h5d.COMPACT
                self.values(node, found, data)
            case Contiguous(address, _):
                assert plist.get_layout() == h5py.h5d.CONTIGUOUS
                if address is not None:
                    start = address + self.found.base
                    assert node.id.get_offset() in (start, address)  # HDF5 1.14 and 2 count user blocks differently
                    size = found.space.count * found.type.size
                    self.values(node, found, self.data.data[start : start + size])
                else:
                    assert not node.id.get_storage_size() or found.external
            case Chunked():
                assert found.layout.shape == node.chunks
                self.chunks(node, found)
            case Virtual():
                assert node.is_virtual

    def fill(self, node: h5py.Dataset, found: Dataset) -> None:
        plist = node.id.get_create_plist()
        defined = plist.fill_value_defined()
        assert found.fill.undefined == (defined == h5py.h5d.FILL_VALUE_UNDEFINED)
        assert found.fill.defined == (defined == h5py.h5d.FILL_VALUE_USER_DEFINED)
        assert found.fill.never == (plist.get_fill_time() == h5py.h5d.FILL_TIME_NEVER)
        if found.fill.value is not None and node.dtype.kind != "O":
            self.equal(self.decoded(found, found.fill.value, 1)[0], node.fillvalue)

    def values(self, node: h5py.Dataset, found: Dataset, data: bytes) -> None:
        values = self.decoded(found, data, found.space.count)
        self.equal(values.reshape(found.space.shape + values.shape[1:]), node[()])

    def chunks(self, node: h5py.Dataset, found: Dataset) -> None:
        chunks = found.chunks
        assert chunks is not None
        assert len(chunks.size) == node.id.get_num_chunks()
        starts = (chunks.coords * np.array(node.chunks, np.uint64)).tolist()
        assert len(set(map(tuple, starts))) == len(starts)
        for row, start in enumerate(starts):
            mask, raw = node.id.read_direct_chunk(tuple(start))
            offset, size = int(chunks.offset[row]), int(chunks.size[row])
            assert (mask, raw) == (chunks.filter_mask[row], self.data.data[offset : offset + size])

    def decoded(self, found: Dataset, data: bytes, count: int) -> Any:
        def step() -> Step[Any]:
            superblock = yield from find_superblock(self.data.size)
            return (yield from read_elements(Context(superblock, self.data.size), found.type, data, count))

        return run(step(), self.data)

    def equal(self, actual: Any, expected: Any) -> None:
        """Equal values; texts of varying length as bytes, references as the addresses of what they point to."""
        if isinstance(expected, str | bytes):
            text = expected.encode("utf-8", "surrogateescape") if isinstance(expected, str) else expected
            assert np.asarray(actual).item() == text
            return
        if isinstance(expected, h5py.Reference):
            assert int(actual) == self.address(expected)
            return
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.shape == expected.shape
        if expected.dtype.names is not None:
            assert actual.dtype.names == expected.dtype.names
            for name in expected.dtype.names:
                self.equal(actual[name], expected[name])
            return
        if expected.dtype.kind == "O":
            for index in np.ndindex(expected.shape):
                self.equal(actual[index], expected[index])
            return
        if actual.dtype.names is not None and expected.dtype.kind == "c":  # h5py's complex numbers are compounds
            actual = actual[actual.dtype.names[0]] + 1j * actual[actual.dtype.names[1]]
        if expected.dtype.kind in "fc":
            np.testing.assert_array_equal(actual, expected, strict=False)
            assert (np.signbit(np.real(actual)) == np.signbit(np.real(expected))).all()
        elif expected.dtype.kind in "VM" or actual.dtype.kind == "V":
            assert actual.tobytes() == expected.tobytes()
        else:
            assert actual.dtype.kind == expected.dtype.kind or {actual.dtype.kind, expected.dtype.kind} <= set("iub")
            np.testing.assert_array_equal(actual, expected)

    def address(self, reference: Any) -> int:
        if not reference:
            return 0
        node = self.file[reference]
        return int(h5py.h5o.get_info(node.id).addr)
