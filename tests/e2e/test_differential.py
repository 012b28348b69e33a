"""What rules decide and what applications are given: never two different paths, whatever web server is in between.

Generated requests go through nullpass to applications behind real web servers, each of which says which path it was given.
Whoever got through must be allowed to see *that* path, by rules that are read once more here, literally and by
other means. The seed is printed; `NULLPASS_SEED` runs one again, `NULLPASS_CASES` makes it longer.
"""

from __future__ import annotations

import os
import random
import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from urllib.parse import unquote_to_bytes

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest

from applications import Applications
from harness import Nullpass, register

SEED = int(os.environ.get("NULLPASS_SEED") or random.SystemRandom().randrange(1 << 32))
CASES = int(os.environ.get("NULLPASS_CASES") or 300)

#: A folder and who may see it, first match first: everybody, who is signed in, or a group. Everything else is `REST`.
EVERYBODY, SIGNED_IN = "everybody", "signed in"
CLOSED = [("/public/team/admin", "admins"), ("/public", EVERYBODY), ("/team/admin", "admins"), ("/team", "staff"), ("/über", EVERYBODY)]
OPEN = [("/admin", "admins"), ("/team/admin", "admins"), ("/team", "staff"), ("/über", "admins"), ("/public", EVERYBODY), ("", EVERYBODY)]
#: Where some applications stand, which are not told of it (`strip_path`); the rules are the same below it.
MOUNT = "/mount"
MOUNTED = ("node", "http-server", "nginx")


def with_mount(folders: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(MOUNT + folder, who) for folder, who in folders] + folders


KINDS = {"closed": (with_mount(CLOSED), SIGNED_IN), "open": (with_mount(OPEN), EVERYBODY)}


def rules(folders: list[tuple[str, str]]) -> list[dict]:
    """The same for nullpass."""
    policy = lambda who: {"policy": "public"} if who == EVERYBODY else {"policy": "authenticated", "groups": [who]}  # noqa: E731
    return [{"path": f"{folder}/**"} | policy(who) for folder, who in folders]


def who_may(folders: list[tuple[str, str]], rest: str, path: str) -> str:
    """Who may see a path that an application was given. What is for some is theirs however it is written."""
    for folder, who in folders:
        name = path if who == EVERYBODY else path.lower()
        if name == folder or name.startswith(folder + "/"):
            return who
    return rest


def text(path: bytes) -> str:
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError:
        return path.decode("latin-1")


def wrong(kind: str, caller: str, views: list[tuple[str, bytes]]) -> str | None:
    """Why this caller should never have reached an application that was given this; None: it may."""
    folders, rest = KINDS[kind]
    may = {"nobody": {EVERYBODY}, "ada": {EVERYBODY, SIGNED_IN, "staff"}}[caller]
    for view, path in views:
        if view == "raw":
            # Who compares what was never decoded finds a protected folder only where it is written out.
            found = who_may([(folder, who) for folder, who in folders if who != EVERYBODY], EVERYBODY, text(path))
            readings = [] if found in may else [found]
            path = unquote_to_bytes(path)
        else:
            readings = []
        readings.append(who_may(folders, rest, text(path)))
        # What ends in one dot is the folder.
        if any(segment in (b".", b"..") for segment in re.split(rb"[/\\]", path.removesuffix(b"/."))):
            return f"{view} {path!r} has a dot segment"
        if not set(readings) <= may:
            return f"{view} {path!r} is for {readings}"
    return None


# --- Requests ------------------------------------------------------------------------------------------------------

FOLDERS = [
    b"/public", b"/public", b"/public", b"/public/team/admin", b"/admin", b"/team", b"/team/admin", b"/x", b"/x/public", b"/x/admin", "/über".encode(), b"/%C3%BCber",
    b"/%FCber", b"/_auth", b"/publicx", b"/adminx", b"/", b"",
]  # fmt: skip
FILES = [b"", b"/", b"/a", b"/a.png", b"/a/b/", b"/admin", b"/team/admin/x", b"/public", b"\\admin", b"\\team\\admin", b";x", b"/;x", b"%3fx", b"%23x"]
SEPARATORS = [
    b"/", b"//", b"///", b"\\", b"\\", b"%2f", b"%2F", b"%252f", b"\\", b"%5c", b"%255C", b"/;/", b"/;a=b/", b";/", b"%3b/", b"/%3Bx/", b"/./", b"/x/../",
    b"/%2e/", b"/.%2E/", b"/..;/", b"%2f..%2f", b"/%252e%252e/", b"\\..\\", b"%5c..%5c", b"/%c0%af", b"/%ef%bc%8f", b"?", b"#", b"%23", b"%3f", b"%",
]  # fmt: skip
INSERTED = [
    b"%00", b"\0", b"%0a", b"%0d%0aX:%20y", b"\t", b"\x01", b"\x7f", b"%7f", b"\x80", b"\xc3\xa9", b"%e9", b"%C3%A9", b"%c0%ae", b"%e0%80%af", b"%u002f",
    b"%zz", b"%2", b"+", b" ", b"%20", b"%25", b"%2500", b".", b"..", b"...", b";", b";a=b", b"%3bx", b"~", b"%7E", b":", b"@", b"*", b"%2a", b"[", b"|", b"\"", b"{",
    b"%61", b"%2561", b"%E2%80%8B", b"%CC%88",
]  # fmt: skip


#: What everybody gets through to every application, whatever the dice say: a run in which nothing does shows nothing.
PASSES = [b"/public/a.png", b"/public/a/b/", b"/public/%7Ea", b"/public/a?x=/../admin"]


@dataclass
class Generator:
    dice: random.Random

    def target(self) -> bytes:
        """A request target: a folder of the rules and something in it, changed in none to three places."""
        pick, chance = self.dice.choice, self.dice.random
        target = pick(FOLDERS) + pick(FILES)
        if chance() < 0.25:
            target = pick(FOLDERS) + pick(FILES) + pick(SEPARATORS) + target.lstrip(b"/")
        if chance() < 0.06:
            target = pick([b"//x", b"//x:80", b"///x", b"/\\x"]) + target
        for _ in range(self.dice.choices([0, 1, 2, 3], [2, 5, 3, 1])[0]):
            target = self.changed(target)
        if chance() < 0.1:
            target += pick([b"?", b"?/public/a", b"?x=/../admin", b"#", b"#/public/a", b"#/../admin", b"%23", b"?#", b"??"])
        if chance() < 0.06:
            return pick([b"http://%HOST%", b"HTTP://%HOST%", b"http://%HOST%:80", b"http://other.test", b"https://%HOST%", b"http:", b"//"]) + target
        return target if target.startswith((b"/", b"\\", b"%")) or chance() < 0.02 else b"/" + target

    def changed(self, target: bytes) -> bytes:
        at = self.dice.randrange(len(target) + 1)
        slashes = [n for n, byte in enumerate(target) if byte == 0x2F]
        match self.dice.choice(["encode", "encode", "separate", "separate", "separate", "insert", "case", "front", "whole"]):
            case "encode" if at < len(target):
                escape = self.dice.choice([b"%%%02x", b"%%%02X", b"%%25%02x"]) % target[at]
                return target[:at] + escape + target[at + 1 :]
            case "separate" if slashes:
                at = self.dice.choice(slashes)
                return target[:at] + self.dice.choice(SEPARATORS) + target[at + 1 :]
            case "insert":
                return target[:at] + self.dice.choice(INSERTED) + target[at:]
            case "case":
                return target.swapcase() if self.dice.random() < 0.3 else target[:at] + target[at:].swapcase()
            case "front":
                return self.dice.choice([b"/", b"//", b"/x", b"//x", b"/\\x", b"/%2f", b"/%5c", b"/x:y@z", b"//x:80", b"///x", b"/%2fx"]) + target
            case "whole":
                name = self.dice.choice([b"admin", b"team", b"public"])
                return target.replace(name, b"".join(b"%%%02x" % letter if self.dice.random() < 0.5 else bytes([letter]) for letter in name))
        return target


class Caller:
    """A connection to nullpass that is kept as long as it lives."""

    def __init__(self, port: int, host: str, token: str | None):
        self.port, self.host, self.token = port, host, token
        self.socket: socket.socket | None = None

    def ask(self, target: bytes) -> tuple[int, bytes]:
        """The status and the body; 0: the connection was closed without an answer."""
        fields = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        request = b"GET " + target.replace(b"%HOST%", self.host.encode()) + f" HTTP/1.1\r\nHost: {self.host}\r\n{fields}\r\n".encode()
        try:
            if self.socket is None:
                self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=15)
            self.socket.sendall(request)
            answer = HTTPResponse(self.socket)
            answer.begin()
            body = answer.read()
            if answer.will_close:
                self.close()
            return answer.status, body
        except (ConnectionError, HTTPException):
            self.close()
            return 0, b""

    def close(self) -> None:
        if self.socket:
            self.socket.close()
        self.socket = None


class Http2Caller(Caller):
    """The same over HTTP/2, which has no request line that would end anywhere."""

    CONFIG = h2.config.H2Configuration(client_side=True, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False)

    def ask(self, target: bytes) -> tuple[int, bytes]:
        head = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", self.host.encode()), (b":path", target.replace(b"%HOST%", self.host.encode()))]
        if self.token:
            head.append((b"authorization", f"Bearer {self.token}".encode()))
        try:
            if self.socket is None:
                self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=15)
                self.peer = h2.connection.H2Connection(self.CONFIG)
                self.peer.initiate_connection()
            stream = self.peer.get_next_available_stream_id()
            self.peer.send_headers(stream, head, end_stream=True)
            status, body = 0, b""
            while True:
                self.socket.sendall(self.peer.data_to_send())
                if not (data := self.socket.recv(65536)):
                    raise ConnectionError("closed")
                for event in self.peer.receive_data(data):
                    match event:
                        case h2.events.ResponseReceived():
                            status = int(dict(event.headers)[b":status"])
                        case h2.events.DataReceived():
                            body += event.data
                            self.peer.acknowledge_received_data(event.flow_controlled_length, stream)
                        case h2.events.StreamEnded():
                            return status, body
                        case h2.events.StreamReset():
                            return 0, b""
                        case h2.events.ConnectionTerminated():
                            raise ConnectionError("told to go")
        except (ConnectionError, h2.exceptions.H2Error):
            self.close()
            return 0, b""


@pytest.fixture(scope="module")
def applications():
    with Applications() as applications:
        if applications.missing:
            pytest.skip(f"not installed: {', '.join(applications.missing)}")
        yield applications


def protect(start_module, applications: Applications, kind: str) -> tuple[Nullpass, str]:
    """nullpass in front of them all, each under a host of its own, and the token of somebody of the staff."""
    upstreams = [{"name": name, "url": url, "host": f"{name}.test"} for name, url in applications.urls.items()]
    upstreams += [{"name": f"{name}-mounted", "url": applications.urls[name], "host": f"{name}-mounted.test", "path": MOUNT, "strip_path": True} for name in MOUNTED]
    server = start_module(config={"upstreams": upstreams, "rules": rules(KINDS[kind][0])})
    ada = register(server, "ada")
    server.cli("user", "set-groups", ada.email, "staff")
    return server, ada.token


# CC-1, PATH-3, PATH-4: against every server, for nobody and for somebody.
@pytest.mark.parametrize("kind", KINDS)
def test_nobody_reaches_what_a_rule_keeps_from_them(start_module, applications, kind):
    print(f"NULLPASS_SEED={SEED}")
    server, token = protect(start_module, applications, kind)
    generator = Generator(random.Random(SEED))
    targets = PASSES + [generator.target() for _ in range(CASES)]

    def run(name: str, caller: str, speaks: type[Caller]) -> tuple[str, Counter, list[str]]:
        counts, found = Counter(), []
        mount = MOUNT.encode() if name.endswith("-mounted") else b""
        connection = speaks(server.port, f"{name}.test", token if caller == "ada" else None)
        for number, target in enumerate(targets):
            target = mount + target
            status, body = connection.ask(target)
            counts[status] += 1
            assert status == 200 or number >= len(PASSES), (name, caller, target, status)
            if status != 200:
                continue
            views = [(line.split(" ")[0], mount + bytes.fromhex(line.split(" ")[1])) for line in body.decode().splitlines()]
            assert views, body
            counts["odd"] += views[0][1] != target
            if why := wrong(kind, caller, views):
                found.append(f"{name} for {caller} by {speaks.__name__}: {target!r}: {why}")
        connection.close()
        return f"{name} for {caller} by {speaks.__name__}", counts, found

    names = [*applications.urls, *(f"{name}-mounted" for name in MOUNTED)]
    ways = [(name, Caller) for name in names] + [(name, Http2Caller) for name in MOUNTED]
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(run, name, caller, speaks) for name, speaks in ways for caller in ("nobody", "ada")]
        results = [one.result() for one in done]
    wrong_ones = [line for _, _, found in results for line in found]
    assert not wrong_ones, f"seed {SEED}, {len(wrong_ones)} in all:\n" + "\n".join(wrong_ones[:20])
    # It would show nothing if nothing but what is plain got through. That is said of all together: of one alone, three in
    # a hundred are let through in the middle, and the dice may well give it fewer than a test could ask for.
    assert sum(counts["odd"] for _, counts, _ in results) > CASES, results
    for who, counts, _ in results:
        print(who, dict(counts))
        assert counts[400] > CASES / 20, (who, counts)
