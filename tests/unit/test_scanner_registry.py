from __future__ import annotations

import io
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from icechunk_virtual.containers.opening import open_source
from icechunk_virtual.errors import MissingDependency, UnknownFileFormat
from icechunk_virtual.scanners import registry
from icechunk_virtual.scanners.dataset import Scanned, VirtualGroup
from icechunk_virtual.scanners.registry import choose, load_scanner, scan, scanners
from icechunk_virtual.scanners.spec import ScannerSpec, ScanOptions, lazy


def named(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def hdf5_bytes(**options: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        file["x"] = np.arange(3)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.nc", hdf5_bytes(), "hdf5"),
        ("a.bin", hdf5_bytes(userblock_size=1024), "hdf5"),
        ("a.h5", b"CDF\x01" + bytes(40), "netcdf3"),
        ("a.bin", b"GRIB" + bytes(40), "grib"),
        ("a.grb2", bytes(40), "grib"),
        ("a.cdf", b"CDF\x05" + bytes(40), "netcdf3"),
        ("broken.NC4", b"nothing known", "hdf5"),
        ("empty.h5", b"", "hdf5"),
    ],
)
def test_choice_by_content_then_by_name(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    with open_source(named(tmp_path / name, content)) as source:
        assert choose(source).name == expected


def test_the_users_choice_comes_first(tmp_path: Path) -> None:
    with open_source(named(tmp_path / "a.nc", hdf5_bytes())) as source:
        assert choose(source, "netcdf3").name == "netcdf3"
        mine = ScannerSpec(name="mine", description="", load=lazy("os:getcwd"))
        assert choose(source, mine) is mine
        with pytest.raises(ValueError, match=r"'nc'; there are .*hdf5"):
            choose(source, "nc")


def test_unknown_files_say_what_was_tried(tmp_path: Path) -> None:
    says = r"notes\.txt .*b'hello wo'.*grib, hdf5, netcdf3"
    with (
        open_source(named(tmp_path / "notes.txt", b"hello world")) as source,
        pytest.raises(UnknownFileFormat, match=says) as raised,
    ):
        choose(source)
    assert raised.value.tried == ("grib", "hdf5", "netcdf3")  # type: ignore[attr-defined]


def test_a_missing_library_names_the_extra() -> None:
    spec = ScannerSpec(name="x", description="", load=lazy("no_such_library.scan:scan"), extra="hdf5")
    with pytest.raises(MissingDependency, match=r"needs no_such_library.*pip install 'icechunk-virtual\[hdf5\]'") as e:
        load_scanner(spec)
    assert e.value.extra == "hdf5"
    own = ScannerSpec(name="x", description="", load=lazy("icechunk_virtual.scanners.no_such:scan"))
    with pytest.raises(ModuleNotFoundError):
        load_scanner(own)


PLUGIN = ScannerSpec(
    name="letters",
    description="for this test",
    load=lambda: (
        lambda source, options: Scanned(VirtualGroup({"skip": options.skip_unsupported}), source.url, "letters")
    ),
    magic=((2, b"LET"),),
)


def test_entry_points_are_scanners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("letters", f"{__name__}:PLUGIN", registry.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: PLUGIN if self == point else original(self))
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    scanners.cache_clear()
    try:
        assert set(scanners()) == {"grib", "hdf5", "netcdf3", "letters"}
        with open_source(named(tmp_path / "a.h5", b"..LETTERS")) as source:
            found = scan(source, ScanOptions(skip_unsupported=True))
        assert (found.format, found.root.attributes) == ("letters", {"skip": True})
    finally:
        scanners.cache_clear()


original = EntryPoint.load


def test_entry_points_of_another_kind_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("os", "os:getcwd", group)])
    scanners.cache_clear()
    try:
        with pytest.raises(TypeError, match=r"os = 'os:getcwd'.*must be a ScannerSpec"):
            scanners()
    finally:
        scanners.cache_clear()


def test_specs_are_light() -> None:
    code = (
        "import sys; from icechunk_virtual.scanners.registry import scanners; scanners(); "
        "sys.exit(any(m in sys.modules for m in ('h5py', 'netCDF4', 'xarray')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="store_small"):
        ScanOptions(store_small=-1)
    with pytest.raises(ValueError, match="contiguous_chunk"):
        ScanOptions(contiguous_chunk=0)
    assert ScanOptions(drop_variables="temp").drop_variables == {"temp"}  # type: ignore[arg-type]
    options = ScanOptions(drop_variables=frozenset({"a", "/g/b"}))
    assert options.unknown_drops(["/a", "/g", "/g/b"]) == []
    assert options.unknown_drops(["/g/a"]) == ["nothing called `/g/b` is there to be dropped"]
    assert [options.drops(p) for p in ("/a", "/g/a", "/b", "/g/b")] == [True, True, False, True]
