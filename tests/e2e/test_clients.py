"""The same corners of HTTP, asked of every client that people use: curl, httpx and aiohttp, over HTTP/1.1 and HTTP/2,
plain and over TLS. What only one of them can show is in `test_wire.py`.
"""

from __future__ import annotations

import email.parser
import email.policy
import gzip
import json

import aiohttp
import httpx
import pytest

from clients import Aiohttp, Authority, Curl, Httpx, TlsNullpass
from harness import Account, Nullpass, register
from wire_upstream import PACKED, RANGED, WireUpstream

CLIENTS = {
    "curl-1.1": ("plain", "1.1", lambda s: Curl(s, "--http1.1")),
    "curl-h2c": ("plain", "2", lambda s: Curl(s, "--http2-prior-knowledge")),
    "curl-tls-1.1": ("tls", "1.1", lambda s: Curl(s, "--http1.1")),
    "curl-tls-alpn": ("tls", "2", lambda s: Curl(s, "--http2")),
    "httpx-1.1": ("plain", "1.1", Httpx),
    "httpx-h2c": ("plain", "2", lambda s: Httpx(s, http1=False, http2=True)),
    "httpx-tls-alpn": ("tls", "2", lambda s: Httpx(s, http2=True)),
    "aiohttp": ("plain", "1.1", Aiohttp),
    "aiohttp-tls": ("tls", "1.1", Aiohttp),
}
MIB = 1 << 20


@pytest.fixture(scope="module")
def upstream():
    with WireUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def servers(upstream, start_module, tmp_path_factory):
    """Plain and with TLS, one application behind both."""
    tls = TlsNullpass(tmp_path_factory.mktemp("tls"), upstream.url, Authority(tmp_path_factory.mktemp("ca")))
    plain = start_module(upstream.url)
    with tls:
        yield {"plain": plain, "tls": tls}


@pytest.fixture(scope="module")
def accounts(servers) -> dict[str, Account]:
    return {kind: register(server, "ada") for kind, server in servers.items()}


class Asker:
    """A client with somebody's token, and the version of HTTP that it is meant to speak."""

    def __init__(self, client, server: Nullpass, account: Account, version: str):
        self.client, self.server, self.account, self.version = client, server, account, version

    def request(self, method: str, path: str, *, headers: dict[str, str] | None = None, **more):
        answer = self.client.request(method, path, headers=self.account.bearer | (headers or {}), **more)
        assert answer.version == self.version
        return answer

    def still_in_step(self) -> None:
        """The answer that follows on the same connections is that of its own request."""
        for n in range(2):
            assert json.loads(self.request("GET", f"/next?{n}").body)["line"] == f"GET /next?{n} HTTP/1.1"


@pytest.fixture(scope="module", params=CLIENTS)
def ask(request, servers, accounts):
    kind, version, make = CLIENTS[request.param]
    client = make(servers[kind])
    yield Asker(client, servers[kind], accounts[kind], version)
    client.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_methods_with_and_without_a_body(ask, upstream, method):
    for body in (None, b"some \0 bytes"):
        answer = ask.request(method, f"/things/1?m={method}", body=body)
        assert answer.status == 200
        said = json.loads(answer.body)
        assert said["line"] == f"{method} /things/1?m={method} HTTP/1.1" and said["body"].encode("latin-1") == (body or b"")
        got = upstream.last()
        assert got.get("x-forwarded-user") == ask.account.email and got.get("authorization") is None
        assert got.get("x-forwarded-proto") == ask.server.url.partition(":")[0]


def test_without_a_session_there_is_no_answer_of_the_application(ask, upstream):
    arrived = len(upstream.received)
    for method in ("GET", "POST", "OPTIONS"):
        refused = ask.client.request(method, "/things")
        assert refused.status == 401 and json.loads(refused.body)["loginUrl"]
    assert ask.client.request("HEAD", "/things").body == b""
    assert len(upstream.received) == arrived


def test_head_keeps_the_length_and_has_no_body(ask):
    whole = ask.request("GET", "/etag")
    head = ask.request("HEAD", "/etag")
    assert (head.status, head.body, head.get("content-length"), head.get("etag")) == (200, b"", "5", '"v1"')
    assert (whole.body, whole.get("content-length")) == (b"whole", "5")
    ask.still_in_step()


def test_204_has_no_body_and_no_length(ask):
    answer = ask.request("DELETE", "/204")
    assert (answer.status, answer.body, answer.get("x-kept")) == (204, b"", "yes")
    # RFC 9110, section 8.6: a 204 has neither.
    assert answer.get("content-length") is None and answer.get("transfer-encoding") is None
    ask.still_in_step()


def test_304_keeps_its_etag_whatever_its_length_says(ask):
    answer = ask.request("GET", "/etag", headers={"If-None-Match": '"v1"'})
    assert (answer.status, answer.body, answer.get("etag")) == (304, b"", '"v1"')
    ask.still_in_step()
    assert ask.request("GET", "/etag", headers={"If-None-Match": '"v2"'}).body == b"whole"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_answer_that_ends_with_its_connection(ask, version):
    answer = ask.request("GET", f"/until-close?version={version}")
    assert (answer.status, answer.body) == (200, b"one two three")
    ask.still_in_step()


def test_chunks_down(ask):
    answer = ask.request("GET", "/chunks")
    assert answer.body == b"hello world"
    assert answer.get("transfer-encoding") == ("chunked" if ask.version == "1.1" else None)
    ask.still_in_step()


def test_chunks_up(ask, upstream):
    body = bytes(range(256)) * 1000
    answer = ask.request("PUT", "/chunked", body=body, chunked=True)
    assert json.loads(answer.body)["bodyBytes"] == len(body)
    got = upstream.last()
    assert got.get("content-length") is None and got.all("transfer-encoding") == ["chunked"] and got.body == body[: len(got.body)]
    ask.still_in_step()


def test_a_mebibyte_each_way(ask):
    body = b"0123456789abcdef" * (MIB // 16)
    assert json.loads(ask.request("POST", "/up", body=body).body)["bodyBytes"] == MIB
    assert ask.request("GET", f"/big?bytes={MIB}").body == bytes(MIB)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_interim_answers_are_consumed(ask, method):
    answer = ask.request(method, "/interim")
    assert (answer.status, answer.body, answer.get("content-length")) == (200, b"final" if method == "GET" else b"", "5")
    assert answer.get("x-interim") is None and answer.get("link") is None
    ask.still_in_step()


def test_an_upstream_that_closes_after_its_answer(ask):
    for _ in range(3):
        answer = ask.request("GET", "/closes")
        assert (answer.status, answer.body, answer.get("connection")) == (200, b"closed", None)
        ask.still_in_step()


def test_a_client_that_closes_after_its_request(ask, upstream):
    # HTTP/2 has no such header (RFC 9113, section 8.2.2).
    answer = ask.request("GET", "/once", headers={"Connection": "close"} if ask.version == "1.1" else None)
    assert answer.status == 200 and answer.get("connection") == ("close" if ask.version == "1.1" else None)
    # The client's wish is about its own connection: nothing of it reaches the application.
    assert "close" not in (upstream.last().get("connection") or "")


def test_large_heads_up_to_the_limit(ask, upstream):
    big = "x" * 20_000
    assert ask.request("GET", "/large", headers={"X-Large": big}).status == 200
    assert upstream.last().get("x-large") == big
    many = {f"X-Field-{n}": str(n) for n in range(200)}
    assert ask.request("GET", "/many", headers=many).status == 200
    assert [upstream.last().get(n) for n in many] == list(many.values())


def test_heads_beyond_the_limit_never_arrive(ask, upstream):
    arrived = len(upstream.received)
    try:
        answer = ask.request("GET", "/too-large", headers={"X-Large": "x" * 100_000})
    except (AssertionError, httpx.HTTPError, aiohttp.ClientError):
        pass  # cut off before the head was complete: every client has words of its own for it
    else:
        assert answer.status == 431
    assert len(upstream.received) == arrived
    ask.still_in_step()


def test_a_large_head_of_the_upstream(ask):
    answer = ask.request("GET", "/big-head?bytes=14000")
    assert (answer.status, answer.body, len(answer.get("x-large"))) == (200, b"ok", 14_000)


def test_answers_that_bend_the_rules_about_bodies(ask):
    assert ask.request("GET", "/204-with-length").status == 204
    ask.still_in_step()
    head = ask.request("HEAD", "/head-in-chunks")
    assert (head.status, head.body) == (200, b"")
    ask.still_in_step()
    assert ask.request("GET", "/head-in-chunks").body == b"abc"
    assert ask.request("GET", "/304-in-chunks").status == 304
    ask.still_in_step()


def test_a_100_that_nobody_asked_for(ask):
    answer = ask.request("GET", "/100")
    assert (answer.status, answer.body) == (200, b"ok")
    ask.still_in_step()


def test_an_upgrade_that_nobody_asked_for(ask):
    assert ask.request("GET", "/101").status == 502
    ask.still_in_step()


def test_ranges(ask):
    part = ask.request("GET", "/range", headers={"Range": "bytes=100-299"})
    assert (part.status, part.body, part.get("content-range")) == (206, RANGED[100:300], f"bytes 100-299/{len(RANGED)}")
    beyond = ask.request("GET", "/range", headers={"Range": "bytes=9999-"})
    assert (beyond.status, beyond.body, beyond.get("content-range")) == (416, b"", f"bytes */{len(RANGED)}")
    assert ask.request("GET", "/range").body == RANGED


def test_packed_answers_stay_packed(ask):
    answer = ask.request("GET", "/gzip", headers={"Accept-Encoding": "gzip"})
    assert (answer.body, answer.get("content-encoding"), answer.get("content-length")) == (PACKED, "gzip", str(len(PACKED)))
    assert gzip.decompress(answer.body).startswith(b"packed by")
    assert "accept-encoding" in answer.get("vary").lower()


def test_a_form_with_a_file(ask):
    answer = ask.client.form("/form", "title", "Tée", b"\x00\x01", headers=ask.account.bearer)
    said = json.loads(answer.body)
    kind = next(v for n, v in said["headers"] if n.lower() == "content-type")
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + said["body"].encode("latin-1"))
    parts = {p.get_param("name", header="content-disposition"): p for p in message.iter_parts()}
    assert set(parts) == {"title", "file"} and parts["title"].get_payload(decode=True) == "Tée".encode()
    assert parts["file"].get_filename() == "a.bin" and parts["file"].get_payload(decode=True) == b"\x00\x01"
