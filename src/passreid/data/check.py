"""Which pictures of a set cannot be read: an early look, before hours of work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from passreid.errors import ImageError
from passreid.images import read_image


def find_unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """Decode every picture once, in a few threads.

    Returns:
        Path -> what is wrong with it, for those that cannot be read, in the order of `paths`.
    """

    def reason(path: Path) -> str | None:
        try:
            read_image(path)
        except ImageError as error:
            return error.reason
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        reasons = pool.map(reason, paths)
        return {path: why for path, why in zip(paths, reasons, strict=True) if why is not None}
