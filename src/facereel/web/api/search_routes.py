"""The route of a search with photos."""

import shutil
import tempfile
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, HTTPException, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from facereel.errors import UserError
from facereel.retrieval.face_search import Query, combine
from facereel.retrieval.track_index import Within
from facereel.web.api.context import ApiContext, Context
from facereel.web.api.errors import problems, sentence
from facereel.web.api.limits import MOST_PHOTOS
from facereel.web.api.models import FaceAnswer, ResultAnswer, SearchAnswer
from facereel.web.uploads import LARGEST_MB, LONGEST_S, read_queries

router = APIRouter(tags=["search"])


class SearchForm(BaseModel):
    """What to search for, and where."""

    model_config = ConfigDict(extra="forbid")

    photo: list[UploadFile] = Field(
        description=f"1 to {MOST_PHOTOS} photos, or videos of at most {LONGEST_S} seconds, all of one person; together "
        f"at most {LARGEST_MB} MB.",
        min_length=1,
        max_length=MOST_PHOTOS,
    )
    top: int = Field(10, description="Maximum number of results.", ge=1, le=100)
    face: int = Field(
        1,
        description="Number of the face in one photo, the largest first, or in a video, the longest seen first. With "
        "several photos the first face of each is used.",
        ge=1,
        le=10_000,
    )
    folder: str | None = Field(
        None, description="Only videos below this folder, a path as in the answers.", examples=["/videos/holiday"]
    )
    since: date | None = Field(None, description="Only videos changed on this day or later.")
    until: date | None = Field(None, description="Only videos changed on this day or earlier.")


@router.post("/search", operation_id="search", responses=problems(400, 413, 503))
async def search(context: Context, form: Annotated[SearchForm, File()]) -> SearchAnswer:
    """Find the videos that show the person in the photos, the nearest first. The photos are not kept."""
    return await context.in_turn(partial(_search, context, form))


def _search(context: ApiContext, form: SearchForm) -> SearchAnswer:
    photos, face = form.photo, form.face
    if len(photos) > 1 and face != 1:
        raise HTTPException(422, "face: must be 1 with several photos, since the first face of each is used.")
    found = [_read(context, photo, number, len(photos)) for number, photo in enumerate(photos, start=1)]
    if face > len(found[0]):
        raise HTTPException(422, f"face: must be at most {len(found[0])}, the number of faces found.")
    try:
        query = found[0][face - 1] if len(found) == 1 else combine([queries[0] for queries in found])
        results = context.search.search(query, form.top, within=Within.days(form.folder, form.since, form.until))
    except UserError as error:  # the index is being encoded by another model, or another process locks it
        raise HTTPException(503, "The index is being changed: try again.") from error
    return SearchAnswer(
        faces=[
            FaceAnswer(
                photo=number,
                face=place,
                box=one.box,
                start_s=one.start_s,
                end_s=one.end_s,
                is_too_poor=one.is_too_poor,
                is_used=place == face,
            )
            for number, queries in enumerate(found, start=1)
            for place, one in enumerate(queries, start=1)
        ],
        results=[ResultAnswer.of(one) for one in results],
        threshold=context.search.threshold,
    )


def _read(context: ApiContext, photo: UploadFile, number: int, n_photos: int) -> list[Query]:
    """Return the faces of an uploaded file."""
    with tempfile.NamedTemporaryFile(dir=context.folder, prefix="photo-", suffix=".part") as file:
        shutil.copyfileobj(photo.file, file)
        file.flush()
        try:
            return read_queries(context.search, Path(file.name))
        except UserError as error:
            which = f"Photo {number}: " if n_photos > 1 else ""
            raise HTTPException(422, which + sentence(str(error))) from error
