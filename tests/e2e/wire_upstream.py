"""An upstream that uses the corners of HTTP that most frameworks hide: interim answers, bodies without a length, 304
with a length, streams that are sent event by event on the test's word, and streams that never end.
"""

from __future__ import annotations

import gzip
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from upstreams import CHUNK, EchoUpstream, Received, _read_body

RANGED = bytes(range(256)) * 8
PACKED = gzip.compress(b"packed by the application " * 200, mtime=0)
STEP_SECONDS = 20


class WireUpstream(EchoUpstream):
    """`EchoUpstream` and more; on a unix socket where a path is given."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        # Which streams the proxy has let go of: what a cut-off must do on this side too.
        self.gone: list[str] = []
        self.event = threading.Semaphore(0)
        if path is not None:
            self._listener.close()
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(os.fspath(path))
            self._listener.listen(128)
            self.url = f"unix:{path}"

    def _answer(self, out: socket.socket, reader, request: Received) -> bool:
        url = urlsplit(request.target)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        match url.path:
            case "/refused":
                # The head is enough: the body that waits for a 100 is never asked for.
                status = {"413": "413 Content Too Large", "417": "417 Expectation Failed"}[query["status"]]
                out.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 7\r\nConnection: close\r\n\r\nrefused".encode())
                return False
            case "/upload-hold":
                return self._take_slowly(reader, request)
            case "/hold" | "/drip":
                _read_body(reader, request)
                return self._never_ends(out, url.path, query.get("id", ""))
        answer = self._corner(url.path, query, request)
        if answer is None:
            return super()._answer(out, reader, request)
        _read_body(reader, request)
        goes_on = True
        for part in answer:
            if part is None:
                goes_on = False
            else:
                out.sendall(part)
        return goes_on

    def _corner(self, path: str, query: dict[str, str], request: Received):
        """The parts of an answer, each written by itself; a last `None` hangs up."""
        match path:
            case "/204":
                return [b"HTTP/1.1 204 No Content\r\nX-Kept: yes\r\n\r\n"]
            case "/204-with-length":
                # Forbidden (RFC 9110, section 8.6) and common.
                return [b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"]
            case "/head-in-chunks":
                return [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"" if request.method == "HEAD" else b"3\r\nabc\r\n0\r\n\r\n"]
            case "/304-in-chunks":
                return [b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\nTransfer-Encoding: chunked\r\n\r\n']
            case "/100":
                return [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"]
            case "/101":
                return [b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: surprise\r\n\r\n", None]
            case "/etag" if request.get("If-None-Match") == '"v1"':
                # RFC 9110, section 8.6: the length a 200 would have had; no body follows.
                return [b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\nContent-Length: 5\r\n\r\n']
            case "/etag":
                return [b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Length: 5\r\n\r\n', b"" if request.method == "HEAD" else b"whole"]
            case "/until-close":
                version = query.get("version", "1.1").encode()
                return [b"HTTP/" + version + b" 200 OK\r\nContent-Type: text/plain\r\n\r\n", b"one ", b"two ", b"three", None]
            case "/chunks":
                return [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5;name=value\r\nhello\r\n", b"0006\r\n world\r\n", b"0\r\n\r\n"]
            case "/interim":
                link = b"Link: </style.css>; rel=preload\r\n"
                return [
                    b"HTTP/1.1 103 Early Hints\r\n" + link + b"\r\n",
                    b"HTTP/1.1 102 Processing\r\n\r\n",
                    b"HTTP/1.1 103 Early Hints\r\n" + link + b"X-Interim: yes\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + (b"" if request.method == "HEAD" else b"final"),
                ]
            case "/closes":
                return [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nclosed", None]
            case "/big-head":
                return [b"HTTP/1.1 200 OK\r\nX-Large: " + b"x" * int(query["bytes"]) + b"\r\nContent-Length: 2\r\n\r\nok"]
            case "/range":
                return _ranged(request)
            case "/gzip":
                return [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding\r\nContent-Length: %d\r\n\r\n" % len(PACKED), PACKED]
            case "/events":
                return self._events(int(query["n"]))
        return None

    def _events(self, count: int):
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        for n in range(count):
            # The next is sent only when the test has seen the last: whoever holds one back never gets another.
            if not self.event.acquire(timeout=STEP_SECONDS):
                break
            data = b"data: %d %f\n\n" % (n, time.time())
            yield b"%x\r\n%s\r\n" % (len(data), data)
        yield b"0\r\n\r\n"

    def _take_slowly(self, reader, request: Received) -> bool:
        try:
            _read_body(reader, request)
        except (ValueError, OSError):
            self.gone.append(request.target)
            raise
        return False

    def _never_ends(self, out: socket.socket, path: str, name: str) -> bool:
        out.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: first\n\n")
        out.settimeout(60)
        try:
            if path == "/drip":
                while True:
                    out.sendall(b"x" * CHUNK)
            # Silent, until the other side hangs up.
            out.recv(1)
        except OSError:
            pass
        self.gone.append(f"{path}?id={name}")
        return False


def _ranged(request: Received):
    wanted = request.get("Range")
    if wanted is None:
        return [b"HTTP/1.1 200 OK\r\nAccept-Ranges: bytes\r\nContent-Length: %d\r\n\r\n" % len(RANGED), RANGED]
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last or len(RANGED) - 1), len(RANGED) - 1)
    if start > end:
        return [b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */%d\r\nContent-Length: 0\r\n\r\n" % len(RANGED)]
    part = RANGED[start : end + 1]
    return [b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n\r\n" % (start, end, len(RANGED), len(part)), part]
