"""The index of a shard, built by a process of its own: while the engine builds one it holds the
interpreter's lock, and nothing else would run beside it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import qdrant_edge as edge

from passreid.errors import OutputError

_HERE = 2_000_000
"""Numbers in a shard whose index costs less than a process."""

_WAITING = 20_000_000
"""Numbers that are compared one by one before an index pays: about 5 ms of a search."""

_PARENT_DIED = 1  # prctl's PR_SET_PDEATHSIG


def pays(count: int, indexed: int, dim: int) -> bool:
    """Whether entries that wait for an index slow searches by more than building it costs.

    A tenth of the whole must wait too: a build reads the whole, however little is new.
    """
    waiting = count - indexed
    return waiting * dim >= _WAITING and 10 * waiting >= count


def build_here(shard: Path) -> None:
    opened = edge.EdgeShard.load(str(shard))
    opened.optimize()
    opened.close()


def start_build(shard: Path) -> subprocess.Popen[bytes]:
    """Begin to build a shard's index in a process that ends no later than this thread."""
    command = [sys.executable, "-m", __name__, str(shard), str(os.getpid())]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish_build(child: subprocess.Popen[bytes]) -> None:
    """Wait for the end; the process is gone when this returns, however it does.

    Raises:
        OutputError: The index was not built.
    """
    try:
        said = child.communicate()[1].decode(errors="replace").strip().splitlines()
    finally:
        child.kill()
        child.wait()
    if child.returncode:
        last = said[-1] if said else f"its process ended with {child.returncode}"
        raise OutputError(f"the index was not built ({last})")


def fits_here(count: int, dim: int) -> bool:
    """Whether `build_here` is done sooner than a process has started."""
    return count * dim <= _HERE


def main() -> None:
    shard, parent = Path(sys.argv[1]), int(sys.argv[2])
    if sys.platform == "linux":  # elsewhere it ends when it is done, in a folder nobody looks at
        ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGKILL)
        if os.getppid() != parent:
            return
    if hasattr(os, "nice"):
        os.nice(10)  # searches go first
    build_here(shard)


if __name__ == "__main__":
    main()
