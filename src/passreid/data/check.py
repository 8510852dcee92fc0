"""Find unreadable images before hours of work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from passreid.errors import ImageError
from passreid.images import read_image


def find_unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """Decode every image once, in threads; map those that fail to the reason, in order."""

    def check(path: Path) -> str | None:
        try:
            read_image(path)
        except ImageError as error:
            return error.reason
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        reasons = pool.map(check, paths)
        return {path: why for path, why in zip(paths, reasons, strict=True) if why is not None}
