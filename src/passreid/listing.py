"""List files and folders by name, without opening any file."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from passreid.errors import UsageError

FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF"
# The last three cannot be read. They are listed so that they fail by name, not silently.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif"),
)
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_SHOWN = 3

log = logging.getLogger("passreid")


def is_image(name: str) -> bool:
    """Whether a file name, with or without folders, has an image suffix and is not hidden."""
    return has_suffix(name, IMAGE_SUFFIXES)


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file name, with or without folders, has one of these suffixes and is not hidden."""
    file = name.rpartition("/")[2]
    return not file.startswith(".") and file.lower().endswith(suffixes)


def escape_controls(text: str) -> str:
    """Escape characters that are not printable: control characters and bytes outside UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str) -> str:
    """Return `text` as one line of at most about 300 printable characters."""
    shown = escape_controls(text)
    return shown if len(shown) <= 300 else f"{shown[:200]}…{shown[-90:]}"


def first_few(items: Iterable[object]) -> str:
    """Join the first three of `items` for a message, and count the others."""
    shown = [str(item) for item in items]
    more = len(shown) - _SHOWN
    return ", ".join(shown[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def images_in(folder: Path) -> list[Path]:
    """List the images directly in a folder, sorted; none if there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if is_image(e.name) and e.is_file())


def folders_in(folder: Path) -> list[Path]:
    """List the visible folders directly in a folder, sorted; none if there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith("."))


def find_images(folder: str | os.PathLike[str], *, recursive: bool = True) -> list[Path]:
    """List the images of a folder, sorted by path.

    Raises:
        UsageError: As for `find_files`, or the folder holds no image.
    """
    found = find_files(folder, is_image, recursive=recursive)
    if not found:
        hint = "" if recursive else "; its subfolders were not searched"
        raise UsageError(f"{_named(folder)}: holds no {FORMATS} file{hint}")
    return found


def find_files(
    folder: str | os.PathLike[str],
    wanted: Callable[[str], bool],
    *,
    recursive: bool = True,
    skipped: Counter[str] | None = None,
) -> list[Path]:
    """List the files of a folder whose names are `wanted`, sorted by path.

    Hidden folders are skipped. Links to folders are followed, but no folder is listed twice.

    Args:
        folder: Where to look.
        wanted: Chooses by file name.
        recursive: Search subfolders too.
        skipped: Counts the suffixes of all other visible files; without it, they are logged.

    Raises:
        UsageError: The folder is missing, is a file or cannot be listed.
    """
    suffixes: Counter[str] = Counter() if skipped is None else skipped

    def check(name: str) -> bool:
        taken = wanted(name)
        if not taken and not name.startswith(".") and name.lower() not in _SYSTEM_FILES:
            suffixes[Path(name).suffix.lower()] += 1
        return taken

    try:
        found = sorted(walk_files(Path(folder), check, recursive=recursive))
    except FileNotFoundError:
        raise UsageError(f"{_named(folder)}: there is no such folder") from None
    except NotADirectoryError:
        raise UsageError(f"{_named(folder)}: is a file; a folder of images is expected") from None
    except OSError as error:
        where = _named(error.filename or folder)
        raise UsageError(f"{where}: cannot be listed ({error.strerror})") from error
    if suffixes and skipped is None:
        log.warning("%s: %s", _named(folder), describe_skipped(suffixes))
    return found


def describe_skipped(suffixes: Counter[str]) -> str:
    """Describe the files that `find_files` skipped."""
    ordered = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count:,} {printable(suffix) or 'without suffix'}" for suffix, count in ordered[:5]]
    more = f" and {len(ordered) - 5} other suffixes" if len(ordered) > 5 else ""
    listed = ", ".join(shown) + more
    return f"skipped {suffixes.total():,} files in formats that are not read ({listed})"


def walk_files(
    root: Path, wanted: Callable[[str], bool], *, recursive: bool = True
) -> Iterator[Path]:
    """Yield the files of `find_files` folder by folder, without listing the whole tree first.

    Raises:
        OSError: A folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error  # os.walk would skip a folder it cannot list

    seen: set[tuple[int, int]] = set()
    for here, folders, files in os.walk(root, followlinks=True, onerror=fail):
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        kept = [folder for folder in folders if recursive and not folder.startswith(".")]
        # Real folders come before links to them, so that images have their real path.
        folders[:] = sorted(kept, key=lambda each: (Path(here, each).is_symlink(), each))
        for file in sorted(files):
            if wanted(file):
                yield Path(here, file)


def _named(path: str | os.PathLike[str]) -> str:
    return printable(os.fsdecode(path))
