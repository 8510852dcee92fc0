"""gallery export, import, copy, snapshot, restore: galleries in and out."""

from __future__ import annotations

from pathlib import Path

from passreid.cli.app import ModelOptions, check_writable, note
from passreid.cli.gallery import Filters, gallery
from passreid.errors import UsageError


@gallery.command
def export(
    place: str,
    output: Path,
    /,
    *,
    filters: Filters = Filters(),  # noqa: B008
) -> int:
    """Write entries to a Parquet file: labels, thumbnails and embeddings, a row each.

    Example: passreid gallery export people.gallery people.parquet --camera entrance

    Args:
        place: The gallery's file or address.
        output: The .parquet file.
    """
    from passreid.gallery import export_parquet, open_gallery

    where = filters.where()
    check_writable(output, suffix=".parquet")
    with open_gallery(place, read_only=True) as opened:
        count = export_parquet(opened, output, where)
    note(f"Wrote {count} entries to {output}.")
    return 0


@gallery.command(name="import")
def import_(place: str, file: Path, /, *, model: str | None = None) -> int:
    """Add the entries of a Parquet file that `export` wrote; again changes nothing.

    Example: passreid gallery import people.gallery people.parquet

    Args:
        place: The gallery's file or address; made if there is none.
        file: The Parquet file.
        model: The model of the embeddings; needed for what an older passreid exported, which named
            the weights alone. They are compared.
    """
    from passreid.gallery import (
        former_identity,
        identity,
        import_parquet,
        open_gallery,
        read_header,
    )

    named, dim = read_header(file)
    formerly = None
    if model is not None:
        embedder = ModelOptions(model=model, flip=named.endswith("+flip")).load()
        named, formerly = identity(embedder), former_identity(embedder)
    with open_gallery(place, model=named, dim=dim, create=True) as opened:
        done = import_parquet(opened, file, formerly=formerly)
    note(f"Added {done.added}, known {done.known}.")
    return 0


@gallery.command
def copy(
    source: str,
    target: str,
    /,
    *,
    filters: Filters = Filters(),  # noqa: B008
) -> int:
    """Add a gallery's entries to another, in a file or on a server; again changes nothing.

    Example: passreid gallery copy people.gallery http://localhost:6333/people

    Args:
        source: A gallery's file or address.
        target: Another's; made if there is none.
    """
    from passreid.gallery import copy as copied
    from passreid.gallery import open_gallery

    where = filters.where()
    if Path(source).resolve() == Path(target).resolve():
        raise UsageError(f"{target}: is the gallery to be copied; name another one.")
    with (
        open_gallery(source, read_only=True) as old,
        open_gallery(target, model=old.model, dim=old.dim, create=True) as new,
    ):
        done = copied(old, new, where)
    note(f"Added {done.added}, known {done.known}.")
    return 0


@gallery.command
def snapshot(place: str, output: Path, /) -> int:
    """Copy a gallery to one file, checked, while others go on reading and writing.

    Example: passreid gallery snapshot people.gallery monday.snapshot

    Args:
        place: The gallery's file.
        output: The file.
    """
    from passreid.gallery import snapshot as write_snapshot

    write_snapshot(place, output)
    note(f"Wrote {output}; `passreid gallery restore {output} GALLERY` makes a gallery of it.")
    return 0


@gallery.command
def restore(file: Path, place: Path, /) -> int:
    """Check a snapshot and make a gallery of it.

    Example: passreid gallery restore monday.snapshot people.gallery

    Args:
        file: What `snapshot` wrote.
        place: The gallery's file, which must not exist yet.
    """
    from passreid.gallery import restore as copy_back

    copy_back(file, place)
    note(f"Restored {place}.")
    return 0
