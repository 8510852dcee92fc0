"""Routes that need the model alone: embed, compare, info."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request

from passreid.openset import Verdict
from passreid.server.engine import Engine
from passreid.server.forms import FORM, BoxUnit, Upload, Uploads, name_of, parse_boxes
from passreid.server.pictures import Crop
from passreid.server.problems import Refusal
from passreid.server.schemas import CompareAnswer, EmbedAnswer, ServiceInfo
from passreid.verify import cosine

router = APIRouter(prefix="/v1", tags=["model"])
_RATE = "Accepted share of false matches, one that was measured; left out, 0.001 if that was."


@router.post(
    "/embed",
    response_model=EmbedAnswer,
    summary="Embed pictures, or boxes of a frame",
    dependencies=FORM,
)
async def embed(
    request: Request,
    images: Uploads,
    boxes: Annotated[
        str | None,
        Form(description="JSON [[left, top, right, bottom], …]; then send one picture."),
    ] = None,
    box_format: BoxUnit = "xyxy",
) -> Any:
    """Turn crops of people into embeddings."""
    engine: Engine = request.app.state.engine
    corners = parse_boxes(boxes)
    check_files(engine, len(images))
    if corners and len(images) > 1:
        raise Refusal(422, "boxes: belong to one frame; send one picture with them.")
    crops: list[Crop] = []
    names: list[str] = []
    for index, upload in enumerate(images):
        name = name_of(upload, index)
        found = await engine.read(upload.file, name, boxes=corners, box_format=box_format)
        crops += found
        names += [name] * len(found)
    rows = await engine.embed(crops)
    items = [
        {"source": name, "box": corners[i] if corners else None, "embedding": row.tolist()}
        for i, (name, row) in enumerate(zip(names, rows, strict=True))
    ]
    model = engine.identity
    return {"model": model, "dim": engine.embedder.dim, "embeddings": items}


@router.post(
    "/compare", response_model=CompareAnswer, summary="Same person or not?", dependencies=FORM
)
async def compare(
    request: Request,
    a: Upload,
    b: Upload,
    false_accept_rate: Annotated[
        float | None, Form(gt=0, le=1, allow_inf_nan=False, description=_RATE)
    ] = None,
) -> Any:
    """Say how alike two crops are, and what that means where the model is calibrated."""
    engine: Engine = request.app.state.engine
    crops = await engine.read(a.file, name_of(a, 0)) + await engine.read(b.file, name_of(b, 1))
    first, second = await engine.embed(crops)
    similarity, known = float(cosine(first, second)), engine.calibration
    verdict = Verdict(cosine=similarity)
    if known is not None:
        verdict = known.judge(similarity, false_accept_rate=false_accept_rate)
    return {name: getattr(verdict, name) for name in CompareAnswer.model_fields}


@router.get("/info", response_model=ServiceInfo, summary="Model, gallery, calibration and limits")
async def info(request: Request) -> Any:
    """Say what runs here."""
    engine: Engine = request.app.state.engine
    card, settings = engine.embedder.card, engine.settings
    gallery = await engine.ask(engine.gallery.info)
    height, width = card.architecture.image_size
    known = engine.calibration
    if known is not None and not known.labelled:
        known = None  # the page needs the logistic
    return {
        "version": importlib.metadata.version("passreid"),
        "model": {
            "name": card.name,
            "identity": engine.identity,
            "dim": engine.embedder.dim,
            "height": height,
            "width": width,
            "backend": engine.embedder.backend,
            "licence": card.licence,
            "attention": engine.embedder.attends,
            "parts": card.architecture.parts,
        },
        "gallery": {
            "name": gallery.name.rstrip("/").rpartition("/")[2],  # not where it lies
            "engine": gallery.engine,
            "count": gallery.count,
            "bytes_on_disk": gallery.bytes_on_disk,
        },
        "calibration": known
        and {
            "slope": known.slope,
            "intercept": known.intercept,
            "data": known.data,
            "points": [vars(point) for point in known.points],
        },
        "limits": {
            "file_bytes": settings.limits.max_bytes,
            "request_bytes": settings.max_request_bytes,
            "pixels": settings.limits.max_pixels,
            "files": settings.max_files,
        },
        "retention_days": settings.retention_days,
    }


def check_files(engine: Engine, files: int) -> None:
    """Refuse more pictures than one request may hold.

    Raises:
        Refusal: 413.
    """
    if files > engine.settings.max_files:
        raise Refusal(
            413, f"At most {engine.settings.max_files} pictures a request; send them in parts."
        )
