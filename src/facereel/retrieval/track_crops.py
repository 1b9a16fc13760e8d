"""Read the crops from which the tracks of an index were encoded."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from facereel.data import open_prepared
from facereel.data.crop_table import is_prepared
from facereel.errors import UserError
from facereel.retrieval.build_index import MAX_FRAMES, clips_by_source
from facereel.retrieval.track_index import Track
from facereel.video.detector import Image
from facereel.video.track_file import read_tracks

# Yields tracks, in any order, with their crops (S, S, 3) BGR uint8, in time order.
CropReader = Callable[[Sequence[Track]], Iterator[tuple[Track, list[Image]]]]


def read_crops(tracks: Sequence[Track]) -> Iterator[tuple[Track, list[Image]]]:
    """Read the crops of tracks from their track files or prepared data sets, each opened once.

    Args:
        tracks: tracks of an index.

    Yields:
        The tracks, in any order, with their (S, S, 3) BGR uint8 crops in time order.

    Raises:
        UserError: if a source is missing, damaged, or has changed since it was indexed.
    """
    by_source: dict[str, list[Track]] = defaultdict(list)
    for track in tracks:
        by_source[track.source].append(track)
    for source, its in by_source.items():
        yield from (_from_prepared if is_prepared(Path(source)) else _from_track_file)(source, its)


def _from_track_file(source: str, tracks: list[Track]) -> Iterator[tuple[Track, list[Image]]]:
    wanted = {track.number: track for track in tracks}
    for stored in read_tracks(Path(source), wanted):
        track = wanted.pop(stored.number)
        if (stored.start_s, stored.end_s) != (track.start_s, track.end_s):
            raise _changed(track)
        yield track, stored.crops
    for track in wanted.values():
        raise _changed(track)


def _from_prepared(source: str, tracks: list[Track]) -> Iterator[tuple[Track, list[Image]]]:
    faces = open_prepared(Path(source)).face_set(max_frames=MAX_FRAMES)
    by_source = clips_by_source(faces)
    for track in tracks:
        clips = by_source.get(track.video, [])
        if track.number >= len(clips):
            raise _changed(track)
        crops = faces.crops[torch.tensor(clips[track.number].rows)].numpy()
        yield track, [np.ascontiguousarray(crop.transpose(1, 2, 0)[:, :, ::-1]) for crop in crops]


def _changed(track: Track) -> UserError:
    return UserError(
        f"{track.source} has changed since track {track.number} of {track.video} was indexed: run facereel index again"
    )
