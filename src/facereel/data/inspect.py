"""The inspect command: what a data set holds, in numbers and in one picture."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from facereel.data.crops import Outcome
from facereel.data.load import Loaded
from facereel.data.manifest import Manifest
from facereel.data.select import evenly_spaced
from facereel.errors import UserError
from facereel.files import write_beside

# People and frames of each in the contact sheet.
SHEET_PEOPLE = 16
SHEET_CLIP_FRAMES = 8
SHEET_STILLS = 2
# Pixels: a crop, what surrounds it, the column of names, the line that explains the colours.
_SIDE, _EDGE, _NAMES, _LEGEND = 96, 4, 190, 36
_STEP = _SIDE + 2 * _EDGE


def counts(manifest: Manifest) -> dict[str, str]:
    """Count people, clips, frames and stills."""
    people, person = manifest.names("person")
    _, source = manifest.names("source")
    _, clip = manifest.names("clip")
    still = manifest.is_still()
    filmed = ~still
    clips, frames = np.unique(np.stack([person[filmed], source[filmed], clip[filmed]]), axis=1, return_counts=True)
    videos = np.unique(clips[:2], axis=1)
    of_stills = np.bincount(person[still], minlength=len(people))
    of_videos = np.bincount(videos[0], minlength=len(people))
    both = int(((of_stills > 0) & (of_videos > 0)).sum())
    return {
        "people": f"{len(people)}: {both} with clips and stills, {int((of_videos > 0).sum()) - both} with clips only, "
        f"{int((of_stills > 0).sum()) - both} with stills only",
        "source videos": f"{videos.shape[1]}, {_spread(of_videos[of_videos > 0])} a person",
        "clips": f"{clips.shape[1]}",
        "frames": f"{int(filmed.sum())}, {_spread(frames)} a clip",
        "stills": f"{int(still.sum())}, {_spread(of_stills[of_stills > 0])} a person",
        "with a box": str(len(manifest) - manifest.table["box_left"].null_count),
        "with landmarks": str(len(manifest) - manifest.table["landmarks"].null_count),
    }


def _spread(numbers: NDArray[np.int64]) -> str:
    if not len(numbers):
        return "none"
    return f"{numbers.min()} to {numbers.max()} (median {np.median(numbers):g})"


def missing_files(manifest: Manifest, examples: int = 3) -> tuple[int, list[str]]:
    """How many files of the rows are not where they were, and the first few."""
    files = sorted(set(manifest.table["file"].to_pylist()))
    absent = [file for file in files if not os.path.exists(file)]
    return len(absent), absent[:examples]


def split_counts(manifest: Manifest) -> dict[str, str]:
    """Frames and stills by the part of the split that `prepare` drew."""
    names, part = manifest.names("split")
    still = manifest.is_still()
    return {
        name: f"{int((~still & (part == i)).sum())} frames, {int((still & (part == i)).sum())} stills"
        for i, name in enumerate(names)
        if name
    }


def contact_sheet_rows(manifest: Manifest, good: NDArray[np.bool_] | None = None) -> list[list[int]]:
    """Rows to show: of people evenly spaced over the data set some frames of one clip, then stills."""
    good = np.ones(len(manifest), np.bool_) if good is None else good
    people, person = manifest.names("person")
    _, clip = manifest.names("clip")
    _, source = manifest.names("source")
    still = manifest.is_still()
    present = sorted(np.unique(person[good]).tolist(), key=lambda p: people[p])
    lines = []
    for p in evenly_spaced(present, SHEET_PEOPLE):
        own = np.flatnonzero(good & (person == p))
        frames = own[~still[own]]
        if len(frames):
            frames = frames[(clip[frames] == clip[frames[0]]) & (source[frames] == source[frames[0]])]
        stills = own[still[own]].tolist()
        lines.append([*evenly_spaced(frames.tolist(), SHEET_CLIP_FRAMES), *evenly_spaced(stills, SHEET_STILLS)])
    return lines


def _frame(sheet: NDArray[np.uint8], left: int, top: int, side: int, aligned: bool) -> None:
    colour = (115, 158, 0) if aligned else (0, 94, 213)  # Okabe and Ito's green and vermilion, in BGR
    cv2.rectangle(sheet, (left - 2, top - 2), (left + side + 1, top + side + 1), colour, 2)


def _write(sheet: NDArray[np.uint8], text: str, left: int, base: int) -> None:
    cv2.putText(sheet, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 36, 28), 1, cv2.LINE_AA)


def write_contact_sheet(loaded: Loaded, path: Path) -> None:
    """Draw a line a person: crops in a green frame where they are aligned on landmarks, in an orange one elsewhere.

    Raises:
        UserError: if the path's ending is no kind of picture, or there is no crop to show.
    """
    lines = contact_sheet_rows(loaded.manifest, loaded.outcomes <= Outcome.WHOLE)
    if not lines:
        raise UserError("there is no face to draw a contact sheet of")
    n_columns = max(map(len, lines))
    height, width = len(lines) * _STEP + _LEGEND, _NAMES + max(n_columns, 4) * _STEP
    sheet = np.full((height, width, 3), 255, np.uint8)
    for i, line in enumerate(lines):
        top = i * _STEP + _EDGE
        name = loaded.manifest[line[0]].person.encode("ascii", "replace").decode()
        for k, part in enumerate((name[:24], name[24:48])):
            _write(sheet, part, 6, top + 46 + 20 * k)
        crops = loaded.crops[torch.tensor(line)].numpy()
        for j, (row, crop) in enumerate(zip(line, crops, strict=True)):
            left = _NAMES + j * _STEP
            aligned = loaded.outcomes[row] <= Outcome.FOUND
            _frame(sheet, left, top, _SIDE, aligned=bool(aligned))
            picture = np.ascontiguousarray(crop.transpose(1, 2, 0)[:, :, ::-1])
            picture = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
            sheet[top : top + _SIDE, left : left + _SIDE] = picture
    for left, text, aligned in ((6, "aligned on landmarks", True), (206, "cut by a box or share, or whole", False)):
        _frame(sheet, left + 2, height - 24, 12, aligned)
        _write(sheet, text, left + 24, height - 13)
    with write_beside(path) as beside:
        try:
            _, content = cv2.imencode(path.suffix, sheet)
        except cv2.error as error:
            raise UserError(
                f"{path}: no picture is written under this name; .jpg and .png are kinds of picture"
            ) from error
        beside.write_bytes(content.tobytes())
