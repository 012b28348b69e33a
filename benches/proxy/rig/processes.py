"""Processes that were started for this run alone: pinned to cores, and ended by their id whatever happens."""

import ctypes
import os
import signal
import subprocess
import sys

from sidecar import wait_for

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Placement:
    """Which cores the proxy has and which the load and the upstream have. With two cores, a proxy with two workers
    shares the second one with the load."""

    def __init__(self):
        self.cores = sorted(os.sched_getaffinity(0))

    def proxy(self, workers):
        return self.cores[:workers]

    def load(self):
        return self.cores[2:] if len(self.cores) >= 4 else self.cores[1:2]

    def __str__(self):
        name = lambda cores: ",".join(map(str, cores))  # noqa: E731
        shared = "" if len(self.cores) >= 4 else "; two workers share the second core with the load"
        return f"proxy on core {name(self.proxy(1))}, load and upstream on {name(self.load())}{shared}"


def pinned(cores, *command):
    """A command that may use these cores only."""
    return ["taskset", "-c", ",".join(map(str, cores)), *map(str, command)]


def orphaned():
    """In the child, before its program: end it when we are ended in a way that leaves us no time."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Server:
    """A process that listens on `port` of loopback within `seconds`. `environment`, if given, is all it has. A `with` block
    ends it."""

    def __init__(self, command, port, out, environment=None, seconds=30):
        self.port = port
        self.out = open(out, "wb")
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=self.out,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C is for us; we end the others in order.
            start_new_session=True,
            preexec_fn=orphaned,
        )
        self.pid = self.process.pid
        try:
            wait_for(port, self.process, seconds)
        except BaseException:
            self.stop()
            print(f"--- {out}\n{open(out, errors='replace').read()[-2000:]}", file=sys.stderr, flush=True)
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.out.close()


def run(command, seconds):
    """A command that ends by itself within `seconds`: its output. What it says on failing goes into the error."""
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=seconds, preexec_fn=orphaned)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{' '.join(map(str, command))[:300]}\ndid not end within {seconds} s") from None
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))[:300]}\nended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
