"""Where the model looks: in a picture that is sent, or in an entry's thumbnail."""

from __future__ import annotations

import io
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, File, Form, Request, UploadFile

from passreid.server.engine import Engine
from passreid.server.entry_routes import find_entry
from passreid.server.forms import FORM, BoxUnit, name_of, parse_box
from passreid.server.problems import Refusal
from passreid.server.schemas import AttentionAnswer

router = APIRouter(prefix="/v1", tags=["model"])


@router.post(
    "/attention",
    response_model=AttentionAnswer,
    summary="Where CLS and the part tokens look",
    dependencies=FORM,
)
async def attention(
    request: Request,
    image: Annotated[UploadFile | None, File(description="A picture of one person.")] = None,
    entry: Annotated[UUID | None, Form(description="Or this entry's thumbnail.")] = None,
    box: Annotated[
        str | None, Form(description="JSON [left, top, right, bottom]: the person in the frame.")
    ] = None,
    box_format: BoxUnit = "xyxy",
) -> Any:
    """Show the last block's attention from CLS and each part to the patches of a crop."""
    engine: Engine = request.app.state.engine
    if not engine.embedder.attends:
        raise Refusal(
            404, "This model has no attention graph; write it with `passreid export MODEL_FOLDER`."
        )
    if (image is None) == (entry is None) or (entry is not None and box):
        raise Refusal(422, "Send either image (and box, if it is a frame) or entry.")
    if image is not None:
        name, boxes = name_of(image, 0), parse_box(box)
        crops = await engine.read(image.file, name, boxes=boxes, box_format=box_format)
    else:
        assert entry is not None  # one of the two is there
        found = await find_entry(engine, entry)
        if not found.thumbnail:
            raise Refusal(404, "This entry was enrolled without a thumbnail.")
        crops = await engine.read(io.BytesIO(found.thumbnail), f"entry {entry}")
    maps = await engine.attend(crops[0])
    names = ["CLS", *(f"part {part}" for part in range(1, len(maps)))]
    tokens = [
        {"token": name, "grid": grid.tolist()} for name, grid in zip(names, maps, strict=True)
    ]
    return {"rows": maps.shape[1], "columns": maps.shape[2], "tokens": tokens}
