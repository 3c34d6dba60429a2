"""All stairs lead down: which module may import which."""

from __future__ import annotations

import graphlib

import pytest

from tests.support.source import PACKAGE, Module, imports, modules, own_imports

# First name below the package -> floor. A new module at the top level gets its line here.
FLOORS = {
    "errors": 0,
    "_sync": 0,
    "_after_fork": 0,
    "_waiting": 0,
    "operations": 0,
    "model": 0,
    "containers": 1,
    "codecs": 1,
    "scanners": 2,
    "repo": 2,
    "maintenance": 3,
    "branches": 3,
    "repository": 3,
    "session": 3,
    "references": 3,
    "store": 3,
    "storage": 3,
    "credentials": 3,
    "opening": 4,
    "storage_urls": 4,
    "writing": 4,
    "sources": 4,
    "virtual": 4,
    "xarray": 4,
    "xarray_write": 4,
    "requirements": 4,
    "debug_info": 4,
    "dask": 4,
    "distributed": 4,
    "logs": 4,
    "testing": 4,
    "cli": 5,
    "__main__": 5,
}
# Wings of one floor that meet only as values further up.
WINGS = ({"scanners", "repo"},)
# The package itself offers names of every floor but the program's.
PUBLIC = {name for name in FLOORS if FLOORS[name] < 5}

# Heavy or optional packages, and the only places that may import them.
OPTIONAL = {
    "aiohttp": ("containers",),
    "cftime": ("scanners", "xarray"),
    "dask": ("dask",),
    "distributed": ("distributed",),
    "eccodes": ("scanners.grib", "codecs"),
    "h5py": ("scanners.hdf5",),
    "hdf5plugin": ("scanners.hdf5", "codecs"),
    "hypothesis": ("testing",),
    "netCDF4": ("scanners.hdf5", "scanners.netcdf3"),
    "pandas": ("xarray", "virtual"),
    "rich": ("cli",),
    "xarray": ("xarray", "xarray_write"),
    # Judges: in the tests only.
    "flatbuffers": (),
    "h5netcdf": (),
    "icechunk": (),
    "scipy": (),
}

# Thinking is pure: these take values and return values or plans, so they meet no event loop, thread or storage.
PURE = (
    "model",
    "codecs",
    "containers.addresses",
    "containers.authorize",
    "containers.coalesce",
    "containers.container",
    "containers.hush",
    "containers.sweeps",
    "containers.url",
    "repo.change_set",
    "repo.conditions",
    "repo.config",
    "repo.conflicts",
    "repo.format",
    "repo.keys",
    "repo.settings",
    "repo.split",
    "repo.tree",
    "scanners.attributes",
    "scanners.combine",
    "scanners.compare",
    "scanners.dataset",
    "scanners.spec",
)
# Thin skins over a pure module, whose interface is somebody else's and asynchronous.
SKINS = {"codecs.grib": {"asyncio"}}  # zarr's codecs are coroutines, and decoding goes to a thread
IMPURE = {
    "aiohttp",
    "asyncio",
    "concurrent",
    "fsspec",
    "obstore",
    "multiprocessing",
    "socket",
    "subprocess",
    "threading",
}

everyone = pytest.mark.parametrize("module", modules().values(), ids=lambda m: m.name)


def room(name: str) -> str:
    return name.removeprefix(PACKAGE).removeprefix(".").split(".")[0]


def inside(place: str, folders: tuple[str, ...]) -> bool:
    return any(place == folder or place.startswith(folder + ".") for folder in folders)


@everyone
def test_every_module_has_a_floor(module: Module) -> None:
    assert not module.place or room(module.name) in FLOORS, "give the module a floor in FLOORS"


@everyone
def test_imports_lead_down(module: Module) -> None:
    here = room(module.name)
    allowed = PUBLIC | {""} if not here else {name for name in FLOORS if FLOORS[name] <= FLOORS[here]}
    for wing in WINGS:
        if here in wing:
            allowed -= wing - {here}
    wrong = [f"line {i.line}: {i.target}" for i in own_imports(module) if room(i.target) not in allowed]
    assert not wrong, "imports that lead up or across"


@everyone
def test_no_own_import_inside_a_function(module: Module) -> None:
    wrong = [f"line {i.line}: {i.target}" for i in own_imports(module) if i.in_function]
    assert not wrong, "an import inside a function hides a stair that leads up"


def test_imports_make_no_circle() -> None:
    graph = {
        module.name: {i.target for i in own_imports(module) if not i.type_checking} - {module.name}
        for module in modules().values()
        if module.place  # the package itself is loaded before, and needs, everything
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@everyone
def test_optional_packages_stay_in_their_rooms(module: Module) -> None:
    wrong = [
        f"line {i.line}: {i.target}"
        for i in imports(module)
        if not i.type_checking
        and (package := i.target.split(".")[0]) in OPTIONAL
        and not inside(module.place, OPTIONAL[package])
    ]
    assert not wrong, "optional packages are imported only by the module that is loaded for them"


@everyone
def test_thinking_is_pure(module: Module) -> None:
    if not inside(module.place, PURE):
        return
    impure = IMPURE - SKINS.get(module.place, set())
    wrong = [f"line {i.line}: {i.target}" for i in imports(module) if i.target.split(".")[0] in impure]
    assert not wrong, "this module thinks; doing belongs elsewhere"
