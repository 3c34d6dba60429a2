"""`IcechunkStore`: a session as a Zarr store. Translates keys and buffers; the work is in `repo`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from icechunk_virtual._sync import run
from icechunk_virtual.errors import (
    IcechunkError,
    InvalidKey,
    MissingKey,
    NodeNotFound,
    ReadOnlyError,
)
from icechunk_virtual.model.nodes import ArrayNode
from icechunk_virtual.references import ReferenceCalls
from icechunk_virtual.repo import chunks, chunks_now, listing, tree
from icechunk_virtual.repo.keys import ChunkKey, DocumentKey, V2Key, parse_key
from icechunk_virtual.repo.neighbours import Place
from icechunk_virtual.repo.virtual_refs import VirtualChunkSpec

if TYPE_CHECKING:
    from icechunk_virtual.session import Session

__all__ = ["IcechunkStore", "VirtualChunkSpec"]

Buffers: TypeAlias = list[Buffer | None]  # inside the class, `list` is the store's method


class IcechunkStore(ReferenceCalls, Store):
    """A session of a repository as a Zarr store.

    Holds Zarr format 3 hierarchies and nothing else: keys are metadata documents (``a/zarr.json``) and chunks
    (``a/c/0/0``). Made by `Session.store`.

    Parameters
    ----------
    session
        The session to read from and write to.
    read_only
        Refuse writes through this store; default: as the session.
    """

    def __init__(self, session: Session, read_only: bool | None = None) -> None:
        super().__init__(read_only=session.read_only if read_only is None else read_only)
        self._session = session
        self._ws = session._workspace

    # -- as an object ------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IcechunkStore) and self._session == other._session

    __hash__ = None  # type: ignore[assignment]  # as in the original: sessions change

    def __repr__(self) -> str:
        return f"IcechunkStore({self._session!r}{', read_only=True' if self.read_only else ''})"

    def __reduce__(self) -> tuple[Any, ...]:
        return IcechunkStore, (self._session, self._read_only)

    @property
    def session(self) -> Session:
        """The session behind this store."""
        return self._session

    def with_read_only(self, read_only: bool = False) -> IcechunkStore:
        """Another store on the same session. It cannot make a read-only session writable."""
        return IcechunkStore(self._session, read_only)

    @property
    def supports_writes(self) -> bool:
        """True."""
        return True

    @property
    def supports_deletes(self) -> bool:
        """True."""
        return True

    @property
    def supports_listing(self) -> bool:
        """True."""
        return True

    @property
    def supports_partial_writes(self) -> Literal[False]:
        """False: chunks are immutable objects. Abstract in zarr before 3.1."""
        return False

    @property
    def supports_consolidated_metadata(self) -> bool:
        """False: a snapshot holds all metadata already."""
        return False

    def _check_writable(self) -> None:
        if self._read_only or self._ws.read_only:
            raise ReadOnlyError(
                "cannot write to read-only store: store was opened in read-only mode and does not support writing. "
                "Open a writable one with repo.writable_session(branch).store"
            )
        self._ws.check_writable()

    # -- reading -----------------------------------------------------------------------------------------------

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of a document or chunk, or of a range in it.

        Parameters
        ----------
        key
            Of a document (``a/zarr.json``) or chunk (``a/c/0/0``).
        prototype
            Decides on the class of the buffer; default: zarr's default.
        byte_range
            As a Python slice: clipped to the bytes there are, empty when outside.

        Returns
        -------
        Buffer or None
            ``None`` when the node or chunk does not exist. A failure to read is an error, never ``None``.

        Raises
        ------
        IcechunkError
            The key is no Zarr key, or it names a chunk of something that is no array, or the bytes cannot be read.
        """
        parsed = parse_key(key)
        if not isinstance(parsed, ChunkKey):
            return _buffer(self._document_part(parsed, byte_range), prototype)
        node = tree.get_array(self._ws, parsed.path)
        chunk = await chunks.find_chunk(self._ws, node, parsed.coords)
        if chunk is None:
            return None
        near = Place(self._ws, node, parsed.coords)
        return _buffer(await chunks.read_chunk(self._ws, chunk, *_clip(byte_range, chunk.length), near), prototype)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As `get`, in the calling thread: for zarr's synchronous codec pipeline, or code without an event loop."""
        parsed = parse_key(key)
        if not isinstance(parsed, ChunkKey):
            return _buffer(self._document_part(parsed, byte_range), prototype)
        chunk = chunks_now.find_chunk(self._ws, tree.get_array(self._ws, parsed.path), parsed.coords)
        if chunk is None:
            return None
        return _buffer(chunks_now.read_chunk(self._ws, chunk, *_clip(byte_range, chunk.length)), prototype)

    def _document_part(self, key: DocumentKey | V2Key, byte_range: ByteRequest | None) -> bytes | None:
        node = None if isinstance(key, V2Key) else tree.find_node(self._ws, key.path)
        return None if node is None else node.document[slice(*_clip(byte_range, len(node.document)))]

    @property
    def _supports_sync_io(self) -> bool:
        """Whether zarr's synchronous pipeline should use the synchronous calls (its name, from zarr 3.4 on)."""
        return chunks_now.gains(self._ws)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> Buffers:
        """Several `get` at once, in the order asked for; ``None`` where nothing is there.

        How many at a time says `RepositoryConfig.get_partial_values_concurrency`.
        """
        limit = asyncio.Semaphore(self._ws.config.effective_get_partial_values_concurrency)

        async def one(key: str, byte_range: ByteRequest | None) -> Buffer | None:
            async with limit:
                return await self.get(key, prototype, byte_range)

        return await asyncio.gather(*(one(key, byte_range) for key, byte_range in key_ranges))

    async def exists(self, key: str) -> bool:
        """Whether a document or chunk exists; no chunk bytes are fetched."""
        parsed = parse_key(key)
        if isinstance(parsed, V2Key):
            raise KeyError(f"v2 key not found at `{key}`")
        node = tree.find_node(self._ws, parsed.path)
        if isinstance(parsed, DocumentKey):
            return node is not None
        return isinstance(node, ArrayNode) and await chunks.find_chunk(self._ws, node, parsed.coords) is not None

    async def getsize(self, key: str) -> int:
        """Bytes of a document or chunk, without fetching it; 0 for a chunk that does not exist.

        Raises
        ------
        MissingKey
            There is no such node (a ``KeyError`` and a ``FileNotFoundError``).
        IcechunkError
            The key is no Zarr key, or it names a chunk of a group.
        """
        parsed = parse_key(key)
        if isinstance(parsed, V2Key):
            raise MissingKey(f"v2 key not found at `{key}`", path=key)
        try:
            if isinstance(parsed, DocumentKey):
                return len(tree.get_node(self._ws, parsed.path).document)
            node = tree.get_array(self._ws, parsed.path)
        except NodeNotFound as error:
            raise MissingKey(error.message, path=parsed.path) from None
        chunk = await chunks.find_chunk(self._ws, node, parsed.coords)
        return 0 if chunk is None else chunk.length

    async def getsize_prefix(self, prefix: str) -> int:
        """Bytes of all documents and chunks below a group or array; 0 when nothing is there."""
        return await listing.total_size(self._ws, prefix)

    async def is_empty(self, prefix: str) -> bool:
        """Whether nothing is below a prefix."""
        return await listing.is_empty(self._ws, prefix)

    # -- listing -----------------------------------------------------------------------------------------------

    def list(self) -> AsyncIterator[str]:
        """Every key: documents first, then chunks."""
        return self.list_prefix("")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Every key of a group or array and below: documents first, then chunks.

        Raises
        ------
        IcechunkError
            The prefix is neither empty nor the path of a node.
        """
        return listing.keys_below(self._ws, prefix)

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names directly below a prefix, without slashes."""
        return listing.names_in(self._ws, prefix)

    # -- writing -----------------------------------------------------------------------------------------------

    async def set(self, key: str, value: Buffer) -> None:
        """Write a document or a chunk.

        Parameters
        ----------
        key
            Of a document (``a/zarr.json``) or chunk (``a/c/0/0``).
        value
            Encoded bytes. Those of a chunk above the repository's inline threshold are stored at once, as an object.

        Raises
        ------
        ReadOnlyError, InvalidKey, InvalidMetadata, InvalidChunkIndex
        NodeNotFound
            A chunk of an array that does not exist (a ``KeyError``).
        """
        chunk, data = self._set_document(key, value)
        if chunk is not None:
            await chunks.write_chunk(self._ws, chunk.path, chunk.coords, data)

    def set_sync(self, key: str, value: Buffer) -> None:
        """As `set`, in the calling thread."""
        chunk, data = self._set_document(key, value)
        if chunk is not None:
            chunks_now.write_chunk(self._ws, chunk.path, chunk.coords, data)

    def _set_document(self, key: str, value: Buffer) -> tuple[ChunkKey | None, memoryview]:
        """Write a document; for a chunk, what is to be written."""
        self._check_writable()
        data = _view_of(value)
        parsed = parse_key(key)
        if isinstance(parsed, V2Key):
            raise InvalidKey(
                f"store method `Icechunk cannot set Zarr V2 metadata keys` is not implemented by Icechunk: `{key}`; "
                "use zarr_format=3",
                key=key,
            )
        if isinstance(parsed, ChunkKey):
            return parsed, data
        tree.set_document(self._ws, parsed.path, bytes(data))
        return None, data

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a document or chunk unless it exists; then nothing happens. Errors as for `set`."""
        self._check_writable()
        if await self.exists(key):
            return
        parsed = parse_key(key)
        if isinstance(parsed, ChunkKey):
            await chunks.write_chunk(self._ws, parsed.path, parsed.coords, _view_of(value), only_new=True)
        else:
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        """Delete a chunk, or a node with everything below it; that a node or chunk does not exist is no error.

        Raises
        ------
        ReadOnlyError, InvalidKey
        NodeNotFound
            A chunk of an array that does not exist (a ``KeyError``).
        """
        self.delete_sync(key)

    def delete_sync(self, key: str) -> None:
        """As `delete`."""
        self._check_writable()
        parsed = parse_key(key)
        if isinstance(parsed, DocumentKey):
            tree.delete_node(self._ws, parsed.path)
        elif isinstance(parsed, ChunkKey):
            node = tree.get_array(self._ws, parsed.path)
            if chunks.in_grid(node, parsed.coords):  # any other chunk can not exist
                chunks.set_chunk(self._ws, parsed.path, parsed.coords, None)

    async def delete_dir(self, prefix: str) -> None:
        """Delete a node with everything below it, or the chunks below a chunk prefix (``a/c/0``)."""
        self._check_writable()
        await listing.delete_below(self._ws, prefix)

    async def clear(self) -> None:
        """Delete every node."""
        self._check_writable()
        tree.delete_node(self._ws, "/")

    def sync_clear(self) -> None:
        """Delete every node."""
        run(self.clear())

    async def set_partial_values(
        self,
        key_start_values: Iterable[tuple[str, int, bytes | bytearray | memoryview]],  # noqa: ARG002 - zarr's name
    ) -> None:
        """Not possible: chunks are immutable objects.

        Raises
        ------
        IcechunkError
            Always.
        """
        self._check_writable()
        raise IcechunkError("store method `set_partial_values` is not implemented by Icechunk; set the whole value")


def _buffer(data: bytes | memoryview | None, prototype: BufferPrototype | None) -> Buffer | None:
    return None if data is None else (prototype or default_buffer_prototype()).buffer.from_bytes(data)


def _view_of(value: object) -> memoryview:
    """What to write. Not a copy: of a large chunk that would cost as much as writing it."""
    if not isinstance(value, Buffer):
        raise TypeError(f"IcechunkStore.set(): `value` must be a zarr Buffer, got {type(value).__name__}")
    return memoryview(value.as_numpy_array())  # type: ignore[arg-type]


def _clip(byte_range: ByteRequest | None, length: int) -> tuple[int, int]:
    """Range of bytes that a request means, as Python slices do: clipped, empty when outside."""
    match byte_range:
        case None:
            return 0, length
        case RangeByteRequest(start, end):
            part = slice(start, end)
        case OffsetByteRequest(offset):
            part = slice(offset, None)
        case SuffixByteRequest(suffix):
            part = slice(max(0, length - max(0, suffix)), None)
        case _:
            raise ValueError(f"Unexpected byte_range, got {byte_range}")
    start, stop, _ = part.indices(length)
    return start, max(start, stop)
