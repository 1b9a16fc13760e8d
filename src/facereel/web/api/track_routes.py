"""Routes of tracks, their images, and the videos that show the same person."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Response
from fastapi.responses import FileResponse

from facereel.errors import UserError
from facereel.retrieval.track_crops import read_crops
from facereel.video.detector import Image
from facereel.video.image_file import encode_jpeg
from facereel.web.api.context import LIMIT, AfterNumber, ApiContext, Context, GroupFilter, Limit, TrackId
from facereel.web.api.errors import problems
from facereel.web.api.models import CropsAnswer, ResultAnswer, SimilarAnswer, TrackAnswer, TracksPage
from facereel.web.guard import API

router = APIRouter(tags=["tracks"])

_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
}

PersonFilter = Annotated[str | None, Query(description="Only tracks with this name.")]
VideoFilter = Annotated[str | None, Query(description="Only tracks of the video with this path.")]
CropNumber = Annotated[int, Path(description="Number of the crop, from 1.", ge=1, le=100_000)]
Top = Annotated[int, Query(description="Maximum number of results.", ge=1, le=100)]


@router.get("/tracks", operation_id="list_tracks")
def list_tracks(
    context: Context,
    after: AfterNumber = 0,
    limit: Limit = LIMIT,
    person: PersonFilter = None,
    group: GroupFilter = None,
    video: VideoFilter = None,
) -> TracksPage:
    """List the tracks, or those of a person, a group or a video."""
    found = context.index.listing.tracks(after, limit + 1, person=person, cluster=group, video=video)
    return TracksPage(
        tracks=[TrackAnswer.of(track) for track in found[:limit]],
        next=found[limit - 1].id if len(found) > limit else None,
    )


@router.get("/tracks/{track}", operation_id="get_track", responses=problems(404))
def get_track(context: Context, track: TrackId) -> TrackAnswer:
    """Describe a track."""
    return TrackAnswer.of(context.track(track))


@router.get(
    "/tracks/{track}/thumbnail",
    operation_id="get_thumbnail",
    response_class=FileResponse,
    responses={**problems(404), **_JPEG},
)
def get_thumbnail(context: Context, track: TrackId) -> FileResponse:
    """Send the image of a track: its best crop, 128 pixels wide."""
    path = context.index.thumbnails.find(context.track(track).id)
    if path is None:
        raise HTTPException(404, f"Track {track} has no thumbnail.")
    return FileResponse(path, media_type="image/jpeg")


@router.get("/tracks/{track}/crops", operation_id="list_crops", responses=problems(404))
def list_crops(context: Context, track: TrackId) -> CropsAnswer:
    """List the crops from which a track was encoded, in time order."""
    n_crops = len(_read_crops(context, track))
    return CropsAnswer(crops=[f"{API}/tracks/{track}/crops/{number}" for number in range(1, n_crops + 1)])


@router.get(
    "/tracks/{track}/crops/{crop}",
    operation_id="get_crop",
    response_class=Response,
    responses={**problems(404), **_JPEG},
)
def get_crop(context: Context, track: TrackId, crop: CropNumber) -> Response:
    """Send one of the crops from which a track was encoded."""
    crops = _read_crops(context, track)
    if crop > len(crops):
        raise HTTPException(404, f"Track {track} has only {len(crops)} crops.")
    return Response(encode_jpeg(crops[crop - 1]), media_type="image/jpeg")


@router.get("/tracks/{track}/similar", operation_id="find_similar", responses=problems(404, 503))
async def find_similar(context: Context, track: TrackId, top: Top = 10) -> SimilarAnswer:
    """Find the videos that show the person of a track. Its own video is among the results."""

    def find() -> SimilarAnswer:
        context.track(track)
        found = context.search.search(context.search.like(track), top)
        return SimilarAnswer(results=[ResultAnswer.of(one) for one in found], threshold=context.search.threshold)

    return await context.in_turn(find)


def _read_crops(context: ApiContext, number: int) -> list[Image]:
    track = context.track(number)
    try:
        return next(crops for _, crops in read_crops([track]))
    except UserError as error:  # its message has the path of the track file
        raise HTTPException(
            404, f"The crops of track {number} are missing or have changed: run facereel index again."
        ) from error
