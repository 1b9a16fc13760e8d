"""Serve images and videos to the search page by track id, never by path."""

import mimetypes
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from facereel.retrieval.track_index import Track, TrackIndex
from facereel.web.uploads import is_video

# Containers that no browser plays. Others depend on the browser and the codec.
_UNPLAYABLE = frozenset(
    (".avi", ".wmv", ".asf", ".flv", ".f4v", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".3gp", ".rm", ".rmvb")
)
# Browsers can play QuickTime files like MP4, but some reject them under their own type.
_TYPES = {".mov": "video/mp4", ".qt": "video/mp4", ".m4v": "video/mp4", ".mkv": "video/webm"}


def routes(index: TrackIndex) -> list[Route]:
    """Return the routes GET /media/thumbnail/ID and /media/video/ID: a track's image and video, with byte ranges."""

    # Not async: Starlette runs them in threads, which may wait for the database.
    def thumbnail(request: Request) -> Response:
        track = _track(index, request)
        path = None if track is None else index.thumbnails.find(track.id)
        return _absent() if path is None else FileResponse(path, media_type="image/jpeg")

    def video(request: Request) -> Response:
        track = _track(index, request)
        # An untrusted index may name any file on this machine.
        if track is None or not Path(track.video).is_file() or not is_video(Path(track.video)):
            return _absent()
        return FileResponse(track.video, media_type=media_type(track.video))

    return [Route("/media/thumbnail/{track}", thumbnail), Route("/media/video/{track}", video)]


def thumbnail_url(track: Track) -> str:
    """Return the URL of a track's image."""
    return f"/media/thumbnail/{track.id}"


def video_url(track: Track) -> str:
    """Return the URL of a track's video."""
    return f"/media/video/{track.id}"


def media_type(video: str) -> str:
    """Return the media type of a video file, or application/octet-stream, which browsers do not open."""
    suffix = Path(video).suffix.lower()
    guessed = _TYPES.get(suffix) or mimetypes.guess_type(f"video{suffix}")[0] or ""
    return guessed if guessed.startswith("video/") else "application/octet-stream"


def is_playable(video: str) -> bool:
    """Return whether some browser can play a video file, judged by its name."""
    return Path(video).suffix.lower() not in _UNPLAYABLE


def track_number(text: str) -> int | None:
    """Return the track id in a text, or None if it is invalid."""
    # isdecimal also accepts digits of other scripts; SQLite has 63 bits.
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def _track(index: TrackIndex, request: Request) -> Track | None:
    number = track_number(request.path_params["track"])
    found = index.tracks([] if number is None else [number])
    return found[0] if found else None


def _absent() -> Response:
    return PlainTextResponse("There is no such track in the index.\n", status_code=404)
