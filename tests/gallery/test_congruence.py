"""One scenario on every engine: the same ids, the same order, the same refusals."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest

from passreid.errors import EmbeddingError, UsageError
from passreid.gallery import Entry, Gallery, Where
from passreid.gallery.base import Pooling, entry_id
from passreid.reranking import rerank
from tests.gallery.drawn import DIM, FILTERS, VECTORS, cosines, entries, fits


@pytest.mark.parametrize("exact", [False, True])
def test_search_and_lists_agree_with_a_loop(everywhere: Gallery, exact: bool) -> None:
    query = VECTORS[4] + 0.3 * VECTORS[8]
    scores = cosines(query)
    for where in FILTERS:
        wanted = [n for n, entry in enumerate(entries()) if fits(entry, where)]
        hits = everywhere.search(query, top_k=7, where=where, exact=exact)
        best = sorted(wanted, key=lambda n: -scores[n])[:7]
        assert [hit.entry.payload["n"] for hit in hits] == best
        for hit in hits:
            assert hit.score == pytest.approx(scores[hit.entry.payload["n"]], abs=2e-3)
            assert hit.entry.embedding is None
        assert everywhere.count(where) == len(wanted)
        found, after = [], None
        while True:
            page = everywhere.page(where, limit=9, after=after)
            found += page.entries
            after = page.next
            if after is None:
                break
        assert sorted(entry.payload["n"] for entry in found) == wanted


def test_an_entry_comes_back_as_it_was(everywhere: Gallery) -> None:
    given = entries()
    one, other = everywhere.get([given[5].id, "00000000-0000-0000-0000-000000000000", given[7].id])
    for found, entry in ((one, given[5]), (other, given[7])):
        names = ("id", "content_hash", "source", "camera", "time", "person", "tracklet", "payload")
        for name in names:
            assert getattr(found, name) == getattr(entry, name)
        assert entry.embedding is not None and found.embedding is not None
        unit = entry.embedding / np.linalg.norm(entry.embedding)
        np.testing.assert_allclose(found.embedding, unit, atol=1e-3)
    last, first = given[7].id, given[5].id
    assert [entry.id for entry in everywhere.get([last, first, last])] == [last, first]


def test_the_same_picture_is_enrolled_once(everywhere: Gallery) -> None:
    twice = [*entries(range(58, 60)), Entry(content_hash="new", embedding=VECTORS[0])] * 2
    assert everywhere.add(twice) == (1, 5)
    assert everywhere.count() == 61
    cameras = [Entry(content_hash="y", embedding=VECTORS[0], camera=name) for name in "ab"]
    assert everywhere.add(cameras) == (1, 1)
    assert everywhere.get([cameras[0].id])[0].camera == "a"  # the first, in one batch or in two


def test_thresholds_groups_and_tracklets(everywhere: Gallery) -> None:
    query = VECTORS[10]
    scores = cosines(query)
    assert [h.score >= 0.2 for h in everywhere.search(query, top_k=60, min_score=0.2)] == (
        [True] * int((scores >= 0.2).sum())
    )
    grouped = everywhere.search(query, top_k=12, group_by="tracklet")
    best = {f"t{t}": scores[3 * t : 3 * t + 3].max() for t in range(20)}
    order = sorted(best, key=lambda name: -best[name])[:12]
    assert [hit.group for hit in grouped] == order
    everybody = everywhere.search(query, top_k=60, group_by="person")
    assert len(everybody) == 10 + 20  # the people, and those without a name for themselves
    tracklet = VECTORS[[10, 20]]
    unit = tracklet / np.linalg.norm(tracklet, axis=1, keepdims=True)
    mean, single = (everywhere.search(tracklet, top_k=5, pooling=p) for p in ("mean", "best"))
    expected = np.argsort(-cosines(unit.mean(axis=0)))[:5]
    assert {hit.entry.payload["n"] for hit in mean} == set(expected.tolist())
    assert mean[0].score == pytest.approx(cosines(unit.mean(axis=0)).max(), abs=2e-3)
    expected = np.argsort(-np.maximum(cosines(tracklet[0]), cosines(tracklet[1])))[:5]
    assert {hit.entry.payload["n"] for hit in single} == set(expected.tolist())


def test_scores_are_cosines_and_equal_ones_in_the_order_of_ids(everywhere: Gallery) -> None:
    assert all(everywhere.search(vector, top_k=1)[0].score <= 1 for vector in VECTORS)
    everywhere.add(Entry(content_hash=f"twin {n}", embedding=VECTORS[9]) for n in range(9))
    hits = everywhere.search(VECTORS[9])
    assert [hit.entry.id for hit in hits] == sorted(hit.entry.id for hit in hits)
    assert len({hit.score for hit in hits}) == 1


@pytest.mark.parametrize("pooling", ["mean", "best"])
def test_reranking_is_that_of_the_same_vectors(everywhere: Gallery, pooling: Pooling) -> None:
    track = VECTORS[[10, 20]]
    plain = everywhere.search(track, top_k=60, pooling=pooling)
    kept = {entry.id: entry.embedding for entry in everywhere.get([h.entry.id for h in plain])}
    rows = np.array([kept[hit.entry.id] for hit in plain[:40]], np.float32)
    unit = track / np.linalg.norm(track, axis=1, keepdims=True)
    query = unit.mean(axis=0, keepdims=True) if pooling == "mean" else unit
    order = np.argsort(rerank(query, rows).min(axis=0), kind="stable")
    wanted = [plain[n] for n in order] + plain[40:]
    found = everywhere.search(track, top_k=60, pooling=pooling, rerank=40)
    assert [(h.entry.id, h.score) for h in found] == [(h.entry.id, h.score) for h in wanted]
    assert [h.entry.id for h in found] != [h.entry.id for h in plain]
    few = everywhere.search(track, top_k=5, pooling=pooling, rerank=40)
    assert [hit.entry.id for hit in few] == [hit.entry.id for hit in found[:5]]
    # Groups are made of the new order, and looked for beyond what is ordered anew.
    firsts: dict[str | None, str] = {}
    for hit in everywhere.search(track, top_k=60, pooling=pooling, rerank=10):
        firsts.setdefault(hit.entry.tracklet, hit.entry.id)
    grouped = everywhere.search(track, top_k=20, pooling=pooling, group_by="tracklet", rerank=10)
    assert [hit.entry.id for hit in grouped] == list(firsts.values())


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"in": value}
    return value


def test_labels_can_be_changed(everywhere: Gallery) -> None:
    ids = [entry.id for entry in entries(range(3))]
    absent = "00000000-0000-0000-0000-000000000000"
    assert everywhere.update([*ids, absent], person="found", payload={"by": "guard"}) == 3
    assert {e.id for e in everywhere.page(Where(people=("found",))).entries} == set(ids)
    assert everywhere.get(ids)[0].payload == {"by": "guard"}
    assert everywhere.get(ids)[1].camera == "c1"
    with pytest.raises(UsageError, match="content_hash cannot be changed"):
        everywhere.update(ids, content_hash="x")
    everywhere.update(ids[:2], person=None, camera=None, time=None)
    for entry in everywhere.get(ids[:2]):
        assert (entry.person, entry.camera, entry.time) == (None, None, None)
    assert [e.id for e in everywhere.page(Where(people=("found",))).entries] == ids[2:]
    assert everywhere.count(Where(not_cameras=("c1",), ids=tuple(ids))) == 3
    assert everywhere.count(Where(since=-1e9, ids=tuple(ids))) == 1


UNKEPT: list[tuple[Any, str]] = [
    (None, "has no embedding"),
    (np.zeros(DIM), "zero everywhere"),
    (np.full(DIM, np.nan), "NaN"),
    (np.ones(DIM + 1), "has 17 numbers, the gallery's have 16"),
    (np.ones(DIM - 1), "has 15 numbers, the gallery's have 16"),
]


def test_embeddings_that_cannot_be_kept(everywhere: Gallery) -> None:
    for embedding, message in UNKEPT:
        with pytest.raises(EmbeddingError, match=message):
            everywhere.add([Entry(content_hash="x", embedding=embedding)])
        if embedding is not None:
            with pytest.raises(EmbeddingError, match=message):
                everywhere.search(embedding)
    with pytest.raises(EmbeddingError, match="zero everywhere"):
        everywhere.search([np.ones(DIM), np.zeros(DIM)])
    assert everywhere.count() == 60


def test_numbers_and_places_that_mean_nothing(everywhere: Gallery) -> None:
    with pytest.raises(UsageError, match="after is 'x'; ids are UUIDs"):
        everywhere.page(after="x")
    for many in (0, 10**30):
        with pytest.raises(UsageError, match=f"limit is {many}"):
            everywhere.page(limit=many)
        with pytest.raises(UsageError, match=f"top_k is {many}"):
            everywhere.search(VECTORS[0], top_k=many)
    for many in (-1, 10**30):
        with pytest.raises(UsageError, match=f"rerank is {many}"):
            everywhere.search(VECTORS[0], rerank=many)
    for score in (np.nan, 80, -1.5):
        with pytest.raises(UsageError, match=f"min_score is {score}; it is a cosine between"):
            everywhere.search(VECTORS[0], min_score=score)
    unknown: Any = "max"
    for options in ({"pooling": unknown}, {"group_by": unknown}):
        with pytest.raises(UsageError, match="not one of"):
            everywhere.search(VECTORS[0], **options)
    with pytest.raises(UsageError, match="id is '7'"):
        everywhere.get(["7"])
    with pytest.raises(UsageError, match="id is '7'"):
        everywhere.update(["7"], person="p")
    assert everywhere.search(VECTORS[0], rerank=9, where=Where(cameras=("nowhere",))) == []


UNSAYABLE: list[tuple[dict[str, Any], str]] = [
    ({"id": "7"}, "id is '7'; ids are UUIDs"),
    ({"id": entries()[0].id.upper()}, "ids are UUIDs in small letters"),
    ({"time": np.nan}, "time is nan; give a datetime or Unix seconds"),
    ({"time": 253402300800.0}, "time is 253402300800.0"),
    ({"time": -62135596801.0}, "time is -62135596801.0"),
    ({"camera": "half \ud800"}, "camera is .* half characters"),
    ({"source": "half \ud800"}, "source is .* half characters"),
    ({"id": entry_id("x"), "content_hash": None}, "content_hash is None, a NoneType; it must be"),
    ({"payload": {"half \ud800": 1}}, "half characters"),
    ({"payload": {"a": np.inf}}, "NaN, infinity"),
    ({"payload": [1]}, "an object of plain JSON"),
    ({"payload": {"a": {1: 2}}}, "an object of plain JSON"),
    ({"payload": {"n": 2**64}}, "integers beyond 64 bits"),
    ({"payload": {"n": -(2**63) - 1}}, "integers beyond 64 bits"),
    ({"payload": {"n": {1, 2}}}, "an object of plain JSON"),
    ({"payload": nested(65)}, "more than 64 levels"),
    ({"camera": 3.5}, "camera is 3.5, a float; it must be text"),
    ({"person": True}, "person is True, a bool; it must be text"),
    ({"tracklet": b"t"}, "tracklet is b't', a bytes"),
    ({"time": "noon"}, "time is 'noon'"),
    ({"time": True}, "time is True"),
]


def test_words_that_cannot_be_kept(everywhere: Gallery) -> None:
    for said, message in UNSAYABLE:
        bad = Entry(**{"content_hash": "x", "embedding": VECTORS[0]} | said)
        with pytest.raises(UsageError, match=message):
            everywhere.add([*entries(range(1)), bad])
        if not said.keys() & {"id", "source"}:
            with pytest.raises(UsageError, match=message):
                everywhere.update([entries()[0].id], **said)
    assert everywhere.count() == 60


def test_payloads_at_the_limits_come_back(everywhere: Gallery) -> None:
    payload = {"least": -(2**63), "most": 2**64 - 1, "deep": nested(63), "none": None}
    given = payload | {"pair": (1, 2)}
    everywhere.add([Entry(content_hash="x", embedding=VECTORS[0], payload=given)])
    everywhere.compact()
    (found,) = everywhere.get([entry_id("x")])
    assert found.payload == payload | {"pair": [1, 2]}


def test_times_at_the_limits_come_back(everywhere: Gallery) -> None:
    for time in (-62135596800.0, 0.0, 253402300799.0):
        entry = Entry(content_hash=str(time), embedding=VECTORS[0], time=time)
        everywhere.add([entry])
        assert everywhere.get([entry.id])[0].time == time


def test_ids_of_pictures_stay_what_they_were() -> None:
    """Else whatever was enrolled by an earlier passreid would be enrolled once more."""
    assert entry_id("picture") == "3b1b36aa-5141-57e1-aeff-eac69a9cd8a9"


def test_an_empty_label_is_an_unknown_one(everywhere: Gallery) -> None:
    """Or all who are called by nothing would be one person."""
    nobody = [Entry(content_hash=f"x{n}", embedding=VECTORS[n], person="") for n in range(2)]
    everywhere.add(nobody)
    everywhere.update([entries()[1].id, entries()[2].id], person="")
    assert everywhere.count(Where(people=("",))) == 0
    ids = (*(entry.id for entry in nobody), entries()[1].id, entries()[2].id)
    hits = everywhere.search(VECTORS[0], where=Where(ids=ids), group_by="person")
    assert [hit.group for hit in hits] == [None] * 4


def test_everybody_is_forgotten_only_where_that_is_said(everywhere: Gallery) -> None:
    """A filter made of a list that turned out empty lets all through."""
    for where in (Where(), Where(ids=())):
        with pytest.raises(UsageError, match="would forget everybody: say everything=True"):
            everywhere.remove(where)
    assert everywhere.count() == 60
    assert everywhere.remove(Where(cameras=("c1",)), everything=True) < 60
    assert everywhere.remove(Where(), everything=True) > 0
    assert everywhere.count() == 0


def test_filters_that_mean_nothing(everywhere: Gallery) -> None:
    for where, message in (
        (Where(ids=("7",)), "an id of the filter is '7'"),
        (Where(not_ids=("7",)), "an id of the filter is '7'"),
        (Where(since=np.nan), "since is nan"),
        (Where(until=np.inf), "until is inf"),
        (Where(people=(None,)), "people holds None"),  # type: ignore[arg-type]
        (Where(since=200.0, until=100.0), "00:03:20. is not before until .*exchange the two"),
        (Where(since=100.0, until=100.0), "is not before until"),
    ):
        for ask in (everywhere.page, everywhere.count, everywhere.remove):
            with pytest.raises(UsageError, match=message):
                ask(where)
        with pytest.raises(UsageError, match=message):
            everywhere.search(VECTORS[0], where=where)


def test_names_are_the_same_in_every_unicode_form(everywhere: Gallery) -> None:
    composed, decomposed = "Jos\u00e9", "Jose\u0301"
    assert composed != decomposed
    everywhere.add([Entry(content_hash="j", embedding=VECTORS[0], person=f" {decomposed}\n")])
    (found,) = everywhere.page(Where(people=(composed,))).entries
    assert found.person == composed
    everywhere.update([found.id], camera=f"{decomposed} ")
    assert everywhere.count(Where(cameras=(decomposed,))) == 1
    assert everywhere.count(Where(not_cameras=(composed,))) == 60
    assert everywhere.remove(Where(people=(f"{decomposed} ",))) == 1


def test_numbers_of_trackers_and_datetimes_are_labels_and_times(everywhere: Gallery) -> None:
    noon = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
    given: Any = {"tracklet": 17, "camera": np.int64(3), "time": noon}
    everywhere.add([Entry(content_hash="n", embedding=VECTORS[0], **given)])
    where: Any = {"tracklets": (17,), "since": noon, "until": datetime(2026, 11, 23, 12, 1)}
    (found,) = everywhere.page(Where(**where)).entries
    assert (found.tracklet, found.camera, found.time) == ("17", "3", 1795435200.0)
    everywhere.update([found.id], person=5, time=datetime(2026, 11, 24))
    (found,) = everywhere.get([found.id])
    assert (found.person, found.time) == ("5", 1795478400.0)


def test_values_are_counted(everywhere: Gallery) -> None:
    cameras = [entry.camera for entry in entries()]
    wanted = {name: cameras.count(name) for name in sorted({c for c in cameras if c})}
    assert everywhere.tally("camera") == wanted
    some = everywhere.tally("camera", Where(cameras=("c1", "c3"), since=1000.0))
    assert some.keys() == {"c1", "c3"} and sum(some.values()) < wanted["c1"] + wanted["c3"]
    assert sum(everywhere.tally("source").values()) == 60
    assert everywhere.tally("person", Where(cameras=("nowhere",))) == {}


def test_a_content_hash_is_one_entry_whatever_its_id(everywhere: Gallery) -> None:
    other = "00000000-0000-0000-0000-00000000000a"
    again = Entry(id=other, content_hash="picture 3", embedding=VECTORS[9])
    twice = [Entry(id=f"{other[:-1]}{n}", content_hash="y", embedding=VECTORS[0]) for n in "bc"]
    assert everywhere.add([again, *twice]) == (1, 2)
    assert everywhere.get([other]) == []
