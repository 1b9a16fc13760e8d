"""A data set with its crops: cropped in memory from a reader's rows, or opened from a folder that `prepare` wrote."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from facereel.data.crop_store import CropStore
from facereel.data.crops import CropSettings, Outcome, crop_faces
from facereel.data.face_set import Clip, FaceSet, Still
from facereel.data.manifest import SCHEMA, Manifest, Row
from facereel.data.select import Selection, select, to_read
from facereel.errors import UserError
from facereel.storage.schema import check_schema
from facereel.storage.untrusted import parse_json
from facereel.system.skipped import Skipped

MANIFEST_FILE = "manifest.parquet"

# Columns that `prepare` adds to a manifest, and the key of its record in the file's metadata.
PREPARED_COLUMNS = pa.schema(
    [
        ("bytes", pa.int64()),
        ("outcome", pa.uint8()),
        ("block", pa.int16()),
        ("place", pa.int32()),
        ("split", pa.dictionary(pa.int32(), pa.string())),
    ]
)
ABOUT = b"facereel"


@dataclass
class CropTable:
    """Rows with their crops."""

    manifest: Manifest
    crops: CropStore
    outcomes: NDArray[np.uint8]
    """(N,) values of `Outcome`."""
    skipped: Skipped
    about: dict[str, Any] = field(default_factory=dict)
    """Metadata: the settings of the crops, and what `prepare` recorded, such as source and root."""

    def face_set(
        self,
        *,
        grayscale: bool = False,
        note: str = "",
        margin: float | None = None,
        vertical_offset: float = 0.0,
        **chosen: Any,
    ) -> FaceSet:
        """Select clips and stills among the rows that have a crop, and number the people.

        Args:
            grayscale: return images as luma.
            note: text stored with the data set, for reports.
            margin: return the part of each crop that has this margin; the crops may be wider. None returns whole
                crops. Images used whole have no margin.
            vertical_offset: offset of that part below the crop's center, as a fraction of the part's side.
            **chosen: choice of people and frames, as in `select`.

        Returns:
            The data set, people sorted by name.

        Raises:
            UserError: if no image is left, or the crops are narrower than `margin`.
        """
        settings = self.about.get("settings", {})
        central_fraction = self._central_fraction(margin, vertical_offset, settings.get("margin"))
        selection = select(self.manifest, self.outcomes <= Outcome.WHOLE, **chosen)
        if not selection.clips and not len(selection.stills):
            raise empty_error(self.skipped)
        names, person = self.manifest.names("person")
        people = sorted({clip[0] for clip in selection.clips} | {names[p] for p in np.unique(person[selection.stills])})
        number = {name: i for i, name in enumerate(people)}
        # A source belongs to a person: two people may both have a video called 1.
        return FaceSet(
            people,
            self.crops,
            self.manifest,
            [
                Clip(number[name], f"{name}/{source}", f"{name}/{clip}", tuple(rows.tolist()))
                for name, source, clip, rows in selection.clips
            ],
            [
                Still(number[row.person], f"{row.person}/{row.source}", row.key, int(i))
                for i, row in zip(selection.stills, self.manifest.take(selection.stills), strict=True)
            ],
            self.skipped,
            note,
            grayscale,
            self._count_outcomes(selection),
            settings,
            central_fraction,
            vertical_offset,
            torch.from_numpy(self.outcomes == Outcome.WHOLE) if central_fraction < 1 else None,
        )

    def _central_fraction(self, margin: float | None, vertical_offset: float, stored: float | None) -> float:
        if margin is None or stored is None or not (self.outcomes < Outcome.WHOLE).any():
            return 1.0
        if stored < (needed := outer_margin(margin, vertical_offset)):
            raise UserError(
                f"the crops have a margin of {stored:g} but the model needs {needed:g}: crop or prepare the data set "
                f"with margin={needed:g}"
            )
        return margin / stored

    def _count_outcomes(self, selection: Selection) -> dict[str, int]:
        found = Counter(self.outcomes[selection.rows].tolist())
        for dropped in (Outcome.OFF_TRACK, Outcome.BEYOND):
            found[dropped] = int((self.outcomes == dropped).sum())
        return {Outcome(outcome).label: found[outcome] for outcome in sorted(found) if found[outcome]}

    def with_stills(self, other: "CropTable") -> "CropTable":
        """Combine the clips of this data set with the stills of another; people are matched by name.

        Args:
            other: the data set with the stills.

        Returns:
            The clips of this data set and the stills of `other`.

        Raises:
            UserError: if the crops of the two differ in size or margin.
        """
        for name in ("size", "margin"):
            clips, stills = (table.about["settings"][name] for table in (self, other))
            if clips != stills:
                raise UserError(
                    f"clips with crops of {name} {clips} cannot be combined with stills of {name} {stills}: prepare "
                    "both with the same settings"
                )
        parts = [self._take(stills=False), other._take(stills=True)]
        skipped = Skipped()
        for table in (self, other):
            skipped.merge(table.skipped.counts, table.skipped.examples)
        return CropTable(
            Manifest(pa.concat_tables([part.manifest.table.select(SCHEMA.names) for part in parts])),
            parts[0].crops + parts[1].crops,
            np.concatenate([part.outcomes for part in parts]),
            skipped,
            self.about,
        )

    def _take(self, stills: bool) -> Self:
        rows = np.flatnonzero(self.manifest.is_still() == stills)
        crops = self.crops.take(torch.from_numpy(rows))
        return dataclasses.replace(self, manifest=self.manifest.take(rows), crops=crops, outcomes=self.outcomes[rows])


def empty_error(skipped: Skipped) -> UserError:
    """Return the error for a data set without images, with the reasons why files were skipped."""
    return UserError(f"the data set is empty: {'; '.join(skipped.lines()) or 'there are no images in it'}")


def outer_margin(margin: float, vertical_offset: float) -> float:
    """Return the margin of the smallest centered crop that contains a crop of a given margin and vertical offset.

    Args:
        margin: margin of the inner crop.
        vertical_offset: offset of its center, as a fraction of its side.
    """
    return margin * (1 + 2 * abs(vertical_offset))


def load_faces(
    rows: Iterable[Row], skipped: Skipped, *, grayscale: bool = False, note: str = "", seed: int = 0, **options: Any
) -> FaceSet:
    """Read a data set into memory.

    Args:
        rows: rows of a reader; the frames of a clip in time order.
        skipped: counts images that cannot be decoded.
        grayscale: return images as luma.
        note: text stored with the data set, for reports.
        seed: random seed for the choice of frames.
        **options: size, margin (1 by default) and detector as in `CropSettings`; n_workers and advance as in
            `load_rows`; max_frames, frames and n_people as in `select`.

    Returns:
        The data set, people sorted by name.

    Raises:
        UserError: if no image is left, or an option is out of range.
    """
    given: dict[str, Any] = {name: options.pop(name) for name in ("size", "margin", "detector") if name in options}
    settings = CropSettings(**({"margin": 1.0} | given))
    running = {name: options.pop(name) for name in ("n_workers", "advance") if name in options}
    table = load_rows(rows, skipped, settings, options | {"seed": seed}, **running)
    # People are chosen once: some may have lost an image since.
    return table.face_set(grayscale=grayscale, note=note, **options | {"seed": seed, "n_people": None})


def load_rows(
    rows: Iterable[Row],
    skipped: Skipped,
    settings: CropSettings,
    chosen: dict[str, Any] | None = None,
    *,
    n_workers: int = 1,
    advance: Callable[[int, int], object] = lambda done, of: None,
) -> CropTable:
    """Crop the faces of a reader's rows in memory.

    Args:
        rows: rows of a reader, or its manifest.
        skipped: counts images that cannot be decoded.
        settings: size, margin and detector.
        chosen: choice of people and frames, as in `select`; other images are not read. All frames of a chosen video
            file are read.
        n_workers: number of processes.
        advance: called with the number of rows done since the last call, and the total.

    Returns:
        The rows that were read, with their crops.
    """
    manifest = rows if isinstance(rows, Manifest) else Manifest.from_rows(rows)
    manifest = manifest.take(to_read(manifest, **(chosen or {})))
    used = list(manifest)
    batch = crop_faces(used, settings, n_workers, lambda n: advance(n, len(used)))
    count_faults(batch.outcomes, used, skipped)
    crops = CropStore.of(torch.from_numpy(batch.crops))
    return CropTable(manifest, crops, batch.outcomes, skipped, {"settings": dataclasses.asdict(settings)})


def without_images(manifest: Manifest, skipped: Skipped) -> CropTable:
    """Return a table in which every row has an empty crop, to check people and splits without reading images.

    Args:
        manifest: rows of the data set.
        skipped: what the readers skipped.
    """
    n = len(manifest)
    crops = CropStore.of(torch.zeros(n, 3, 1, 1, dtype=torch.uint8))
    return CropTable(manifest, crops, np.full(n, Outcome.GIVEN, np.uint8), skipped)


def count_faults(outcomes: NDArray[np.uint8], rows: Iterable[Row], skipped: Skipped) -> None:
    """Count rows with faulty data.

    Args:
        outcomes: (N,) values of `Outcome`.
        rows: (N,) rows.
        skipped: receives the counts.
    """
    for outcome, row in zip(outcomes.tolist(), rows, strict=True):
        if Outcome(outcome).is_fault:
            skipped.add(Outcome(outcome).label, row.key)


def is_prepared(path: str | Path) -> bool:
    """Return whether a folder was written by `prepare`."""
    return (Path(path).expanduser() / MANIFEST_FILE).is_file()


def open_prepared(folder: str | Path) -> CropTable:
    """Open a folder that `prepare` wrote. The manifest is read, the crops are memory-mapped.

    Args:
        folder: the folder, or the manifest in it.

    Returns:
        The rows with their crops.

    Raises:
        UserError: if the folder or one of its files is missing or damaged.
    """
    folder = Path(folder).expanduser()
    folder = folder.parent if folder.name == MANIFEST_FILE else folder
    manifest, about = read_prepared(folder)
    blocks = [folder / about["crops"] / name for name in about["blocks"]]
    absent = [block for block in blocks if not block.is_file()]
    if absent:
        raise UserError(f"{absent[0]} is missing: run facereel prepare again, which writes the missing blocks")
    outcome, block, place = (manifest.table[name].to_numpy() for name in ("outcome", "block", "place"))
    skipped = Skipped()
    skipped.merge(about["skipped"]["counts"], about["skipped"]["examples"])
    crops = CropStore(
        blocks,
        torch.from_numpy(block.astype(np.int64)),
        torch.from_numpy(place.astype(np.int64)),
        about["settings"]["size"],
    )
    crops.open()  # another run of `prepare` cannot remove them from now on
    return CropTable(manifest, crops, outcome, skipped, about)


def read_prepared(folder: Path) -> tuple[Manifest, dict[str, Any]]:
    """Read the manifest that `prepare` wrote into a folder.

    Args:
        folder: the folder, or the manifest in it.

    Returns:
        The manifest and its metadata.

    Raises:
        UserError: if the manifest is missing, damaged or not written by `prepare`.
    """
    path = folder if folder.name == MANIFEST_FILE else folder / MANIFEST_FILE
    manifest = Manifest.load(path)
    record = (manifest.table.schema.metadata or {}).get(ABOUT)
    if record is None:
        raise UserError(f"{path} was not written by facereel prepare: it has no crops")
    check_schema(path, manifest.table, PREPARED_COLUMNS, ("bytes", "split"))
    try:
        about = parse_json(record)
        _check_record(path, about)
        for name, most in (("outcome", max(Outcome)), ("block", len(about["blocks"]) - 1), ("place", 2**31)):
            values = manifest.table[name].to_numpy()
            if len(values) and not 0 <= values.min() <= values.max() <= most:
                raise ValueError(f"{name} is out of range")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): run facereel prepare again") from error
    return manifest, about


def _check_record(path: Path, about: dict[str, Any]) -> None:
    """Check the metadata of a prepared manifest.

    Raises:
        ValueError: if a value is invalid; KeyError, TypeError or AttributeError if one is missing or of another type.
        UserError: if a block is outside the folder.
    """
    names, settings, skipped = [about["crops"], *about["blocks"]], about["settings"], about["skipped"]
    if any(type(name) is not str or "\0" in name for name in names):
        raise ValueError("crops or blocks are not names")
    for name in names:
        if Path(name).name != name or name == "..":
            raise UserError(f"{path} names crops in {name}, outside its folder: run facereel prepare again")
    if type(about["blocks"]) is not list or not (settings["detector"] is None or type(settings["detector"]) is str):
        raise ValueError("blocks or detector has another type")
    CropSettings(settings["size"], settings["margin"], None)
    if type(settings["size"]) is not int or not math.isfinite(settings["margin"]):
        raise ValueError("size or margin is not a number")
    counts, examples = skipped["counts"], skipped["examples"]
    if len(skipped) != 2 or counts.keys() != examples.keys() or any(type(n) is not int for n in counts.values()):
        raise ValueError("the counts of skipped files are damaged")
    if any(type(names) is not list or any(type(name) is not str for name in names) for names in examples.values()):
        raise ValueError("the names of skipped files are damaged")
