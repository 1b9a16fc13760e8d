"""Verification protocols of data sets: pairs of clips or stills in folds, each pair of one person or of two."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from facereel.data import Clip, FaceSet, Still
from facereel.errors import UserError
from facereel.evaluation.split import Pair, Part, Split
from facereel.storage.insightface_bin import insightface_key, read_insightface_bin

# The note that counts excluded pairs.
ABSENT = "pairs excluded, since the data set lacks one of the two"

# Number of folds if a file does not define them.
N_FOLDS = 10

_IS_SAME = {"0": False, "1": True}


class _Pairs:
    """A protocol that verifies the pairs in a file. There is no training part; test has the items of the pairs.

    Args:
        root: folder of the data set, in which to find the file; None if there is no folder.
        pairs: path of the file, if it is not in the root.
    """

    name: str
    items: str
    """Name of the items in messages."""
    places: tuple[str, ...]
    """Possible paths of the file in the root."""
    names_items = True
    """Whether the file of the protocol can be checked before images are read."""

    def __init__(self, root: str | Path | None = None, pairs: str | Path | None = None) -> None:
        self.root = None if root is None else Path(root)
        self.pairs = None if pairs is None else Path(pairs)

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Put the items of all pairs into test.

        Args:
            faces: the data set.
            seed: only recorded: nothing is drawn.

        Returns:
            The split.

        Raises:
            UserError: if there are no pairs, or the data set has the items of too few of them.
        """
        file = self._file()
        pairs, items = self._read(file), self._by_name(faces)
        if any(f"{key}#0" in items for pair in pairs for key in (pair.first, pair.second)):
            raise UserError(f"protocol={self.name} needs whole videos: data.frames must be even or random, not pieces")
        # Sorted, so that all files with the same pairs give the same split.
        kept = sorted(
            pair._replace(first=items[pair.first].key, second=items[pair.second].key)
            for pair in pairs
            if pair.first in items and pair.second in items
        )
        found = f"the data set has the {self.items} of {len(kept)} of the {len(pairs)} pairs in {file}"
        if len({pair.fold for pair in kept}) < 2:
            raise UserError(f"{found}, but at least two folds are needed; check data.root and protocol.pairs")
        if len({pair.same for pair in kept}) < 2:
            raise UserError(f"{found}, all of one kind; pairs of the same person and of two people are needed")
        named = {key for pair in kept for key in (pair.first, pair.second)}
        of_pairs = sorted((item for item in items.values() if item.key in named), key=lambda item: item.key)
        test = Part(
            [item for item in of_pairs if isinstance(item, Clip)],
            [item for item in of_pairs if isinstance(item, Still)],
        )
        split = Split(self.name, seed, searches_train=False, test=test, pairs=kept, pairs_file=file.name)
        if len(kept) < len(pairs):
            split.notes[ABSENT] = len(pairs) - len(kept)
        split.check()
        return split

    def _by_name(self, faces: FaceSet) -> Mapping[str, Clip | Still]:
        """Return the items by their names in the file."""
        return {still.key: still for still in faces.stills}

    def _read(self, file: Path) -> list[Pair]:
        raise NotImplementedError

    def _file(self) -> Path:
        if self.pairs is not None:
            return self.pairs
        if self.root is None:
            raise UserError(
                f"protocol={self.name} needs protocol.pairs=FILE: there is no data.root in which to find the file"
            )
        # data.root may be the folder of the frames itself.
        root = self.root.parent if self.root.name == "frame_images_DB" else self.root
        for place in self.places:
            if (root / place).is_file():
                return root / place
        absent = f"{root} has no {' nor '.join(self.places)}" if any(self.places) else f"{root} is not a file"
        raise UserError(f"protocol={self.name}: {absent}; set protocol.pairs=FILE")


class YouTubeFacesPairs(_Pairs):
    """The ten-fold verification protocol of YouTube Faces (Wolf, Hassner and Maoz, CVPR 2011).

    Args:
        root: folder of the data set, in which to find the file; None if there is no folder.
        pairs: path of splits.txt or meta_and_splits.mat, if it is not in the root.
    """

    name = "youtube_faces_pairs"
    items = "clips"
    # Paths in the original data set; both files have the same content.
    places = ("splits.txt", "meta_data/meta_and_splits.mat")

    def _by_name(self, faces: FaceSet) -> Mapping[str, Clip | Still]:
        return {clip.key: clip for clip in faces.clips}

    def _read(self, file: Path) -> list[Pair]:
        return read_pairs(file)


class LFWPairs(_Pairs):
    """The verification protocol of Labeled Faces in the Wild (Huang, Ramesh, Berg and Learned-Miller 2007).

    Args:
        root: folder that contains a folder per person; None if there is no folder.
        pairs: path of pairs.txt, pairsDevTrain.txt or pairsDevTest.txt; by default, pairs.txt in the root or next to
            it.
    """

    name = "lfw_pairs"
    items = "images"
    places = ("pairs.txt", "../pairs.txt")

    def _by_name(self, faces: FaceSet) -> Mapping[str, Clip | Still]:
        # PERSON_0001 with any folder and suffix: copies with aligned faces are often PNG files.
        return {Path(still.key).stem: still for still in faces.stills}

    def _read(self, file: Path) -> list[Pair]:
        return read_lfw_pairs(file)


class InsightFacePairs(_Pairs):
    """Verification of the pairs in an InsightFace file such as lfw.bin, cfp_fp.bin or agedb_30.bin, in ten folds.

    Args:
        root: the file, which is also the root of its data set.
        pairs: another file with the same images.
    """

    name = "insightface_pairs"
    items = "images"
    places = ("",)

    def _read(self, file: Path) -> list[Pair]:
        _, same = read_insightface_bin(file)
        folds = _blocks(len(same), N_FOLDS)
        keys = [insightface_key(i) for i in range(2 * len(same))]
        return [Pair(*pair) for pair in zip(folds, keys[::2], keys[1::2], same, strict=True)]


def read_pairs(file: Path) -> list[Pair]:
    """Read the pairs of YouTube Faces, by fold and in the order of the file.

    Args:
        file: splits.txt, with a header and lines of fold, first PERSON/VIDEO, second PERSON/VIDEO, is same, is male;
            or, if its suffix is .mat, meta_and_splits.mat, with `Splits` (N, 3, folds): two 1-based indices into
            `video_names`, and is same.

    Returns:
        The pairs; folds are counted from 1.

    Raises:
        UserError: if the file is missing or has other content.
    """
    if not file.is_file():
        raise UserError(f"protocol.pairs: there is no file {file}")
    return _read_mat(file) if file.suffix.lower() == ".mat" else _read_text(file)


def _read_text(file: Path) -> list[Pair]:
    # Decoded like names of folders, so that a name that is not UTF-8 is still found.
    lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    pairs = []
    for place, (number, line) in enumerate(filled):
        fields = [field.strip() for field in line.split(",")]
        if place == 0 and (len(fields) < 4 or fields[3] not in _IS_SAME):
            continue  # the header
        try:
            fold, first, second, same = fields[:4]
            pairs.append(Pair(int(fold), _key(first), _key(second), _IS_SAME[same]))
        except (KeyError, ValueError) as error:
            expected = "fold, PERSON/VIDEO, PERSON/VIDEO, 0 or 1"
            raise UserError(f"{file}, line {number}: not a pair ({expected}): {line.strip()[:80]}") from error
    return pairs


def _read_mat(file: Path) -> list[Pair]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(f"reading {file} needs SciPy: pip install scipy, or set protocol.pairs=splits.txt") from error
    try:
        content = loadmat(file, appendmat=False, variable_names=["Splits", "video_names"])
        names = [_key(str(cell.item())) for cell in content["video_names"].ravel()]
        # MATLAB drops the dimension of a single fold.
        table = np.atleast_3d(np.asarray(content["Splits"], dtype=np.float64))
    except Exception as error:  # a damaged file may cause many kinds of errors
        reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{file} cannot be read as meta_and_splits.mat of YouTube Faces: {reason}") from error
    if table.ndim != 3 or table.shape[1] != 3:
        raise UserError(f"{file}: Splits must be pairs x 3 x folds, not {' x '.join(map(str, table.shape))}")
    pairs = []
    for fold in range(table.shape[2]):
        for row, (first, second, same) in enumerate(table[:, :, fold].tolist()):
            places = range(1, len(names) + 1)
            if first not in places or second not in places or same not in (0, 1):
                found = f"{first:g}, {second:g}, {same:g}"
                raise UserError(
                    f"{file}: Splits({row + 1}, :, {fold + 1}) must be two indices from 1 to {len(names)} and 0 or 1, "
                    f"not {found}"
                )
            pairs.append(Pair(fold + 1, names[int(first) - 1], names[int(second) - 1], bool(same)))
    return pairs


def read_lfw_pairs(file: Path) -> list[Pair]:
    """Read the pairs of LFW, by fold and in the order of the file.

    Args:
        file: pairs.txt starts with the number of folds and the number of pairs of each kind per fold. pairsDevTrain.txt
            and pairsDevTest.txt start with the number of pairs of each kind; their pairs of one person, and those of
            two people, are divided into ten folds of consecutive pairs (our choice). The lines that follow are PERSON,
            N, M for the images PERSON_000N and PERSON_000M of one person, and PERSON, N, PERSON, M for two people.

    Returns:
        The pairs; folds are counted from 1, and an image is named PERSON_000N.

    Raises:
        UserError: if the file is missing or has other content.
    """
    if not file.is_file():
        raise UserError(f"protocol.pairs: there is no file {file}")
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    filled = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    header = filled[0][1].split() if filled else []
    if len(header) not in (1, 2) or not all(word.isascii() and word.isdecimal() and len(word) < 9 for word in header):
        raise UserError(f"{file}: the first line must be the numbers of folds and of pairs per fold, or of pairs")
    n_folds, n_pairs = (int(header[0]), int(header[1])) if len(header) == 2 else (1, int(header[0]))
    if len(filled) - 1 != (expected := 2 * n_folds * n_pairs):
        raise UserError(f"{file} has {len(filled) - 1} pairs, not {expected} as in its first line")
    pairs = []
    divided = 2 * _blocks(n_pairs, N_FOLDS)
    for place, (number, line) in enumerate(filled[1:]):
        fold = place // (2 * n_pairs) + 1 if len(header) == 2 else divided[place]
        fields = line.split()
        same = len(fields) == 3
        try:
            first, n, second, m = (*fields[:2], fields[0], fields[2]) if same else fields
            pairs.append(Pair(fold, f"{first}_{int(n):04}", f"{second}_{int(m):04}", same))
        except ValueError as error:
            form = "PERSON, N, M or PERSON, N, PERSON, M"
            raise UserError(f"{file}, line {number}: not a pair ({form}): {line.strip()[:80]}") from error
    return pairs


def _blocks(n: int, n_blocks: int) -> list[int]:
    """Return the block (n,) of each of n consecutive items, from 1; the first blocks may have one item more."""
    return [number for number, block in enumerate(np.array_split(range(n), n_blocks), start=1) for _ in block]


def _key(name: str) -> str:
    """Return the key of the clip PERSON/VIDEO.

    Raises:
        ValueError: if the name has another form.
    """
    parts = [part.strip() for part in name.replace("\\", "/").split("/")]
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"{name!r} is not PERSON/VIDEO")
    return "/".join(parts)
