"""YouTube Celebrities."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from facereel.data.manifest import Row
from facereel.data.readers.listing import entries, existing, natural
from facereel.data.readers.videos import read_video
from facereel.system.skipped import Skipped
from facereel.video.file_kinds import is_video

# Clip number, source video, segment, person. The name may contain underscores too.
_NAME = re.compile(r"\d+_(\d+)_\d+_(.+)")


def read_youtube_celebrities(root: str | Path, skipped: Skipped) -> Iterator[Row]:
    """Read YouTube Celebrities (Kim, Kumar, Pavlovic and Rowley, CVPR 2008): NNNN_VV_SSS_person_name.avi.

    Args:
        root: folder with the videos, or with folders of them.
        skipped: counts files that are not videos, have another name, are duplicates or cannot be opened.

    Yields:
        A row for each frame, without a box, by person and clip. Its source is VV: clips of one video of a person are
        never both query and gallery.

    Raises:
        UserError: if the folder does not exist.
    """
    root = existing(root)
    folders, files = entries(root, skipped)
    paths = [(file, f"{root}/{file}") for file in files]
    for folder in folders:
        deeper, files = entries(root / folder, skipped, folder)
        paths += [(file, f"{root}/{folder}/{file}") for file in files]
        for inner in deeper:
            skipped.add("folder that is not read", f"{folder}/{inner}")
    # The name of a clip does not depend on its folder.
    people: dict[str, dict[str, tuple[str, str, str]]] = defaultdict(dict)
    for file, path in paths:
        stem = Path(file).stem
        name = _NAME.fullmatch(stem)
        if not is_video(file):
            skipped.add("file that is not a video", file)
        elif name is None:
            skipped.add("video with a name other than NNNN_VV_SSS_person", file)
        elif stem in people[name[2]]:
            skipped.add("duplicate video", file)
        else:
            people[name[2]][stem] = name[1], file, path
    for person in sorted(people, key=natural):
        for clip, (source, file, path) in sorted(people[person].items(), key=lambda item: natural(item[0])):
            yield from read_video(path, skipped, person=person, clip=clip, source=source, key=file)
