"""A data set without images, for what only looks at its names."""

from collections.abc import Sequence

import torch

from facereel.data import Clip, FaceSet, Row, Still


def make_faces(clips_of: Sequence[int], stills_of: Sequence[int], own_source: bool = True) -> FaceSet:
    """So many clips of two frames, each a source, and so many stills a person."""
    rows: list[Row] = []
    clips: list[Clip] = []
    stills: list[Still] = []
    for person, (n_clips, n_stills) in enumerate(zip(clips_of, stills_of, strict=True)):
        for c in range(n_clips):
            members = tuple(range(len(rows), len(rows) + 2))
            rows += [Row(f"p{person}", f"c{c}", f"c{c}", f"p{person}/c{c}/{i}", "") for i in range(2)]
            clips.append(Clip(person, f"p{person}/c{c}", f"p{person}/c{c}", members))
        for s in range(n_stills):
            key = f"stills/p{person}/{s}"
            source = f"p{person}/{key}" if own_source else f"p{person}/c{s % max(1, n_clips)}"
            stills.append(Still(person, source, key, len(rows)))
            rows.append(Row(f"p{person}", "", key, key, ""))
    people = [f"p{i}" for i in range(len(clips_of))]
    return FaceSet(people, torch.zeros(len(rows), 3, 2, 2, dtype=torch.uint8), rows, clips, stills)
