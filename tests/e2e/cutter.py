"""A TCP proxy that spoils connections: it cuts them, also in the middle of an answer, delays them, swallows what they
carry, or refuses them; and it counts who comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

BLOCK = 64 * 1024


@dataclass(eq=False)
class Link:
    """A connection that goes through."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    # What the client said, joined: enough to tell what a connection without TLS is for.
    said: bytes = b""
    # Bytes of answers so far, and after how many the connection is cut in the middle.
    answered: int = 0
    cut_after: int | None = None
    swallows: bool = False
    opened: float = field(default_factory=time.monotonic)

    @property
    def listens(self) -> bool:
        return b"LISTEN" in self.said

    def cut(self) -> None:
        for writer in (self.near, self.far):
            if writer is not None:
                # A reset, as from a machine that is gone: what was under way is lost.
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()


class Cutter:
    """Stands before the server on a port; lets everything through until it is told otherwise."""

    def __init__(self, port: int):
        self.to = port
        self.port = 0
        # How often somebody connected, whether it was let through or not, by the monotonic clock.
        self.came: list[float] = []
        self.links: set[Link] = set()
        self._refuses = self._swallows = False
        self._delay = 0.0
        self._cut_new_after: Callable[[], int | None] = lambda: None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Cutter:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # --- What it can be told ----------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Everything goes through again; what was swallowed stays lost, and its connections hang on until they are cut."""
        self._refuses = self._swallows = False
        self._delay = 0.0
        self._cut_new_after = lambda: None
        self._do(lambda link: setattr(link, "cut_after", None))

    def cut(self, which: Callable[[Link], bool] = lambda _: True) -> int:
        """Cuts the connections that are open now; how many there were."""
        return self._do(Link.cut, which)

    def refuse(self) -> None:
        """Cuts everything, and whoever comes."""
        self._refuses = True
        self.cut()

    def swallow(self, which: Callable[[Link], bool] | None = None) -> None:
        """Nothing arrives any more, in neither direction, and nobody is told; whoever comes gets no word either. With
        `which`: only these connections, and new ones go through."""
        if which is None:
            self._swallows = True
        self._do(lambda link: setattr(link, "swallows", True), which or (lambda _: True))

    def delay(self, seconds: float) -> None:
        """Every block takes so long, either way."""
        self._delay = seconds

    def cut_in_the_middle(self, after: Callable[[], int | None]) -> None:
        """Each connection is cut when so many further bytes of answers have gone through: always inside one, as the
        last of them is not passed on."""
        self._cut_new_after = after
        self._do(lambda link: setattr(link, "cut_after", None if (more := after()) is None else link.answered + more))

    def attempts(self, since: float, until: float | None = None) -> int:
        """How many connections were tried in that time."""
        return sum(since <= at < (until or float("inf")) for at in list(self.came))

    # --- What it does -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        # Those that were cut end by themselves.
        while tasks := asyncio.all_tasks(self._loop):
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=1))
        self._loop.close()

    def _do(self, what: Callable[[Link], object], which: Callable[[Link], bool] = lambda _: True) -> int:
        async def go() -> int:
            chosen = [link for link in self.links if which(link)]
            for link in chosen:
                what(link)
            return len(chosen)

        return asyncio.run_coroutine_threadsafe(go(), self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.append(time.monotonic())
        link = Link(writer, swallows=self._swallows, cut_after=self._cut_new_after())
        self.links.add(link)
        try:
            if self._refuses:
                return
            while link.swallows and link.far is None:
                # Not even to the server: it would see a client that says nothing.
                if not await self._still_there(reader):
                    return
            far_reader, link.far = await asyncio.open_connection("127.0.0.1", self.to)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, link.far, link, answers=False))
                group.create_task(self._carry(far_reader, writer, link, answers=True))
        except* OSError:
            pass
        finally:
            self.links.discard(link)
            link.cut()

    @staticmethod
    async def _still_there(reader: asyncio.StreamReader) -> bool:
        """Whether the client is, after a while; what it says is lost."""
        try:
            return await asyncio.wait_for(reader.read(BLOCK), 0.2) != b""
        except TimeoutError:
            return True

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, *, answers: bool) -> None:
        """Until one side ends; then the connection is cut, since PostgreSQL knows no half of one."""
        while block := await reader.read(BLOCK):
            if self._delay:
                await asyncio.sleep(self._delay)
            if link.swallows:
                continue
            if answers:
                if link.cut_after is not None and link.answered + len(block) >= link.cut_after:
                    writer.write(block[: max(0, link.cut_after - link.answered - 1)])
                    await writer.drain()
                    break
                link.answered += len(block)
            elif len(link.said) < BLOCK:
                link.said += block
            writer.write(block)
            await writer.drain()
        raise ConnectionResetError
