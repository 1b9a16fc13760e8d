"""IJB-B and IJB-C: templates, sets of stills and video frames of one person."""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facereel.data.manifest import Row
from facereel.data.readers.csv_table import numbers, slashes
from facereel.data.readers.listing import existing, face_box, natural
from facereel.errors import UserError
from facereel.system.skipped import Skipped

# Names of the galleries for identification, by the prefix of the files.
_GALLERIES = {"ijbc": ("G1", "G2"), "ijbb": ("S1", "S2")}
_NIST_FOLDERS = ("protocols", "protocol")
_BOX = ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT")


@dataclass(frozen=True)
class IjbFiles:
    """Locations of the lists in a copy of IJB-B or IJB-C."""

    root: Path
    name: str
    """ijbb or ijbc."""
    lists: Path
    """Folder of the lists: meta, protocols or protocol."""

    @property
    def is_insightface(self) -> bool:
        """Whether this is InsightFace's release with cropped images and landmarks; else it is NIST's."""
        return self.lists.name == "meta"

    @property
    def pairs_file(self) -> Path:
        """The file with pairs of templates."""
        if self.is_insightface:
            return self.lists / f"{self.name}_template_pair_label.txt"
        return self.lists / f"{self.name}_11_{'_'.join(_GALLERIES[self.name])}_matches.csv"

    @property
    def gallery_files(self) -> list[Path]:
        """The files with the templates of the two galleries."""
        return [self.lists / f"{self.name}_1N_gallery_{gallery}.csv" for gallery in _GALLERIES[self.name]]

    @property
    def probe_file(self) -> Path:
        """The file with the probe templates."""
        return self.lists / f"{self.name}_1N_probe_mixed.csv"

    def read_subjects(self) -> dict[int, str]:
        """Read the subject of each template.

        Some copies of InsightFace's release have no gallery and probe lists. Then a subject is named after their
        gallery template, the first one in a pair of one person.

        Returns:
            The subjects by template number.

        Raises:
            UserError: if a list is missing or damaged.
        """
        files = [*self.gallery_files, self.probe_file]
        if self.is_insightface and not any(file.is_file() for file in files):
            pairs = read_integers(self.pairs_file, 3)
            own = {template: f"template {template}" for template in np.unique(pairs[:, :2]).tolist()}
            same = pairs[pairs[:, 2] == 1, :2].tolist()
            return {**own, **{probe: own[enrolled] for enrolled, probe in same}}
        return {template: subject for file in files for template, subject in read_templates(file).items()}

    def read_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Read the verification pairs.

        Returns:
            (P, 2) template numbers, and a (P,) mask that is True for pairs of one person.

        Raises:
            UserError: if a list is missing or damaged.
        """
        if self.is_insightface:
            pairs = read_integers(self.pairs_file, 3)
            return pairs[:, :2], pairs[:, 2] == 1
        pairs = read_integers(self.pairs_file, 2, ",")
        subjects = self.read_subjects()
        templates = np.array(sorted(subjects), np.int64)
        subject = np.unique([subjects[template] for template in templates.tolist()], return_inverse=True)[1]
        place = np.minimum(np.searchsorted(templates, pairs), len(templates) - 1)
        known = (templates[place] == pairs).all(axis=1)
        return pairs, (subject[place[:, 0]] == subject[place[:, 1]]) & known


class _Image(NamedTuple):
    """An image of a template."""

    subject: str
    template: int
    medium: str
    """Name of the video or still, unique in the template."""
    name: str
    file: str
    box: tuple[float, float, float, float] | None = None
    landmarks: tuple[float, ...] | None = None


def find_ijb(root: str | Path) -> IjbFiles:
    """Find the lists in a copy of IJB-B or IJB-C.

    Args:
        root: folder of the data set.

    Returns:
        The locations of the lists.

    Raises:
        UserError: if the folder or its lists are missing.
    """
    root = existing(root)
    for name in _GALLERIES:
        for folder, sign in (("meta", "face_tid_mid.txt"), *((f, "1N_probe_mixed.csv") for f in _NIST_FOLDERS)):
            if (root / folder / f"{name}_{sign}").is_file():
                return IjbFiles(root, name, root / folder)
    raise UserError(
        f"cannot find IJB-B or IJB-C in {root}: expected meta/ijbc_face_tid_mid.txt (InsightFace's release) or "
        "protocols/ijbc_1N_probe_mixed.csv (NIST's release), or the same files of ijbb"
    )


def read_ijb(root: str | Path, skipped: Skipped) -> Iterator[Row]:
    """Read IJB-B (Whitelam et al., CVPR workshops 2017) or IJB-C (Maze et al., ICB 2018).

    Two layouts are supported: NIST's, with boxes, and InsightFace's, with cropped images and landmarks.

    Args:
        root: folder with meta and loose_crop, or with protocols (IJB-B: protocol) and images.
        skipped: counts unreadable and duplicate lines, and images of templates without a subject.

    Yields:
        A row for each image, by subject, template and medium. The frames of one video in a template are a clip; a
        medium with one image is a still. A row's source is the template, its key is TEMPLATE/MEDIUM/FILE.

    Raises:
        UserError: if a list is missing or damaged.
    """
    files = find_ijb(root)
    images = list(_insightface(files, skipped) if files.is_insightface else _nist(files, skipped))
    n_images = Counter((image.template, image.medium) for image in images)
    images.sort(key=lambda i: (natural(i.subject), i.subject, i.template, natural(i.medium), natural(i.name), i.name))
    for image in images:
        medium = f"{image.template}/{image.medium}"
        clip = medium if n_images[image.template, image.medium] > 1 else ""
        key, source = f"{medium}/{image.name}", str(image.template)
        yield Row(image.subject, clip, source, key, image.file, box=image.box, landmarks=image.landmarks)


def _insightface(files: IjbFiles, skipped: Skipped) -> Iterator[_Image]:
    folder = files.root / "loose_crop"
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    subjects = files.read_subjects()
    landmarks = {}
    points_file = files.lists / f"{files.name}_name_5pts_score.txt"
    for line in _lines(points_file):
        name, *cells = line.split()
        points = numbers(cells[:10])
        if points is None or len(points) < 10:
            skipped.add("line that cannot be read", f"{points_file.name}: {line.strip()[:60]}")
        else:
            landmarks[name] = points
    seen: set[tuple[str, str]] = set()
    media_file = files.lists / f"{files.name}_face_tid_mid.txt"
    for line in _lines(media_file):
        cells = line.split()
        if len(cells) != 3 or not all(cell.isdecimal() for cell in cells[1:]) or "/" in slashes(cells[0]):
            skipped.add("line that cannot be read", f"{media_file.name}: {line.strip()[:60]}")
        elif (cells[0], cells[1]) in seen:
            skipped.add("duplicate line", f"{media_file.name}: {line.strip()[:60]}")
        elif int(cells[1]) not in subjects:
            skipped.add("image of a template without a subject", cells[0])
        else:
            name, template, medium = cells[0], int(cells[1]), cells[2]
            seen.add((name, cells[1]))
            file = f"{folder}/{name}"
            yield _Image(subjects[template], template, medium, name, file, landmarks=landmarks.get(name))


def _nist(files: IjbFiles, skipped: Skipped) -> Iterator[_Image]:
    # NIST's IJB-C has img and frames in images; in IJB-B they are next to the folder of the lists.
    folder = files.root / "images" if (files.root / "images").is_dir() else files.root
    seen: set[tuple[str, ...]] = set()
    for file in (*files.gallery_files, files.probe_file):
        for cells in _cells(file, ("TEMPLATE_ID", "SUBJECT_ID", "FILENAME", "SIGHTING_ID", *_BOX)):
            template, subject, path, medium = cells[:4]
            place, box = slashes(path), numbers(cells[4:])
            face = None if box is None else face_box(box[0], box[1], box[2], box[3])
            if face is None or not template.isdecimal() or ".." in place.split("/") or "" in cells[:4]:
                skipped.add("line that cannot be read", f"{file.name}: {','.join(cells)[:60]}")
            elif (template, medium, place) in seen:
                skipped.add("duplicate line", f"{file.name}: {','.join(cells)[:60]}")
            else:
                seen.add((template, medium, place))
                yield _Image(subject, int(template), medium, place, f"{folder}/{place}", box=face)


def read_templates(file: Path) -> dict[int, str]:
    """Read the subject of each template in a gallery or probe list.

    Args:
        file: the list.

    Returns:
        The subjects by template number, in the order of the file.

    Raises:
        UserError: if the list is missing or damaged.
    """
    subjects = {}
    for template, subject in _cells(file, ("TEMPLATE_ID", "SUBJECT_ID")):
        if template.isdecimal() and subject:
            subjects[int(template)] = subject
    if not subjects:
        raise UserError(f"{file} has no templates")
    return subjects


def read_integers(file: Path, n_columns: int, delimiter: str | None = None) -> NDArray[np.int64]:
    """Read a table of integers without a header; it may have millions of lines.

    Args:
        file: text file.
        n_columns: expected number of columns.
        delimiter: separator of the columns; None means whitespace.

    Returns:
        (N, n_columns) int64.

    Raises:
        UserError: if the file is missing or damaged.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    if not file.stat().st_size:
        raise UserError(f"{file} is empty")
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            table = np.loadtxt(lines, np.int64, delimiter=delimiter, ndmin=2)
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    if table.shape[1] != n_columns:
        raise UserError(f"{file} must have {n_columns} columns, not {table.shape[1]}")
    return table


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            yield from (line for line in lines if line.strip())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


def _cells(file: Path, columns: tuple[str, ...]) -> Iterator[list[str]]:
    """Yield the requested cells of each line, empty where the line is too short.

    Raises:
        UserError: if the file cannot be read, or a column is missing.
    """
    rows = csv.reader(_lines(file), skipinitialspace=True)
    # The first release of IJB-B calls the file FILE.
    names = ["FILENAME" if name.strip() == "FILE" else name.strip() for name in next(rows, [])]
    absent = [column for column in columns if column not in names]
    if absent:
        raise UserError(f"{file}: the header has no column {', '.join(absent)}")
    places = [names.index(column) for column in columns]
    for row in rows:
        yield [row[place].strip() if place < len(row) else "" for place in places]
