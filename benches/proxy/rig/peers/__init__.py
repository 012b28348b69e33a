"""The proxies that are compared: one file for each, and here their names."""

import functools
from dataclasses import dataclass, field

from . import caddy, envoy, haproxy, nginx, nullpass


@dataclass(frozen=True)
class Kind:
    """A peer as it can be asked for."""

    title: str
    start: object
    tools: tuple = ()
    # What it must show before it is measured.
    authenticates: bool = True
    # It asks the trivial authenticator, which knows one token only.
    asks: bool = False
    algorithm: str = "HS256"
    # It can be given many tokens: nullpass's own, or ones signed with HS256.
    many: bool = False
    binary: object = field(default=None, compare=False)


KINDS = {
    "nullpass": Kind("nullpass", nullpass.start, many=True),
    "nginx": Kind("nginx, no authentication", nginx.start, ("nginx",), authenticates=False, many=True),
    "nginx-auth": Kind("nginx auth_request", nginx.start_asking, ("nginx",), asks=True),
    "haproxy": Kind("HAProxy HS256", functools.partial(haproxy.start, algorithm="HS256"), ("haproxy",), many=True),
    "haproxy-rs256": Kind("HAProxy RS256", functools.partial(haproxy.start, algorithm="RS256"), ("haproxy",), algorithm="RS256"),
    "haproxy-es256": Kind("HAProxy ES256", functools.partial(haproxy.start, algorithm="ES256"), ("haproxy",), algorithm="ES256"),
    "envoy": Kind("Envoy EdDSA, cached", functools.partial(envoy.start, cache=True), ("envoy",), algorithm="EdDSA", many=True),
    "envoy-uncached": Kind("Envoy EdDSA", functools.partial(envoy.start, cache=False), ("envoy",), algorithm="EdDSA", many=True),
    "caddy": Kind("Caddy forward_auth", caddy.start, ("caddy",), asks=True),
}
DEFAULT = ("nullpass", "nginx", "nginx-auth", "haproxy", "envoy", "caddy")
