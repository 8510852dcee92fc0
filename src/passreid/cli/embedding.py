"""embed: pictures in, vectors out; a few into one file, millions into a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cyclopts import Parameter
from rich.markup import escape

from passreid.cli.app import (
    ModelOptions,
    OnError,
    Output,
    app,
    check_writable,
    expand,
    note,
    report_skipped,
    say,
    say_json,
    skippable,
)
from passreid.errors import UsageError
from passreid.storage import replacing

if TYPE_CHECKING:
    from passreid.gallery import Gallery


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """Who embeds many pictures, for an output that ends in .parquet.

    Attributes:
        workers: Processes on this machine, or actors of the Ray cluster.
        ray: Address of a Ray cluster (auto, ray://host:10001), or local for one on this machine.
        column: Column of Parquet sources that holds pictures or their paths.
        gallery: A gallery's file or address; all are enrolled in it when they are embedded, and
            it is made if there is none.
    """

    workers: int = 1
    ray: str | None = None
    column: str | None = None
    gallery: str | None = None


@app.command
def embed(
    *images: str,
    output: Output | None = None,
    json: bool = False,
    on_error: OnError = "raise",
    options: ModelOptions = ModelOptions(),  # noqa: B008
    bulk: BulkOptions = BulkOptions(),
) -> int:
    """Turn pictures of people into embeddings.

    An output that ends in .parquet becomes a folder: for millions of pictures from folders, lists
    (.txt), tar shards, Parquet files and object storage. Unreadable ones are listed there, and the
    same command goes on after a kill.

    Example: passreid embed crops/ --output crops.npz

    Args:
        images: Files, folders (searched for pictures) or https addresses.
        output: An .npz file for the arrays `paths` and `embeddings` (float32, N x D), or a .parquet
            folder.
        json: One object a line: path and embedding.
    """
    if output is not None and output.suffix.lower() == ".parquet":
        if json:
            raise UsageError("--json prints; leave it out or the --output that ends in .parquet.")
        return _embed_in_bulk(images, output, options, bulk)
    if bulk != BulkOptions():
        raise UsageError(
            "--workers, --ray, --column and --gallery need an --output that ends in .parquet."
        )
    check_writable(output, suffix=".npz")
    sources = expand(images)
    embedder = options.load()
    progress = len(sources) > embedder.batch_size
    with skippable(len(sources) > 1):
        done = embedder.embed(sources, on_error=on_error, progress=progress)
    paths = [sources[i] for i in done.indices]
    if output is not None:
        save_embeddings(output, paths, done.embeddings)
    for path, row in zip(paths, done.embeddings, strict=True):
        if json:
            say_json({"path": path, "embedding": row.tolist()})
    if output is not None:
        note(f"Wrote {len(paths)} embeddings of {embedder.dim} numbers to {output}.")
    elif not json:
        name = escape(embedder.card.name)
        many = "s" if len(paths) != 1 else ""
        say(f"{len(paths)} picture{many}, {embedder.dim} numbers each, from {name}.")
        note("Nothing was written: add --output F.npz, or --json to print them.")
    return report_skipped(done.skipped)


def _embed_in_bulk(
    images: Sequence[str], output: Path, options: ModelOptions, bulk: BulkOptions
) -> int:
    """Embed into a folder of Parquet files, part by part."""
    from rich.console import Console
    from rich.progress import Progress

    from passreid.bulk import add_to_gallery, embed_all

    if bulk.gallery is not None:
        opened = _opener(bulk.gallery, options)
        opened().close()  # what is wrong with it is said before the work
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    console = Console(stderr=True)
    # Where nobody watches, a bar is an empty line.
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Embedding parts", total=None)
        result = embed_all(
            images,
            output,
            model={"name_or_path": values.pop("model"), **values},
            workers=bulk.workers,
            ray=bulk.ray,
            column=bulk.column,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    before = f", {result.found} of {result.parts} parts done before" if result.found else ""
    note(f"{result.embeddings} embeddings in {output}{before}.")
    if bulk.gallery is not None:
        with opened() as gallery:
            added = add_to_gallery(output, gallery)
        note(f"{added.added} enrolled in {bulk.gallery}, {added.known} were there before.")
    if not result.failures:
        return 0
    note(f"{result.failures} could not be embedded; {output}/_failures.jsonl says why.")
    return 1


def _opener(place: str, options: ModelOptions) -> Callable[[], Gallery]:
    """Return what opens a gallery for a model, which need not stay loaded until then."""
    from passreid.gallery import identity, open_gallery

    embedder = options.load()
    return partial(open_gallery, place, model=identity(embedder), dim=embedder.dim, create=True)


def save_embeddings(output: Path, paths: Sequence[str], embeddings: np.ndarray) -> None:
    """Write an .npz whole or not at all: `paths` (N,) text and `embeddings` (N, D) float32."""
    # By a name, NumPy would choose the file: it appends .npz to .NPZ.
    with replacing(output) as temporary, temporary.open("wb") as file:
        np.savez(file, paths=np.array(paths, np.str_), embeddings=embeddings)
