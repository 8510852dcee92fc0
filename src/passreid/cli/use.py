"""compare, rank: pictures in, answers out."""

from __future__ import annotations

import math
import re
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
from passreid.cli.centring import CentreOn, Centring, cameras_of, read_means_or_self, say_unseen
from passreid.errors import UsageError
from passreid.formats import show_cosine, show_cut, show_hit, show_probability, show_rate
from passreid.listing import printable
from passreid.openset import DEFAULT_FPIR, DEFAULT_PRIOR, Cut, Verdict, cut
from passreid.ranking import rank as rank_embeddings
from passreid.ranking import rank_distances
from passreid.reranking import rerank
from passreid.verify import cosine, explain_hit

if TYPE_CHECKING:
    from passreid.centring import CameraMeans
    from passreid.data import Sample
    from passreid.openset import Calibration

_SHEET_ROWS = 20
# Market-1501 and DukeMTMC-reID: 0007_c2s1_000451_03.jpg, 0007_c2_f0046182.jpg. Pid 0 is nobody.
_PID_IN_NAME = re.compile(r"(\d{4})_c(\d+)(?:s\d|_f\d)")

FalseAccepts = Annotated[
    float | None,
    Parameter(
        name=("--false-match-rate", "--false-accept-rate"),
        help="Decide at this FMR: the accepted share of pairs of different people taken for one "
        "person, of those that were measured.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Search:
    """What counts as found, and in which order.

    Attributes:
        top: How many to show for each query.
        rerank: Order by k-reciprocal re-ranking, which looks at the gallery as a whole.
        same_only: Show hits from the cut on, and none below; a query may then have no match.
        fpir: Where the cut is: the accepted share of searches for an absent person that still
            return somebody (false positive identification rate).
        false_match_rate: Cut at this FMR of a pair instead, of those that were measured.
    """

    top: Annotated[int, Parameter(alias="-k")] = 10
    rerank: bool = False
    same_only: bool = False
    fpir: float = DEFAULT_FPIR
    false_match_rate: FalseAccepts = None

    def __post_init__(self) -> None:
        """Refuse an empty answer and an impossible rate."""
        if self.top < 1:
            raise UsageError(f"--top is {self.top}; it must be at least 1.")
        if not 0 < self.fpir < 1:
            raise UsageError(f"--fpir is {self.fpir:g}; it must lie between 0 and 1.")
        if self.false_match_rate is not None and self.fpir != DEFAULT_FPIR:
            raise UsageError("--fpir and --false-match-rate both place the cut; give one of them.")

    def cut(self, calibration: Calibration | None, entries: int) -> Cut | None:
        """Return the score from which hits in so many entries count as found."""
        if calibration is None:
            if self.same_only or self.false_match_rate is not None or self.fpir != DEFAULT_FPIR:
                raise UsageError(
                    "--same-only, --fpir and --false-match-rate need a calibrated model; run "
                    "`passreid calibrate` on crops of your cameras, labelled or not."
                )
            return None
        if self.false_match_rate is None:
            return cut(calibration, entries, fpir=self.fpir)
        threshold = calibration.threshold(self.false_match_rate)
        fpir = -math.expm1(entries * math.log1p(-self.false_match_rate))
        return Cut(threshold=threshold, fpir=fpir, false_match_rate=self.false_match_rate)

    def find(
        self, query: np.ndarray, gallery: np.ndarray, threshold: float
    ) -> list[list[tuple[int, float]]]:
        """Return each query's hits at or above the threshold as (gallery index, cosine).

        One more than asked for, as a query's own file may be among them.
        """
        if self.rerank:
            cosines, distances = cosine(query, gallery), rerank(query, gallery)
            # Last, so that they do not take the places of hits above the threshold.
            distances[cosines < threshold] = np.finfo(np.float32).max
            ranking = rank_distances(distances, top_k=self.top + 1)
            hits = [
                [(i, float(row[i])) for i, _ in ranking.hits(n)] for n, row in enumerate(cosines)
            ]
        else:
            ranking = rank_embeddings(query, gallery, top_k=self.top + 1)
            hits = [ranking.hits(n) for n in range(len(ranking))]
        return [[hit for hit in row if hit[1] >= threshold] for row in hits]


@app.command
def compare(
    a: str,
    b: str,
    /,
    *,
    json: bool = False,
    false_match_rate: FalseAccepts = None,
    prior: float = DEFAULT_PRIOR,
    centring: Centring = Centring(),  # noqa: B008
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> None:
    """Say whether two pictures show the same person.

    Example: passreid compare monday.jpg tuesday.jpg

    Args:
        a: A picture.
        b: Another.
        prior: Share of pairs like this one that show one person, which the probability rests on:
            0.5 for two pictures somebody has reason to compare, 1 / N for a hit among N.
        json: One object: cosine, probability, same_person, threshold, false_accept_rate (the FMR of
            the threshold), false_match_rate (the FMR at this cosine), prior, calibration; null is
            what the model's calibration does not tell.
    """
    if not 0 < prior < 1:
        raise UsageError(f"--prior is {prior:g}; it must lie between 0 and 1.")
    embedder = options.load()
    means = centring.means(embedder)
    rows = embedder([a, b])
    if means is not None:
        rows = means.centre(rows, centring.cameras(a, b, means))
    similarity = float(cosine(rows[0], rows[1]))
    calibration = calibration_of(embedder, centred=means is not None)
    verdict = Verdict(cosine=similarity)
    if calibration is not None:
        verdict = calibration.judge(similarity, false_accept_rate=false_match_rate, prior=prior)
        if verdict.threshold is None:
            note(
                f"No threshold is known for an FMR of 0.001 on {calibration.data}, so there is no "
                "verdict: choose another with --false-match-rate, or calibrate on more people."
            )
    if json:
        fitted = calibration and {"data": calibration.data, "origin": calibration.origin}
        say_json(asdict(verdict) | {"calibration": fitted})
    else:
        say(escape(_verdict_text(verdict, calibration)))


def _verdict_text(verdict: Verdict, calibration: Calibration | None) -> str:
    """Say a verdict in one line."""
    text = f"cosine {show_cosine(verdict.cosine)}"
    if calibration is None:
        return f"C{text[1:]}. Without a usable calibration nothing says what it means."
    assert verdict.false_match_rate is not None
    if verdict.threshold is not None:
        answer = "The same person" if verdict.same_person else "Not the same person"
        text = (
            f"{answer}: {text} against a threshold of {show_cosine(verdict.threshold)} "
            f"(FMR {verdict.false_accept_rate:g} on {calibration.data})"
        )
    fmr = show_rate(verdict.false_match_rate, is_bound=bool(verdict.false_match_rate_is_bound))
    text += f". Of pairs of different people, a share of {fmr} is at least as alike"
    if verdict.probability is not None:
        chance = show_probability(verdict.probability)
        text += f"; probability {chance} if {verdict.prior:g} of such pairs show one person"
    return f"{text[0].upper()}{text[1:]}."


@app.command
def rank(
    query: str,
    gallery: str,
    /,
    *,
    search: Search = Search(),
    sheet: Path | None = None,
    centre_on: CentreOn = None,
    json: bool = False,
    on_error: OnError = "raise",
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> int:
    """Rank the pictures of a folder by how alike they are to a query.

    With a calibrated model each hit says how many strangers a search of this many pictures would
    show at or above its cosine, and is strong (fewer than 0.05), possible (fewer than 1) or weak. A
    picture of the gallery that is the query's own file is left out.

    Example: passreid rank someone.jpg crops/ --top 5 --sheet ranked.png

    Args:
        query: A picture, or a folder of them.
        gallery: A folder of pictures.
        sheet: A .png of up to 20 queries and their hits, marked right or wrong where both file
            names start with a pid and camera, as 0007_c2s1 or 0007_c2_f12.
        json: One object a query, one query a line.
    """
    check_writable(sheet, suffix=".png")
    if Path(gallery).is_file() and Path(query).is_dir():
        raise UsageError(
            f"{gallery} is one picture and {query} a folder; the query comes first: "
            f"`passreid rank {gallery} {query}`."
        )
    queries, pictures = expand([query]), expand([gallery])
    embedder = options.load()
    means = read_means_or_self(centre_on, embedder)
    calibration = calibration_of(embedder, centred=means is not None)
    found_from = search.cut(calibration, len(pictures))
    with skippable(len(queries) > 1):
        asked = embedder.embed(queries, on_error=on_error)
    with skippable(len(pictures) > 1):
        found = embedder.embed(pictures, on_error=on_error, progress=len(pictures) > 200)
    queries = [queries[i] for i in asked.indices]
    pictures = [pictures[i] for i in found.indices]
    sides = asked.embeddings, found.embeddings
    if means is not None and queries and pictures:
        sides = _centred((queries, pictures), sides, means)
    threshold = found_from.threshold if found_from is not None and search.same_only else -math.inf
    hits = search.find(*sides, threshold) if queries and pictures else [[] for _ in queries]
    results = [
        [(pictures[i], score) for i, score in row if not _same_file(pictures[i], name)]
        for name, row in zip(queries, hits, strict=True)
    ]
    results = [found[: search.top] for found in results]
    if sheet is not None and results:  # before the answers: their reader may stop early (`| head`)
        _draw_sheet(queries, results, sheet)
    for name, matches in zip(queries, results, strict=True):
        answer = _answer(name, matches, calibration, found_from, len(pictures))
        (say_json if json else _say_hits)(answer)
    return report_skipped((*asked.skipped, *found.skipped))


def _centred(
    names: tuple[list[str], list[str]],
    sides: tuple[np.ndarray, np.ndarray],
    means: CameraMeans,
) -> tuple[np.ndarray, np.ndarray]:
    """Subtract camera means from queries and gallery; empty means are filled from the gallery."""
    cameras = [
        cameras_of(pictures, where=what)
        for pictures, what in zip(names, ("query", "gallery"), strict=True)
    ]
    if not means.counts:
        means.add(sides[1], cameras[1])
    say_unseen(means, [*cameras[0], *cameras[1]])
    return means.centre(sides[0], cameras[0]), means.centre(sides[1], cameras[1])


def _draw_sheet(
    queries: Sequence[str], results: Sequence[Sequence[tuple[str, float]]], sheet: Path
) -> None:
    """Draw the first queries, hits marked right or wrong where file names hold pids."""
    from passreid.show.ranksheet import rank_sheet

    shown = queries[:_SHEET_ROWS]
    hits = [[(_labelled(path), score) for path, score in row] for row in results[:_SHEET_ROWS]]
    rank_sheet([_labelled(name) for name in shown], hits, sheet, camera_filter=False)
    of = (
        f" with the first {_SHEET_ROWS} of {len(queries)} queries"
        if len(queries) > _SHEET_ROWS
        else ""
    )
    note(f"Drew {sheet}{of}.")


def _labelled(path: str) -> Sample | str:
    """Return a picture with the pid and camid in its name, or its path alone."""
    from passreid.data import Sample

    found = _PID_IN_NAME.match(Path(path).name)
    return Sample(Path(path), int(found[1]), int(found[2])) if found and int(found[1]) else path


def _same_file(one: str, other: str) -> bool:
    return Path(one).exists() and Path(one).resolve() == Path(other).resolve()


def _answer(
    query: str,
    hits: Sequence[tuple[str, float]],
    calibration: Calibration | None,
    found_from: Cut | None,
    entries: int,
) -> dict[str, Any]:
    """One query's result as plain data."""
    matches: list[dict[str, Any]] = []
    for number, (path, similarity) in enumerate(hits, start=1):
        match = {"rank": number, "path": path, "cosine": similarity}
        match |= explain_hit(similarity, calibration, entries)
        matches.append(match)
    return {
        "query": query,
        "no_match": not matches,
        "matches": matches,
        "entries": entries,
        "cut": None if found_from is None else asdict(found_from),
    }


def _say_hits(answer: dict[str, Any]) -> None:
    """Print one query's hits, with a line where the cut is."""
    say(f"[bold]{escape(printable(answer['query']))}[/bold]")
    if answer["no_match"]:
        say("  no match")
    found_from = answer["cut"]
    above = found_from is not None
    for match in answer["matches"]:
        if above and match["cosine"] < found_from["threshold"]:
            above = False
            say(show_cut(found_from["threshold"], found_from["fpir"]))
        score, path = show_cosine(match["cosine"]), escape(printable(match["path"]))
        say(f"  {match['rank']:>3}  {score}{show_hit(match)}  {path}")
