"""The HTTP API on an index of drawn faces whose codes are chosen; a photo is the number of the face that it shows."""

from pathlib import Path

import numpy as np
from drawn_index import Seen, code_of, make_index
from starlette.applications import Starlette

from facereel.retrieval.calibration import Calibration
from facereel.retrieval.face_search import FaceSearch, Query
from facereel.video.image_file import Unreadable
from facereel.web.api.app import api_routes
from facereel.web.guard import Guard

BASE = "http://127.0.0.1:7860"
TOKEN = "an-example-token"
# By video: a.mp4 has the tracks 1 and 2, b.mp4 track 3, c.mp4 track 4, and empty.mp4 none.
VIDEOS = {
    "a.mp4": [Seen(1, 0.0, 4.0, "Ada"), Seen(2, 5.0, 9.0)],
    "b.mp4": [Seen(1, 1.0, 5.0)],
    "c.mp4": [Seen(3, 0.0, 0.2, "Bo")],
    "empty.mp4": [],
}
GROUPS = {1: 1, 2: 2, 3: 1, 4: 5}


class DrawnSearch(FaceSearch):
    """A search whose photos are texts: numbers of faces, or "poor" or a damaged image."""

    def faces_of_file(self, path: str | Path, min_face: float = 40) -> list[Query] | Unreadable:
        """The faces whose numbers the file has."""
        content = Path(path).read_bytes()
        if content == b"poor":
            return [self._query(1, is_too_poor=True)]
        try:
            return [self._query(int(number)) for number in content.split()]
        except ValueError:
            return Unreadable.UNSUPPORTED

    def _query(self, face: int, is_too_poor: bool = False) -> Query:
        crop, code = np.zeros((1, 1, 3), np.uint8), code_of(face, 900)
        return Query((1.0, 2.0, 30.0, 40.0), crop, code, code.float(), is_too_poor=is_too_poor)


def make_search(root: Path) -> FaceSearch:
    """A search in a new index."""
    index = make_index(root, VIDEOS)
    index.set_clusters(GROUPS)
    index.set_calibration(Calibration(20.0, 50.0))
    return DrawnSearch(index.folder)


def make_guarded(
    search: FaceSearch, folder: Path, *, token: str | None = None, is_read_only: bool = False, loopback: bool = True
) -> Guard:
    """The application that `facereel serve` runs, without the pages."""
    folder.mkdir(exist_ok=True)
    routes = api_routes(search, folder, has_token=token is not None, is_read_only=is_read_only)
    return Guard(Starlette(routes=routes), loopback=loopback, token=token, port=7860)
