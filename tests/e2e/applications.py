"""Web servers of other people's, each with an application behind it that says which path it was given.

An application answers `VIEW HEX` in lines: `path` is what the server hands over as the path, decoded; `raw` is the request
target without its query, for those applications that take it apart themselves; what begins with `parsed` is what a
well-known function makes of the target.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn
from urllib.parse import unquote_to_bytes, urlparse
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import cheroot.wsgi
import waitress.server
from aiohttp import web
from waitress.adjustments import Adjustments

from harness import clean_environment, end, free_port, wait_for_port

NODE = """
const http = require('node:http');
const hex = (text) => Buffer.from(text, 'utf8').toString('hex');
http.createServer((request, response) => {
  const raw = request.url.split('?')[0];
  const lines = ['raw ' + hex(raw)];
  const add = (view, read) => { try { lines.push(view + ' ' + hex(read())); } catch {} };
  add('path', () => decodeURIComponent(raw));
  // Node's own documentation reads a target so.
  add('parsed-whatwg', () => decodeURIComponent(new URL(request.url, 'http://localhost').pathname));
  add('parsed-url', () => decodeURIComponent(require('node:url').parse(request.url).pathname));
  response.end(lines.join('\\n'));
}).listen(Number(process.argv[2]), '127.0.0.1');
"""


def told(views: dict[str, bytes]) -> bytes:
    return "\n".join(f"{view} {path.hex()}" for view, path in views.items()).encode()


def program(name: str) -> str | None:
    """A server's program: beside the interpreter, on the path, or where Debian keeps daemons."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return shutil.which(name, path=path)


def by_wsgi(environ: dict, start_response) -> list[bytes]:
    """PEP 3333: `SCRIPT_NAME` and `PATH_INFO` are bytes, as Latin-1."""
    body = told({"path": (environ["SCRIPT_NAME"] + environ["PATH_INFO"]).encode("latin-1")})
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


class Applications:
    """Starts everything that is installed: `urls` by name. What is missing is in `missing`."""

    def __init__(self) -> None:
        self.urls: dict[str, str] = {}
        self.missing: list[str] = []
        # Not pytest's own folder: Apache runs as a user who may not go in there.
        self.folder = Path(tempfile.mkdtemp(prefix="nullpass-applications-"))
        self.folder.chmod(0o755)
        self._open = ExitStack()
        self._open.callback(shutil.rmtree, self.folder, ignore_errors=True)

    def __enter__(self) -> Applications:
        with ExitStack() as undo:
            undo.callback(self._open.close)
            self._fastcgi = self._serve_fastcgi()
            self._wsgi_servers()
            self._plain_python()
            self._aiohttp()
            for kind in ("node", "nginx", "apache2", "caddy"):
                if program(kind):
                    getattr(self, f"_{kind}")()
                else:
                    self.missing.append(kind)
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _is_at(self, name: str, port: int) -> None:
        self.urls[name] = f"http://127.0.0.1:{port}"

    def _thread(self, run) -> None:
        threading.Thread(target=run, daemon=True).start()

    def _spawn(self, port: int, command: list[str]) -> None:
        log = self.folder / f"log-{port}"
        environment = clean_environment({"HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)})
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.folder, env=environment)
        self._open.callback(end, process)
        try:
            wait_for_port(port, process)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{log.read_text(errors='replace')[-4000:]}") from None

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
        return path

    # --- Applications in this process ---------------------------------------------------------------------------------

    def _serve_fastcgi(self) -> int:
        """The protocol of PHP's applications: what they know of the path is `SCRIPT_NAME`, `PATH_INFO` and `REQUEST_URI`."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open.callback(listener.close)
        # Before that: wakes the thread that waits, which would go on at a number that another socket gets.
        self._open.callback(listener.shutdown, socket.SHUT_RDWR)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                self._thread(lambda connection=connection: answer_by_fastcgi(connection))

        self._thread(accept)
        return listener.getsockname()[1]

    def _wsgi_servers(self) -> None:
        class Threads(ThreadingMixIn, WSGIServer):
            daemon_threads = True

        class Quiet(WSGIRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

        own = make_server("127.0.0.1", 0, by_wsgi, Threads, Quiet)
        self._thread(own.serve_forever)
        self._open.callback(own.server_close)
        self._open.callback(own.shutdown)
        self._is_at("wsgiref", own.server_port)

        given = socket.create_server(("127.0.0.1", 0))
        other = waitress.server.TcpWSGIServer(by_wsgi, adj=Adjustments(threads=2), sockinfo=(socket.AF_INET, socket.SOCK_STREAM, 0, given.getsockname()), _sock=given, bind_socket=False)
        self._thread(other.run)
        self._open.callback(other.close)
        self._waitress = given.getsockname()[1]
        self._is_at("waitress", self._waitress)

        third = cheroot.wsgi.Server(("127.0.0.1", 0), by_wsgi, numthreads=3)
        third.prepare()
        self._thread(third.serve)
        self._open.callback(third.stop)
        self._is_at("cheroot", third.bind_addr[1])

    def _plain_python(self) -> None:
        """`http.server`, whose programs take the target apart themselves, mostly with `urllib.parse`."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                raw = self.path.split("?")[0].encode("latin-1")
                views = {"raw": raw, "path": unquote_to_bytes(raw)}
                try:
                    views["parsed-urlparse"] = unquote_to_bytes(urlparse(self.path).path.encode("latin-1"))
                except ValueError:
                    pass
                body = told(views)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self._thread(server.serve_forever)
        self._open.callback(server.server_close)
        self._open.callback(server.shutdown)
        self._is_at("http-server", server.server_port)

    def _aiohttp(self) -> None:
        async def answer(request: web.BaseRequest) -> web.Response:
            raw = request.raw_path.split("?")[0]
            return web.Response(body=told({"path": request.path.encode("utf-8", "surrogateescape"), "raw": raw.encode("utf-8", "surrogateescape")}))

        quiet = logging.Logger("aiohttp", logging.CRITICAL)
        given = socket.create_server(("127.0.0.1", 0))
        loop = asyncio.new_event_loop()

        async def serve() -> None:
            await loop.create_server(web.Server(answer, access_log=None, logger=quiet), sock=given)

        def run() -> None:
            loop.run_until_complete(serve())
            loop.run_forever()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def stop() -> None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

        self._open.callback(stop)
        self._is_at("aiohttp", given.getsockname()[1])

    # --- Programs -----------------------------------------------------------------------------------------------------

    def _node(self) -> None:
        port = free_port()
        self._spawn(port, [program("node"), str(self._write("app.js", NODE)), str(port)])
        self._is_at("node", port)

    def _nginx(self) -> None:
        ports = {name: free_port() for name in ("nginx", "nginx-unmerged", "nginx-twice")}
        temporary = "".join(f"    {kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        fastcgi = f"""
            fastcgi_pass 127.0.0.1:{self._fastcgi};
            fastcgi_param SCRIPT_NAME $fastcgi_script_name;
            fastcgi_param REQUEST_URI $request_uri;
"""
        text = f"""
daemon off;
worker_processes 1;
pid {self.folder}/nginx.pid;
error_log stderr crit;
{"user root;" if os.geteuid() == 0 else ""}
events {{}}
http {{
    access_log off;
    keepalive_requests 100000;
{temporary}
    server {{ listen 127.0.0.1:{ports["nginx"]}; location / {{ {fastcgi} }} }}
    server {{ listen 127.0.0.1:{ports["nginx-unmerged"]}; merge_slashes off; location / {{ {fastcgi} }} }}
    # A mistake that is made often: what was decoded is passed on and decoded again.
    server {{ listen 127.0.0.1:{ports["nginx-twice"]}; location / {{ proxy_pass http://127.0.0.1:{self._waitress}$uri; }} }}
}}
"""
        self._spawn(ports["nginx"], [program("nginx"), "-p", str(self.folder), "-e", "stderr", "-c", str(self._write("nginx.conf", text))])
        for name, port in ports.items():
            self._is_at(name, port)

    def _apache2(self) -> None:
        ports = {"apache": (free_port(), "On", "On"), "apache-unmerged": (free_port(), "NoDecode", "Off")}
        modules = "".join(f"LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so\n" for m in ("mpm_event", "authz_core", "proxy", "proxy_fcgi"))
        root = self.folder / "root"
        root.mkdir()
        hosts = "".join(
            f"""
Listen 127.0.0.1:{port}
<VirtualHost 127.0.0.1:{port}>
    DocumentRoot {root}
    AllowEncodedSlashes {encoded}
    MergeSlashes {merge}
    <Location "/">
        SetHandler "proxy:fcgi://127.0.0.1:{self._fastcgi}/"
        Require all granted
    </Location>
</VirtualHost>
"""
            for port, encoded, merge in ports.values()
        )
        text = f"""
ServerRoot {self.folder}
ServerName localhost
PidFile {self.folder}/apache.pid
DefaultRuntimeDir {self.folder}
Mutex file:{self.folder} default
ErrorLog {self.folder}/apache.log
LogLevel crit
MaxKeepAliveRequests 0
{modules}
User www-data
Group www-data
{hosts}
"""
        first = next(iter(ports.values()))[0]
        self._spawn(first, [program("apache2"), "-d", str(self.folder), "-f", str(self._write("apache.conf", text)), "-DFOREGROUND"])
        for name, (port, _, _) in ports.items():
            self._is_at(name, port)

    def _caddy(self) -> None:
        port = free_port()
        text = f"""
{{
	admin off
	persist_config off
	auto_https off
}}
http://127.0.0.1:{port}, http://*.test:{port} {{
	reverse_proxy 127.0.0.1:{self._fastcgi} {{
		transport fastcgi {{
			root {self.folder}
		}}
	}}
}}
"""
        self._spawn(port, [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(self._write("Caddyfile", text))])
        self._is_at("caddy", port)


# --- FastCGI 1.0, the responder's side, a request at a time --------------------------------------------------------------


def answer_by_fastcgi(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as reader:
        params, keep = b"", 0
        while len(head := reader.read(8)) == 8:
            _, kind, request, length, padding = struct.unpack(">BBHHBx", head)
            content = reader.read(length + padding)[:length]
            match kind:
                case 1:  # BEGIN_REQUEST
                    params, keep = b"", content[2] & 1
                case 4:  # PARAMS
                    params += content
                case 5 if not length:  # the end of STDIN
                    given = dict(read_params(params))
                    body = told({"path": given.get(b"SCRIPT_NAME", b"") + given.get(b"PATH_INFO", b""), "raw": given[b"REQUEST_URI"].split(b"?")[0]})
                    said = b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                    # STDOUT, its end, and END_REQUEST.
                    record = lambda kind, content: struct.pack(">BBHHBx", 1, kind, request, len(content), 0) + content  # noqa: E731
                    connection.sendall(record(6, said) + record(6, b"") + record(3, bytes(8)))
                    if not keep:
                        return


def read_params(data: bytes):
    """Pairs of names and values, each with its length in one byte or in four."""
    at = 0

    def length() -> int:
        nonlocal at
        size = data[at]
        at += 1
        if size >= 128:
            size = int.from_bytes(bytes([size & 127]) + data[at : at + 3], "big")
            at += 3
        return size

    while at < len(data):
        name, value = length(), length()
        yield data[at : at + name], data[at + name : at + name + value]
        at += name + value
