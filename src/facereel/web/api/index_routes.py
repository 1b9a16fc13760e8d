"""Routes of the server, its index and the videos in it."""

from fastapi import APIRouter

from facereel import __version__
from facereel.web.api.context import LIMIT, AfterText, Context, Limit
from facereel.web.api.models import StatusAnswer, VideoAnswer, VideosPage

router = APIRouter(tags=["index"])


@router.get("/status", operation_id="get_status")
def get_status(context: Context) -> StatusAnswer:
    """Describe the server and its index."""
    index = context.index
    return StatusAnswer(
        version=__version__,
        n_tracks=len(index),
        n_videos=index.listing.n_videos(),
        n_bits=index.n_bits,
        is_calibrated=index.calibration is not None,
        threshold=context.search.threshold,
        read_only=context.is_read_only,
    )


@router.get("/videos", operation_id="list_videos")
def list_videos(context: Context, after: AfterText = "", limit: Limit = LIMIT) -> VideosPage:
    """List the videos, also those without tracks. `GET /tracks?video=PATH` lists the tracks of one."""
    found = context.index.listing.videos(after, limit + 1)
    return VideosPage(
        videos=[VideoAnswer.of(entry) for entry in found[:limit]],
        next=found[limit - 1].path if len(found) > limit else None,
    )
