"""A proxy for https: it is asked to ``CONNECT`` to a host, and leads to a server on this machine instead."""

from __future__ import annotations

import asyncio
import ssl
import threading
from typing import Self


class Tunnel:
    """Listens at `url`; `asked` are the first lines of the requests. What is inside goes on to `upstream` in plain.

    Parameters
    ----------
    upstream
        URL of a server without TLS.
    tls
        What it proves itself with here.
    """

    def __init__(self, upstream: str, tls: ssl.SSLContext) -> None:
        self.asked: list[str] = []
        self._tls = tls
        self._address = upstream.removeprefix("http://").split(":")

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        started.wait(30)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._stop.wait()
        server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b"\r\n")[0].decode())
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.start_tls(self._tls)
        onward, back = await asyncio.open_connection(self._address[0], int(self._address[1]))
        try:
            await asyncio.gather(_pass_on(reader, back), _pass_on(onward, writer))
        except (ConnectionError, ssl.SSLError):  # either side has gone
            pass
        finally:
            back.transport.abort()
            writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
