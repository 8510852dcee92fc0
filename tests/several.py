"""A verb of the command line in several processes, as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def run(arguments: list[str], *, world: int) -> list[str]:
    """Run `passreid` in so many processes, which must end well; return what each said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "passreid", *arguments],
            env=os.environ | shared | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    said = [child.communicate(timeout=200)[1] for child in children]
    assert [child.returncode for child in children] == [0] * world, said
    return said
