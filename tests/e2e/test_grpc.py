"""gRPC end to end: grpcio on both sides, nullpass between them, cleartext HTTP/2 all the way."""

from __future__ import annotations

import threading
import time
from concurrent import futures

import grpc
import pytest

from harness import Account, Nullpass, call, login, register

RULES = [{"path": "/demo.Public/**", "policy": "public"}, {"path": "/demo.Never/**", "policy": "deny"}]
SERVICES = ("demo.Echo", "demo.Public", "demo.Never")


class Echo(grpc.GenericRpcHandler):
    """Every kind of call, on bytes: what comes goes back, with the caller's metadata in the trailers."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.deadline: float | None = None

    def service(self, details: grpc.HandlerCallDetails):
        service, method = details.method.strip("/").split("/")
        if service not in SERVICES:
            return None
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "ServerStream": grpc.unary_stream_rpc_method_handler(self.server_stream),
            "ClientStream": grpc.stream_unary_rpc_method_handler(self.client_stream),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Endless": grpc.unary_stream_rpc_method_handler(self.endless),
        }
        return kinds.get(method)

    def trailers(self, context: grpc.ServicerContext) -> None:
        told = {k: v for k, v in context.invocation_metadata()}
        self.deadline = context.time_remaining()
        context.send_initial_metadata((("x-begin", "1"),))
        context.set_trailing_metadata(
            (("x-user", told.get("x-forwarded-user", "")), ("x-seen", told.get("x-mine", "")), ("x-credentials", told.get("authorization", "")), ("x-raw-bin", told.get("x-data-bin", b"")))
        )

    def unary(self, request: bytes, context):
        self.trailers(context)
        return request

    def server_stream(self, request: bytes, context):
        self.trailers(context)
        for number in range(int(request)):
            yield f"{number}".encode()

    def client_stream(self, requests, context):
        self.trailers(context)
        return b",".join(requests)

    def both(self, requests, context):
        self.trailers(context)
        for request in requests:
            yield request[::-1]

    def fail(self, request: bytes, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "grün 50%")

    def endless(self, request: bytes, context):
        context.add_callback(self.cancelled.set)
        yield b"begun"
        while context.is_active():
            time.sleep(0.05)


class Upstream:
    """A grpcio server on a port of its own."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.echo = Echo()
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), handlers=(self.echo,))
        self.port = self.server.add_insecure_port(address)
        self.server.start()


@pytest.fixture(scope="module")
def upstream():
    upstream = Upstream()
    yield upstream
    upstream.server.stop(0).wait()


@pytest.fixture(scope="module")
def server(upstream, start_module) -> Nullpass:
    return start_module(f"h2c://127.0.0.1:{upstream.port}", config={"rules": RULES})


@pytest.fixture
def account(server) -> Account:
    return register(server, "ada")


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=(("grpc.enable_http_proxy", 0),)) as channel:
        yield channel


def metadata(account: Account, *more: tuple[str, str | bytes]):
    forged = (("x-forwarded-user", "evil"), ("x_forwarded_user", "evil"), ("remote-user", "evil"))
    return (("authorization", f"Bearer {account.token}"), ("x-mine", "kept"), *forged, *more)


def trailers(call) -> dict:
    return {k: v for k, v in call.trailing_metadata()}


def begun(call) -> dict:
    return {k: v for k, v in call.initial_metadata()}


def check(call, account: Account) -> None:
    """The status is good, metadata goes both ways, and nobody can say who they are themselves."""
    assert call.code() is grpc.StatusCode.OK
    assert begun(call)["x-begin"] == "1"
    said = trailers(call)
    assert (said["x-user"], said["x-seen"], said["x-credentials"]) == (account.email, "kept", "")


def test_unary(channel, account, upstream):
    large = bytes(range(256)) * 4096 * 2
    for message in (b"", b"hello", large):
        answer, call = channel.unary_unary("/demo.Echo/Unary").with_call(
            message, metadata=metadata(account, ("x-data-bin", b"\x00\xff")), timeout=20
        )
        assert answer == message
        check(call, account)
        assert trailers(call)["x-raw-bin"] == b"\x00\xff"
        assert upstream.echo.deadline is not None and 10 < upstream.echo.deadline < 25, "grpc-timeout passes through, which grpcio rounds up"


def test_streams_of_each_kind(channel, account):
    call = channel.unary_stream("/demo.Echo/ServerStream")(b"500", metadata=metadata(account), timeout=20)
    assert list(call) == [f"{number}".encode() for number in range(500)]
    check(call, account)

    parts = [f"part{number}".encode() for number in range(300)]
    answer, call = channel.stream_unary("/demo.Echo/ClientStream").with_call(iter(parts), metadata=metadata(account), timeout=20)
    assert answer == b",".join(parts)
    check(call, account)


def test_both_directions_take_turns(channel, account):
    """Each message is answered before the next is sent: nothing may wait for the end of anything."""
    turn = threading.Semaphore(1)

    def questions():
        for number in range(50):
            assert turn.acquire(timeout=10)
            yield f"question {number}".encode()

    call = channel.stream_stream("/demo.Echo/Both")(questions(), metadata=metadata(account), timeout=30)
    for number, answer in enumerate(call):
        assert answer == f"question {number}".encode()[::-1]
        turn.release()
    assert number == 49
    check(call, account)


def test_many_calls_at_once(channel, account, server):
    calls = [channel.unary_unary("/demo.Echo/Unary").future(f"{n}".encode(), metadata=metadata(account), timeout=30) for n in range(300)]
    assert [c.result() for c in calls] == [f"{n}".encode() for n in range(300)]


def test_an_error_of_the_service_is_its_own(channel, account):
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/demo.Echo/Fail")(b"", metadata=metadata(account), timeout=20)
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert failed.value.details() == "grün 50%"
    with pytest.raises(grpc.RpcError) as unknown:
        channel.unary_unary("/demo.Echo/Nothing")(b"", metadata=metadata(account), timeout=20)
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_refusals_are_what_grpc_calls_them(channel, account):
    def code(method: str, *metadata) -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(method)(b"", metadata=metadata, timeout=20)
        assert refused.value.details()
        return refused.value.code()

    assert code("/demo.Echo/Unary") is grpc.StatusCode.UNAUTHENTICATED
    assert code("/demo.Echo/Unary", ("authorization", "Bearer np_nothing")) is grpc.StatusCode.UNAUTHENTICATED
    assert code("/demo.Never/Unary", ("authorization", f"Bearer {account.token}")) is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as refused:
        list(channel.stream_stream("/demo.Echo/Both")(iter([b"x"] * 3), timeout=20))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert channel.unary_unary("/demo.Public/Unary")(b"x", timeout=20) == b"x"


def test_an_ended_session_ends_its_stream(channel, account, server, upstream):
    upstream.echo.cancelled.clear()
    stream = channel.unary_stream("/demo.Echo/Endless")(b"", metadata=metadata(account), timeout=60)
    assert next(stream) == b"begun"
    call(server, "POST", "/auth/logout", token=account.token, expect=200)
    began = time.monotonic()
    with pytest.raises(grpc.RpcError):
        next(stream)
    assert time.monotonic() - began < 10, "the contract says two seconds; a loaded machine gets some more"
    assert upstream.echo.cancelled.wait(10), "the upstream learns of it"


def test_a_client_that_cancels_is_gone_for_the_service_too(channel, account, server, upstream):
    login(server, account)
    upstream.echo.cancelled.clear()
    stream = channel.unary_stream("/demo.Echo/Endless")(b"", metadata=metadata(account), timeout=60)
    assert next(stream) == b"begun"
    stream.cancel()
    assert upstream.echo.cancelled.wait(10)


def test_a_deadline_ends_the_call(channel, account):
    with pytest.raises(grpc.RpcError) as late:
        list(channel.unary_stream("/demo.Echo/Endless")(b"", metadata=metadata(account), timeout=1))
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_service_that_is_away_and_comes_back(start):
    upstream = Upstream()
    server = start(f"h2c://127.0.0.1:{upstream.port}", config={"rules": RULES})
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=(("grpc.enable_http_proxy", 0),)) as channel:
        method = channel.unary_unary("/demo.Public/Unary")
        assert method(b"1", timeout=20) == b"1"
        upstream.server.stop(0).wait()
        with pytest.raises(grpc.RpcError) as away:
            method(b"2", timeout=20)
        assert away.value.code() is grpc.StatusCode.UNAVAILABLE
        again = Upstream(f"127.0.0.1:{upstream.port}")
        try:
            assert method(b"3", timeout=20) == b"3"
        finally:
            again.server.stop(0).wait()


def test_a_unix_socket(start, tmp_path):
    upstream = Upstream(f"unix:{tmp_path}/grpc.sock")
    server = start(f"unix+h2c:{tmp_path}/grpc.sock", config={"rules": RULES})
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=(("grpc.enable_http_proxy", 0),)) as channel:
        assert channel.unary_unary("/demo.Public/Unary")(b"1", timeout=20) == b"1"
    upstream.server.stop(0).wait()
