"""Slow and greedy clients and applications, one kind after the other, each against a process of its own: what it takes while
they are there, and what the others notice."""

import pathlib
import socket
import statistics
import tempfile
import threading
import time

from sidecar import Sidecar, most_rss_kib, rss_kib
from traffic import Child, application, probe, quantile

RATIO, MEMORY = 2.0, 200.0
# Everything is public but what the others ask for.
RULES = """[[rules]]
path = "/greedy/**"
policy = "public"
"""
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def asks(stream, path):
    """GET of a path, in HPACK without a table of its own (RFC 7541, section 6.2.2)."""
    return frame(1, 5, stream, b"\x82\x86\x41\x01a\x44" + bytes([len(path)]) + path.encode())


# The beginning of a head, in the middle of a field whose value is to have 16 KiB.
ENDLESS = b"\x82\x86\x41\x01a\x44\x02/a\x40\x01a\x7f\x81\x7d"


def opened(port, count, begin):
    """So many connections that began with these bytes; as many as could be opened."""
    connections = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), 10)
        connection.sendall(begin)
        connections.append(connection)
    return connections


def drip(port, count, begin, piece, pipe):
    """Connections that send a little each second, and come again when they were closed."""
    connections = opened(port, count, begin)
    pipe.send("ready")
    while True:
        for nth, connection in enumerate(connections):
            try:
                connection.sendall(piece)
            except OSError:
                connection.close()
                [connections[nth]] = opened(port, 1, begin)
            time.sleep(1 / count)


def sit(port, count, begin, pipe, read=True):
    """Connections that have begun with something and do nothing more."""
    connections = opened(port, count, begin)
    if read:
        for connection in connections:
            connection.recv(65536)
    pipe.send("ready")
    while True:
        time.sleep(60)


def again(port, count, begin, pipe):
    """Requests one after the other, each on a connection of its own, whatever comes of them."""
    pipe.send("ready")
    while True:
        for connection in opened(port, count, begin):
            try:
                while connection.recv(65536):
                    pass
            except OSError:
                pass
            connection.close()


def get(path):
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def large_streams(count):
    """HTTP/2 with a window that stays shut (SETTINGS_INITIAL_WINDOW_SIZE 0) and requests for endless answers."""
    settings = frame(4, 0, 0, b"\x00\x04\x00\x00\x00\x00")
    return HTTP2 + settings + b"".join(asks(nth * 2 + 1, "/greedy/endless") for nth in range(count))


BODY = "Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
# What it is called, how many connections, and what they do.
CASES = {
    "heads": ("heads that drip, HTTP/1.1", 1000, lambda port, n, pipe: drip(port, n, b"GET /a HTTP/1.1\r\nHost: a\r\nX: ", b"x", pipe)),
    "heads2": ("heads that drip, HTTP/2", 1000, lambda port, n, pipe: drip(port, n, HTTP2 + frame(4, 0, 0) + frame(1, 1, 1, ENDLESS), frame(9, 0, 1, b"x"), pipe)),
    "own": ("bodies for a route of nullpass's own that drip", 500, lambda port, n, pipe: drip(port, n, f"POST /_auth/api/auth/login HTTP/1.1\r\nHost: a\r\n{BODY}{{".encode(), b" ", pipe)),
    "uploads": ("bodies for the application that stop", 400, lambda port, n, pipe: sit(port, n, f"POST /greedy/never HTTP/1.1\r\nHost: a\r\n{BODY}{{".encode(), pipe, False)),
    "readers": ("readers of an endless answer that never read, HTTP/1.1", 200, lambda port, n, pipe: sit(port, n, get("/greedy/endless"), pipe, False)),
    "windows": ("the same over HTTP/2, 10 streams each whose windows stay shut", 20, lambda port, n, pipe: sit(port, n, large_streams(10), pipe, False)),
    "idle": ("idle connections, more than max_connections", 10_500, lambda port, n, pipe: sit(port, n, get("/greedy/small"), pipe)),
    "idle2": ("idle connections, HTTP/2", 2000, lambda port, n, pipe: sit(port, n, HTTP2 + frame(4, 0, 0), pipe)),
    "never": ("requests to an application that never answers", 400, lambda port, n, pipe: sit(port, n, get("/greedy/never"), pipe, False)),
    "resets": ("answers that the application resets in the middle", 8, lambda port, n, pipe: again(port, n, get("/greedy/reset"), pipe)),
}


def client(pipe, case, port, count):
    CASES[case][2](port, count, pipe)


def greedy_application(pipe):
    """Never answers, sends for ever, resets in the middle: as the path says."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    threading.stack_size(256 * 1024)
    pipe.send(listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=misbehave, args=(connection,), daemon=True).start()


def misbehave(connection):
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    try:
        while data := connection.recv(65536):
            if b"/endless" in data:
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while True:
                    connection.sendall(chunk)
            if b"/reset" in data:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                break
            if b"/small" in data:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except OSError:
        pass
    connection.close()


def greedy(asked):
    seconds = asked.seconds or (0.5 if asked.quick else 6.0)
    cases = asked.cases.split(",") if asked.cases else list(CASES)
    told, missed = {}, []
    print("| what is there | how many | the others' p99 quietly, ms | p99 under it, ms | ratio | failed | most memory since the start, MiB | more for each, KiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    app, url = application()
    with app, Child(greedy_application, elsewhere=True) as other:
        upstream = f'[[upstreams]]\nname = "greedy"\npath = "/greedy"\nurl = "http://127.0.0.1:{other.told(10)}"\n{RULES}'
        for case in cases:
            name, count, _ = CASES[case]
            count = max(2, int(count * asked.part))
            told[case] = row = one(case, count, seconds, url, upstream)
            ratio = row["p99_ms"][1] / row["p99_ms"][0]
            each = (row["rss_mib"][2] - row["rss_mib"][0]) * 1024 / count
            print(
                f"| {name} | {count:,} | {row['p99_ms'][0]:.2f} | {row['p99_ms'][1]:.2f} | {ratio:.2f} | {row['failed']} "
                f"| {row['rss_mib'][1]:.1f} | {each:.1f} |",
                flush=True,
            )
            missed += [] if ratio <= RATIO else [f"greedy: {name}: p99 {ratio:.2f} x, goal {RATIO:g}"]
            missed += [] if row["failed"] == 0 else [f"greedy: {name}: {row['failed']} of the others' requests failed"]
            missed += [] if row["rss_mib"][1] < MEMORY else [f"greedy: {name}: {row['rss_mib'][1]:.0f} MiB, goal under {MEMORY:g}"]
    print(f"\nGoals: a ratio of at most {RATIO:g}, none failed, under {MEMORY:g} MiB.")
    return told, missed


def one(case, count, seconds, url, upstream):
    with tempfile.TemporaryDirectory(prefix="np-greedy-") as folder:
        with Sidecar(pathlib.Path(folder), url, upstream, access=False) as sidecar:
            token = sidecar.ready().token()
            with Child(probe, sidecar.port, token) as others:
                samples = []
                for load in (1, seconds / 2):
                    others.pipe.send(min(load, seconds))
                    samples = [others.told(load + 60)]
                before = rss_kib(sidecar.pid) / 1024
                with Child(client, case, sidecar.port, count, elsewhere=True) as crowd:
                    crowd.told(120)
                    others.pipe.send(seconds)
                    samples.append(others.told(seconds + 120))
                    there = rss_kib(sidecar.pid) / 1024
                most = most_rss_kib(sidecar.pid) / 1024
    p99 = [quantile(took, 0.99) for took, _ in samples]
    return {"connections": count, "p50_ms": [statistics.median(took) for took, _ in samples], "p99_ms": p99, "failed": sum(failed for _, failed in samples), "rss_mib": [before, most, there]}
