"""Routes behind the page's views: people, their names, pairs of entries, label counts, samples."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from pydantic import Field

from passreid.data import make_synthetic
from passreid.errors import PassreidError
from passreid.gallery.base import Entry
from passreid.openset import Verdict, cut
from passreid.people import Grouping, group_people
from passreid.server.engine import Engine
from passreid.server.requests import Label, Model
from passreid.server.responses import CompareAnswer, EntryAnswer, entry_answer

router = APIRouter(prefix="/v1", tags=["gallery"])
_WAIT_S = 2.0
_MOST_LABELS = 200


class Person(Model):
    """Entries taken for one person."""

    name: str | None = Field(description="The entries' person label; null where nobody named them.")
    entries: list[EntryAnswer] = Field(description="Pictures of this person.")


class PeopleAnswer(Model):
    """The gallery's entries grouped into people."""

    status: Literal["working", "ready"] = Field(description="Ask again while it is working.")
    people: list[Person] = Field(description="Named people first, then the largest groups.")
    threshold: float | None = Field(description="Mean cosine from which groups were joined.")
    left_out: int = Field(description="Entries beyond the most that are grouped.")


class Naming(Model):
    """A person label for some entries."""

    ids: list[UUID] = Field(min_length=1, max_length=4000, description="These entries.")
    person: Label | None = Field(description="Who they show; null makes them unnamed again.")


class NamingAnswer(Model):
    """What a naming replaced."""

    before: dict[str, str | None] = Field(description="Each entry's former label, to undo it.")


class Overview(Model):
    """Label counts, and what the page says about this service."""

    cameras: dict[str, int] = Field(description="Entries of each camera, the 200 commonest.")
    people: dict[str, int] = Field(description="Entries of each person, likewise.")
    tracklets: dict[str, int] = Field(description="Entries of each tracklet, likewise.")
    cut: float | None = Field(description="Cosine for the default FPIR; null if not calibrated.")
    fpir: float | None = Field(description="The FPIR that this cut promises.")
    audit: bool = Field(description="Whether searches and changes are written to an audit log.")


class Sample(Model):
    """A drawn picture."""

    name: str = Field(description="File name, with person and camera as Market-1501 writes them.")
    data: str = Field(description="The file in base64.")


@router.get("/people", response_model=PeopleAnswer, summary="Entries grouped into people")
async def people(request: Request) -> Any:
    """Group entries into people in the background; a changed gallery is grouped again."""
    engine: Engine = request.app.state.engine
    known = engine.calibration
    if known is None:
        raise HTTPException(
            409, "This model is not calibrated, so no threshold says who is one person."
        )
    state = request.app.state
    task: asyncio.Task[Grouping] | None = getattr(state, "grouping", None)
    if task is None:
        work = asyncio.to_thread(group_people, engine.gallery, known)
        task = state.grouping = asyncio.create_task(work)
    done, _ = await asyncio.wait([task], timeout=_WAIT_S)
    if not done:
        return {"status": "working", "people": [], "threshold": None, "left_out": 0}
    state.grouping = None
    try:
        found = task.result()
    except PassreidError as error:
        raise HTTPException(503, str(error)) from None
    groups: list[tuple[str | None, list[Entry]]] = [*sorted(found.named.items())]
    groups += [(None, group) for group in found.unnamed]
    shown = [{"name": name, "entries": [entry_answer(e) for e in group]} for name, group in groups]
    return {
        "status": "ready",
        "people": shown,
        "threshold": found.threshold,
        "left_out": found.left_out,
    }


@router.post("/people", response_model=NamingAnswer, summary="Name entries, or take a name back")
async def name_people(request: Request, body: Naming) -> Any:
    """Set the person of entries; the answer holds the former labels."""
    engine: Engine = request.app.state.engine
    ids = [str(each) for each in body.ids]
    before = {entry.id: entry.person for entry in await engine.call(engine.gallery.get, ids)}
    if not before:
        raise HTTPException(404, "None of these entries is in the gallery; they may be forgotten.")
    await engine.call(engine.gallery.update, list(before), person=body.person)
    engine.audit(request, "update", ids=list(before), fields=["person"])
    return {"before": before}


@router.get("/entries/{a}/compare/{b}", response_model=CompareAnswer, summary="Compare two entries")
async def compare_entries(request: Request, a: UUID, b: UUID) -> Any:
    """Say how alike two entries are, by the embeddings they were enrolled with."""
    engine: Engine = request.app.state.engine
    first, second = await engine.find(a), await engine.find(b)
    rows = [np.asarray(entry.embedding, np.float32) for entry in (first, second)]
    similarity = float(np.clip(rows[0] @ rows[1], -1, 1))
    known = engine.calibration
    verdict = Verdict(cosine=similarity) if known is None else known.judge(similarity)
    engine.audit(request, "compare", ids=[str(a), str(b)])
    return {name: getattr(verdict, name) for name in CompareAnswer.model_fields}


@router.get("/overview", response_model=Overview, summary="Label counts and the default cut")
async def overview(request: Request) -> Any:
    """Count entries by label, and give the cosine from which a search counts as found."""
    engine: Engine = request.app.state.engine
    names = {"cameras": "camera", "people": "person", "tracklets": "tracklet"}
    counts = {
        many: dict(list((await engine.call(engine.gallery.tally, one)).items())[:_MOST_LABELS])
        for many, one in names.items()
    }
    known = engine.search_calibration
    line = known and cut(known, await engine.call(engine.gallery.count))
    about = {"audit": engine.settings.audit is not None}
    return counts | about | {"cut": line and line.threshold, "fpir": line and line.fpir}


@router.get("/samples", response_model=list[Sample], summary="Pictures of drawn people")
def samples() -> Any:
    """Draw a few people, none of them real, for a first try."""
    with tempfile.TemporaryDirectory() as folder:
        made = make_synthetic(Path(folder) / "drawn", people=12, cameras=2, per_camera=2)
        paths = [sample.path for sample in (*made.gallery, *made.query)]
        return [
            {"name": Path(path).name, "data": base64.b64encode(Path(path).read_bytes()).decode()}
            for path in paths
        ]
