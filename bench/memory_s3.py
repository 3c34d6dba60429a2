"""As much of an S3 server as a repository needs, in memory and without any checks: `python -m bench.memory_s3`.

Says its URL on the first line of its output.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, ClassVar


class Connection(asyncio.Protocol):
    """One client. Requests are parsed by hand: a framework would be most of what is measured."""

    objects: ClassVar[dict[str, bytes]] = {}

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.missing = 0  # bytes of a body that is on its way
        self.head = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)
        self.missing -= len(data)
        while self.missing <= 0 and self._take():
            pass

    def _take(self) -> bool:
        """Answer one request, if it is there as a whole."""
        data = b"".join(self.parts)
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            self.parts = [data]
            return False
        length = int(match[1]) if (match := re.search(rb"content-length: (\d+)", head, re.IGNORECASE)) else 0
        if len(rest) < length:
            self.parts, self.missing = [data], length - len(rest)
            return False
        self.parts, self.missing = [rest[length:]], 0
        self._answer(head.decode(), rest[:length])
        return bool(self.parts[0])

    def _answer(self, head: str, body: bytes) -> None:
        method, target, _ = head.partition("\r\n")[0].split(" ")
        key = target.partition("?")[0]
        if method == "PUT":
            self.objects[key] = body
            self._send(200, b"", key)
        elif "list-type" in target:
            self._send(200, b"<ListBucketResult></ListBucketResult>", "")
        elif key not in self.objects:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>", "")
        else:
            self._send_object(method, key, head)

    def _send_object(self, method: str, key: str, head: str) -> None:
        data = self.objects[key]
        found = re.search(r"range: bytes=(\d+)-(\d+)", head, re.IGNORECASE)
        if found is None:
            self._send(200, data, key, empty=method == "HEAD")
            return
        start, stop = int(found[1]), min(int(found[2]) + 1, len(data))
        extra = f"Content-Range: bytes {start}-{stop - 1}/{len(data)}\r\n"
        self._send(206, memoryview(data)[start:stop], key, extra)

    def _send(self, status: int, body: bytes | memoryview, key: str, extra: str = "", *, empty: bool = False) -> None:
        tag = f'ETag: "{len(key):x}"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n' if key else ""
        self.transport.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{tag}{extra}\r\n".encode())
        if not empty:
            self.transport.write(body)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
