"""How a scanner presents itself, and the options that every scanner takes. Light: importing this loads no reader."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    from icechunk_virtual.containers.source import Source
    from icechunk_virtual.scanners.dataset import Scanned


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanOptions:
    """What the user may decide. Sizes are in bytes of decoded data.

    Attributes
    ----------
    drop_variables : frozenset of str
        Variables (and groups) to leave out, by name in any group, or by absolute path if they start with ``/``.
    store_coordinates : int
        One-dimensional dimension coordinates up to this size are stored in one chunk, because whoever opens the
        dataset reads them all. 0: never.
    store_small : int
        Arrays up to this size are stored with their chunks and codecs as they are. 0: never.
    contiguous_chunk : int
        Uncompressed contiguous arrays are cut into chunks of about this size.
    max_stored : int
        An array that cannot be virtual and is larger than this is refused instead of stored.
    skip_unsupported : bool
        Leave out, with a warning, what would be refused.
    """

    drop_variables: frozenset[str] = frozenset()
    store_coordinates: int = 1 << 20
    store_small: int = 512
    contiguous_chunk: int = 16 << 20
    max_stored: int = 1 << 30
    skip_unsupported: bool = False

    def __post_init__(self) -> None:
        names: Iterable[str] = self.drop_variables  # a single name and any collection will do
        object.__setattr__(self, "drop_variables", frozenset([names] if isinstance(names, str) else names))
        for name in ("store_coordinates", "store_small", "max_stored"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.contiguous_chunk < 1:
            raise ValueError("contiguous_chunk must be at least 1")

    def drops(self, path: str) -> bool:
        """Whether the node at an absolute path is to be left out."""
        return bool(self.drop_variables) and not self.drop_variables.isdisjoint((path, path.rpartition("/")[2]))

    def unknown_drops(self, paths: Iterable[str]) -> list[str]:
        """Warnings about `drop_variables` that none of the nodes in a file has, most likely misspelt."""
        known = {name for path in paths for name in (path, path.rpartition("/")[2])}
        return [f"nothing called `{name}` is there to be dropped" for name in sorted(self.drop_variables - known)]


if TYPE_CHECKING:
    ScanFunction: TypeAlias = Callable[[Source, ScanOptions], Scanned]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannerSpec:
    """A scanner, without its code.

    Attributes
    ----------
    name : str
        What users write to choose it.
    description : str
        One line.
    load
        Imports the scanner and returns its function ``scan(source, options) -> Scanned``.
    magic : tuple of (offset, bytes)
        Any of these at its offset marks the format.
    suffixes : tuple of str
        File name endings with the dot, lower case; they count only if no content matched.
    extra : str or None
        Extra of this package that installs what the scanner needs.
    probe
        For formats whose mark may stand elsewhere: looks into the source itself.
    """

    name: str
    description: str
    load: Callable[[], ScanFunction]
    magic: tuple[tuple[int, bytes], ...] = ()
    suffixes: tuple[str, ...] = ()
    extra: str | None = None
    probe: Callable[[Source], bool] | None = None


def lazy(target: str) -> Callable[[], ScanFunction]:
    """A `ScannerSpec.load` for ``package.module:function``; the module is imported when it is called."""
    module, _, name = target.partition(":")

    def load() -> ScanFunction:
        return cast("ScanFunction", getattr(importlib.import_module(module), name))

    return load
