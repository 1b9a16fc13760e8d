"""`Thumbnails`: one image for each track of an index."""

from contextlib import suppress
from pathlib import Path

from facereel.errors import UserError
from facereel.storage.untrusted import resolve_inside

# Number of thumbnails in a folder: file managers are slow with more.
_A_FOLDER = 1000


class Thumbnails:
    """The files DIR/thumbnails/ID // 1000/ID.jpg. Links in an untrusted index are not followed out of its folder.

    Args:
        index: folder of the index.
    """

    NAME = "thumbnails"

    def __init__(self, index: Path) -> None:
        self._index = index

    def path(self, track: int) -> Path:
        """Return the path of a track's image, whether it exists or not."""
        return self._index / self.NAME / str(track // _A_FOLDER) / f"{track}.jpg"

    def find(self, track: int) -> Path | None:
        """Return the path of a track's image, or None if it does not exist inside the index."""
        path = self.path(track)
        with suppress(UserError):
            return resolve_inside(self._index, path) if path.is_file() else None
        return None

    def write(self, track: int, content: bytes) -> None:
        """Write a track's image.

        Args:
            track: id of the track.
            content: a JPEG file.

        Raises:
            UserError: if the path leads out of the index.
        """
        path = resolve_inside(self._index, self.path(track))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def remove(self, track: int) -> None:
        """Delete a track's image, if it exists.

        Args:
            track: id of the track.

        Raises:
            UserError: if the path leads out of the index.
        """
        path = self.path(track)
        resolve_inside(self._index, path.parent)
        path.unlink(missing_ok=True)
