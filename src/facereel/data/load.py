"""A data set ready to train on: cut on the fly from its rows, or opened as `facereel prepare` wrote it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from facereel.columns import check_columns
from facereel.data.crops import CropSettings, Outcome, cut_faces
from facereel.data.faces import Clip, FaceSet, Still
from facereel.data.manifest import SCHEMA, Manifest, Row
from facereel.data.select import select, to_read
from facereel.data.store import CropStore
from facereel.errors import UserError
from facereel.files import parse_json
from facereel.skipped import Skipped

MANIFEST_FILE = "manifest.parquet"

# What `prepare` adds to a manifest's rows, and the key of its own record in the file's metadata.
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
class Loaded:
    """Rows with their crops."""

    manifest: Manifest
    crops: CropStore
    outcomes: NDArray[np.uint8]
    """(N,) of `Outcome`."""
    skipped: Skipped
    about: dict[str, Any] = field(default_factory=dict)
    """The settings of the crops, and what else `prepare` recorded: source, root and more."""

    def face_set(
        self, *, grey: bool = False, note: str = "", margin: float | None = None, shift: float = 0.0, **chosen: Any
    ) -> FaceSet:
        """Number the people and name the items of the rows that have a crop; `chosen` as in `select`.

        Args:
            grey: hand out the luma only.
            note: kept with the data set, for reports.
            margin: hand out so much of the crops, which may be wider; None takes them as they are. Pictures that were
                taken whole have no margin.
            shift: how far below the middle that part lies, in its own sides.
            **chosen: as in `select`.

        Raises:
            UserError: if nothing is left, or the crops are narrower than `margin`.
        """
        share, own = 1.0, self.about.get("settings", {}).get("margin")
        if margin is not None and own is not None and (self.outcomes < Outcome.WHOLE).any():
            needed = outer_margin(margin, shift)
            if own < needed:
                raise UserError(
                    f"the crops have a margin of {own:g} and the model needs {needed:g}: set data.margin={needed:g}, "
                    f"or prepare the data set with --margin {needed:g}"
                )
            share = margin / own
        clips, stills = selection = select(self.manifest, self.outcomes <= Outcome.WHOLE, **chosen)
        if not clips and not len(stills):
            reasons = "; ".join(self.skipped.lines()) or "there are no pictures in it"
            raise UserError(f"the data set is empty: {reasons}")
        names, person = self.manifest.names("person")
        people = sorted({who for who, *_ in clips} | {names[p] for p in np.unique(person[stills])})
        number = {name: i for i, name in enumerate(people)}
        found = Counter(self.outcomes[selection.rows].tolist())
        for left_out in (Outcome.OFF_TRACK, Outcome.BEYOND):
            found[left_out] = int((self.outcomes == left_out).sum())
        # A source is a person's own: two people may both have a video called 1.
        return FaceSet(
            people,
            self.crops,
            self.manifest,
            [
                Clip(number[who], f"{who}/{source}", f"{who}/{name}", tuple(rows.tolist()))
                for who, source, name, rows in clips
            ],
            [
                Still(number[row.person], f"{row.person}/{row.source}", row.key, int(i))
                for i, row in zip(stills, self.manifest.take(stills), strict=True)
            ],
            self.skipped,
            note,
            grey,
            {Outcome(o).label: found[o] for o in sorted(found) if found[o]},
            self.about.get("settings", {}),
            share,
            shift,
            torch.from_numpy(self.outcomes == Outcome.WHOLE) if share < 1 else None,
        )

    def with_stills(self, other: Loaded) -> Loaded:
        """The clips of this data set with the stills of another, joined by the person's name.

        Raises:
            UserError: if their crops are of another size or margin.
        """
        for name in ("size", "margin"):
            own, others = (loaded.about["settings"][name] for loaded in (self, other))
            if own != others:
                raise UserError(
                    f"crops of {name} {own} and {others} do not go together: prepare clips and stills alike"
                )
        parts = [self._take(stills=False), other._take(stills=True)]
        skipped = Skipped()
        for loaded in (self, other):
            skipped.merge(loaded.skipped.counts, loaded.skipped.examples)
        return Loaded(
            Manifest(pa.concat_tables([part.manifest.table.select(SCHEMA.names) for part in parts])),
            parts[0].crops + parts[1].crops,
            np.concatenate([part.outcomes for part in parts]),
            skipped,
            self.about,
        )

    def _take(self, stills: bool) -> Loaded:
        rows = np.flatnonzero(self.manifest.is_still() == stills)
        crops = self.crops.take(torch.from_numpy(rows))
        return Loaded(self.manifest.take(rows), crops, self.outcomes[rows], self.skipped, self.about)


def outer_margin(margin: float, shift: float) -> float:
    """The margin of a centred crop that holds one of another margin whose middle is moved down, or up."""
    return margin * (1 + 2 * abs(shift))


def load_faces(
    rows: Iterable[Row], skipped: Skipped, *, grey: bool = False, note: str = "", seed: int = 0, **options: Any
) -> FaceSet:
    """Read a data set into memory.

    Args:
        rows: from a reader; the frames of a clip in time order.
        skipped: counts what does not decode.
        grey: hand out the luma only.
        note: kept with the data set, for reports.
        seed: of random draws.
        **options: size, margin, detector, n_workers and advance as in `load_rows`; max_frames, frames and n_people as
            in `select`.

    Returns:
        The data set, with people in the order of their names.

    Raises:
        UserError: if nothing is left, or for an option out of range.
    """
    chosen = {name: options[name] for name in ("max_frames", "frames", "n_people") if name in options} | {"seed": seed}
    cutting = {name: value for name, value in options.items() if name not in chosen}
    loaded = load_rows(rows, skipped, chosen, **cutting)
    # People are chosen once: a second time some may have lost a picture.
    return loaded.face_set(grey=grey, note=note, **{**chosen, "n_people": None})  # type: ignore[arg-type]


def load_rows(
    rows: Iterable[Row],
    skipped: Skipped,
    chosen: dict[str, Any] | None = None,
    *,
    size: int = 64,
    margin: float = 1.0,
    detector: str | None = None,
    n_workers: int = 1,
    advance: Callable[[int, int], object] = lambda done, of: None,
) -> Loaded:
    """Cut the faces of a reader's rows into memory.

    Args:
        rows: from a reader.
        skipped: counts what does not decode.
        chosen: which rows, as in `select`; the others are not read, but frames of video files.
        size: side of a crop in pixels.
        margin: the crop's side over the face box's longer side.
        detector: finds landmarks where rows have none: "mtcnn", the path of a YuNet ONNX file, or None.
        n_workers: processes that cut.
        advance: told how many more rows are cut, of how many.
    """
    settings = CropSettings(size, margin, detector)
    manifest = Manifest.from_rows(rows)
    manifest = manifest.take(to_read(manifest, **(chosen or {})))
    kept = list(manifest)
    cut = cut_faces(kept, settings, n_workers, lambda n: advance(n, len(kept)))
    count_faults(cut.outcomes, kept, skipped)
    crops = CropStore.of(torch.from_numpy(cut.crops))
    return Loaded(manifest, crops, cut.outcomes, skipped, {"settings": dataclasses.asdict(settings)})


def count_faults(outcomes: NDArray[np.uint8], rows: Iterable[Row], skipped: Skipped) -> None:
    """Count the rows whose data is at fault."""
    for outcome, row in zip(outcomes.tolist(), rows, strict=True):
        if Outcome(outcome).is_fault:
            skipped.add(Outcome(outcome).label, row.key)


def is_prepared(path: str | Path) -> bool:
    """Whether a folder is what `facereel prepare` wrote."""
    return (Path(path).expanduser() / MANIFEST_FILE).is_file()


def open_prepared(folder: str | Path) -> Loaded:
    """Open what `facereel prepare` wrote: the manifest is read, the crops are memory-mapped.

    Args:
        folder: the command's OUT.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    folder = Path(folder).expanduser()
    folder = folder.parent if folder.name == MANIFEST_FILE else folder
    manifest, about = read_prepared(folder)
    blocks = [folder / about["crops"] / name for name in about["blocks"]]
    absent = [block for block in blocks if not block.is_file()]
    if absent:
        raise UserError(f"{absent[0]} is absent: run facereel prepare again, it makes what is missing")
    columns = {name: manifest.table[name].to_numpy() for name in ("outcome", "block", "place")}
    block, place = (torch.from_numpy(columns[name].astype(np.int64)) for name in ("block", "place"))
    skipped = Skipped()
    skipped.merge(**about["skipped"])
    crops = CropStore(blocks, block, place, about["settings"]["size"])
    crops.open()  # from here on another run of prepare takes nothing away
    return Loaded(manifest, crops, columns["outcome"], skipped, about)


def read_prepared(folder: Path) -> tuple[Manifest, dict[str, Any]]:
    """The manifest that `facereel prepare` wrote into a folder, and its record of how.

    Raises:
        UserError: if there is none, or another program wrote it.
    """
    path = folder if folder.name == MANIFEST_FILE else folder / MANIFEST_FILE
    manifest = Manifest.load(path)
    record = (manifest.table.schema.metadata or {}).get(ABOUT)
    if record is None:
        raise UserError(f"{path} was not written by facereel prepare: it has no crops")
    check_columns(path, manifest.table, PREPARED_COLUMNS, ("bytes", "split"))
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
    """Raise a ValueError, KeyError or TypeError if a record is not what `prepare` writes."""
    names, settings, skipped = [about["crops"], *about["blocks"]], about["settings"], about["skipped"]
    if any(type(name) is not str or "\0" in name for name in names):
        raise ValueError("crops or blocks are not names")
    for name in names:
        if Path(name).name != name or name == "..":
            raise UserError(f"{path} names {name} as a folder or file of crops, which leads out of its own folder")
    if type(about["blocks"]) is not list or not (settings["detector"] is None or type(settings["detector"]) is str):
        raise ValueError("blocks or detector is of another kind")
    CropSettings(settings["size"], settings["margin"], None)
    if type(settings["size"]) is not int or not math.isfinite(settings["margin"]):
        raise ValueError("size or margin is no number")
    if skipped.keys() != {"counts", "examples"} or not all(type(n) is int for n in skipped["counts"].values()):
        raise ValueError("what was skipped is not counted")
    kinds = skipped["counts"].keys()
    if skipped["examples"].keys() != kinds or not all(
        type(names) is list and all(type(name) is str for name in names) for names in skipped["examples"].values()
    ):
        raise ValueError("what was skipped has no names")
