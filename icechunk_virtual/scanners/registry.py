"""Which scanners there are, and which of them takes a file: the user's choice, then content, then name.

Scanners are entry points of the group `icechunk_virtual.scanners`. The built-in ones are listed here too, so that a
checkout works without being installed. Nothing here knows a format.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from icechunk_virtual.errors import MissingDependency, UnknownFileFormat
from icechunk_virtual.scanners.dataset import Scanned
from icechunk_virtual.scanners.spec import ScannerSpec, ScanOptions

if TYPE_CHECKING:
    from icechunk_virtual.containers.source import Source
    from icechunk_virtual.scanners.spec import ScanFunction

_NO_CHECKSUM = (
    "has neither an etag nor a time of modification: if it changes, nobody will notice, and wrong values may be read"
)
GROUP = "icechunk_virtual.scanners"
BUILTIN = {
    "hdf5": "icechunk_virtual.scanners.hdf5:SPEC",
    "netcdf3": "icechunk_virtual.scanners.netcdf3:SPEC",
    "grib": "icechunk_virtual.scanners.grib:SPEC",
}


@cache
def scanners() -> dict[str, ScannerSpec]:
    """All scanners by name, built-in ones first. An entry point replaces a built-in of the same name.

    Raises
    ------
    TypeError
        An entry point is not a `ScannerSpec`.
    """
    found = {name: EntryPoint(name, value, GROUP) for name, value in BUILTIN.items()}
    found |= {point.name: point for point in entry_points(group=GROUP)}
    specs = {}
    for name, point in found.items():
        spec = point.load()
        if not isinstance(spec, ScannerSpec):
            raise TypeError(f"entry point {name} = {point.value!r} of {GROUP} must be a ScannerSpec, got {type(spec)}")
        specs[name] = spec
    return specs


def scanner_named(name: str) -> ScannerSpec:
    """The scanner of that name. ``ValueError`` if there is none."""
    specs = scanners()
    if name not in specs:
        raise ValueError(f"no scanner is called {name!r}; there are {', '.join(sorted(specs))}")
    return specs[name]


def choose(source: Source, scanner: str | ScannerSpec | None = None) -> ScannerSpec:
    """Find the scanner for a file.

    Parameters
    ----------
    source
        Only its first bytes are read, and what a scanner's `probe` reads.
    scanner
        Name of a scanner or the scanner itself; ``None`` looks at content, then at the file name.

    Raises
    ------
    UnknownFileFormat
        No scanner fits.
    ValueError
        There is no scanner of that name.
    """
    if scanner is not None:
        return scanner if isinstance(scanner, ScannerSpec) else scanner_named(scanner)
    specs = scanners()
    head = source.peek(0, _head_length(specs))
    for spec in specs.values():
        if any(head[offset : offset + len(mark)] == mark for offset, mark in spec.magic):
            return spec
    for spec in specs.values():
        if spec.probe is not None and spec.probe(source):
            return spec
    name = urlsplit(source.url).path.lower()
    for spec in specs.values():
        if name.endswith(spec.suffixes):
            return spec
    raise UnknownFileFormat(
        f"no scanner takes {source.url} ({source.size} bytes, starting with {head[:8]!r}): neither content nor file "
        f"name fits {', '.join(sorted(specs))}. Name the scanner if you know the format, or install one for it.",
        source=source.url,
        tried=tuple(sorted(specs)),
    )


def load_scanner(spec: ScannerSpec) -> ScanFunction:
    """Import a scanner.

    Raises
    ------
    MissingDependency
        A library that it needs is not installed.
    """
    try:
        return spec.load()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == __name__.partition(".")[0]:
            raise
        how = f"pip install 'icechunk-virtual[{spec.extra}]'" if spec.extra else f"pip install {error.name}"
        raise MissingDependency(
            f"the scanner {spec.name!r} needs {error.name}, which is not installed. Install it: {how}",
            extra=spec.extra,
            module=error.name,
        ) from None


def scan(source: Source, options: ScanOptions | None = None, scanner: str | ScannerSpec | None = None) -> Scanned:
    """Scan a file with the scanner that fits.

    Errors are those of `choose`, `load_scanner` and the scanner; also `ScanError` if the file changed meanwhile.
    """
    scanned = load_scanner(choose(source, scanner))(source, options or ScanOptions())
    source.check_unchanged()
    if source.etag is None and source.last_modified is None:
        return replace(scanned, warnings=(*scanned.warnings, f"{source.url} {_NO_CHECKSUM}"))
    return scanned


def _head_length(specs: dict[str, ScannerSpec]) -> int:
    return max((offset + len(mark) for spec in specs.values() for offset, mark in spec.magic), default=0)
