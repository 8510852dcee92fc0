"""Processes of their own that train, one or several of a run.

They come from one server that has imported torch already: each starts at once, and an import takes
longer than most of these trainings.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from passreid import cli

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["passreid.adapting.adapt", "passreid.finetuning.finetune", "passreid.pretraining.pretrain"]
)
_PATIENCE = 200
"""Seconds a process may take to end."""


def passreid(*arguments: object) -> Callable[[], int]:
    """Return what runs a command line."""
    return partial(cli.run, [str(argument) for argument in arguments])


@contextmanager
def child(
    call: Callable[[], int],
    said: Path,
    *,
    environment: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Iterator[ForkServerProcess]:
    """Start a process, the head of a group of its own, and see that it is gone afterwards.

    Args:
        call: Picklable; returns the exit code.
        said: File for what it writes to stderr.
        environment: Variables set over those there are.
        threads: Of torch; as many as here when not given.
    """
    setting = (dict(environment or {}), threads or torch.get_num_threads())
    # Data workers are to start as they do elsewhere, and not as this process does.
    method = multiprocessing.get_start_method()
    process = _SERVER.Process(target=_begin, args=(call, said, *setting, method))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(_PATIENCE)
        process.close()


def _begin(
    call: Callable[[], int], said: Path, environment: dict[str, str], threads: int, method: str
) -> None:
    multiprocessing.set_start_method(method, force=True)
    os.setsid()
    with said.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.update(environment)
    torch.set_num_threads(threads)
    sys.exit(call())


def interrupt(process: ForkServerProcess) -> None:
    """Send SIGTERM to a process and all it has started."""
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGTERM)


def run(call: Callable[[], int], folder: Path, *, world: int, code: int = 0) -> list[str]:
    """Run a call in so many processes of one thread, as torchrun starts them.

    Args:
        call: As `child` takes it.
        folder: For files of what they say.
        world: Processes.
        code: How each must end.

    Returns:
        What each said.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    shared["WORLD_SIZE"] = str(world)
    files = [folder / f"said-{rank}-of-{world}.txt" for rank in range(world)]
    with ExitStack() as running:
        processes = [
            running.enter_context(
                child(
                    call,
                    file,
                    environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    threads=1,
                )
            )
            for rank, file in enumerate(files)
        ]
        for process in processes:
            process.join(_PATIENCE)
        said = [file.read_text() for file in files]
        assert [process.exitcode for process in processes] == [code] * world, said
    return said
