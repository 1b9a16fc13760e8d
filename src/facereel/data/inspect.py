"""Describe a data set in numbers and in one image."""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from facereel.data.contact_sheet import Line, draw_sheet, save_sheet
from facereel.data.crop_table import CropTable
from facereel.data.crops import Outcome
from facereel.data.manifest import Manifest
from facereel.data.select import evenly_spaced
from facereel.errors import UserError

# Numbers of people, and of frames and stills of each, in the contact sheet.
SHEET_PEOPLE = 16
SHEET_CLIP_FRAMES = 8
SHEET_STILLS = 2


def counts(manifest: Manifest) -> dict[str, str]:
    """Count people, clips, frames and stills.

    Args:
        manifest: rows of the data set.

    Returns:
        The counts as text, by name.
    """
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
    """Find the files of the rows that do not exist.

    Args:
        manifest: rows of the data set.
        examples: number of paths to return at most.

    Returns:
        The number of missing files, and the first paths in sorted order.
    """
    files = sorted(set(manifest.table["file"].to_pylist()))
    absent = [file for file in files if not os.access(file, os.F_OK)]
    return len(absent), absent[:examples]


def split_counts(manifest: Manifest) -> dict[str, str]:
    """Count frames and stills in each part of the split that `prepare` made.

    Args:
        manifest: rows with the column `split`.

    Returns:
        The counts as text, by part of the split.
    """
    names, part = manifest.names("split")
    still = manifest.is_still()
    return {
        name: f"{int((~still & (part == i)).sum())} frames, {int((still & (part == i)).sum())} stills"
        for i, name in enumerate(names)
        if name
    }


def contact_sheet_rows(manifest: Manifest, good: NDArray[np.bool_] | None = None) -> list[list[int]]:
    """Select rows of people evenly spaced over the data set: frames of one clip, then stills.

    Args:
        manifest: rows of the data set.
        good: (N,) True for rows that may be selected; None allows all.

    Returns:
        The rows of each person.
    """
    good = np.ones(len(manifest), np.bool_) if good is None else good
    people, person = manifest.names("person")
    _, clip = manifest.names("clip")
    _, source = manifest.names("source")
    still = manifest.is_still()
    present = sorted(np.unique(person[good]).tolist(), key=lambda p: people[p])
    lines = []
    for p in evenly_spaced(present, SHEET_PEOPLE):
        rows = np.flatnonzero(good & (person == p))
        frames = rows[~still[rows]]
        if len(frames):
            frames = frames[(clip[frames] == clip[frames[0]]) & (source[frames] == source[frames[0]])]
        stills = rows[still[rows]].tolist()
        lines.append([*evenly_spaced(frames.tolist(), SHEET_CLIP_FRAMES), *evenly_spaced(stills, SHEET_STILLS)])
    return lines


def write_contact_sheet(table: CropTable, path: Path) -> None:
    """Draw the crops of each person in a row, with a green frame if aligned on landmarks, else with an orange one.

    Args:
        table: rows with their crops.
        path: image file to write.

    Raises:
        UserError: if the path has no image extension, or there is no crop to show.
    """
    lines = []
    for rows in contact_sheet_rows(table.manifest, table.outcomes <= Outcome.WHOLE):
        crops = [crop.transpose(1, 2, 0)[:, :, ::-1] for crop in table.crops[torch.tensor(rows)].numpy()]
        aligned = [bool(table.outcomes[row] <= Outcome.FOUND) for row in rows]
        lines.append(Line(table.manifest[rows[0]].person, crops, aligned))
    if not lines:
        raise UserError("cannot draw a contact sheet: the data set has no face crop")
    save_sheet(draw_sheet(lines, "aligned on landmarks", "cropped by a box or fraction, or whole"), path)
