"""Arrays and groups of a hierarchy, and the little of `zarr.json` that the engine understands.

Documents are kept byte for byte; only node type, shape, chunk grid and dimension names are read from them
(format version 1, section 10). Nothing here knows how a node is stored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from icechunk_virtual.errors import InvalidMetadata
from icechunk_virtual.model.chunk_refs import MAX_INDEX, Extents
from icechunk_virtual.model.ids import ManifestId, NodeId

ROOT = "/"
_U64_MAX = 2**64 - 1
_READ = frozenset({"node_type", "shape", "chunk_grid", "dimension_names", "name", "configuration", "chunk_shape"})


@dataclass(frozen=True, slots=True)
class ManifestRef:
    """A manifest that holds chunks of an array, and the bounding box of those chunks (empty for a scalar array).

    Attributes
    ----------
    id : ManifestId
    extents : tuple of (start, stop)
        One range per dimension of the array.
    foreign : tuple of (start, stop), or None
        The box as it is stored, if it has another number of ranges: icechunk stores chunks of the wrong rank.
    """

    id: ManifestId
    extents: Extents
    foreign: Extents | None = None

    @property
    def stored(self) -> Extents:
        """The box as a snapshot has it."""
        return self.extents if self.foreign is None else self.foreign


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """The part of an array's document that chunk references depend on.

    Attributes
    ----------
    shape, chunk_shape : tuple of int
        Elements per dimension.
    dimension_names : tuple or None
        One entry per dimension; ``None`` for an unnamed one.
    grid_shape : tuple of int
        Chunks per dimension, at least 1: an axis of length zero still has chunk 0, whatever its chunk length.
    """

    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    dimension_names: tuple[str | None, ...] | None = None
    grid_shape: tuple[int, ...] = field(init=False, repr=False, compare=False)  # asked for by every read of a chunk

    def __post_init__(self) -> None:
        counts = (-(-n // c) if n else 1 for n, c in zip(self.shape, self.chunk_shape, strict=True))
        object.__setattr__(self, "grid_shape", tuple(counts))

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


@dataclass(frozen=True, slots=True)
class GroupNode:
    """A group: id, absolute path (``/``, ``/a/b``) and its document."""

    id: NodeId
    path: str
    document: bytes


@dataclass(frozen=True, slots=True)
class ArrayNode:
    """An array: id, absolute path, document, what the engine reads from it, and where its references are."""

    id: NodeId
    path: str
    document: bytes
    layout: ArrayLayout
    manifests: tuple[ManifestRef, ...] = field(default=())


Node: TypeAlias = ArrayNode | GroupNode


def parse_document(document: bytes, path: str) -> ArrayLayout | None:
    """Read a `zarr.json`: the layout of an array, ``None`` for a group.

    Raises
    ------
    InvalidMetadata
        Not JSON, neither an array nor a group, not a regular chunk grid, or impossible numbers.
    """

    def bad(reason: str) -> InvalidMetadata:
        return InvalidMetadata(f"bad metadata for `{path}`: {reason}", path=path)

    try:
        content = json.loads(str(document, "utf-8"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise bad(f"zarr.json is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise bad("zarr.json must hold a JSON object")
    twice = _repeated(content)
    if twice:
        raise bad(f"{', '.join(sorted(twice))} given more than once")
    match content.get("node_type"):
        case "group":
            return None
        case "array":
            pass
        case other:
            raise bad(f"node_type must be 'array' or 'group', got {other!r}")
    shape = _lengths(content.get("shape"))
    if shape is None:
        raise bad("`shape` must be a list of integers from 0 to 2**64 - 1")
    grid = content.get("chunk_grid")
    if not isinstance(grid, dict) or grid.get("name") != "regular":
        raise bad("only the 'regular' chunk grid is supported in format version 1")
    configuration = grid.get("configuration")
    chunk_shape = _lengths(configuration.get("chunk_shape")) if isinstance(configuration, dict) else None
    if chunk_shape is None:
        raise bad("`chunk_grid.configuration.chunk_shape` must be a list of integers from 0 to 2**64 - 1")
    if len(shape) != len(chunk_shape) or any(c == 0 < n for n, c in zip(shape, chunk_shape, strict=True)):
        raise bad(f"Invalid chunk grid metadata: shape {list(shape)}, chunk_shape {list(chunk_shape)}")
    layout = ArrayLayout(shape, chunk_shape, _names(content.get("dimension_names"), len(shape), bad))
    if any(n > MAX_INDEX for n in layout.grid_shape):
        raise bad(f"Invalid chunk grid metadata: more than 2**32 - 1 chunks along an axis ({layout.grid_shape})")
    return layout


class _Repeating(dict[str, Any]):
    """A JSON object in which names occur more than once; the last value stands."""

    twice: frozenset[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        content = _Repeating(content)
        content.twice = frozenset(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return content


def _repeated(content: dict[str, Any]) -> frozenset[str]:
    """Names that we read and that are ambiguous; what else a document holds is not our business."""
    grid = content.get("chunk_grid")
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    found = (part.twice for part in (content, grid, configuration) if isinstance(part, _Repeating))
    return frozenset[str]().union(*found) & _READ


def _lengths(value: Any) -> tuple[int, ...] | None:
    ok = isinstance(value, list) and all(type(n) is int and 0 <= n <= _U64_MAX for n in value)
    return tuple(value) if ok else None


def _names(value: Any, ndim: int, bad: Callable[[str], InvalidMetadata]) -> tuple[str | None, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(name is None or isinstance(name, str) for name in value):
        raise bad("`dimension_names` must be null or a list of texts and nulls")
    if len(value) != ndim:
        raise bad(f"{len(value)} dimension names for {ndim} dimensions")
    if any(name and not _is_text(name) for name in value):
        raise bad("a dimension name is not Unicode text")
    return tuple(name or None for name in value)


def _is_text(name: str) -> bool:
    """Whether a name can be stored: JSON can spell half of a surrogate pair, UTF-8 cannot."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
