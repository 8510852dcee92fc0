"""demo, synthetic: something to look at without any data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape

from passreid import storage
from passreid.cli.app import ModelOptions, Output, app, calibration_of, note, say
from passreid.cli.measure import draw_sheet
from passreid.errors import UsageError
from passreid.formats import show_cosine, show_probability
from passreid.verify import cosine

if TYPE_CHECKING:
    from passreid.data import Sample
    from passreid.embed import Embedder
    from passreid.report import Report

MARK = ".passreid-demo"


@app.command
def demo(
    *,
    output: Output = Path("passreid-demo"),
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> None:
    """Draw pedestrians, rank them, compare two, and draw a rank sheet; each step says what it does.

    Args:
        output: Folder for the pictures and the sheet; one of an earlier demo is replaced.
    """
    from passreid.data import make_synthetic
    from passreid.evaluation import evaluate

    _clear(output)
    storage.write(output / MARK, b"")
    people = make_synthetic(output / "people", people=12, cameras=6, per_camera=1, train_fraction=0)
    say(
        f"1. Drew {len(people.query)} query and {len(people.gallery)} gallery pictures of 12 "
        f"synthetic people by 6 cameras in {escape(str(people.root))}."
    )
    embedder = options.load()
    report = evaluate(embedder, people)
    say(
        f"2. Embedded them with {escape(embedder.card.name)} on {embedder.backend} "
        f"({embedder.dim} numbers each, {report.images_per_second:.0f} pictures a second)."
    )
    _say_ranked(report)
    _say_look_alikes(report)
    _say_compared(report, embedder)
    sheet = output / "ranked.png"
    draw_sheet(report, sheet)
    say(f"5. Drew a rank sheet, right answers framed green: {escape(str(sheet))}")
    say(
        f"6. Over all queries: mAP {report.mAP:.1%}, Rank-1 {report.rank1:.1%}. Drawn people are "
        "toy data; on real ones see `passreid models`."
    )
    say("Next: your own pictures, with `passreid rank PICTURE FOLDER` and `passreid compare A B`.")


@app.command
def synthetic(
    output: Output,
    /,
    *,
    people: int = 24,
    cameras: int = 4,
    per_camera: int = 2,
    seed: int = 0,
    train_fraction: float = 0.5,
) -> None:
    """Draw a data set of pedestrians, in the layout of Market-1501, to try every command on.

    Example: passreid synthetic people --people 12

    Args:
        output: A new folder.
        people: Number of people, train and test together.
        cameras: Number of cameras, each of which sees everyone.
        per_camera: Images of each person from each camera.
        seed: Another seed gives other people.
        train_fraction: Fraction of the people for training.
    """
    from passreid.data import make_synthetic

    made = make_synthetic(
        output,
        people=people,
        cameras=cameras,
        per_camera=per_camera,
        seed=seed,
        train_fraction=train_fraction,
    )
    images = len(made.train) + len(made.query) + len(made.gallery)
    note(f"Drew {images} images of {people} people in {output} ({made.kind}).")


def _clear(output: Path) -> None:
    """Make way for a new demo, but never for anything else's files.

    Raises:
        UsageError: The folder holds something that no demo made.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / MARK).is_file():
        raise UsageError(f"{output} is not empty and not a demo's; name another --output.")
    shutil.rmtree(output)


def _say_ranked(report: Report) -> None:
    """Show one query's list with what is right and wrong."""
    query, gallery = report.query.samples, report.gallery.samples
    say(f"3. Ranked the gallery for {escape(_label(query[0]))}:")
    for place, (index, similarity) in enumerate(report.ranking(top_k=5).hits(0), start=1):
        right = gallery[index].pid == query[0].pid
        mark = "[green]right[/green]" if right else "[red]wrong[/red]"
        say(f"     {place}. {similarity:.3f}  {escape(_label(gallery[index]))}  {mark}")


def _say_look_alikes(report: Report) -> None:
    """Show what fails: the fourth person is drawn in the clothes of the third."""
    query, gallery = report.query, report.gallery
    first = np.array([hits[0] for hits in report.ranking(top_k=1).indices])
    wrong = gallery.pids[first] != query.pids
    pair = np.isin(query.pids, (3, 4))
    say(
        f"   Persons 3 and 4 wear the same clothes: {wrong[pair].sum()} of their {pair.sum()} "
        f"queries find the other one first; of the {(~pair).sum()} queries of all others, "
        f"{wrong[~pair].sum()} find somebody else first."
    )


def _say_compared(report: Report, embedder: Embedder) -> None:
    """Compare a query with the best picture of the same person, and with somebody else."""
    query, gallery = report.query, report.gallery
    hits = [index for index, _ in report.ranking(top_k=len(gallery.samples)).hits(0)]
    again = next(i for i in hits if gallery.pids[i] == query.pids[0])
    other = next(i for i in reversed(hits) if gallery.pids[i] != query.pids[0])
    say("4. Compared it with two of them, at a false match rate of 0.001:")
    calibration = calibration_of(embedder)
    for truth, index in (("the same", again), ("another", other)):
        similarity = float(cosine(query.rows[0], gallery.rows[index]))
        text = f"cosine {show_cosine(similarity)}"
        if calibration is not None:
            found = calibration.judge(similarity, false_accept_rate=None)
            if found.probability is not None:
                text += f", probability {show_probability(found.probability)} (prior 0.5)"
            # None where it was fitted on too few people for this rate.
            text += {True: ": same person", False: ": not the same person", None: ""}[
                found.same_person
            ]
        say(f"     {escape(_label(gallery.samples[index]))}, truly {truth} person: {text}")


def _label(sample: Sample) -> str:
    return f"{sample.path.name} (person {sample.pid}, camera {sample.camid + 1})"
