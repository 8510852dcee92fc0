"""embed, compare, rank: pictures in, answers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter
from rich.markup import escape

from passreid.cli.app import (
    ModelOptions,
    OnError,
    app,
    calibration_of,
    check_writable,
    note,
    report_skipped,
    say,
    say_json,
)
from passreid.errors import UsageError
from passreid.ranking import rank as rank_embeddings
from passreid.ranking import rank_distances
from passreid.reranking import rerank
from passreid.storage import replacing
from passreid.verify import cosine

if TYPE_CHECKING:
    from passreid.gallery import Gallery
    from passreid.verify import Calibration

FalseAccepts = Annotated[float, Parameter(help="Accepted share of different people taken for one.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Search:
    """What counts as found, and in which order.

    Attributes:
        top: How many to show for each query.
        rerank: Order by k-reciprocal re-ranking, which looks at the gallery as a whole.
        same_only: Keep what reaches the calibrated threshold; a query may then have no match.
        false_accept_rate: Accepted share of different people taken for one, for --same-only.
    """

    top: int = 10
    rerank: bool = False
    same_only: bool = False
    false_accept_rate: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse an empty answer."""
        if self.top < 1:
            raise UsageError(f"--top is {self.top}; it must be at least 1.")

    def threshold(self, calibration: Calibration | None) -> float:
        """Return the smallest cosine that counts as found."""
        if not self.same_only:
            return -math.inf
        if calibration is None:
            raise UsageError(
                "--same-only needs a calibrated model; run `passreid calibrate` on a labelled set."
            )
        return calibration.threshold(self.false_accept_rate)

    def order(self, query: np.ndarray, gallery: np.ndarray, threshold: float) -> list[list[int]]:
        """List for each query the gallery's indices, best first, one more than asked for.

        The one more stands in for the query's own file; what is below the threshold comes last.
        """
        if self.rerank:
            distances = rerank(query, gallery)
            if self.same_only:
                # Else it may take the places of what is above.
                distances[cosine(query, gallery) < threshold] = distances.max() + 1
            ranking = rank_distances(distances, top_k=self.top + 1)
        else:
            ranking = rank_embeddings(query, gallery, top_k=self.top + 1)
        return [[index for index, _ in ranking.hits(n)] for n in range(len(ranking))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """Who embeds many pictures, for an output that ends in .parquet.

    Attributes:
        workers: Processes on this machine, or actors of the Ray cluster.
        ray: Address of a Ray cluster (auto, ray://host:10001), or local for one on this machine.
        column: Column of Parquet sources that holds pictures or their paths.
        gallery: A gallery's folder or address; all are enrolled in it when they are embedded, and
            it is made if there is none.
    """

    workers: int = 1
    ray: str | None = None
    column: str | None = None
    gallery: str | None = None


@app.command
def embed(
    *images: str,
    output: Path | None = None,
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
    done = embedder.embed(sources, on_error=on_error, progress=len(sources) > embedder.batch_size)
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
        say(f"{len(paths)} pictures, {embedder.dim} numbers each, from {name}.")
        note("Nothing was written: add --output F.npz, or --json to print them.")
    return report_skipped(done.skipped)


def _embed_in_bulk(
    images: Sequence[str], output: Path, options: ModelOptions, bulk: BulkOptions
) -> int:
    """Embed into a folder of Parquet files, part by part."""
    from rich.console import Console
    from rich.progress import Progress

    from passreid.bulk import embed_all

    if bulk.gallery is not None:
        _opened(bulk.gallery, options).close()  # what is wrong with it is said before the work
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    with Progress(console=Console(stderr=True), transient=True) as bar:
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
        _enrol_in(bulk.gallery, output, options)
    if not result.failures:
        return 0
    note(f"{result.failures} could not be embedded; {output}/_failures.jsonl says why.")
    return 1


def _enrol_in(place: str, folder: Path, options: ModelOptions) -> None:
    from passreid.bulk import add_to_gallery

    with _opened(place, options) as gallery:
        added = add_to_gallery(folder, gallery)
    note(f"{added.added} enrolled in {place}, {added.known} were there before.")


def _opened(place: str, options: ModelOptions) -> Gallery:
    from passreid.gallery import identity, open_gallery

    embedder = options.load()
    return open_gallery(place, model=identity(embedder), dim=embedder.dim, create=True)


@app.command
def compare(
    a: str,
    b: str,
    /,
    *,
    json: bool = False,
    false_accept_rate: FalseAccepts = 1e-3,
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> None:
    """Say whether two pictures show the same person.

    Example: passreid compare monday.jpg tuesday.jpg

    Args:
        a: A picture.
        b: Another.
        json: One object: cosine, probability, same_person, threshold.
    """
    embedder = options.load()
    first, second = embedder([a, b])
    similarity = float(cosine(first, second))
    calibration = calibration_of(embedder)
    if calibration is None:
        values: dict[str, Any] = {"cosine": similarity, "probability": None, "same_person": None}
        text = f"Cosine {similarity:.3f}. No calibration says what it means: `passreid calibrate`"
        text += " on a labelled set gives a probability."
    else:
        verdict = calibration.judge(similarity, false_accept_rate=false_accept_rate)
        values = {
            "cosine": verdict.cosine,
            "probability": verdict.probability,
            "same_person": verdict.same_person,
            "threshold": verdict.threshold,
            "false_accept_rate": verdict.false_accept_rate,
        }
        answer = "The same person" if verdict.same_person else "Not the same person"
        text = (
            f"{answer}: cosine {verdict.cosine:.3f} against a threshold of {verdict.threshold:.3f} "
            f"(false-accept rate {false_accept_rate:g} on {calibration.data}), "
            f"probability {verdict.probability:.3f}."
        )
    if json:
        say_json(values)
    else:
        say(escape(text))


@app.command
def rank(
    query: str,
    gallery: str,
    /,
    *,
    search: Search = Search(),
    sheet: Path | None = None,
    json: bool = False,
    on_error: OnError = "raise",
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> int:
    """Rank the pictures of a folder by how alike they are to a query.

    A picture of the gallery that is the query's own file is left out.

    Example: passreid rank someone.jpg crops/ --top 5 --sheet ranked.png

    Args:
        query: A picture, or a folder of them.
        gallery: A folder of pictures.
        sheet: A .png that shows queries and what was found.
        json: One object a query, one query a line.
    """
    check_writable(sheet, suffix=".png")
    queries, pictures = expand([query]), expand([gallery])
    embedder = options.load()
    calibration = calibration_of(embedder)
    threshold = search.threshold(calibration)
    asked = embedder.embed(queries, on_error=on_error)
    found = embedder.embed(pictures, on_error=on_error, progress=len(pictures) > 200)
    queries = [queries[i] for i in asked.indices]
    pictures = [pictures[i] for i in found.indices]
    results: list[list[tuple[str, float]]] = []
    if queries and pictures:
        order = search.order(asked.embeddings, found.embeddings, threshold)
        for name, indices in zip(queries, order, strict=True):
            row = asked.embeddings[len(results)]
            hits = [(pictures[i], float(cosine(row, found.embeddings[i]))) for i in indices]
            hits = [hit for hit in hits if hit[1] >= threshold and not _same_file(hit[0], name)]
            results.append(hits[: search.top])
    for name, hits in zip(queries, results, strict=True):
        (say_json if json else _say_hits)(_answer(name, hits, calibration))
    if sheet is not None and results:
        from passreid.show.ranksheet import rank_sheet

        rank_sheet(queries, results, sheet)
        note(f"Drew {sheet}.")
    return report_skipped((*asked.skipped, *found.skipped))


def expand(sources: Sequence[str]) -> list[str]:
    """Turn folders into the pictures in them; files and addresses stay as they are.

    Raises:
        UsageError: Nothing or an empty name was given, or a folder holds no picture.
    """
    from passreid.images import find_images

    if not sources or "" in sources:
        raise UsageError("No picture was given; name files, folders or https addresses.")
    found: list[str] = []
    for source in sources:
        found += map(str, find_images(source)) if Path(source).is_dir() else [source]
    return found


def save_embeddings(output: Path, paths: Sequence[str], embeddings: np.ndarray) -> None:
    """Write an .npz whole or not at all: `paths` (N,) text and `embeddings` (N, D) float32."""
    # By a name, NumPy would choose the file: it appends .npz to .NPZ.
    with replacing(output) as temporary, temporary.open("wb") as file:
        np.savez(file, paths=np.array(paths, np.str_), embeddings=embeddings)


def _same_file(one: str, other: str) -> bool:
    return Path(one).exists() and Path(one).resolve() == Path(other).resolve()


def _answer(
    query: str, hits: Sequence[tuple[str, float]], calibration: Calibration | None
) -> dict[str, Any]:
    """One query's result as plain data."""
    matches: list[dict[str, Any]] = []
    for number, (path, similarity) in enumerate(hits, start=1):
        chance = None if calibration is None else calibration.probability(similarity)
        matches.append({"rank": number, "path": path, "cosine": similarity, "probability": chance})
    return {"query": query, "no_match": not matches, "matches": matches}


def _say_hits(answer: dict[str, Any]) -> None:
    say(f"[bold]{escape(answer['query'])}[/bold]")
    if answer["no_match"]:
        say("  no match")
    for match in answer["matches"]:
        chance = match["probability"]
        sure = "" if chance is None else f"  p {chance:.3f}"
        say(f"  {match['rank']:>3}  {match['cosine']:+.3f}{sure}  {escape(match['path'])}")
