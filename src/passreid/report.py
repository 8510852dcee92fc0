"""The result of an evaluation: embeddings, retrieval and open-set figures, table and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from passreid.calibration import fit_calibration
from passreid.camera_pairs import CameraPair, measure_camera_pairs
from passreid.embed import Skipped
from passreid.embeddings import Embeddings, by_content
from passreid.errors import CalibrationError
from passreid.labels import Labels
from passreid.listing import printable
from passreid.openset import Calibration
from passreid.ranking import Metrics, Ranking, measure, measure_distances, rank, rank_distances
from passreid.statistics import FPIR, Identification, Interval, identification, mean_interval
from passreid.verify import cosine

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The figures of a model on a labelled set.

    Attributes:
        model, data: Names of both.
        metrics: Curves and averages, and every query's own figures.
        query, gallery: What was embedded, for rank sheets without a second pass.
        labels: What counted for which query.
        notes: What a reader of the figures should know, one sentence each.
        distances: (Q, G) float32 of k-reciprocal re-ranking, if the order is theirs.
        flip: Whether embeddings were averaged with those of the mirrored images.
        centred: Whether each camera's mean was subtracted from the embeddings.
        in_domain: Whether the model was trained on this set's training people; None where its card
            does not name what it was trained on.
        people, cameras: Names of those that the set does not call by their pid or camid.
    """

    model: str
    data: str
    metrics: Metrics
    query: Embeddings
    gallery: Embeddings
    labels: Labels
    notes: tuple[str, ...] = ()
    distances: NDArray[np.float32] | None = None
    flip: bool = False
    centred: bool = False
    in_domain: bool | None = None
    people: Mapping[int, str] = field(default_factory=dict)
    cameras: Mapping[int, str] = field(default_factory=dict)

    @property
    def reranked(self) -> bool:
        """Whether the order is that of k-reciprocal re-ranking."""
        return self.distances is not None

    @property
    def mAP(self) -> float:  # noqa: N802 - the field's own spelling
        """Mean average precision, a fraction."""
        return self.metrics.mAP

    @property
    def mINP(self) -> float:  # noqa: N802 - the field's own spelling
        """Mean inverse negative penalty, a fraction."""
        return self.metrics.mINP

    @property
    def rank1(self) -> float:
        """Fraction of queries whose first hit is right."""
        return self.metrics.rank(1)

    @property
    def images_per_second(self) -> float:
        """Speed of reading and embedding both sides."""
        images = self.query.images + self.gallery.images
        return images / max(self.query.seconds + self.gallery.seconds, 1e-9)

    @property
    def invalid(self) -> tuple[str, ...]:
        """Queries that do not count: the gallery has no other camera's picture of their person."""
        return tuple(str(self.query.samples[i].path) for i in self.metrics.invalid)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be read."""
        return (*self.query.skipped, *self.gallery.skipped)

    @cached_property
    def calibration(self) -> Calibration:
        """The set's pairs as a calibration: equal error rate, thresholds, FMR and FNMR.

        Raises:
            CalibrationError: The set has too few pairs.
        """
        sets = [(self.data, [self.query, self.gallery])]
        return pairs_calibration(sets, flip=self.flip, centred=self.centred)

    @cached_property
    def identification(self) -> Identification | None:
        """Open-set search: TPIR at FPIR and the DET curve; None if it cannot be measured.

        Each query is searched twice: with its person in the gallery, and with them left out.
        Re-ranked distances depend on the whole gallery, so no threshold on them holds elsewhere.
        """
        found = self.metrics
        # A gallery that shows nobody else leaves no search for an absent person.
        valid = found.valid & np.isfinite(found.best_stranger)
        if self.reranked or not valid.any():
            return None
        return identification(
            found.best_mate[valid],
            found.first_hit[valid],
            found.best_stranger[valid],
            self.query.pids[valid],
        )

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """mAP and rank1 with their 95 % intervals over people."""
        valid = self.metrics.valid
        values = {
            "mAP": self.metrics.average_precision[valid],
            "rank1": self.metrics.first_hit[valid] == 1,
        }
        return {name: mean_interval(v, self.query.pids[valid]) for name, v in values.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data; rates are fractions, intervals [low, high] of 95 %."""
        try:
            pairs: Calibration | None = self.calibration
        except CalibrationError:
            pairs = None
        searches = self.identification
        return {
            "mAP": self.mAP,
            "mINP": self.mINP,
            "rank1": self.rank1,
            "rank5": self.metrics.rank(5),
            "rank10": self.metrics.rank(10),
            "num_query": len(self.query.samples),
            "num_gallery": len(self.gallery.samples),
            "images_per_second": self.images_per_second,
            "num_invalid_query": len(self.invalid),
            "num_skipped": len(self.skipped),
            "equal_error_rate": pairs.equal_error_rate if pairs else None,
            "true_accept_rates": {
                f"{point.false_accept_rate:g}": point.true_accept_rate
                for point in (pairs.points if pairs else ())
            },
            "intervals": {name: [v.low, v.high] for name, v in self.intervals.items()},
            "tpir": _tpir(searches),
            "det": _det(searches, pairs),
            "in_domain": self.in_domain,
            "centred": self.centred,
            "model": self.model,
            "data": self.data,
            "notes": list(self.notes),
        }

    def ranking(self, *, top_k: int = 10) -> Ranking:
        """What each query found, without the pictures that do not count for it."""
        if self.distances is not None:
            return rank_distances(self.distances, top_k=top_k, labels=self.labels)
        return rank(self.query.rows, self.gallery.rows, top_k=top_k, labels=self.labels)

    def hits(self, queries: NDArray[np.int64], *, top_k: int = 10) -> list[list[tuple[int, float]]]:
        """Return the hits of some queries as (gallery index, cosine), re-ranked or not."""
        ranking = self.ranking(top_k=top_k)
        if self.distances is None:
            return [ranking.hits(n) for n in queries]
        cosines = cosine(self.query.rows[queries], self.gallery.rows)
        return [
            [(i, float(row[i])) for i, _ in ranking.hits(n)]
            for n, row in zip(queries, cosines, strict=True)
        ]

    def camera_pairs(self) -> list[CameraPair]:
        """Measure each camera's queries among each other camera's pictures alone."""

        def part(rows: NDArray[np.int64], columns: NDArray[np.int64], labels: Labels) -> Metrics:
            if self.distances is not None:
                return measure_distances(self.distances[np.ix_(rows, columns)], labels=labels)
            return measure(self.query.rows[rows], self.gallery.rows[columns], labels=labels)

        return measure_camera_pairs(self.labels, part, names=self.cameras)

    def table(self) -> Table:
        """Draw the figures as a rich table."""
        from rich.markup import escape
        from rich.table import Table

        values = self.to_json()
        table = Table("figure", "value", title=escape(printable(f"{self.model} on {self.data}")))
        names = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10"}
        for key in ("mAP", "mINP", "rank1", "rank5", "rank10"):
            interval = self.intervals.get(key)
            spread = f" ({interval.low:.1%} to {interval.high:.1%})" if interval else ""
            table.add_row(names.get(key, key), f"{values[key]:.2%}{spread}")
        if values["equal_error_rate"] is not None:
            table.add_row("equal error rate", f"{values['equal_error_rate']:.2%}")
        for rate, share in values["true_accept_rates"].items():
            table.add_row(f"1 - FNMR at FMR {rate}", f"{share:.2%}")
        for rate, found in (self.identification.tpir if self.identification else {}).items():
            spread = f" ({found.low:.1%} to {found.high:.1%})"
            table.add_row(f"TPIR at FPIR {rate:g}", f"{found.value:.2%}{spread}")
        if self.in_domain is not None:
            table.add_row("trained on this set", "yes" if self.in_domain else "no")
        table.add_row("queries", str(values["num_query"]))
        table.add_row("gallery", str(values["num_gallery"]))
        table.add_row("images per second", f"{self.images_per_second:.1f}")
        return table

    def __repr__(self) -> str:
        return f"Report({self.model} on {self.data}: {self.metrics!r})"


def pairs_calibration(
    sets: Sequence[tuple[str, list[Embeddings]]], *, flip: bool, centred: bool
) -> Calibration:
    """Fit on all images of each set, each file once, without files that two people share.

    Args:
        sets: Name and parts of each; the first part says whom the set knows by name.
        flip, centred: How the embeddings were made.

    Raises:
        CalibrationError: As `fit_calibration`, or no image of a set could be read.
    """
    rows, pids, camids, names = [], [], [], []
    for data, parts in sets:
        samples = [sample for part in parts for sample in part.samples]
        found = by_content(parts)
        chosen = sorted(same[0] for same in found if len({samples[i].pid for i in same}) == 1)
        if not chosen:
            raise CalibrationError(f"{data} has no readable image.")
        people = {sample.pid for sample in parts[0].samples}
        own = np.array([samples[index].pid for index in chosen])
        crops = f"{len(chosen)} crops of {len(set(own.tolist()) & people)} people"
        copies = len({sample.path for sample in samples}) - len(chosen)
        names.append(f"{data} ({crops}{f', {copies} copies left out' if copies else ''})")
        rows.append(np.concatenate([part.rows for part in parts])[chosen])
        # Only where no query asks for pid 0 does it mean "nobody known"; else it is a person.
        pids.append(own + 1 if 0 in people else own)
        camids.append(np.array([samples[index].camid for index in chosen]))
    counts = [len(each) for each in rows]
    places = np.repeat(np.arange(len(rows)), counts)
    numbers = np.concatenate(pids)
    # The people of two sets never share a number; cameras may, as pairs of two places do not count.
    numbers = np.where(numbers > 0, numbers * len(rows) + places, 0)
    fitted = fit_calibration(
        np.concatenate(rows),
        numbers,
        camids=np.concatenate(camids),
        places=places,
        data=" and ".join(names),
        flip=flip,
    )
    return replace(fitted, centred=centred)


def _tpir(searches: Identification | None) -> dict[str, Any]:
    """TPIR at each FPIR; null where there are too few searches to measure that FPIR."""
    rates: dict[str, Any] = {f"{rate:g}": None for rate in FPIR}
    for rate, found in (searches.tpir if searches else {}).items():
        assert searches is not None
        low, high, threshold = found.low, found.high, searches.thresholds[rate]
        rates[f"{rate:g}"] = {
            "tpir": found.value,
            "interval": [low, high],
            "threshold": threshold,
        }
    return rates


def _det(searches: Identification | None, pairs: Calibration | None) -> dict[str, Any]:
    """DET curves of searches (FNIR over FPIR) and of pairs (FNMR over FMR), loosest first."""
    curves: dict[str, Any] = {"identification": None, "comparison": None}
    if searches is not None:
        curves["identification"] = {
            "fpir": searches.fpir.tolist(),
            "fnir": searches.fnir.tolist(),
            "threshold": searches.cosines.tolist(),
        }
    if pairs is not None and pairs.curve is not None:
        curve = pairs.curve
        curves["comparison"] = {
            "fmr": list(curve.fmr),
            "fnmr": list(curve.fnmr),
            "threshold": list(curve.thresholds),
        }
    return curves
