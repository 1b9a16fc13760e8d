"""Read your own folder of faces."""

from collections.abc import Iterator
from pathlib import Path

from facereel.data.manifest import Row
from facereel.data.readers.listing import entries, existing, images, people_folders
from facereel.data.readers.stills import read_stills
from facereel.data.readers.videos import read_video
from facereel.system.skipped import Skipped
from facereel.video.file_kinds import is_video


def read_folder(root: str | Path, skipped: Skipped) -> Iterator[Row]:
    """Read a folder with the layout clips/PERSON/CLIP/*.jpg, clips/PERSON/*.mp4, stills/PERSON/*.jpg.

    Args:
        root: folder with clips/ and, unless stills come from elsewhere, stills/.
        skipped: counts files that are neither images nor videos or are outside a person's folder, and videos that
            cannot be opened.

    Yields:
        A row for each frame or still, without a box: images are used whole. Frames are in the order of the numbers in
        their names. Every clip counts as a separate source.

    Raises:
        UserError: if the folder, or clips/ in it, does not exist.
    """
    root = existing(root)
    for person in people_folders(existing(root / "clips"), skipped, "clips"):
        folder = root / "clips" / person
        clips, files = entries(folder, skipped, f"clips/{person}")
        for clip in clips:
            key = f"clips/{person}/{clip}"
            for file in images(folder / clip, skipped, key):
                yield Row(person, clip, key, f"{key}/{file}", f"{folder}/{clip}/{file}")
        for file in files:
            key = f"clips/{person}/{file}"
            if is_video(file):
                yield from read_video(folder / file, skipped, person=person, clip=file, source=key, key=key)
            else:
                skipped.add("file that is neither an image nor a video", key)
    if (root / "stills").is_dir():
        yield from read_stills(root / "stills", skipped)
