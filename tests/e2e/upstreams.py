"""An application to stand behind nullpass that keeps the very bytes it received.

No HTTP library in between: what a rule was decided on must be what arrives, and a library would tidy it up first.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

CHUNK = 1 << 20
KEPT_BODY = 64 * 1024


@dataclass
class Received:
    """A request as it came."""

    line: str
    headers: list[tuple[str, str]]
    body_bytes: int = 0
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    def all(self, name: str) -> list[str]:
        """Every value of a header, whatever its case."""
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None


class EchoUpstream:
    """Answers with what it received, as JSON; some paths behave in a way of their own (see `_answer`)."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.received: list[Received] = []
        self.health_status = 200
        self._closing = False
        self._connections: set[socket.socket] = set()

    def __enter__(self) -> EchoUpstream:
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        # Closing alone would leave the thread waiting at a number that the next socket gets: it could take a connection
        # that is meant for another upstream. `shutdown` wakes it.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for connection in list(self._connections):
            connection.close()

    def last(self) -> Received:
        return self.received[-1]

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb", buffering=CHUNK)
        try:
            while (request := _read_head(reader)) is not None:
                self.received.append(request)
                if not self._answer(connection, reader, request):
                    return
        except (OSError, ValueError):
            return
        finally:
            self._connections.discard(connection)
            reader.close()
            connection.close()

    def _answer(self, out: socket.socket, reader, request: Received) -> bool:
        """Answers; returns whether the connection goes on."""
        url = urlsplit(request.target)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        match url.path:
            case "/early":
                # Answers before a byte of the body was read, and hangs up.
                out.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nearly")
                return False
            case "/reset":
                return False
            case "/sse":
                _read_body(reader, request)
                out.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
                for n in range(int(query.get("n", 3))):
                    out.sendall(f"data: {n} {time.time()}\n\n".encode())
                    time.sleep(float(query.get("every", 0.3)))
                return False
            case "/big":
                size = int(query["bytes"])
                out.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n".encode())
                block = bytes(CHUNK)
                while size > 0:
                    out.sendall(block[:size] if size < CHUNK else block)
                    size -= CHUNK
                return True
            case "/trailers":
                _read_body(reader, request)
                out.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n5\r\nhello\r\n0\r\nX-Checksum: abc\r\n\r\n")
                return True
        if request.get("Expect"):
            out.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        _read_body(reader, request)
        extra, status = [], "200 OK"
        match url.path:
            case "/slow":
                time.sleep(float(query.get("seconds", 2)))
            case "/healthz":
                status = f"{self.health_status} Status"
            case "/redirect":
                status, extra = "302 Found", [("Location", query["to"])]
            case "/cookies":
                extra = [("Set-Cookie", c) for c in ("app=1; Path=/", "nullpass=evil; Path=/", "__Host-nullpass=evil; Path=/; Secure", "nullpass-device=evil", "__Secure-nullpass=evil; Secure")]
                extra.append(("Clear-Site-Data", '"cache", "cookies", "*"'))
                extra.append(("Service-Worker-Allowed", "/"))
            case "/cacheable":
                extra = [("Cache-Control", "public, max-age=60, s-maxage=600")]
        if length := query.get("status"):
            status = f"{int(length)} Status"
        body = json.dumps(
            {"line": request.line, "headers": request.headers, "trailers": request.trailers, "bodyBytes": request.body_bytes, "body": request.body.decode("latin-1")}
        ).encode()
        head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        head += [f"{n}: {v}" for n, v in extra]
        out.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + (b"" if request.method == "HEAD" else body))
        return True


def _read_head(reader) -> Received | None:
    line = reader.readline(CHUNK)
    if not line.endswith(b"\r\n"):
        return None
    return Received(line=line[:-2].decode("latin-1"), headers=_read_fields(reader))


def _read_fields(reader) -> list[tuple[str, str]]:
    fields = []
    while (line := reader.readline(CHUNK)) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").rstrip("\r\n").partition(":")
        fields.append((name, value.strip(" \t")))
    return fields


def _read_body(reader, request: Received) -> None:
    """Reads the body to its end, keeping its size and its beginning."""

    def take(size: int) -> None:
        while size > 0:
            block = reader.read(min(size, CHUNK))
            if not block:
                raise ValueError("the body broke off")
            request.body_bytes += len(block)
            if len(request.body) < KEPT_BODY:
                request.body += block[: KEPT_BODY - len(request.body)]
            size -= len(block)

    if "chunked" in (request.get("Transfer-Encoding") or "").lower():
        while size := int(reader.readline(CHUNK).split(b";")[0], 16):
            take(size)
            reader.readline(CHUNK)
        request.trailers = _read_fields(reader)
    elif length := request.get("Content-Length"):
        take(int(length))
