"""`Thumbnails`: an image of each track of an index."""

from contextlib import suppress
from pathlib import Path

from facereel.errors import UserError
from facereel.storage.untrusted import resolve_inside

# Thumbnails in one folder: file managers are slow with more.
_A_FOLDER = 1000


class Thumbnails:
    """JPEG files DIR/thumbnails/ID // 1000/ID.jpg. An untrusted index may have links there; none is followed out of it.

    Args:
        index: its folder.
    """

    NAME = "thumbnails"

    def __init__(self, index: Path) -> None:
        self._index = index

    def path(self, track: int) -> Path:
        """Where a track's image is, or would be."""
        return self._index / self.NAME / str(track // _A_FOLDER) / f"{track}.jpg"

    def find(self, track: int) -> Path | None:
        """A track's image, if it exists inside the index."""
        path = self.path(track)
        with suppress(UserError):
            return resolve_inside(self._index, path) if path.is_file() else None
        return None

    def write(self, track: int, content: bytes) -> None:
        """Write a track's image.

        Raises:
            UserError: if its place leads out of the index.
        """
        path = resolve_inside(self._index, self.path(track))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def remove(self, track: int) -> None:
        """Delete a track's image if there is one; else as `write`."""
        path = self.path(track)
        resolve_inside(self._index, path.parent)
        path.unlink(missing_ok=True)
