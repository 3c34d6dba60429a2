"""What belongs into a bug report about versions. Prints; loads none of the packages that it names."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["print_debug_info"]

_PACKAGES = ("icechunk-virtual", "zarr", "numcodecs", "numpy", "obstore", "xarray", "dask", "h5py", "virtualizarr")


def print_debug_info() -> None:
    """Print the platform and the versions of Python, this package and those it works with, one ``name:  version`` each.

    Packages that are not installed are left out.
    """
    lines = [("platform", platform.platform()), ("python", platform.python_version())]
    for package in _PACKAGES:
        try:
            lines.append((package, version(package)))
        except PackageNotFoundError:
            continue
    for name, text in lines:
        print(f"{name}:  {text}")  # noqa: T201 - its job
