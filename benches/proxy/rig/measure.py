"""The order of it all: for each set-up all peers are started side by side and checked, then measured in turns, A B C A B C, so
that what else the machine does falls on all alike."""

import contextlib
import functools
import sys
from dataclasses import dataclass

from sidecar import cpu_seconds, rss_kib

from . import backend, keys, load, tools
from .check import check
from .peers.setup import Scene
from .shapes import SHAPES


@dataclass(frozen=True)
class Peer:
    """A proxy that runs, and a token that it takes."""

    kind: object
    port: int
    pid: int
    token: str
    tokens: object
    tls: bool


@dataclass(frozen=True)
class Sample:
    """One load: the proxy's CPU time for each request in µs, requests a second, latencies in ms, memory in MiB."""

    cpu: float
    rate: float
    p50: float
    p99: float
    rss: float
    count: int


class Run:
    """Holds the backend for as long as the `with` block of `stack` lasts."""

    def __init__(self, stack, folder, found, place, kinds, sessions):
        self.folder, self.tools, self.place, self.kinds, self.sessions = folder, found, place, kinds, sessions
        self.keys = keys.Keys(folder / "keys")
        self.tokens = {kind.algorithm: self.keys.token(kind.algorithm) for kind in kinds.values()} | {"HS256": self.keys.token("HS256")}
        cores = place.load()
        self.upstream = stack.enter_context(backend.upstream(found["nginx"], cores, folder))
        self.authenticator = stack.enter_context(backend.authenticator(found["nginx"], cores, folder, self.tokens["HS256"]))
        self.echo = stack.enter_context(backend.echo(found["load"], cores, folder))
        self.setups = 0

    def measure(self, shapes, logged, rounds, seconds):
        """Samples by (shape, peer), of shapes that have one set-up in common."""
        variant = SHAPES[shapes[0]].variant(logged, self.sessions)
        names = [name for name, kind in self.kinds.items() if kind.many or not SHAPES[shapes[0]].many]
        sent = dict.fromkeys(names, 0)
        samples = {}
        with contextlib.ExitStack() as stack:
            self.setups += 1
            folder = self.folder / f"setup-{self.setups}"
            folder.mkdir()
            ports = self.upstream.port, self.echo.port, self.authenticator.port
            scene = Scene(self.tools, self.place, self.keys, folder, *ports, variant)
            peers = {name: self.start(stack, scene, name) for name in names}
            for name, peer in peers.items():
                shown = check(name, peer)
                if self.setups == 1:
                    print(f"- {name}: {shown}", flush=True)
            for turn in range(rounds):
                for shape in shapes:
                    for at in range(len(names)):
                        name = names[(at + turn) % len(names)]
                        sample = self.once(shape, peers[name], seconds, folder, sent[name])
                        sent[name] += sample.count
                        samples.setdefault((shape, name), []).append(sample)
                        print(f"  {shape} {name}: {sample.cpu:.1f} µs", file=sys.stderr, flush=True)
        return samples

    def start(self, stack, scene, name):
        kind = self.kinds[name]
        server, token = kind.start(scene) if kind.binary is None else kind.start(scene, kind.binary)
        stack.enter_context(server)
        listed = scene.folder / f"tokens-{name}"
        if scene.variant.sessions:
            lines = self.many(kind)
            token = lines[0]
            listed.write_text("\n".join(lines) + "\n")
        else:
            token = token or self.tokens[kind.algorithm]
            listed.write_text(token + "\n")
        return Peer(kind, server.port, server.pid, token, listed, scene.variant.tls)

    def many(self, kind):
        """As many tokens as there are sessions: nullpass's own, or signed for those who look no session up."""
        if kind.binary is None:
            return signed(self.sessions)
        return (tools.filled(self.sessions) / "tokens").read_text().split()

    def once(self, shape, peer, seconds, folder, start):
        target = load.Target(peer.port, peer.token, peer.tokens, start, peer.tls, self.place.load(), folder, self.tools)
        before = cpu_seconds(peer.pid)
        outcome = SHAPES[shape].send(target, seconds)
        cpu = cpu_seconds(peer.pid) - before
        rate = outcome.count / outcome.seconds
        return Sample(cpu * 1e6 / outcome.count, rate, outcome.p50, outcome.p99, rss_kib(peer.pid) / 1024, outcome.count)


@functools.cache
def signed(count):
    return [keys.hs256(keys.claims()) for _ in range(count)]
