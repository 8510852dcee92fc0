"""How crops of many requests share the network, and how soon answers leave."""

from __future__ import annotations

import asyncio
import socket
import threading

import numpy as np
import numpy.typing as npt
import pytest

from passreid.server.batching import Batcher
from passreid.server.serving import listen
from tests import small

CROP = np.zeros((64, 32, 3), np.uint8)


class Counted(small.Colours):
    """A network whose runs begin by waiting for two to be under way, and which counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.now, self.most = threading.Lock(), 0, 0
        self.both = threading.Event()

    def run(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now == 2:
                self.both.set()
        self.both.wait(20)
        with self.lock:
            self.now -= 1
        return super().run(pixels)


def test_two_runs_overlap_and_crops_beyond_them_are_run_together() -> None:
    network = Counted()
    seen: list[int] = []

    async def ask() -> None:
        batcher = Batcher(
            small.colours(network=network, batch_size=8),
            max_pending=100,
            on_batch=lambda crops, seconds: seen.append(crops),
        )
        batcher.start()
        await asyncio.gather(*(batcher.embed([CROP] * 2) for _ in range(12)))
        await batcher.stop()

    asyncio.run(ask())
    assert network.most == 2
    assert sum(seen) == 24
    assert max(seen) <= 8
    assert len(seen) < 12


@pytest.mark.loopback
@pytest.mark.enable_socket
def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head() -> None:
    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            found.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listen("127.0.0.1", 0) as listener:
            server = await asyncio.start_server(answer, sock=listener)
            async with server:
                _, writer = await asyncio.open_connection(*listener.getsockname())
                nodelay = await found
                writer.close()
                await writer.wait_closed()
        return nodelay

    assert asyncio.run(accepted()) != 0
