"""calibrate: what a model's cosines mean on crops of a place, with identities or without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from passreid import storage
from passreid.cli.app import ModelOptions, Output, app, check_folder, note, say, say_json
from passreid.cli.centring import MEANS, CentreOn, read_means_or_self
from passreid.cli.measure import Kind, read
from passreid.errors import DatasetError, UsageError
from passreid.formats import show_cosine, show_rate

if TYPE_CHECKING:
    from passreid.card import ModelCard
    from passreid.centring import CameraMeans
    from passreid.data import ReIDDataset
    from passreid.embed import Embedder
    from passreid.openset import Calibration


@app.command
def calibrate(
    *roots: Path,
    output: Output,
    kind: Kind = "auto",
    labels: bool | None = None,
    people: int | None = None,
    within_cameras: bool = False,
    centre_on: CentreOn = None,
    json: bool = False,
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> None:
    """Fit a model's error rates on crops of your cameras, with identities or without.

    With identities you get thresholds at false match rates (FMR), their FNMR, and probabilities;
    without, thresholds whose FMR is at most the stated one. Exported files are copied, too.

    Example: passreid calibrate my-cameras/ --output my-model

    Args:
        roots: Labelled data sets with query and gallery, of people the model was not trained on; or
            one folder of crops of many people, cameras _c3 or _cam3 in their names.
        output: Folder for the calibrated copy of the model; may be the model's own folder.
        labels: Whether ROOTS say who is on their pictures; found out by its layout if not given.
        people: About how many people unlabelled crops show; says how far below a promised FMR the
            true one may be.
        within_cameras: Without labels, also count pairs within a camera, as there are in a gallery
            that holds the query's own camera; its strangers are more alike.
        json: Print the calibration as one object.
    """
    if not roots:
        raise UsageError("No pictures were given; name a data set or a folder of crops.")
    check_folder(output)
    if people is not None and people < 2:
        raise UsageError(f"--people is {people}; it must be at least 2.")
    datasets = [] if labels is False else _read_labels(roots, kind, labels, quiet=json)
    if not datasets and len(roots) > 1:
        raise UsageError("Crops without labels come from one folder; put them into one.")
    if datasets and (people is not None or within_cameras):
        raise UsageError(
            "--people and --within-cameras are for crops without labels; add --no-labels."
        )
    embedder = options.load()
    means = read_means_or_self(centre_on, embedder)
    if datasets:
        from passreid.evaluation import calibrate as fit

        calibration = fit(embedder, datasets, centre_on=means, progress=not json)
    else:
        calibration = _fit_unlabelled(
            *(embedder, roots[0], means),
            people=people,
            within_cameras=within_cameras,
            progress=not json,
        )
    _save_calibrated(options, embedder.card.with_calibration(calibration), output)
    if means is not None:
        means.save(output / MEANS)
    _say_calibration(calibration, json=json)
    centred = f" and --centre-on {output / MEANS}" if means is not None else ""
    note(f"Wrote {output}; use it with --model {output}{centred}.")


def _read_labels(
    roots: Sequence[Path], kind: str, labels: bool | None, *, quiet: bool
) -> list[ReIDDataset]:
    """Read labelled sets; none for one folder that holds crops and no layout."""
    from passreid.listing import images_in

    try:
        return [read(root, kind, quiet=quiet) for root in roots]
    except DatasetError:
        if labels or kind != "auto" or len(roots) > 1 or not images_in(roots[0]):
            raise
    note(f"{roots[0]}: nothing says who is on the pictures; calibrating without labels.")
    return []


def _fit_unlabelled(
    embedder: Embedder,
    root: Path,
    means: CameraMeans | None,
    *,
    people: int | None,
    within_cameras: bool,
    progress: bool,
) -> Calibration:
    """Calibrate on the crops of a folder, whoever is on them."""
    from passreid.data.folders import camera_of
    from passreid.evaluation import calibrate_unlabelled
    from passreid.listing import find_images

    paths = find_images(root)
    cameras = [camera_of(path) for path in paths]
    if len(set(cameras) - {None}) < 2 and not within_cameras:
        note(
            "No two cameras are named (_c3 or _cam3 in a file's name), so pairs within a camera "
            "count too. They are more alike than pairs across cameras: thresholds come out high."
        )
    return calibrate_unlabelled(
        embedder,
        paths,
        cameras=cameras,
        data=root.resolve().name,
        people=people,
        within_cameras=within_cameras,
        centre_on=means,
        progress=progress,
    )


def _save_calibrated(options: ModelOptions, card: ModelCard, output: Path) -> None:
    """Write a model folder with this card.

    Weights, and what was exported from them, are copied: none depends on the calibration.
    """
    from passreid.backends import CARD, WEIGHTS, exported
    from passreid.hub import resolve

    source = resolve(options.model)
    if card.external is not None:
        file = (source if source.is_dir() else source.parent) / card.external.file
        for each in (file, *file.parent.glob(f"{file.stem}.bin")):
            storage.copy(each, output / each.name)
        storage.write(output / CARD, card.to_json().encode())
        return
    folder = source.parent if source.name == WEIGHTS else source
    if not (folder / CARD).is_file() or options.overrides():
        from passreid.checkpoint import load_checkpoint, save_folder

        save_folder(load_checkpoint(source, **options.overrides()).model, card, output)
        return
    for file in (folder / WEIGHTS, *exported(folder)):
        storage.copy(file, output / file.name)
    storage.write(output / CARD, card.to_json().encode())


def _say_calibration(calibration: Calibration, *, json: bool) -> None:
    """Print pairs, error rates and thresholds, and note the rates without one."""
    from passreid.config import plain

    _say_unsupported(calibration)
    if json:
        say_json(plain(calibration))
        return
    if calibration.labelled:
        assert calibration.equal_error_rate is not None
        assert calibration.equal_error_threshold is not None
        say(
            f"Fitted on {calibration.same_pairs:,} genuine and {calibration.different_pairs:,} "
            f"impostor pairs of {escape(calibration.data)}; equal error rate "
            f"{show_rate(calibration.equal_error_rate)} at cosine "
            f"{show_cosine(calibration.equal_error_threshold)}."
        )
    else:
        say(f"Fitted on {calibration.different_pairs:,} pairs of {escape(calibration.data)}.")
    for point in calibration.points:
        text = f"  FMR {point.false_accept_rate:g}: threshold {show_cosine(point.threshold)}, "
        if point.true_accept_rate is not None:
            text += f"FNMR {show_rate(1 - point.true_accept_rate)}"
        else:
            text += _reach(point.false_accept_rate, calibration.contamination)
        say(text)


def _reach(rate: float, contamination: float | None) -> str:
    """Say between which ends the true FMR of a threshold fitted without labels lies."""
    if contamination is None:
        return f"true rate at most {show_rate(rate)}; --people N says how far below"
    least = (rate - contamination) / (1 - contamination)
    if least <= 0:
        genuine = f"one pair in {1 / contamination:.0f} is genuine"
        return f"true rate at most {show_rate(rate)}; how far below is unknown, as {genuine}"
    return f"true rate between {show_rate(least)} and {show_rate(rate)}"


def _say_unsupported(calibration: Calibration) -> None:
    """Note the rates that these pairs give no threshold for."""
    from passreid.calibration import RATES

    measured = {point.false_accept_rate for point in calibration.points}
    if unknown := [f"{rate:g}" for rate in RATES if rate not in measured]:
        note(
            "The pairs of different people cannot support a threshold at false-accept rates of "
            f"{', '.join(unknown)} (too few, or too many equally alike): `compare` gives no "
            "verdict there. The smallest FMR that can be told is "
            f"{show_rate(calibration.smallest_fmr)}."
        )
