"""YouTube Faces' own protocol: pairs of videos in folds, each of one person or of two."""

from pathlib import Path

import numpy as np

from facereel.data import FaceSet
from facereel.errors import UserError
from facereel.evaluation.split import Pair, Part, Split

# Where the data set itself puts its pairs; both files have the same content.
PLACES = ("splits.txt", "meta_data/meta_and_splits.mat")

# The note that counts excluded pairs.
ABSENT = "pairs excluded, since the data set lacks their clips"

_IS_SAME = {"0": False, "1": True}


class YouTubeFacesPairs:
    """The ten-fold verification of YouTube Faces (Wolf, Hassner and Maoz, CVPR 2011): same person, or not?

    Nothing is trained on; test has the clips that a pair names.

    Args:
        root: of the data set, in which to find the pairs; None if it has none.
        pairs: splits.txt or meta_and_splits.mat, if not the one in the root.
    """

    name = "youtube_faces_pairs"

    def __init__(self, root: str | Path | None = None, pairs: str | Path | None = None) -> None:
        self.root = None if root is None else Path(root)
        self.pairs = None if pairs is None else Path(pairs)

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Put the clips of all pairs into test.

        Args:
            faces: the data set.
            seed: only recorded: there is nothing to draw.

        Raises:
            UserError: if there are no pairs, or too few of them name clips of the data set.
        """
        file = self._file()
        pairs = read_pairs(file)
        clips = {clip.key: clip for clip in faces.clips}
        if any(f"{key}#0" in clips for pair in pairs for key in (pair.first, pair.second)):
            raise UserError(
                f"protocol={self.name} compares whole videos: data.frames must be even or random, not pieces"
            )
        # Sorted, so that both files give the same split.
        kept = sorted(pair for pair in pairs if pair.first in clips and pair.second in clips)
        found = f"of the {len(pairs)} pairs in {file} the data set has the clips of {len(kept)}"
        if len({pair.fold for pair in kept}) < 2:
            raise UserError(f"{found}, and a threshold needs two folds or more; check data.root and protocol.pairs")
        if len({pair.same for pair in kept}) < 2:
            raise UserError(f"{found}, all of one kind; pairs of the same person and of two people are needed")
        named = sorted({key for pair in kept for key in (pair.first, pair.second)})
        test = Part([clips[key] for key in named])
        split = Split(self.name, seed, searches_train=False, test=test, pairs=kept, pairs_file=file.name)
        if len(kept) < len(pairs):
            split.notes[ABSENT] = len(pairs) - len(kept)
        split.check()
        return split

    def _file(self) -> Path:
        if self.pairs is not None:
            return self.pairs
        if self.root is None:
            raise UserError(
                f"protocol={self.name} needs protocol.pairs=FILE: the data set has no data.root to find it in"
            )
        # data.root may be the folder of the frames itself.
        root = self.root.parent if self.root.name == "frame_images_DB" else self.root
        for place in PLACES:
            if (root / place).is_file():
                return root / place
        raise UserError(f"protocol={self.name}: {root} has no {' nor '.join(PLACES)}; give protocol.pairs=FILE")


def read_pairs(file: Path) -> list[Pair]:
    """Read the pairs of YouTube Faces, by fold and in the order of the file.

    Args:
        file: splits.txt, with a header and lines of fold, first and second PERSON/VIDEO, is same, is male; or, by its
            suffix, meta_and_splits.mat, with `Splits` (N, 3, folds) of 1-based places in `video_names`, and is same.

    Returns:
        The pairs, folds counted from 1.

    Raises:
        UserError: if the file is absent or has other content.
    """
    if not file.is_file():
        raise UserError(f"protocol.pairs: there is no file {file}")
    return _read_mat(file) if file.suffix.lower() == ".mat" else _read_text(file)


def _read_text(file: Path) -> list[Pair]:
    # As names of folders are read: a name that is not UTF-8 still finds its clip.
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
        raise UserError(f"{file} is read with SciPy: pip install scipy, or give protocol.pairs=splits.txt") from error
    try:
        content = loadmat(file, appendmat=False, variable_names=["Splits", "video_names"])
        names = [_key(str(cell.item())) for cell in content["video_names"].ravel()]
        # A single fold comes without its dimension.
        table = np.atleast_3d(np.asarray(content["Splits"], dtype=np.float64))
    except Exception as error:  # a damaged file ends in errors of many kinds
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{file} cannot be read as YouTube Faces' meta_and_splits.mat: {reason}") from error
    if table.ndim != 3 or table.shape[1] != 3:
        raise UserError(f"{file}: Splits must be pairs x 3 x folds, not {' x '.join(map(str, table.shape))}")
    pairs = []
    for fold in range(table.shape[2]):
        for row, (first, second, same) in enumerate(table[:, :, fold].tolist()):
            places = range(1, len(names) + 1)
            if first not in places or second not in places or same not in (0, 1):
                found = f"{first:g}, {second:g}, {same:g}"
                raise UserError(
                    f"{file}: Splits({row + 1}, :, {fold + 1}) is not two of {len(names)} videos and 0 or 1: {found}"
                )
            pairs.append(Pair(fold + 1, names[int(first) - 1], names[int(second) - 1], bool(same)))
    return pairs


def _key(name: str) -> str:
    """The key of the clip PERSON/VIDEO."""
    parts = [part.strip() for part in name.replace("\\", "/").split("/")]
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"{name!r} is not PERSON/VIDEO")
    return "/".join(parts)
