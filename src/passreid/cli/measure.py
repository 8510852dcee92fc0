"""evaluate, calibrate: a labelled set against a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter
from rich.markup import escape

from passreid import storage
from passreid.cli.app import (
    ModelOptions,
    OnError,
    app,
    check_folder,
    check_writable,
    console,
    note,
    report_skipped,
    say,
    say_json,
    skippable,
)
from passreid.errors import UsageError
from passreid.listing import printable

if TYPE_CHECKING:
    from rich.table import Table

    from passreid.camera_pairs import CameraPair
    from passreid.card import ModelCard
    from passreid.data import ReIDDataset
    from passreid.report import Report
    from passreid.verify import Calibration

_WIDEST = 10_000  # columns

Kind = Annotated[str, Parameter(help="Layout of the set; auto finds it by tell-tale files.")]


@app.command
def evaluate(
    root: Path,
    /,
    *,
    kind: Kind = "auto",
    rerank: bool = False,
    camera_filter: bool = True,
    camera_pairs: bool = False,
    sheet: Path | None = None,
    worst: bool = False,
    json: bool = False,
    on_error: OnError = "raise",
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> int:
    """Score a model on a labelled set: mAP, mINP and Rank-k.

    Example: passreid evaluate Market-1501-v15.09.15 --flip

    Args:
        root: A data set: Market-1501, MSMT17, CUHK03-NP, DukeMTMC layout, Occluded-Duke, a folder
            of people, or a CSV file.
        rerank: Score the order after k-reciprocal re-ranking, in place of that by cosine.
        camera_filter: Leave out a person's pictures by the query's own camera, as the field does.
        camera_pairs: Also score each camera's queries among each other camera's pictures alone;
            cameras go by the names or numbers that the set's files give them.
        sheet: A .png of queries spread over the set, right and wrong answers marked.
        worst: Show the queries with the lowest average precision on the sheet instead.
        json: One object with mAP, mINP, rank1, rank5, rank10 (fractions) and counts.
    """
    from passreid.evaluation import evaluate as score

    if worst and sheet is None:
        raise UsageError("--worst says what a sheet shows: add --sheet FILE.png.")
    check_writable(sheet, suffix=".png")
    dataset = read(root, kind, quiet=json)
    embedder = options.load()
    with skippable(many=True):
        report = score(
            embedder,
            dataset,
            rerank=rerank,
            camera_filter=camera_filter,
            on_error=on_error,
            progress=not json,
        )
    pairs = report.camera_pairs() if camera_pairs else []
    if json:
        listed = {"camera_pairs": [asdict(pair) for pair in pairs]} if camera_pairs else {}
        say_json(report.to_json() | listed)
    else:
        console.print(report.table())
        if camera_pairs:
            _print_whole(_draw_pairs(pairs))
        for line in report.notes[len(dataset.notes) :]:
            note(line)
    if sheet is not None:
        draw_sheet(report, sheet, worst=worst)
        note(f"Drew {sheet}.")
    return report_skipped(report.skipped)


@app.command
def calibrate(
    root: Path,
    /,
    *,
    output: Path,
    kind: Kind = "auto",
    json: bool = False,
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> None:
    """Fit what a model's cosines mean on a labelled set: probability and thresholds.

    The copy takes along what was exported from the model, in every precision.

    Example: passreid calibrate my-cameras/ --output my-model

    Args:
        root: A labelled data set with query and gallery, of people the model was not trained on.
        output: Folder for the calibrated copy of the model; may be the model's own folder.
        json: Print the calibration as one object.
    """
    from passreid.calibration import RATES
    from passreid.config import plain
    from passreid.evaluation import calibrate as fit

    check_folder(output)
    dataset = read(root, kind, quiet=json)
    embedder = options.load()
    calibration = fit(embedder, dataset, progress=not json)
    _save_calibrated(options, embedder.card.with_calibration(calibration), output)
    if json:
        say_json(plain(calibration))
    else:
        _say_calibration(calibration)
    measured = {point.false_accept_rate for point in calibration.points}
    if unknown := [f"{rate:g}" for rate in RATES if rate not in measured]:
        note(
            f"Too few pairs of different people for a threshold at false-accept rates of "
            f"{', '.join(unknown)}: `compare` gives no verdict and --same-only refuses there."
        )
    note(f"Wrote {output}; use it with --model {output}.")


def draw_sheet(report: Report, output: Path, *, rows: int = 10, worst: bool = False) -> None:
    """Draw queries with what each found and whether it is right.

    Args:
        report: What was measured.
        output: The .png file.
        rows: Queries to show.
        worst: Those of the lowest average precision, in place of some spread over the set.
    """
    from passreid.show.ranksheet import rank_sheet
    from passreid.verify import cosine

    query, gallery = report.query.samples, report.gallery.samples
    if worst:
        rows = min(rows, int(report.metrics.valid.sum()))
        chosen = np.argsort(report.metrics.average_precision)[:rows]
    else:
        chosen = np.unique(np.linspace(0, len(query) - 1, rows).astype(int))
    ranking = report.ranking(top_k=10)
    # Re-ranked or not, the sheet's numbers are cosines.
    asked, there = report.query.rows, report.gallery.rows
    hits = [
        [(gallery[i], float(cosine(asked[n], there[i]))) for i, _ in ranking.hits(n)]
        for n in chosen
    ]
    title = f"{report.model} on {report.data}: mAP {report.mAP:.1%}, Rank-1 {report.rank1:.1%}"
    title += f"; its {len(chosen)} worst queries" if worst else ""
    rank_sheet(
        [query[n] for n in chosen],
        hits,
        output,
        title=title,
        people=report.people,
        cameras=report.cameras,
        camera_filter=report.labels.camera_filter,
    )


def _draw_pairs(pairs: list[CameraPair]) -> Table:
    """A row for each query camera, a column for each gallery camera."""
    from rich import box
    from rich.table import Table

    found = {(pair.query, pair.gallery): pair for pair in pairs}
    cameras = sorted(
        {camera for both in found for camera in both},
        key=lambda name: (name.isdecimal() and int(name), name),
    )
    title = "mAP/Rank-1 in percent (queries), by camera of the query and of the gallery"
    names = {camera: escape(printable(camera)) for camera in cameras}
    table = Table("query", *names.values(), title=title, box=box.MINIMAL, pad_edge=False)
    for here in cameras:
        cells = []
        for there in cameras:
            pair = found.get((here, there))
            rates = f"{100 * pair.mAP:.1f}/{100 * pair.rank1:.1f}" if pair else "–"
            cells.append(f"{rates}\n({pair.num_query})" if pair else rates)
        table.add_row(names[here], *cells)
    return table


def _print_whole(table: Table) -> None:
    """Print a table as wide as it is: cells that were cut off could be had nowhere else."""
    wide = console.options.update(width=_WIDEST)
    table.width = console.measure(table, options=wide).maximum
    console.print(table, crop=False)


def _save_calibrated(options: ModelOptions, card: ModelCard, output: Path) -> None:
    """Write a model folder with this card.

    A model folder's weights, and what was exported from them, are copied as they are: no file of
    them depends on the calibration.
    """
    from passreid.backends import CARD, WEIGHTS, exported
    from passreid.hub import resolve

    source = resolve(options.model)
    folder = source.parent if source.name == WEIGHTS else source
    if not (folder / CARD).is_file() or options.overrides():
        from passreid.checkpoint import load_checkpoint, save_folder

        save_folder(load_checkpoint(source, **options.overrides()).model, card, output)
        return
    for file in (folder / WEIGHTS, *exported(folder)):
        storage.copy(file, output / file.name)
    storage.write(output / CARD, card.to_json().encode())


def read(root: Path, kind: str, *, quiet: bool = False) -> ReIDDataset:
    """Read a data set and say what is in it."""
    from passreid.data import read_dataset

    dataset = read_dataset(root, kind)
    if not quiet:
        note(f"{dataset.name} ({dataset.kind})")
        for subset, people, images, cameras in dataset.summary():
            if images:
                seen = f"{cameras} cameras" if cameras else "cameras unknown"
                note(f"  {subset:<8} {images:>7,} pictures  {people:>6,} people  {seen}")
    for line in dataset.notes:
        note(f"  {line}")
    return dataset


def _say_calibration(calibration: Calibration) -> None:
    say(
        f"Fitted on {calibration.same_pairs:,} same-person and "
        f"{calibration.different_pairs:,} different-person pairs of {escape(calibration.data)}; "
        f"equal error rate {calibration.equal_error_rate:.2%} at cosine "
        f"{calibration.equal_error_threshold:.3f}."
    )
    for point in calibration.points:
        say(
            f"  false accepts {point.false_accept_rate:g}: threshold {point.threshold:.3f}, "
            f"{point.true_accept_rate:.1%} of same-person pairs accepted"
        )
