"""Uploaded files: kept in a temporary folder until they are read."""

import asyncio
import errno
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from facereel.errors import UserError
from facereel.retrieval.face_search import FaceSearch, Query
from facereel.video.decode import Video
from facereel.video.image_file import Unreadable, explain

# The page shows these limits before a file is sent.
LARGEST_MB = 50
LONGEST_S = 60

_LARGEST = LARGEST_MB * 1024**2
# Uploads that are not read, because their page was closed, are deleted after this time, or if there are more than this.
_PATIENCE_S = 120.0
_MOST = 8


class Uploads:
    """Uploaded files under random names. The folder is deleted with this object, or when the process ends."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="facereel-", ignore_cleanup_errors=True)
        self._waiting: dict[str, Path] = {}

    @property
    def folder(self) -> Path:
        """The temporary folder."""
        return Path(self._folder.name)

    def routes(self) -> list[Route]:
        """Return the route POST /upload, which takes a file as its body and responds with {"id": ...}."""
        return [Route("/upload", self._receive, methods=["POST"])]

    @contextmanager
    def take(self, upload: str) -> Iterator[Path]:
        """Yield the path of an uploaded file, and delete the file afterwards.

        Args:
            upload: id of the upload.

        Raises:
            UserError: if the file no longer exists.
        """
        path = self._waiting.pop(upload, None)
        if path is None:
            raise UserError("The file was deleted: send it again.")
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def drop(self, upload: str) -> None:
        """Delete an uploaded file that was not read."""
        path = self._waiting.pop(upload, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete the folder with all files."""
        self._waiting.clear()
        self._folder.cleanup()

    async def _receive(self, request: Request) -> Response:
        upload = secrets.token_urlsafe(16)
        path = self.folder / upload
        whole = False
        try:
            with path.open("wb") as file:
                size = 0
                async for chunk in request.stream():
                    size += len(chunk)
                    # The length in the header may be wrong.
                    if size > _LARGEST:
                        return PlainTextResponse(f"larger than {LARGEST_MB} MB", status_code=413)
                    file.write(chunk)
            whole = True
        except OSError as error:
            reason = "the server's disk is full" if error.errno == errno.ENOSPC else "the server cannot store it"
            return PlainTextResponse(reason, status_code=507)
        finally:
            if not whole:
                path.unlink(missing_ok=True)
        self._waiting[upload] = path
        for oldest in list(self._waiting)[:-_MOST]:
            self.drop(oldest)
        asyncio.get_running_loop().call_later(_PATIENCE_S, self.drop, upload)
        return JSONResponse({"id": upload})


def read_queries(search: FaceSearch, path: Path) -> list[Query]:
    """Return the faces of an uploaded image, the largest first, or the tracks of a video, the longest first.

    Args:
        search: search that detects the faces.
        path: the uploaded file.

    Raises:
        UserError: if there is no face; the message is a sentence for the page, without the path.
    """
    found = search.faces_of_file(path)
    if not isinstance(found, Unreadable):
        if not found:
            raise UserError("No face found in this image: choose one that shows a face from the front.")
        return found
    why = explain(path, found)
    if why is not None and found in (Unreadable.UNREADABLE, Unreadable.UNSUPPORTED):
        raise UserError(f"{why}.")
    if why is not None:
        raise UserError(f"{found.value[:1].upper()}{found.value[1:]}: choose another file.")
    if not is_video(path):
        raise UserError("This is not a supported image or video: choose a JPEG, PNG, HEIC or MP4 file.")
    try:
        length = Video(path).announced_s
        if length is not None and length > LONGEST_S:
            raise UserError(f"This video is longer than {LONGEST_S} seconds: choose a shorter one, or an image.")
        found = search.tracks(path)
    except UserError as error:
        # The decoder's message contains the path of the temporary file.
        if str(path) in str(error):
            raise UserError("This video cannot be decoded: choose another one, or an image of a face.") from error
        raise
    if not found:
        raise UserError("No face found in this video: choose one that shows a face from the front for a while.")
    return found


def is_video(path: Path) -> bool:
    """Return whether a file starts like a video container.

    FFmpeg also opens playlists, which are text and name other files and hosts. They must never reach it.
    """
    with path.open("rb") as file:
        head = file.read(400)
    return (
        head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # MP4, QuickTime
        or head.startswith((b"\x1a\x45\xdf\xa3", b"OggS", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"))
        or head.startswith((b"\x06\x0e\x2b\x34", b".RMF", b"\x1f\x07\x00", b"YUV4MPEG2 "))  # MXF, RealMedia, DV
        or head.startswith((b"\x00\x00\x00\x01", b"\x00\x00\x01\x67", b"\x00\x00\x01\xb0"))  # H.264, H.265, MPEG-4
        or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
        or head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")  # Windows Media
        or (head[:1] == b"\x47" and head[188:189] == b"\x47")  # MPEG transport stream
        or (head[4:5] == b"\x47" and head[196:197] == b"\x47")
    )
