"""What the search page hands out, by the id of a track in the index and never by a path."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from facereel.retrieval.track_index import Track, TrackIndex
from facereel.web.uploads import is_video

# Containers that no browser plays. Of the others it depends on the browser and the codec, which only trying tells.
_UNPLAYABLE = frozenset(
    (".avi", ".wmv", ".asf", ".flv", ".f4v", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".3gp", ".rm", ".rmvb")
)
# QuickTime's files are MP4 in all that browsers look at, and some refuse them by their own name.
_TYPES = {".mov": "video/mp4", ".qt": "video/mp4", ".m4v": "video/mp4", ".mkv": "video/webm"}


def routes(index: TrackIndex) -> list[Route]:
    """GET /media/thumbnail/ID, a track's picture, and /media/video/ID, the file it is in; ranges of bytes too."""

    # Not async: Starlette runs them in a thread, where the database may wait.
    def thumbnail(request: Request) -> Response:
        track = _track(index, request)
        path = None if track is None else index.open_thumbnail(track.id)
        return _absent() if path is None else FileResponse(path, media_type="image/jpeg")

    def video(request: Request) -> Response:
        track = _track(index, request)
        # An index may be a stranger's, and name any file of this machine.
        if track is None or not Path(track.video).is_file() or not is_video(Path(track.video)):
            return _absent()
        return FileResponse(track.video, media_type=media_type(track.video))

    return [Route("/media/thumbnail/{track}", thumbnail), Route("/media/video/{track}", video)]


def thumbnail_url(track: Track) -> str:
    """Where a track's picture is handed out."""
    return f"/media/thumbnail/{track.id}"


def video_url(track: Track) -> str:
    """Where the video that a track is in is handed out."""
    return f"/media/video/{track.id}"


def media_type(video: str) -> str:
    """What a video file is to a browser; never anything but a video, whatever its name."""
    suffix = Path(video).suffix.lower()
    guessed = _TYPES.get(suffix) or mimetypes.guess_type(f"video{suffix}")[0] or ""
    return guessed if guessed.startswith("video/") else "application/octet-stream"


def is_playable(video: str) -> bool:
    """Whether it is worth trying to play a video file in a browser."""
    return Path(video).suffix.lower() not in _UNPLAYABLE


def track_number(text: str) -> int | None:
    """A track's id as it stands in an address, or None for anything else."""
    # isdecimal alone takes other scripts' digits too; SQLite takes no more than 63 bits.
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def _track(index: TrackIndex, request: Request) -> Track | None:
    number = track_number(request.path_params["track"])
    found = index.tracks([] if number is None else [number])
    return found[0] if found else None


def _absent() -> Response:
    return PlainTextResponse("There is no such track in the index.\n", status_code=404)
