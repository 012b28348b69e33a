"""Real clients behind one small face, so that the same behaviour is asked of each of them."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import httpx
import trustme

from harness import Nullpass, clean_environment

TIMEOUT = 30


@dataclass
class Answer:
    """What a client made of an answer; the names of headers are in lower case, the body is as it came."""

    status: int
    version: str
    headers: list[tuple[str, str]]
    body: bytes
    trailers: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n == name), None)


class Authority:
    """A certificate authority of the test's own, and a certificate for loopback."""

    def __init__(self, folder: Path):
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.ca, self.cert, self.key = (folder / name for name in ("ca.crt", "tls.crt", "tls.key"))
        authority.cert_pem.write_to_path(self.ca)
        issued.private_key_pem.write_to_path(self.key)
        for pem in issued.cert_chain_pems:
            pem.write_to_path(self.cert, append=True)

    @property
    def server_config(self) -> dict:
        """The section `[server.tls]`."""
        return {"cert": str(self.cert), "key": str(self.key)}

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)


class TlsNullpass(Nullpass):
    """A nullpass that ends TLS itself."""

    def __init__(self, folder: Path, upstream: str | None, authority: Authority, **options):
        super().__init__(folder, upstream, **options)
        self.authority = authority
        self.config["server"] |= {"tls": authority.server_config, "public_url": self.url}
        self.write_config()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def client(self, **options) -> httpx.Client:
        return super().client(**{"verify": self.authority.context()} | options)


class Curl:
    """curl, a process for each request."""

    def __init__(self, server: Nullpass, *options: str):
        self.server, self.options = server, list(options)
        if isinstance(server, TlsNullpass):
            self.options += ["--cacert", str(server.authority.ca)]

    def run(self, *args: str, body: bytes | None = None) -> subprocess.CompletedProcess:
        """curl with these arguments; nothing is checked."""
        command = ["curl", "--silent", "--show-error", "--max-time", str(TIMEOUT), *self.options, *args]
        return subprocess.run(command, input=body or b"", capture_output=True, timeout=TIMEOUT + 10, env=clean_environment(), check=False)

    def request(self, method: str, path: str, *, headers: dict[str, str] | None = None, body: bytes | None = None, chunked: bool = False) -> Answer:
        with tempfile.TemporaryDirectory() as folder:
            head, out = Path(folder, "head"), Path(folder, "body")
            args = ["--head"] if method == "HEAD" else ["--request", method]
            for name, value in (headers or {}).items():
                args += ["--header", f"{name}: {value}"]
            if body is not None:
                args += ["--data-binary", "@-", "--header", "Content-Type: application/octet-stream"]
            if chunked:
                # Both mean: as much as comes. HTTP/2 has no transfer coding, and frames it by itself.
                args = [a if a != "--data-binary" else "--upload-file" for a in args]
                args = ["-" if a == "@-" else a for a in args] + ["--header", "Expect:"]
            done = self.run(*args, "--dump-header", str(head), "--output", str(out), "--write-out", "%{http_version}", self.server.url + path, body=body)
            assert done.returncode == 0, done.stderr.decode()
            return self._read(head.read_text(encoding="latin-1"), out.read_bytes() if out.exists() and method != "HEAD" else b"", done.stdout.decode())

    def form(self, path: str, name: str, value: str, file: bytes, *, headers: dict[str, str]) -> Answer:
        """A form with a field and a file `a.bin`."""
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder, "a.bin")
            at.write_bytes(file)
            fields = [a for n, v in headers.items() for a in ("--header", f"{n}: {v}")]
            done = self.run("--form", f"{name}={value}", "--form", f"file=@{at}", *fields, self.server.url + path)
        assert done.returncode == 0, done.stderr.decode()
        return Answer(200, "", [], done.stdout)

    @staticmethod
    def _read(head: str, body: bytes, version: str) -> Answer:
        blocks = [b for b in head.replace("\r\n", "\n").split("\n\n") if b]
        last = max(i for i, block in enumerate(blocks) if block.startswith("HTTP/"))
        pairs = lambda lines: [(n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines)]  # noqa: E731
        status_line, *fields = blocks[last].splitlines()
        trailers = dict(pairs(line for block in blocks[last + 1 :] for line in block.splitlines()))
        return Answer(int(status_line.split()[1]), "2" if version.startswith("2") else version, pairs(fields), body, trailers)

    def close(self) -> None:
        pass


class Httpx:
    """httpx, with its connections kept."""

    def __init__(self, server: Nullpass, **options):
        self.client = server.client(timeout=TIMEOUT, **options)

    def request(self, method: str, path: str, *, headers: dict[str, str] | None = None, body: bytes | None = None, chunked: bool = False) -> Answer:
        content = _pieces(body) if chunked and body is not None else body
        with self.client.stream(method, path, headers=headers, content=content) as answer:
            raw = b"".join(answer.iter_raw())
        return Answer(answer.status_code, answer.http_version.removeprefix("HTTP/"), [(n.lower(), v) for n, v in answer.headers.multi_items()], raw)

    def form(self, path: str, name: str, value: str, file: bytes, *, headers: dict[str, str]) -> Answer:
        answer = self.client.post(path, data={name: value}, files={"file": ("a.bin", file)}, headers=headers)
        return Answer(answer.status_code, "", [], answer.content)

    def close(self) -> None:
        self.client.close()


class Aiohttp:
    """aiohttp, with its connections kept."""

    def __init__(self, server: Nullpass):
        self.server = server
        self.runner = asyncio.Runner()
        self.session = self.runner.run(self._open())

    async def _open(self) -> aiohttp.ClientSession:
        tls = self.server.authority.context() if isinstance(self.server, TlsNullpass) else True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls), auto_decompress=False, timeout=aiohttp.ClientTimeout(TIMEOUT), max_field_size=1 << 20, max_line_size=1 << 20
        )

    def request(self, method: str, path: str, *, headers: dict[str, str] | None = None, body: bytes | None = None, chunked: bool = False) -> Answer:
        async def ask() -> Answer:
            data = _async_pieces(body) if chunked and body is not None else body
            async with self.session.request(method, self.server.url + path, headers=headers, data=data, allow_redirects=False) as answer:
                raw = await answer.read()
                return Answer(answer.status, f"{answer.version.major}.{answer.version.minor}", [(n.lower(), v) for n, v in answer.headers.items()], raw)

        return self.runner.run(ask())

    def form(self, path: str, name: str, value: str, file: bytes, *, headers: dict[str, str]) -> Answer:
        async def ask() -> Answer:
            form = aiohttp.FormData({name: value})
            form.add_field("file", file, filename="a.bin")
            async with self.session.post(self.server.url + path, data=form, headers=headers) as answer:
                return Answer(answer.status, "", [], await answer.read())

        return self.runner.run(ask())

    def close(self) -> None:
        self.runner.run(self.session.close())
        self.runner.close()


def _pieces(body: bytes):
    for at in range(0, len(body), 10_000):
        yield body[at : at + 10_000]


async def _async_pieces(body: bytes):
    for piece in _pieces(body):
        yield piece
