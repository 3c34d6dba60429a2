"""What cannot be represented is refused by name and reason, or left out with a note where the user says so."""

from __future__ import annotations

from icechunk_virtual.errors import UnsupportedFeature
from icechunk_virtual.scanners.spec import ScanOptions


class Refused(Exception):
    """Something in a file cannot be represented; the message is the reason."""


def check_name(path: str) -> None:
    """Judge the last part of a node's path.

    Raises
    ------
    Refused
        The Zarr v3 core specification ("Node names") or zarr itself does not allow it.
    """
    name = path.rpartition("/")[2]
    if not name.strip(".") or name.startswith("__") or name == "zarr.json" or "\\" in name:
        raise Refused(f"{name!r} is no name that a Zarr node can have")


def leave_out(refused: Refused, path: str, url: str, options: ScanOptions) -> str:
    """The warning about what is left out.

    Raises
    ------
    UnsupportedFeature
        The options do not allow to leave it out.
    """
    if not options.skip_unsupported:
        raise UnsupportedFeature(
            f"`{path}` of {url} cannot be represented: {refused}. Leave it out with "
            f"drop_variables=[{path!r}], or everything of the kind with skip_unsupported=True.",
            source=url,
            name=path,
        ) from None
    return f"{path}: left out: {refused}"
