"""evaluate: labelled sets against a model."""

from __future__ import annotations

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
    from passreid.embed import Embedder
    from passreid.report import Report
    from passreid.splits import SplitScores

_WIDEST = 10_000  # columns

Kind = Annotated[str, Parameter(help="Layout of the set; auto finds it by tell-tale files.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which queries and gallery pictures count, and how they are ordered.

    Attributes:
        rerank: Score the order after k-reciprocal re-ranking, in place of that by cosine.
        camera_filter: Leave out a person's pictures by the query's own camera, as the field does.
        clothes_changing: Leave out a person's pictures in the query's clothes; needs a set that
            labels clothes, such as LTCC, PRCC, or a CSV file with a column clothid.
        multi_query: Average each person's query pictures by camera, with Market-1501's gt_bbox.
        splits: Average over this many random splits; 10 is standard for VIPeR, PRID, GRID, i-LIDS,
            CUHK01 and PRCC.
    """

    rerank: bool = False
    camera_filter: bool = True
    clothes_changing: bool = False
    multi_query: bool = False
    splits: int = 1

    def __post_init__(self) -> None:
        if self.splits < 1:
            raise UsageError(f"--splits is {self.splits}; it must be at least 1.")

    def read(self, root: Path, kind: str, *, quiet: bool) -> list[ReIDDataset]:
        """Read the random splits of a set, or the set itself."""
        from passreid.data.protocols import multi_query

        found = [read(root, kind, split=k, quiet=quiet or k > 0) for k in range(self.splits)]
        return [multi_query(each) for each in found] if self.multi_query else found

    def score(
        self, embedder: Embedder, splits: list[ReIDDataset], *, quiet: bool, **options: Any
    ) -> SplitScores:
        """Evaluate the splits of one set, and print its notes unless `quiet`."""
        from passreid.splits import evaluate_splits

        with skippable(many=True):
            found = evaluate_splits(
                embedder,
                splits,
                rerank=self.rerank,
                camera_filter=self.camera_filter,
                clothes_changing=self.clothes_changing,
                progress=not quiet,
                **options,
            )
        for line in () if quiet else found.reports[0].notes[len(splits[0].notes) :]:
            note(line)
        return found


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Pictures of the result.

    Attributes:
        sheet: A .png of queries spread over the set, right and wrong answers marked.
        worst: Show the queries with the lowest average precision on the sheet instead.
        det: A .png with the DET curve, FNIR over FPIR, of each set.
    """

    sheet: Path | None = None
    worst: bool = False
    det: Path | None = None

    def check(self, sets: int, protocol: Protocol) -> None:
        """Reject drawings of so many sets that cannot be made, before the work."""
        if self.worst and self.sheet is None:
            raise UsageError("--worst needs a sheet: add --sheet FILE.png.")
        if self.sheet is not None and sets > 1:
            raise UsageError("--sheet shows one data set; name one.")
        if protocol.rerank and self.det is not None:
            raise UsageError("--det needs the order by cosine; leave --rerank out.")
        check_writable(self.sheet, suffix=".png")
        check_writable(self.det, suffix=".png")

    def draw(self, reports: Sequence[Report]) -> None:
        """Write the files."""
        if self.sheet is not None:
            draw_sheet(reports[0], self.sheet, worst=self.worst)
            note(f"Drew {self.sheet}.")
        if self.det is not None:
            from passreid.show.det import draw_det

            draw_det(reports, self.det)
            note(f"Drew {self.det}.")


@app.command
def evaluate(
    *roots: Path,
    kind: Kind = "auto",
    protocol: Protocol = Protocol(),
    centre_on: CentreOn = None,
    camera_pairs: bool = False,
    drawings: Drawings = Drawings(),
    json: bool = False,
    on_error: OnError = "raise",
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> int:
    """Score a model on labelled sets: mAP, mINP, Rank-k, and TPIR at FPIR of open-set searches.

    Several sets give one table, a row each; it says which of them the model was trained on.

    Example: passreid evaluate Market-1501-v15.09.15 --flip

    Args:
        roots: Data sets: published ones in their own layouts, folders of people, or CSV files.
        camera_pairs: Also score each camera's queries among each other camera's pictures alone;
            cameras go by the names or numbers that the set's files give them.
        json: One object with mAP, mINP, rank1, rank5, rank10 (fractions), counts, tpir and det; of
            several sets, an object with the model and a list, sets, of such objects.
    """
    if not roots:
        raise UsageError("No data set was given; name a folder or a CSV file.")
    drawings.check(len(roots), protocol)
    if len(roots) > 1 and centre_on not in (None, SELF):
        raise UsageError(f"Cameras of several sets share their names: use --centre-on {SELF}.")
    datasets = [protocol.read(root, kind, quiet=json) for root in roots]
    embedder = options.load()
    scores = []
    for splits in datasets:
        means = read_means_or_self(centre_on, embedder)
        scores.append(
            protocol.score(embedder, splits, quiet=json, centre_on=means, on_error=on_error)
        )
    reports = [found.reports[0] for found in scores]
    if json:
        _say_json(scores, [_understood(each[0]) for each in datasets], camera_pairs)
    else:
        for found in scores if protocol.splits > 1 else ():
            _say_splits(found)
        _say_tables(reports, camera_pairs)
    drawings.draw(reports)
    return report_skipped([image for report in reports for image in report.skipped])


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
    """Draw queries spread over the set, or those of lowest average precision, and their hits."""
    from passreid.show.ranksheet import rank_sheet

    query, gallery = report.query.samples, report.gallery.samples
    if worst:
        rows = min(rows, int(report.metrics.valid.sum()))
        chosen = np.argsort(report.metrics.average_precision)[:rows]
    else:
        chosen = np.unique(np.linspace(0, len(query) - 1, rows).astype(int))
    hits = [[(gallery[i], score) for i, score in row] for row in report.hits(chosen, top_k=10)]
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
