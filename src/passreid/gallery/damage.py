"""What SQLite ran into, or found damaged, in sentences of ours."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from passreid.errors import GalleryError, OutputError, PassreidError

WAIT_S = 10.0
"""How long a writer waits for another one."""
_NEARLY_FULL = 2**20


class DamagedError(Exception):
    """Checksums of entries do not hold.

    Args:
        ids: Of the entries, as far as they can be read.
    """

    def __init__(self, *ids: Any) -> None:
        shown = ", ".join(str(id) for id in ids[:3]) + ", …" * (len(ids) > 3)
        super().__init__(f"the checksums of {len(ids):,} entries do not hold: {shown}")


@contextmanager
def sqlite_errors(place: Path) -> Iterator[None]:
    """Say what SQLite ran into, or found damaged, in one of our sentences.

    Everything a damaged file can make SQLite or the decoding of a row raise ends here.
    """
    try:
        yield
    except PassreidError:
        raise
    except sqlite3.Error as error:
        raise _in_our_words(place, str(error)) from None
    except (DamagedError, TypeError, ValueError, RecursionError) as error:
        raise GalleryError(damaged(place, str(error))) from None


def _in_our_words(place: Path, said: str) -> PassreidError:
    if "locked" in said or "busy" in said:
        return GalleryError(
            f"{place}: another process is writing to it and did not finish within {WAIT_S:g} s; "
            "try again."
        )
    full = "full" in said
    if "I/O error" in said or "unable to open" in said:
        if not os.access(place.parent, os.W_OK):
            return OutputError(f"{place}: cannot be written, its disk is read-only.")
        try:
            full = shutil.disk_usage(place.parent).free < _NEARLY_FULL
        except OSError:
            return OutputError(f"{place}: its folder is gone.")
    if full:
        return OutputError(
            f"{place}: the disk is full; the change was not made and nothing was lost. Make room "
            "and try again."
        )
    if "readonly" in said or "read-only" in said:
        return OutputError(f"{place}: cannot be written, it or its disk is read-only.")
    if "I/O error" in said or "unable to open" in said:
        return OutputError(f"{place}: cannot be read or written ({said}).")
    if "not a database" in said:
        return GalleryError(
            f"{place}: is not a gallery, or damaged beyond reading; restore a snapshot, or name "
            "another file."
        )
    return GalleryError(damaged(place, said))


def damaged(place: Path, what: str) -> str:
    """Say what is wrong with a gallery and how to mend it."""
    return (
        f"{place} is damaged ({what}): restore a snapshot, or run `passreid gallery check --repair "
        f"{place}`, which keeps what is whole."
    )
