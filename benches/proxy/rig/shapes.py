"""The kinds of load."""

import functools
from dataclasses import dataclass

from . import load
from .peers.setup import Variant

CONNECTIONS = 64
RATE = 3000
SESSIONS, QUICK_SESSIONS = 100_000, 1_000
POST = 'wrk.method = "POST"\nwrk.body = string.rep("x", 65536)\n'
CLOSE = 'wrk.headers["Connection"] = "close"\n'
GET = functools.partial(load.wrk, path="/1k", connections=CONNECTIONS)


@dataclass(frozen=True)
class Shape:
    """`send(target, seconds)` gives an Outcome."""

    title: str
    send: object
    workers: int = 1
    tls: bool = False
    # For proxies that can be given many tokens; the authenticator of this run knows one.
    many: bool = False
    # Bytes of the answer, where the throughput is of interest.
    size: int = 0

    def variant(self, logged, sessions):
        return Variant(workers=self.workers, tls=self.tls, logged=logged, sessions=sessions if self.many else 0)


def first_token(target, seconds):
    """The same load as `tokens` makes, with one of them."""
    one = target.folder / "one-token"
    one.write_text(target.token + "\n")
    alone = load.Target(**(vars(target) | {"tokens": one}))
    return load.own(alone, seconds, "turn", "/1k", CONNECTIONS, 0)


def all_tokens(target, seconds):
    """From where the load before ended, so that all get their turn however short the rounds are."""
    return load.own(target, seconds, "turn", "/1k", CONNECTIONS, target.start)


SHAPES = {
    "get": Shape("keep-alive GET, 1 KiB", GET),
    "post": Shape("POST 64 KiB", functools.partial(load.wrk, path="/post", connections=CONNECTIONS, script=POST)),
    "connect": Shape("new connection each", functools.partial(load.wrk, path="/1k", connections=CONNECTIONS, script=CLOSE)),
    "ws": Shape("WebSocket, 64 bytes there and back", functools.partial(load.own, mode="ws", path="/ws", connections=CONNECTIONS)),
    "rate": Shape(
        f"keep-alive GET at {RATE:,} a second", lambda target, seconds: load.own(target, seconds, "rate", "/1k", CONNECTIONS, RATE)
    ),
    # Last of its group, since it takes memory that the others would be charged for.
    "down": Shape("GET 1 MiB", functools.partial(load.wrk, path="/1m", connections=CONNECTIONS), size=1024 * 1024),
    "tls": Shape("TLS keep-alive GET, 1 KiB", GET, tls=True),
    "handshake": Shape("TLS handshake each", functools.partial(load.handshakes, path="/1k", batch=200), tls=True),
    "h2": Shape(
        "HTTP/2 GET, 1 KiB (TLS, 16 connections of 4 streams)",
        functools.partial(load.h2load, path="/1k", connections=16, streams=4),
        tls=True,
    ),
    "one": Shape("GET with one of many known tokens", first_token, many=True),
    "tokens": Shape("GET with all those tokens in turn", all_tokens, many=True),
    "two": Shape("keep-alive GET, two workers", GET, workers=2),
}
