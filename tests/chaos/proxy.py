"""A TCP proxy before the broker that cuts connections and delays what passes."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from streams.broker import HOST


class Proxy:
    """Passes bytes between `port` and `target`, in a thread of its own."""

    def __init__(self, port: int, target: int) -> None:
        self._port, self._target = port, target
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_cut = False
        self._delay_s = 0.0

    @contextmanager
    def running(self) -> Iterator["Proxy"]:
        """Listen until the end of the block."""
        thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._accept, HOST, self._port), self._loop)
        listening = server.result(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(listening.close)
            self._loop.call_soon_threadsafe(self._drop)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Drop all connections and take no new ones."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._drop)
        try:
            yield
        finally:
            self._is_cut = False

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        """Hold every chunk for so long."""
        self._delay_s = seconds
        try:
            yield
        finally:
            self._delay_s = 0.0

    def _drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        self._writers -= {writer, far_writer}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(2**16):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()
