"""Loads, each in a process of its own, so that no interpreter waits for another's: requests at a steady rate whose latency is
measured, sign-ins at a steady rate, and applications to be proxied."""

import collections
import contextlib
import json
import multiprocessing
import os
import selectors
import signal
import socket
import sys
import time

from fixed import Fixed
from sidecar import PASSWORD

# So that nothing of ours is inherited but what is handed over.
PROCESSES = multiprocessing.get_context("fork")


class Child:
    """A function in a process of its own until the `with` block ends. It gets a connection to talk with us by.

    `elsewhere`: it stands for other machines, and takes what nobody here wants of the cores (`SCHED_IDLE`, sched(7)): at the same
    priority, the others would wait for it, and not for what it does to the sidecar."""

    def __init__(self, function, *arguments, elsewhere=False):
        self.pipe, theirs = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=run, args=(function, theirs, self.pipe, elsewhere, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def __enter__(self):
        return self

    def told(self, seconds):
        """What it says next."""
        if not self.pipe.poll(seconds):
            raise SystemExit(f"a load said nothing within {seconds} s")
        try:
            return self.pipe.recv()
        except EOFError:
            raise SystemExit("a load ended before it was through") from None

    def __exit__(self, *_):
        self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def run(function, pipe, others_end, elsewhere, *arguments):
    others_end.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if elsewhere:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(BrokenPipeError):
        function(pipe, *arguments)
    sys.stdout.flush()


def fixed(pipe):
    """An application that answers 1 KiB."""
    pipe.send(Fixed().port)
    signal.pause()


def application():
    """It, in a `with` block, and its address."""
    child = Child(fixed)
    return child, f"http://127.0.0.1:{child.told(10)}"


# How often, and every how many requests on a connection of its own: those who come notice more than those who are there.
PROBES = 200
FRESH = 10


def probe(pipe, port, token, path="/1k"):
    """Asks at a steady rate, for as many seconds as it is told to, and says how long each answer took in ms, from the moment at
    which it should have been asked for, and how many requests failed."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    kept = None
    while True:
        seconds = pipe.recv()
        took, failed, begin = [], 0, time.monotonic()
        for nth in range(int(seconds * PROBES)):
            due = begin + nth / PROBES
            while (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            try:
                if nth % FRESH == 0:
                    with socket.create_connection(("127.0.0.1", port), 30) as fresh:
                        answered(fresh, request)
                else:
                    kept = again(kept, port, request)
            except OSError:
                failed += 1
                kept = None
            took.append((time.monotonic() - due) * 1000)
        pipe.send((took, failed))


def again(kept, port, request):
    """Asks on a connection that was kept. A server may have closed it meanwhile, which is no failure: every client opens another
    then (RFC 9112, section 9.3.1). Gives the connection that it was."""
    if kept is not None:
        kept.settimeout(0)
        try:
            closed = kept.recv(1) == b""
        except BlockingIOError:
            closed = False
        if not closed:
            answered(kept, request)
            return kept
        kept.close()
    kept = socket.create_connection(("127.0.0.1", port), 30)
    answered(kept, request)
    return kept


def answered(connection, request):
    """Sends a request and reads its answer of 1 KiB."""
    connection.settimeout(30)
    connection.sendall(request)
    data = b""
    while b"\r\n\r\n" not in data or len(data) < data.index(b"\r\n\r\n") + 4 + 1024:
        more = connection.recv(65536)
        if not more:
            raise OSError("the connection ended")
        data += more
    if not data.startswith(b"HTTP/1.1 200"):
        raise OSError(data[:40])


def sign_in(email, password=PASSWORD, address=None, cookie=None, more=None):
    """The bytes of a sign-in."""
    body = json.dumps({"email": email, "password": password} | (more or {}))
    fields = [f"Content-Length: {len(body)}", "Content-Type: application/json", "Host: localhost"]
    fields += [f"X-Forwarded-For: {address}"] if address else []
    fields += [f"Cookie: {cookie}"] if cookie else []
    return ("POST /_auth/api/auth/login HTTP/1.1\r\n" + "\r\n".join(fields) + "\r\n\r\n" + body).encode()


def stranger(number):
    """A name that nobody has, from an address of its own."""
    return sign_in(f"nobody-{number}@example.com", "wrong-Orchard-19", f"11.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")


def strangers(pipe, port, rate, most, at_once):
    """Sign-ins of `stranger`s, `rate` a second (`None`: as fast as they are answered), `most` of them on at most `at_once`
    connections; then how many answers there were by status (0: none), how many were not sent for want of a free connection,
    and how long it took."""
    chosen, free, waiting, statuses, unsent = selectors.DefaultSelector(), collections.deque(), set(), {}, 0

    def connect():
        connection = socket.create_connection(("127.0.0.1", port), 30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        chosen.register(connection, selectors.EVENT_READ)
        free.append(connection)

    for _ in range(at_once):
        connect()
    pipe.send("ready")
    begin, number = time.monotonic(), 0
    while number < most or waiting:
        due = most if rate is None else min(most, int((time.monotonic() - begin) * rate))
        while number < due and (free or rate is not None):
            if free:
                # The one that was used the longest ago, so that none rests for too long.
                connection = free.popleft()
                connection.sendall(stranger(number))
                waiting.add(connection)
            else:
                unsent += 1
            number += 1
        wait = 0.1 if number >= most or rate is None else max(0, begin + (number + 1) / rate - time.monotonic())
        for key, _ in chosen.select(wait):
            connection = key.fileobj
            data = connection.recv(65536)
            if connection in waiting:
                waiting.remove(connection)
                status = int(data[9:12] or 0)
                statuses[status] = statuses.get(status, 0) + 1
                if data:
                    free.append(connection)
            else:
                free.remove(connection)
            if not data:
                chosen.unregister(connection)
                connection.close()
                connect()
        if time.monotonic() - begin > 600:
            raise SystemExit("the flood does not end")
    pipe.send((statuses, unsent, time.monotonic() - begin))


def quantile(values, share):
    """The value below which that share of them is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
