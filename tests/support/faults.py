"""A proxy before the S3 server of the tests that does what networks and stores do on a bad day.

Bytes of requests and replies pass unchanged, so signatures stay valid. A fault comes at a set rate (seeded), or at a
chosen request. Kinds: `busy` (503 SlowDown), `throttled` (429), `reset` (before the server hears of it), `lost` (reset
after the server did the work), `cut` (half a reply), `stall` (no reply for `STALL_S`), `refused` (403 ExpiredToken).
"""

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable

KINDS = ("busy", "throttled", "reset", "lost", "cut")
STALL_S = 4.0  # longer than the client waits in its test
_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
_REPLIES = {"busy": (b"503 Slow Down", "SlowDown", "Please reduce your request rate."),
            "throttled": (b"429 Too Many Requests", "TooManyRequests", "Please reduce your request rate."),
            "refused": (b"403 Forbidden", "ExpiredToken", "The provided token has expired.")}


class FaultProxy:
    """Listens on 127.0.0.1 in a thread of its own. `rate`: share of the requests that fail, of the given `kinds`."""

    def __init__(self, upstream_port: int, seed: int = 0) -> None:
        self.upstream_port = upstream_port
        self.random = random.Random(seed)
        self.rate, self.kinds = 0.0, KINDS
        self.chosen: list[tuple[str, str, str]] = []
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.counts: Counter[str] = Counter()
        self.requests: list[tuple[str, str]] = []
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20))
        self.port = self.server.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def once(self, kind: str, method: str, path: str) -> None:
        """The next request of this method whose path and query match the pattern fails in this way."""
        self.chosen.append((kind, method, path))

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
            self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        self.server.close()
        self.loop.close()

    def _fault(self, method: str, path: str) -> str | None:
        for entry in self.chosen:
            if entry[1] == method and re.search(entry[2], path):
                self.chosen.remove(entry)
                return entry[0]
        return self.random.choice(self.kinds) if self.random.random() < self.rate else None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        if re.search(rb"(?i)\r\nexpect: 100-continue", head):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""
        method, path = head.split(b" ", 2)[:2]
        return await self._answer(method.decode(), path.decode(), head, body, writer)

    async def _answer(self, method: str, path: str, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
        await asyncio.to_thread(self.before, method, path)
        self.requests.append((method, path))
        fault = self._fault(method, path)
        if fault:
            self.counts[fault] += 1
        if fault in _REPLIES:
            status, code, message = _REPLIES[fault]
            text = _ERROR.format(code=code, message=message).encode() if method != "HEAD" else b""
            writer.write(b"HTTP/1.1 %b\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b"
                         % (status, len(text), text))
            await writer.drain()
            return True
        if fault == "reset":
            return _reset(writer)
        reply = await self._forward(head, body)
        if fault == "lost":
            return _reset(writer)
        if fault == "stall":
            await asyncio.sleep(STALL_S)
        if fault == "cut":
            start = reply.index(b"\r\n\r\n") + 4
            writer.write(reply[: start + (len(reply) - start) // 2] if len(reply) > start else reply[: start // 2])
            await writer.drain()
            return False
        writer.write(reply)
        await writer.drain()
        return not re.search(rb"(?i)\r\nconnection: close", reply[: reply.index(b"\r\n\r\n")])

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        lines = [line for line in head.split(b"\r\n") if not re.match(rb"(?i)(connection|expect):", line)]
        writer.write(b"\r\n".join([lines[0], b"Connection: close", *lines[1:]]) + body)
        await writer.drain()
        reply = await reader.read()
        writer.close()
        return reply


def _reset(writer: asyncio.StreamWriter) -> bool:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False
