"""gallery info, check, compact: what a gallery holds, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape

from passreid.cli.app import ModelOptions, note, say, say_json
from passreid.cli.gallery import gallery
from passreid.errors import GalleryError, ImageError, UsageError
from passreid.storage import is_address

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from passreid.embed import Embedder
    from passreid.gallery import Entry

_SHOWN = 20


@gallery.command
def info(place: str, /, *, json: bool = False) -> int:
    """Say what a gallery holds.

    Example: passreid gallery info people.gallery

    Args:
        place: The gallery's file or address.
        json: One object.
    """
    from passreid.gallery import open_gallery

    with open_gallery(place, read_only=True) as opened:
        held = vars(opened.info())
    if json:
        say_json(held)
    else:
        for name, value in held.items():
            say(f"{name.replace('_', ' '):<14} {escape(str(value))}")
    return 0


@gallery.command
def centre(place: str, /, *, off: bool = False) -> int:
    """Let searches of a gallery subtract each camera's mean embedding, or no longer.

    Helps with cameras the model did not learn from, and moves cosines: bands and strangers need a
    calibration that was fitted with --centre-on. Stored embeddings stay as they are.

    Example: passreid gallery centre people.gallery

    Args:
        place: The gallery's file.
        off: Search without camera means again.
    """
    from passreid.gallery import open_gallery

    with open_gallery(place) as opened:
        opened.set_centred(not off)
        cameras = len(opened.tally("camera"))
    how = "no longer subtract camera means" if off else f"subtract the means of {cameras} cameras"
    note(f"Searches of {place} {how}.")
    return 0


@gallery.command
def compact(place: str, /) -> int:
    """Give the space of forgotten entries back to the disk.

    Example: passreid gallery compact people.gallery

    Args:
        place: The gallery's file or address.
    """
    from passreid.gallery import open_gallery

    with open_gallery(place) as opened:
        opened.compact()
        note(f"{place} holds {opened.count()} entries.")
    return 0


@gallery.command
def check(
    place: str,
    /,
    *,
    repair: bool = False,
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> int:
    """Read every byte of a gallery's file and compare it with its checksums.

    Example: passreid gallery check people.gallery

    Args:
        place: The gallery's file.
        repair: Keep what is whole in a new file, which takes the old one's place. A damaged entry
            is embedded again where its source picture is still there, and dropped where not.
    """
    from passreid.gallery.check import check as examine
    from passreid.gallery.check import repair as mend

    if is_address(place):
        raise UsageError(f"{place}: a server checks itself; only a gallery's file is checked here.")
    file = Path(place)
    report = mend(file, _Again(place, options)) if repair else examine(file)
    for line in report.structure[:_SHOWN]:
        say(escape(line))
    for id, wrong in list(report.damaged.items())[:_SHOWN]:
        say(escape(f"{id}: {' and '.join(wrong)} damaged"))
    if report.sound:
        note(f"{place} is whole: {report.entries} entries.")
        return 0
    if repair:
        note(
            f"Repaired {place}: it holds {report.entries} entries, {len(report.embedded)} of them "
            f"embedded again; {len(report.dropped)} were dropped."
        )
        return 0
    note(
        f"{place}: {report.entries} entries are whole, {len(report.damaged)} damaged. Restore a "
        "snapshot, or say --repair to keep what is whole."
    )
    return 1


class _Again:
    """Embeds an entry's source picture again, with a model that is loaded when first needed."""

    def __init__(self, place: str, options: ModelOptions) -> None:
        self._place, self._options = place, options
        self._embedder: Embedder | None = None

    def __call__(self, entry: Entry, model: str) -> NDArray[np.float32] | None:
        from passreid.images import content_hash, read_encoded

        try:
            data = read_encoded(entry.source)
            if content_hash(data) != entry.content_hash:
                return None
            row: NDArray[np.float32] = self._loaded(model)(data)[0]
            return row
        except ImageError:
            return None

    def _loaded(self, model: str) -> Embedder:
        if self._embedder is None:
            from passreid.gallery import identity

            embedder = self._options.load()
            if identity(embedder) != model:
                raise GalleryError(
                    f"{self._place} holds embeddings of {model}, not of {identity(embedder)}: "
                    "name its model with --model."
                )
            self._embedder = embedder
        return self._embedder
