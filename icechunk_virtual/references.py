"""The calls of a store that set chunk references instead of chunk bytes: one, many, arrays of them, whole columns.

A part of `IcechunkStore` in a file of its own; what the references mean is `repo.virtual_refs`' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual._sync import sync_twin
from icechunk_virtual.errors import InvalidKey, NoContainer
from icechunk_virtual.model.chunk_refs import ChunkRefs
from icechunk_virtual.model.locations import Locations
from icechunk_virtual.repo import chunks, tree
from icechunk_virtual.repo.keys import ChunkKey, parse_key, parse_path
from icechunk_virtual.repo.virtual_refs import VirtualChunkSpec, columns_of_arrays, columns_of_specs, split_checksum
from icechunk_virtual.repo.workspace import Workspace

LeftOut: TypeAlias = list[tuple[int, ...]] | None
"""Indices of the chunks whose location has no container."""


class ReferenceCalls:
    """What a store offers to set references."""

    _ws: Workspace

    def _check_writable(self) -> None:
        raise NotImplementedError

    async def set_virtual_ref_async(
        self,
        key: str,
        location: str,
        *,
        offset: int,
        length: int,
        checksum: str | datetime | None = None,
        validate_container: bool = True,
    ) -> None:
        """Let a chunk be a byte range of a foreign object.

        Parameters
        ----------
        key
            Of the chunk: ``a/c/0/0``.
        location
            Absolute URL of the object, kept verbatim.
        offset, length
            Byte range in the object.
        checksum
            Entity tag, or the moment (aware datetime) after which the object must not have changed.
        validate_container
            Require that the repository's configuration has a virtual chunk container for the location.

        Raises
        ------
        NoContainer, InvalidLocation, InvalidChunkIndex, InvalidKey, ReadOnlyError
        OverflowError
            A negative number, or one beyond 64 bits.
        NodeNotFound
            The array does not exist (a ``KeyError``).
        """
        self._check_writable()
        parsed = parse_key(key)
        if not isinstance(parsed, ChunkKey):
            raise InvalidKey(
                f"this operation is not allowed: use .set to modify metadata for key {key}; a virtual reference "
                "needs a chunk key such as `a/c/0/0`",
                key=key,
            )
        etag, second = split_checksum(checksum)
        node = tree.get_array(self._ws, parsed.path)
        chunks.check_index(node, parsed.coords)
        spec = VirtualChunkSpec(list(parsed.coords), location, offset, length, etag)
        refs = columns_of_specs([spec], node.layout.ndim, node.path)
        if second is not None:
            refs = refs.with_locations(refs.locations.with_checksums(last_modified=[second]))
        failed = self._set_refs(node.path, refs, validate=validate_container)
        if failed is not None:
            raise NoContainer(
                f"invalid chunk location, no matching virtual chunk container: `{location}`. Add one: "
                "config.set_virtual_chunk_container(VirtualChunkContainer(url_prefix, store)), then open the "
                "repository with that config, or call repo.save_config().",
                location=location,
            )

    set_virtual_ref = sync_twin(set_virtual_ref_async)

    async def set_virtual_refs_async(
        self, array_path: str, chunks: Sequence[VirtualChunkSpec], *, validate_containers: bool = True
    ) -> LeftOut:
        """Let many chunks of an array be byte ranges of foreign objects.

        Parameters
        ----------
        array_path
            With or without leading slash.
        chunks
            One specification per chunk.
        validate_containers
            Leave out those whose location has no virtual chunk container.

        Returns
        -------
        list of tuple or None
            Indices of the chunks left out; ``None`` when there are none.

        Raises
        ------
        InvalidLocation, InvalidChunkIndex, ReadOnlyError, NodeNotFound
            Then nothing was set.
        """
        self._check_writable()
        path = _array_path(array_path)
        if not chunks:
            return None
        node = tree.get_array(self._ws, path)
        return self._set_specs(path, chunks, node.layout.ndim, validate=validate_containers)

    set_virtual_refs = sync_twin(set_virtual_refs_async)

    async def set_virtual_refs_arr_async(
        self,
        array_path: str,
        chunk_grid_shape: Sequence[int],
        locations: Sequence[str],
        offsets: NDArray[np.uint64],
        lengths: NDArray[np.uint64],
        *,
        validate_containers: bool = True,
        arr_offset: Sequence[int] | None = None,
        checksum: str | datetime | None = None,
    ) -> LeftOut:
        """Let every chunk of a box be a byte range of a foreign object, from arrays.

        Parameters
        ----------
        array_path
            With or without leading slash.
        chunk_grid_shape
            Chunks of the box per dimension; the arrays are flattened in C order.
        locations
            One URL per chunk; the empty text leaves the chunk as it is.
        offsets, lengths
            Integer (n,), byte ranges.
        validate_containers
            Leave out those whose location has no virtual chunk container.
        arr_offset
            Chunk grid coordinates of the box's first chunk.
        checksum
            One for all: entity tag, or the moment (aware datetime) after which the objects must not have changed.

        Returns
        -------
        list of tuple or None
            Indices of the chunks left out; ``None`` when there are none.

        Raises
        ------
        ValueError
            Lengths that do not fit each other, or negative numbers.
        InvalidLocation, InvalidChunkIndex, ReadOnlyError, NodeNotFound
            Then nothing was set.
        """
        self._check_writable()
        path = _array_path(array_path)
        tree.get_array(self._ws, path)
        refs = columns_of_arrays(
            chunk_grid_shape, locations, offsets, lengths, grid_offset=arr_offset, checksum=checksum
        )
        return self._set_refs(path, refs, validate=validate_containers)

    set_virtual_refs_arr = sync_twin(set_virtual_refs_arr_async)

    async def set_chunk_refs_async(
        self, array_path: str, refs: ChunkRefs, *, validate_containers: bool = True
    ) -> LeftOut:
        """Set the chunks of an array from columns of references, as they are.

        Parameters
        ----------
        array_path
            With or without leading slash.
        refs
            Virtual, inline or native references. Inline chunks above the repository's inline threshold are stored
            as objects of their own.
        validate_containers
            Leave out virtual references whose location has no virtual chunk container.

        Returns
        -------
        list of tuple or None
            Indices of the chunks left out; ``None`` when there are none.

        Raises
        ------
        InvalidLocation, InvalidChunkIndex, ReadOnlyError, NodeNotFound
            Then nothing was set.
        """
        self._check_writable()
        path = _array_path(array_path)
        tree.get_array(self._ws, path)
        return self._set_refs(path, await chunks.store_large_inline(self._ws, refs), validate=validate_containers)

    set_chunk_refs = sync_twin(set_chunk_refs_async)

    def _set_specs(self, path: str, specs: Sequence[VirtualChunkSpec], ndim: int, *, validate: bool) -> LeftOut:
        refs = columns_of_specs(specs, ndim, path)
        fits_all = bool(chunks.check_containers(self._ws, refs).all())  # and raises for what is no location at all
        if not validate or (fits_all and len(refs) == len(specs)):
            chunks.set_refs(self._ws, path, refs)
            return None
        # Some have no container, or an index comes twice: each is judged by itself, and named in its turn.
        fits = self._ws.authorization.check_write(Locations.of([spec.location for spec in specs])).tolist()
        fitting = [spec for spec, fit in zip(specs, fits, strict=True) if fit]
        chunks.set_refs(self._ws, path, columns_of_specs(fitting, ndim, path))
        return [tuple(spec.index) for spec, fit in zip(specs, fits, strict=True) if not fit] or None

    def _set_refs(self, path: str, refs: ChunkRefs, *, validate: bool) -> LeftOut:
        fits = chunks.check_containers(self._ws, refs)
        if not validate or fits.all():
            chunks.set_refs(self._ws, path, refs)
            return None
        chunks.set_refs(self._ws, path, refs.take(fits))
        return [tuple(coord) for coord in refs.coords[~fits].tolist()]


def _array_path(text: str) -> str:
    try:
        return parse_path(text)
    except InvalidKey as error:
        raise ValueError(f"Invalid array path: {text!r}: {error.message}") from None
