"""Several nullpass on one database, and a watch that asks all of them all the time and knows what they may answer."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from harness import API, Account, Nullpass, bearer, call, merged, postgres_storage, register

# What is written down about a promise of two seconds: a loaded machine may wake a process late.
PROMISE, SLACK = 2.0, 1.5

# The cheapest that is allowed, so that a second is enough for many sign-ins. The floors are OWASP's.
CHEAP = {"argon2": {"memory": "7MiB", "iterations": 5}}


class Replicas:
    """Instances that share a schema and a key."""

    def __init__(self, folder: Path, upstream: str, url: str, *, count: int = 3, config: dict | None = None, ways: list[str] | None = None):
        """`ways`: the URL for each instance, where they differ."""
        shared = postgres_storage(url)
        self.storage = shared
        self.all: list[Nullpass] = []
        for number in range(count):
            storage = shared | ({"url": ways[number]} if ways else {})
            base = {
                # One name for all, as behind a balancer: it is the issuer of the tokens.
                "server": {"public_url": "http://nullpass.test", "workers": 1},
                "accounts": CHEAP,
                "storage": storage,
                "rules": [{"path": "/public/**", "policy": "public"}],
                "sessions": {"stale_ttl": "3s"},
            }
            self.all.append(Nullpass(folder / f"replica{number}", upstream, config=merged(base, config or {})))

    def __enter__(self) -> Replicas:
        try:
            # All at once: whoever is first makes the tables, the others wait.
            with ThreadPoolExecutor(len(self.all)) as pool:
                list(pool.map(Nullpass.start, self.all))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.all:
            server.stop()

    def __iter__(self):
        return iter(self.all)

    def __getitem__(self, number: int) -> Nullpass:
        return self.all[number]

    def ready(self) -> list[int]:
        """What each `/readyz` says; 0: it does not answer."""
        # All at once: who falls silent makes each of them wait.
        with ThreadPoolExecutor(len(self.all)) as pool:
            return list(pool.map(lambda server: status_of(f"{server.admin_url}/readyz"), self.all))

    def wait_until_ready(self, is_ready: bool, seconds: float) -> float:
        """Waits until all of them are, or none is; how long that took."""
        began = time.monotonic()
        wanted = 200 if is_ready else 503
        while (said := self.ready()) != [wanted] * len(self.all):
            assert time.monotonic() - began < seconds, f"/readyz {said}, not {wanted}, after {seconds} s"
            time.sleep(0.1)
        return time.monotonic() - began

    def metric(self, name: str) -> list[float]:
        """A number of every instance's `/metrics`."""
        return [metric(server, name) for server in self.all]


def metric(server: Nullpass, name: str) -> float:
    text = httpx.get(f"{server.admin_url}/metrics", timeout=10, trust_env=False).text
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + " "))


def status_of(url: str, headers: dict[str, str] | None = None) -> int:
    try:
        return httpx.get(url, timeout=10, trust_env=False, headers=headers).status_code
    except httpx.HTTPError:
        return 0


def refused_everywhere(servers, token: str, seconds: float = 15) -> list[float]:
    """Asks each of them until it refuses the token; how long that took from now on, an instance."""

    def watch(server: Nullpass) -> float:
        began = time.monotonic()
        with server.client(headers=bearer(token)) as client:
            while (status := client.get("/echo").status_code) == 200:
                assert time.monotonic() - began < seconds, f"still let in after {seconds} s"
                time.sleep(0.005)
            assert status == 401, status
        return time.monotonic() - began

    servers = list(servers)
    with ThreadPoolExecutor(len(servers)) as pool:
        return list(pool.map(watch, servers))


@dataclass(frozen=True)
class Asked:
    """One request of the watch, and what came of it."""

    at: float
    took: float
    server: int
    who: str
    what: str
    status: int


@dataclass(eq=False)
class Watch:
    """Asks instances all the time: as people with a good session, as somebody whose session has ended, with tokens that are
    not ours, and as nobody; signs in and registers. Whatever the database does, nobody without a good session gets a 2xx on
    a protected path, nobody gets another's identity, nobody with a good session is told to be signed out, and public
    paths work. What broke that is in `wrong`."""

    ports: list[int]
    people: list[Account]
    ended: str
    # Whether sign-ins and registrations go on too; they cost a hash each.
    signs_in: bool = True
    # Whether a connection that is refused or cut is a fault (or an instance that is being ended).
    lossless: bool = True
    pause: float = 0.01
    patience: float = 20.0
    asked: list[Asked] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)
    lost: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind, *_: object) -> None:
        self._over.set()
        self._thread.join(self.patience + 10)
        if kind is None:
            assert not self._thread.is_alive(), "the watch hangs"
            assert not self.wrong, f"{len(self.wrong)} wrong, first: {self.wrong[:5]}"

    def since(self, at: float, what: str | None = None, who: str | None = None) -> list[Asked]:
        return [one for one in list(self.asked) if one.at >= at and what in (None, one.what) and who in (None, one.who)]

    def counts(self, since: float = 0, what: str | None = None) -> Counter:
        return Counter(one.status for one in self.since(since, what))

    def wait_for(self, accept, seconds: float, words: str) -> float:
        """Waits until `accept(self)` is true; how long that took."""
        began = time.monotonic()
        while not accept(self):
            assert time.monotonic() - began < seconds, f"{words}: not within {seconds} s; {self.counts(began)}; wrong: {self.wrong[:3]}"
            time.sleep(0.05)
        return time.monotonic() - began

    def wait_until_all_good(self, seconds: float = 15) -> float:
        """Waits until everybody who is signed in is let in by all, and people can sign in at each."""
        began = time.monotonic()
        expected = {(n, person.email) for n in range(len(self.ports)) for person in self.people}

        def good(_: Watch) -> bool:
            # The last word on each, asked since.
            last = {(one.server, one.who): one.status for one in self.since(began, "private")}
            signed_in = {one.server: one.status for one in self.since(began, "login")}
            return all(last.get(key) == 200 for key in expected) and (not self.signs_in or all(signed_in.get(n) == 200 for n in range(len(self.ports))))

        return self.wait_for(good, seconds, "everybody is let in again")

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(len(self.ports)):
                for person in self.people:
                    group.create_task(self._go(number, self._as(person)))
                group.create_task(self._go(number, self._as_others()))
                if self.signs_in:
                    group.create_task(self._go(number, self._signing_in(), pause=0.1))
                    group.create_task(self._go(number, self._registering(), pause=0.3))

    # Each of these says what to ask next: name, kind, method, path, fields, body, and a judge of the answer.

    def _as(self, person: Account):
        fields = bearer(person.token)
        own = {person.id, None}
        while True:
            yield person.email, "private", "GET", "/echo", fields, b"", lambda a: (a.status == 503 and a.retries) or (a.status == 200 and a.user == person.id)
            yield person.email, "public", "GET", "/public/x", fields, b"", lambda a: a.status == 200 and a.user in own

    def _as_others(self):
        parts = self.people[0].token.split(".")
        forged = ".".join([*parts[:2], base64.urlsafe_b64encode(secrets.token_bytes(64)).decode().rstrip("=")])
        refused = lambda a: a.status == 401 or (a.status == 503 and a.retries)  # noqa: E731
        while True:
            for name, token in (("ended", self.ended), ("forged", forged), ("rubbish", "x.y.z"), ("api", "np_" + "a" * 40)):
                yield name, "not private", "GET", "/echo", bearer(token), b"", refused
                # A token of ours that is no good is refused on public paths too, unless the route does not care.
                yield name, "not public", "GET", "/public/x", bearer(token), b"", lambda a: a.user is None and a.status in (200, 401, 503)
            yield "nobody", "not private", "GET", "/echo", {}, b"", lambda a: a.status == 401
            yield "nobody", "public", "GET", "/public/x", {}, b"", lambda a: a.status == 200 and a.user is None

    def _signing_in(self):
        while True:
            for person in self.people:
                body = json.dumps({"email": person.email, "password": person.password}).encode()
                # 429: an attempt is counted before it is checked; when the database goes in between, it stays counted.
                good = lambda a, person=person: (a.status in (429, 503) and a.retries) or (a.status == 200 and a.json["user"]["id"] == person.id)  # noqa: E731
                yield person.email, "login", "POST", f"{API}/auth/login", {"Content-Type": "application/json"}, body, good

    def _registering(self):
        while True:
            email = f"watch.{secrets.token_hex(6)}@example.com"
            body = json.dumps({"email": email, "password": "violet-harbour-42-lantern"}).encode()

            def good(answer: _Answer, email: str = email) -> bool:
                if answer.status == 201:
                    self.registered.append(email)
                return answer.status == 201 or (answer.status == 503 and answer.retries)

            yield email, "register", "POST", f"{API}/auth/register", {"Content-Type": "application/json"}, body, good

    async def _go(self, number: int, questions, pause: float | None = None) -> None:
        streams = None
        for who, what, method, path, fields, body, good in questions:
            if self._over.is_set():
                break
            began = time.monotonic()
            try:
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", self.ports[number])
                answer = await asyncio.wait_for(_ask(*streams, method, path, fields, body), self.patience)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                if streams is not None:
                    streams[1].close()
                streams = None
                self.lost += 1
                if self.lossless or isinstance(error, TimeoutError):
                    self.wrong.append(f"{who}: {what} at {number}: {error!r} after {time.monotonic() - began:.1f} s")
                await asyncio.sleep(0.05)
                continue
            now = time.monotonic()
            self.asked.append(Asked(began, now - began, number, who, what, answer.status))
            try:
                fine = good(answer)
            except (ValueError, KeyError) as error:
                fine = f"{error!r}" == ""
            if not fine:
                self.wrong.append(f"{who}: {what} at {number}: {answer.status} as {answer.user}: {answer.body[:300]!r}")
            # Whoever comes seldom comes anew: a connection that rests may be closed at the moment it is used again.
            if answer.last or (pause or 0) > 0.05:
                streams[1].close()
                streams = None
            await asyncio.sleep(self.pause if pause is None else pause)
        if streams is not None:
            streams[1].close()


@dataclass
class _Answer:
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def last(self) -> bool:
        return self.fields.get("connection") == "close"

    @property
    def retries(self) -> bool:
        """A 503 says when to come again."""
        return self.fields.get("retry-after", "").isdigit()

    @property
    def user(self) -> str | None:
        """Who the application was told it is."""
        if self.status != 200 or b'"headers"' not in self.body:
            return None
        return next((value for name, value in self.json["headers"] if name.lower() == "x-forwarded-user-id"), None)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, fields: dict[str, str], body: bytes) -> _Answer:
    head = [f"{method} {path} HTTP/1.1", "Host: nullpass.test", *(f"{name}: {value}" for name, value in fields.items())]
    if body:
        head.append(f"Content-Length: {len(body)}")
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    length = int(found.get("content-length", "0"))
    return _Answer(int(lines[0].split(" ")[1]), found, await reader.readexactly(length))


def some_people(replicas: Replicas, count: int = 3) -> tuple[list[Account], str]:
    """Registered persons that every instance has seen, and the token of a session that was ended everywhere."""
    people = [register(replicas[n % len(replicas.all)]) for n in range(count)]
    gone = register(replicas[0])
    for server in replicas:
        with server.client() as client:
            for person in people:
                assert client.get("/echo", headers=person.bearer).status_code == 200
    call(replicas[0], "POST", "/auth/logout", token=gone.token)
    refused_everywhere(replicas, gone.token)
    return people, gone.token
