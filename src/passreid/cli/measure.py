"""evaluate: labelled sets against a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter
from rich.markup import escape

from passreid.cli.app import (
    ModelOptions,
    OnError,
    app,
    check_writable,
    console,
    note,
    report_skipped,
    say,
    say_json,
    skippable,
)
from passreid.cli.centring import SELF, CentreOn, read_means_or_self
from passreid.errors import UsageError
from passreid.listing import printable

if TYPE_CHECKING:
    from rich.table import Table

    from passreid.camera_pairs import CameraPair
    from passreid.data import ReIDDataset
    from passreid.report import Report
    from passreid.splits import SplitScores

_WIDEST = 10_000  # columns

Kind = Annotated[str, Parameter(help="Layout of the set; auto finds it by tell-tale files.")]


@app.command
def evaluate(
    *roots: Path,
    kind: Kind = "auto",
    rerank: bool = False,
    camera_filter: bool = True,
    clothes_changing: bool = False,
    multi_query: bool = False,
    splits: int = 1,
    centre_on: CentreOn = None,
    camera_pairs: bool = False,
    sheet: Path | None = None,
    worst: bool = False,
    det: Path | None = None,
    json: bool = False,
    on_error: OnError = "raise",
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> int:
    """Score a model on labelled sets: mAP, mINP, Rank-k, and TPIR at FPIR of open-set searches.

    Several sets give one table, a row each; it says which of them the model was trained on.

    Example: passreid evaluate Market-1501-v15.09.15 --flip

    Args:
        roots: Data sets: published ones in their own layouts, folders of people, or CSV files.
        rerank: Score the order after k-reciprocal re-ranking, in place of that by cosine.
        camera_filter: Leave out a person's pictures by the query's own camera, as the field does.
        clothes_changing: Leave out a person's pictures in the query's clothes; needs a set that
            says what people wear, as LTCC, PRCC, or a CSV file with a column clothid.
        multi_query: Average the query pictures of each person by each camera, and Market-1501's
            gt_bbox, to one query.
        splits: Average over so many random splits of VIPeR, PRID, GRID, i-LIDS, CUHK01 or PRCC,
            whose protocols do over 10.
        camera_pairs: Also score each camera's queries among each other camera's pictures alone;
            cameras go by the names or numbers that the set's files give them.
        sheet: A .png of queries spread over the set, right and wrong answers marked.
        worst: Show the queries with the lowest average precision on the sheet instead.
        det: A .png with the DET curve, FNIR over FPIR, of each set.
        json: One object with mAP, mINP, rank1, rank5, rank10 (fractions), counts, tpir and det; of
            several sets, an object with the model and a list, sets, of such objects.
    """
    from passreid.splits import evaluate_splits

    _check_options(len(roots), splits, sheet=sheet, worst=worst, rerank=rerank, det=det)
    if len(roots) > 1 and centre_on not in (None, SELF):
        raise UsageError(f"Cameras of several sets share their names: use --centre-on {SELF}.")
    check_writable(sheet, suffix=".png")
    check_writable(det, suffix=".png")
    datasets = [_read_splits(root, kind, splits, multi_query, quiet=json) for root in roots]
    embedder = options.load()
    scores = []
    for each in datasets:
        with skippable(many=True):
            found = evaluate_splits(
                embedder,
                each,
                rerank=rerank,
                camera_filter=camera_filter,
                clothes_changing=clothes_changing,
                centre_on=read_means_or_self(centre_on, embedder),
                on_error=on_error,
                progress=not json,
            )
        for line in () if json else found.reports[0].notes[len(each[0].notes) :]:
            note(line)
        scores.append(found)
    reports = [found.reports[0] for found in scores]
    if json:
        _say_json(scores, [_understood(each[0]) for each in datasets], camera_pairs)
    else:
        for found in scores if splits > 1 else ():
            _say_splits(found)
        _say_tables(reports, camera_pairs)
    if sheet is not None:
        draw_sheet(reports[0], sheet, worst=worst)
        note(f"Drew {sheet}.")
    if det is not None:
        from passreid.show.det import draw_det

        draw_det(reports, det)
        note(f"Drew {det}.")
    return report_skipped([image for report in reports for image in report.skipped])


def _check_options(
    sets: int, splits: int, *, sheet: Path | None, worst: bool, rerank: bool, det: Path | None
) -> None:
    """Refuse options that do not fit together."""
    if not sets:
        raise UsageError("No data set was given; name a folder or a CSV file.")
    if splits < 1:
        raise UsageError(f"--splits is {splits}; give 1 or more.")
    if worst and sheet is None:
        raise UsageError("--worst says what a sheet shows: add --sheet FILE.png.")
    if sheet is not None and sets > 1:
        raise UsageError("--sheet shows one data set; name one.")
    if rerank and det is not None:
        raise UsageError("--det needs the order by cosine; leave --rerank out.")


def _read_splits(
    root: Path, kind: str, splits: int, multi_query: bool, *, quiet: bool
) -> list[ReIDDataset]:
    """Read the first random splits of a set, or the set itself."""
    from passreid.data.protocols import multi_query as pool_queries

    read_all = [read(root, kind, split=k, quiet=quiet or k > 0) for k in range(splits)]
    return [pool_queries(each) for each in read_all] if multi_query else read_all


def _understood(dataset: ReIDDataset) -> dict[str, Any]:
    """Return what was understood of a set as plain data."""
    return {"kind": dataset.kind} | {row.subset: row._asdict() for row in dataset.summary()}


def _say_json(
    scores: Sequence[SplitScores], understood: Sequence[dict[str, Any]], camera_pairs: bool
) -> None:
    sets = []
    for found, dataset in zip(scores, understood, strict=True):
        values = found.reports[0].to_json() | {"dataset": dataset}
        if camera_pairs:
            values["camera_pairs"] = [asdict(pair) for pair in found.reports[0].camera_pairs()]
        if len(found.reports) > 1:
            values |= found.mean | {"splits": len(found.reports), "spread": found.spread}
        sets.append(values)
    say_json(sets[0] if len(sets) == 1 else {"model": sets[0]["model"], "sets": sets})


def _say_splits(found: SplitScores) -> None:
    shown = (f"{k} {found.mean[k]:.2%} ± {found.spread[k]:.2%}" for k in found.mean)
    data, count = escape(found.reports[0].data), len(found.reports)
    say(f"{data}: mean over {count} random splits: {', '.join(shown)}. Of the first:")


def _say_tables(reports: Sequence[Report], camera_pairs: bool) -> None:
    if len(reports) == 1:
        console.print(reports[0].table())
    else:
        _print_whole(_draw_sets(reports))
    for report in reports if camera_pairs else ():
        _print_whole(_draw_pairs(report.camera_pairs(), report.data))


def _draw_sets(reports: Sequence[Report]) -> Table:
    """A row for each set; percent."""
    from rich import box
    from rich.table import Table

    heads = ("trained on it", "mAP", "Rank-1", "Rank-5", "Rank-10", "mINP", "EER")
    table = Table("set", *heads, "TPIR at FPIR 0.05", "queries", box=box.MINIMAL, pad_edge=False)
    table.title = f"{escape(printable(reports[0].model))}, percent"
    for report in reports:
        values = report.to_json()
        home = {True: "yes", False: "no", None: "unknown"}[report.in_domain]
        rates = [values[key] for key in ("mAP", "rank1", "rank5", "rank10", "mINP")]
        tpir = values["tpir"]["0.05"]
        rates += [values["equal_error_rate"], tpir and tpir["tpir"]]
        cells = ["–" if rate is None else f"{100 * rate:.1f}" for rate in rates]
        table.add_row(escape(printable(report.data)), home, *cells, str(values["num_query"]))
    return table


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


def _draw_pairs(pairs: list[CameraPair], data: str) -> Table:
    """A row for each query camera, a column for each gallery camera."""
    from rich import box
    from rich.table import Table

    found = {(pair.query, pair.gallery): pair for pair in pairs}
    cameras = sorted(
        {camera for both in found for camera in both},
        key=lambda name: (name.isdecimal() and int(name), name),
    )
    title = "mAP/Rank-1 in percent (queries), by camera of the query and of the gallery"
    title += f", {escape(printable(data))}"
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


def read(root: Path, kind: str, *, split: int = 0, quiet: bool = False) -> ReIDDataset:
    """Read a data set and say what is in it."""
    from passreid.data import read_dataset

    dataset = read_dataset(root, kind, split=split)
    for line in () if quiet else dataset.describe():
        note(line)
    for line in dataset.notes if split == 0 else ():
        note(f"  {line}")
    return dataset
