"""List the files of a folder by their names, and which of them are pictures: nothing is opened."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from passreid.errors import UsageError

FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF"
# The last three cannot be read: a phone's pictures are named as such, not silently passed over.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif"),
)

_NO_FILES_OF_USERS = ("thumbs.db", "desktop.ini")

log = logging.getLogger("passreid")


def is_image(name: str) -> bool:
    """Whether a file name, with its folders or without, ends as a picture's does."""
    return has_ending(name, IMAGE_SUFFIXES)


def has_ending(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a file name, with or without folders, has one of these endings and is not hidden."""
    file = name.rpartition("/")[2]
    return not file.startswith(".") and file.lower().endswith(endings)


def escape_controls(text: str) -> str:
    """Spell out what is not printable: control characters, bytes that are not UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str) -> str:
    """Return `text` in one line of at most some 300 printable characters."""
    shown = escape_controls(text)
    return shown if len(shown) <= 300 else f"{shown[:200]}…{shown[-90:]}"


def find_images(folder: str | os.PathLike[str], *, recursive: bool = True) -> list[Path]:
    """List the pictures of a folder, sorted by path.

    Raises:
        UsageError: As for `find_files`, or the folder holds no picture.
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
    passed_over: Counter[str] | None = None,
) -> list[Path]:
    """List the files of a folder whose names are `wanted`, sorted by path.

    Hidden folders below it are left out. Links to folders are followed, each folder once, so a
    loop of links ends.

    Args:
        folder: Where to look.
        wanted: Chooses by file name.
        recursive: Look into subfolders, too.
        passed_over: Counts the endings of the other visible files; without it, they are logged.

    Raises:
        UsageError: The folder is missing, is a file or cannot be listed.
    """
    others: Counter[str] = Counter() if passed_over is None else passed_over

    def counted(name: str) -> bool:
        taken = wanted(name)
        if not taken and not name.startswith(".") and name.lower() not in _NO_FILES_OF_USERS:
            others[Path(name).suffix.lower()] += 1
        return taken

    try:
        found = sorted(walk_files(Path(folder), counted, recursive=recursive))
    except FileNotFoundError:
        raise UsageError(f"{_named(folder)}: there is no such folder") from None
    except NotADirectoryError:
        raise UsageError(f"{_named(folder)}: is a file; a folder of pictures is expected") from None
    except OSError as error:
        where = _named(error.filename or folder)
        raise UsageError(f"{where}: cannot be listed ({error.strerror})") from error
    if others and passed_over is None:
        log.warning("%s: %s", _named(folder), describe_others(others))
    return found


def describe_others(endings: Counter[str]) -> str:
    """Say which files were passed over."""
    ordered = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count:,} {printable(ending) or 'without one'}" for ending, count in ordered[:5]]
    more = f" and {len(ordered) - 5} other endings" if len(ordered) > 5 else ""
    return f"passed over {endings.total():,} files by their endings ({', '.join(shown)}{more})"


def _named(path: str | os.PathLike[str]) -> str:
    return printable(os.fsdecode(path))


def walk_files(
    root: Path, wanted: Callable[[str], bool], *, recursive: bool = True
) -> Iterator[Path]:
    """Yield the files of `find_files` one folder after the other, without listing all of them.

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
        # A real folder comes before a link to it, so its pictures carry the real path.
        folders[:] = sorted(kept, key=lambda each: (Path(here, each).is_symlink(), each))
        for file in sorted(files):
            if wanted(file):
                yield Path(here, file)
