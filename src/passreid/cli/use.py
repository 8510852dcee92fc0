"""compare, rank: pictures in, answers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
    expand,
    note,
    report_skipped,
    say,
    say_json,
    skippable,
)
from passreid.errors import CalibrationError, UsageError
from passreid.listing import printable
from passreid.ranking import rank as rank_embeddings
from passreid.ranking import rank_distances
from passreid.reranking import rerank
from passreid.verify import cosine

if TYPE_CHECKING:
    from passreid.verify import Calibration

FalseAccepts = Annotated[
    float | None,
    Parameter(
        help="Accepted share of different people taken for one, of those that were measured; "
        "without it 0.001, if that was."
    ),
]


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


@app.command
def compare(
    a: str,
    b: str,
    /,
    *,
    json: bool = False,
    false_accept_rate: FalseAccepts = None,
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> None:
    """Say whether two pictures show the same person.

    Example: passreid compare monday.jpg tuesday.jpg

    Args:
        a: A picture.
        b: Another.
        json: One object: cosine, probability, same_person, threshold, false_accept_rate; null is
            what the model's calibration does not tell.
    """
    embedder = options.load()
    first, second = embedder([a, b])
    calibration = calibration_of(embedder)
    values = _judged(float(cosine(first, second)), calibration, false_accept_rate)
    if json:
        say_json(values)
        return
    text = f"cosine {values['cosine']:.3f}"
    if calibration is None:
        text += ". No calibration says what it means: `passreid calibrate` on a labelled set gives "
        text += "a probability"
    elif values["same_person"] is not None:
        answer = "The same person" if values["same_person"] else "Not the same person"
        text = (
            f"{answer}: {text} against a threshold of {values['threshold']:.3f} "
            f"(false-accept rate {values['false_accept_rate']:g} on {calibration.data})"
        )
    if calibration is not None:
        text += f", probability {values['probability']:.3f}"
    say(escape(f"{text[0].upper()}{text[1:]}."))


def _judged(
    similarity: float, calibration: Calibration | None, false_accept_rate: float | None
) -> dict[str, Any]:
    """Say what a cosine means as plain data, with None for what the calibration does not tell.

    Raises:
        CalibrationError: A rate is asked for that was not measured.
    """
    values: dict[str, Any] = {
        "cosine": similarity,
        "probability": None,
        "same_person": None,
        "threshold": None,
        "false_accept_rate": None,
    }
    if calibration is None:
        return values
    values["probability"] = calibration.probability(similarity)
    asked = {} if false_accept_rate is None else {"false_accept_rate": false_accept_rate}
    try:
        return asdict(calibration.judge(similarity, **asked))
    except CalibrationError as error:
        if asked:
            raise
        note(str(error))
    return values


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
    with skippable(len(queries) > 1):
        asked = embedder.embed(queries, on_error=on_error)
    with skippable(len(pictures) > 1):
        found = embedder.embed(pictures, on_error=on_error, progress=len(pictures) > 200)
    queries = [queries[i] for i in asked.indices]
    pictures = [pictures[i] for i in found.indices]
    order: list[list[int]] = [[] for _ in queries]
    if queries and pictures:
        order = search.order(asked.embeddings, found.embeddings, threshold)
    results: list[list[tuple[str, float]]] = []
    for name, row, indices in zip(queries, asked.embeddings, order, strict=True):
        hits = [(pictures[i], float(cosine(row, found.embeddings[i]))) for i in indices]
        hits = [hit for hit in hits if hit[1] >= threshold and not _same_file(hit[0], name)]
        results.append(hits[: search.top])
    if sheet is not None and results:  # first: who reads the answers may stop early
        from passreid.show.ranksheet import rank_sheet

        rank_sheet(queries, results, sheet)
        note(f"Drew {sheet}.")
    for name, hits in zip(queries, results, strict=True):
        (say_json if json else _say_hits)(_answer(name, hits, calibration))
    return report_skipped((*asked.skipped, *found.skipped))


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
    say(f"[bold]{escape(printable(answer['query']))}[/bold]")
    if answer["no_match"]:
        say("  no match")
    for match in answer["matches"]:
        chance = match["probability"]
        sure = "" if chance is None else f"  p {chance:.3f}"
        name = escape(printable(match["path"]))
        say(f"  {match['rank']:>3}  {match['cosine']:+.3f}{sure}  {name}")
