"""A server of byte ranges in a process of its own, as far away as it is told to be, that counts what it is asked for.

Answers as S3 does with path style and without signatures. Run as ``python -m bench.slow_server FOLDER SECONDS``: it
prints its URL, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LOG = "/.log"
_COPIED = 64 * 1024  # bytes
_RANGE = re.compile(rb"\r\nrange: bytes=(\d+)-(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Seen:
    """What was asked for since the last time."""

    requests: int
    bytes: int


class SlowServer:
    """The other side of the process."""

    def __init__(self, url: str) -> None:
        self.url = url

    def seen(self) -> Seen:
        """Requests since the last call of this."""
        with urllib.request.urlopen(self.url + _LOG) as answer:
            return Seen(*json.load(answer))


@contextlib.contextmanager
def slow_server(folder: Path, latency: float) -> Iterator[SlowServer]:
    """Serve the files of a folder as ``/bucket/NAME``; `latency` in seconds."""
    command = [sys.executable, "-m", "bench.slow_server", str(folder), str(latency)]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        if process.stdout is None:
            raise RuntimeError("the server has no output")
        try:
            yield SlowServer(process.stdout.readline().strip())
        finally:
            process.terminate()


class _Server:
    def __init__(self, folder: Path, latency: float) -> None:
        self._objects = {f"/bucket/{path.name}": path for path in folder.iterdir()}
        self._latency = latency
        self._requests = self._bytes = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split(b" ", 2)[1].partition(b"?")[0].decode()
                if target == _LOG:
                    writer.write(self._log())
                else:
                    await self._range(target, head, writer)
                await writer.drain()
        writer.close()

    def _log(self) -> bytes:
        body = json.dumps([self._requests, self._bytes]).encode()
        self._requests = self._bytes = 0
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def _range(self, target: str, head: bytes, writer: asyncio.StreamWriter) -> None:
        path = self._objects.get(target)
        found = _RANGE.search(head)
        await asyncio.sleep(self._latency)
        self._requests += 1
        if path is None or found is None:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, stop = int(found[1]), min(int(found[2]) + 1, size)
            self._bytes += stop - start
            writer.write(
                b'HTTP/1.1 206 Partial Content\r\nETag: "e"\r\nLast-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n'
                b"Content-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n\r\n" % (start, stop - 1, size, stop - start)
            )
            if stop - start <= _COPIED:
                writer.write(os.pread(file.fileno(), stop - start, start))
            else:  # the kernel sends it: the server is not to be what is measured
                await asyncio.get_running_loop().sendfile(writer.transport, file, start, stop - start)


async def _serve(folder: Path, latency: float) -> None:
    server = await asyncio.start_server(_Server(folder, latency).answer, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2])))
