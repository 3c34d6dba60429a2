"""`import icechunk_virtual` is cheap: optional packages are loaded by those who use them."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("aiohttp", "cftime", "dask", "distributed", "eccodes", "h5py", "hdf5plugin", "netCDF4", "pandas", "rich")
HEAVY += ("hypothesis", "icechunk", "scipy", "xarray")


def loaded_by(statement: str) -> set[str]:
    """Top-level names in sys.modules after a statement in a new interpreter."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split())


def test_the_probe_sees_what_is_loaded() -> None:
    assert "h5py" in loaded_by("import h5py")


def test_import_loads_no_optional_package() -> None:
    assert not loaded_by("import icechunk_virtual") & set(HEAVY)


def test_the_xarray_engine_loads_xarray_only() -> None:
    """xarray loads every engine it knows, whichever is asked for."""
    assert loaded_by("import icechunk_virtual.xarray") & set(HEAVY) <= loaded_by("import xarray.backends") | {"xarray"}
    assert not loaded_by("import icechunk_virtual.xarray") & {"dask", "distributed"}


def test_choosing_a_scanner_loads_no_reader() -> None:
    statement = "from importlib.metadata import entry_points\nimport icechunk_virtual.scanners.registry"
    loads = "[e.load() for e in entry_points(group='icechunk_virtual.scanners') if e.value.startswith('icechunk_v')]"
    assert not loaded_by(f"{statement}\n{loads}") & set(HEAVY)
