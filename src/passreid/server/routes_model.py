"""Routes that need the model only: embed, compare, attention, info."""

from __future__ import annotations

import importlib.metadata
import io
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, HTTPException, Request, UploadFile

from passreid.openset import Verdict
from passreid.server.engine import Engine, upload_name
from passreid.server.images import Crop
from passreid.server.requests import AttentionForm, CompareForm, EmbedForm
from passreid.server.responses import AttentionAnswer, CompareAnswer, EmbedAnswer, ServiceInfo
from passreid.verify import cosine

MULTIPART = Form(media_type="multipart/form-data")


def reject_query(request: Request) -> None:
    """Reject query parameters of forms: an ignored filter would let every entry through."""
    for name in request.query_params:
        raise HTTPException(422, f"{name[:100]!r} belongs in the form, not in the address.")


FORM = [Depends(reject_query)]
router = APIRouter(prefix="/v1", tags=["model"])


@router.post("/embed", response_model=EmbedAnswer, summary="Embed images", dependencies=FORM)
async def embed(request: Request, form: Annotated[EmbedForm, MULTIPART]) -> Any:
    """Embed images of people, or the boxes of one frame."""
    engine: Engine = request.app.state.engine
    engine.check_files(len(form.images))
    if form.boxes and len(form.images) > 1:
        raise HTTPException(422, "boxes: belong to one frame; send one image with them.")
    crops: list[Crop] = []
    names: list[str] = []
    for index, upload in enumerate(form.images):
        crops += await engine.read(upload, index, boxes=form.boxes, box_format=form.box_format)
        names += [upload_name(upload, index)] * (len(crops) - len(names))
    rows = await engine.embed(crops)
    items = [
        {"source": name, "box": form.boxes[i] if form.boxes else None, "embedding": row.tolist()}
        for i, (name, row) in enumerate(zip(names, rows, strict=True))
    ]
    return {"model": engine.identity, "dim": engine.embedder.dim, "embeddings": items}


@router.post(
    "/compare", response_model=CompareAnswer, summary="Compare two images", dependencies=FORM
)
async def compare(request: Request, form: Annotated[CompareForm, MULTIPART]) -> Any:
    """Compare two crops; a calibrated model also decides whether they show one person."""
    engine: Engine = request.app.state.engine
    crops = await engine.read(form.a) + await engine.read(form.b, 1)
    first, second = await engine.embed(crops)
    verdict = Verdict(cosine=float(cosine(first, second)))
    if (calibration := engine.calibration) is not None:
        verdict = calibration.judge(verdict.cosine, false_accept_rate=form.false_accept_rate)
    return {name: getattr(verdict, name) for name in CompareAnswer.model_fields}


@router.post(
    "/attention", response_model=AttentionAnswer, summary="Attention maps", dependencies=FORM
)
async def attention(request: Request, form: Annotated[AttentionForm, MULTIPART]) -> Any:
    """Compute the last block's attention from CLS and each part token to the patches."""
    engine: Engine = request.app.state.engine
    if not engine.embedder.attends:
        raise HTTPException(
            404, "This model has no attention graph; write it with `passreid export MODEL_FOLDER`."
        )
    if (form.image is None) == (form.entry is None) or (form.entry and form.box):
        raise HTTPException(422, "Send either image (with a box, if it is a frame) or entry.")
    upload = form.image
    if form.entry is not None:
        entry = await engine.find(form.entry)
        if not entry.thumbnail:
            raise HTTPException(404, "This entry was enrolled without a thumbnail.")
        upload = UploadFile(io.BytesIO(entry.thumbnail), filename=f"entry {form.entry}")
    assert upload is not None  # one of the two is given
    boxes = [form.box] if form.box else []
    (crop,) = await engine.read(upload, boxes=boxes, box_format=form.box_format)
    maps = await engine.attend(crop)
    names = ["CLS", *(f"part {part}" for part in range(1, len(maps)))]
    tokens = [{"token": n, "grid": grid.tolist()} for n, grid in zip(names, maps, strict=True)]
    return {"rows": maps.shape[1], "columns": maps.shape[2], "tokens": tokens}


@router.get("/info", response_model=ServiceInfo, summary="Model, gallery, calibration and limits")
async def info(request: Request) -> Any:
    """Describe what this service runs."""
    engine: Engine = request.app.state.engine
    embedder, settings, calibration = engine.embedder, engine.settings, engine.calibration
    if calibration is not None and not calibration.labelled:
        calibration = None  # it has no logistic curve
    gallery = await engine.call(engine.gallery.info)
    height, width = embedder.card.architecture.image_size
    return {
        "version": importlib.metadata.version("passreid"),
        "model": {
            "name": embedder.card.name,
            "identity": engine.identity,
            "dim": embedder.dim,
            "height": height,
            "width": width,
            "backend": embedder.backend,
            "licence": embedder.card.licence,
            "attention": embedder.attends,
            "parts": embedder.card.architecture.parts,
        },
        "gallery": {
            "name": gallery.name.rstrip("/").rpartition("/")[2],  # not its folder
            "engine": gallery.engine,
            "count": gallery.count,
            "bytes_on_disk": gallery.bytes_on_disk,
        },
        "calibration": calibration,
        "limits": {
            "file_bytes": settings.limits.max_bytes,
            "request_bytes": settings.max_request_bytes,
            "pixels": settings.limits.max_pixels,
            "files": settings.max_files,
        },
        "retention_days": settings.retention_days,
    }
