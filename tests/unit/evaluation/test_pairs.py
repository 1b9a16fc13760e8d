import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from drawn_faces import make_pairs

from facereel.data import Clip, FaceSet, Row
from facereel.errors import UserError
from facereel.evaluation import Pair, Part, Split, YouTubeFacesPairs
from facereel.evaluation.pairs import ABSENT, read_pairs

PEOPLE = {"Ann_Lee": 3, "Bo_Öz": 2, "Cy": 2, "Di": 2}
HEADER = "split number, first name, second name, is same, is male\n"


def write_mat(path, pairs, names=None):
    from scipy.io import savemat

    names = names or sorted({key for pair in pairs for key in (pair.first, pair.second)}, reverse=True)
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    folds = sorted({pair.fold for pair in pairs})
    rows = [
        [[names.index(p.first) + 1, names.index(p.second) + 1, p.same] for p in pairs if p.fold == n] for n in folds
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"Splits": np.array(rows, float).transpose(1, 2, 0), "video_names": cells})
    return path


def equal_folds():
    """As in the genuine files every fold has as many pairs."""
    pairs = []
    for fold in (1, 2, 3):
        pairs += [Pair(fold, "Ann_Lee/0", f"Ann_Lee/{n}", True) for n in (1, 2)]
        pairs += [Pair(fold, "Bo_Öz/1", f"Cy/{n}", False) for n in (0, 1)]
    return pairs


def write_text(path, pairs):
    lines = [f"{p.fold}, {p.first}, {p.second}, {int(p.same)}, 1" for p in pairs]
    path.write_text(HEADER + "\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def faces():
    names = [(person, str(n)) for person, count in PEOPLE.items() for n in range(count)]
    rows = [Row(person, n, n, f"{person}/{n}/0.jpg", "") for person, n in names]
    people = list(PEOPLE)
    clips = [Clip(people.index(p), f"{p}/{n}", f"{p}/{n}", (i,)) for i, (p, n) in enumerate(names)]
    return FaceSet(people, torch.zeros(len(rows), 3, 2, 2, dtype=torch.uint8), rows, clips, [])


def test_lines_are_read_tolerantly(tmp_path):
    path = tmp_path / "splits.txt"
    text = HEADER + "\n   1 ,  Ann_Lee/0  ,Ann_Lee\\1 , 1 , 0\n\n2,Bo_Öz/1,Cy/0,0,1   \n2,Cy/0,Cy/1,1\n \n"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    expected = [
        Pair(1, "Ann_Lee/0", "Ann_Lee/1", True),
        Pair(2, "Bo_Öz/1", "Cy/0", False),
        Pair(2, "Cy/0", "Cy/1", True),
    ]
    assert read_pairs(path) == expected
    path.write_text(text.removeprefix(HEADER + "\n"), encoding="utf-8-sig")  # a first line that is a pair is no header
    assert read_pairs(path) == expected


@pytest.mark.parametrize(
    "line",
    [
        "1, A/0, B/0",
        "1, A/0, B/0, 2, 0",
        "one, A/0, B/0, 1, 0",
        "1, A, B/0, 1, 0",
        "1, A/0, B/0/1, 1, 0",
        "1, /0, B/0, 0",
    ],
)
def test_a_malformed_line_is_named(tmp_path, line):
    path = tmp_path / "splits.txt"
    path.write_text(f"{HEADER}\n1, A/0, B/0, 0, 1\n{line}\n")
    with pytest.raises(UserError, match=r"splits\.txt, line 4: not a pair .*: " + line):
        read_pairs(path)


def test_both_files_hold_the_same_pairs_and_make_the_same_split(tmp_path, faces):
    text = write_text(tmp_path / "splits.txt", equal_folds())
    mat = write_mat(tmp_path / "meta_and_splits.mat", equal_folds())
    assert read_pairs(text) == read_pairs(mat) == equal_folds()
    splits = [YouTubeFacesPairs(pairs=file).split(faces, 0) for file in (text, mat)]
    assert splits[0].sha256 == splits[1].sha256
    assert [split.pairs_file for split in splits] == ["splits.txt", "meta_and_splits.mat"]


def test_damaged_mat_files_are_refused(tmp_path):
    from scipy.io import savemat

    path = tmp_path / "meta_and_splits.mat"
    names = ["Ann_Lee/0", "Ann_Lee/1"]
    path.write_bytes(b"\0" * 300)
    with pytest.raises(UserError, match=r"meta_and_splits\.mat cannot be read"):
        read_pairs(path)
    savemat(path, {"Splits": np.ones((2, 3, 2))})
    with pytest.raises(UserError, match="it lacks 'video_names'"):
        read_pairs(path)
    write_mat(path, [Pair(1, names[0], names[1], True), Pair(2, "Cy", "Ann_Lee/1", True)], [*names, "Cy"])
    with pytest.raises(UserError, match="'Cy' is not PERSON/VIDEO"):
        read_pairs(path)
    savemat(path, {"Splits": np.ones((2, 4, 2)), "video_names": np.array(names, object)})
    with pytest.raises(UserError, match="Splits must be pairs x 3 x folds, not 2 x 4 x 2"):
        read_pairs(path)
    for bad in ([1, 3, 1], [0, 1, 1], [1.5, 2, 1], [1, 2, 2], [1, float("nan"), 0]):
        table = np.array([[[1, 2, 1], [1, 2, 0]], [[1, 2, 1], bad]], float).transpose(1, 2, 0)
        savemat(path, {"Splits": table, "video_names": np.array(names, object)})
        with pytest.raises(UserError, match=r"Splits\(2, :, 2\) is not two of 2 videos and 0 or 1"):
            read_pairs(path)


@pytest.mark.slow
def test_without_scipy_a_line_says_what_to_do(tmp_path, monkeypatch):
    path = write_mat(tmp_path / "meta_and_splits.mat", equal_folds())
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match=r"pip install scipy, or give protocol\.pairs=splits\.txt"):
        read_pairs(path)
    # Nothing else asks for it.
    code = "import sys; sys.modules['scipy'] = None; import facereel.evaluation"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pairs_are_looked_for_in_the_root(tmp_path):
    protocol = YouTubeFacesPairs(tmp_path)
    with pytest.raises(UserError, match=r"has no splits\.txt nor meta_data/meta_and_splits\.mat"):
        protocol._file()
    write_mat(tmp_path / "meta_data" / "meta_and_splits.mat", equal_folds())
    assert protocol._file() == tmp_path / "meta_data" / "meta_and_splits.mat"
    write_text(tmp_path / "splits.txt", equal_folds())
    assert protocol._file() == tmp_path / "splits.txt"
    assert YouTubeFacesPairs(tmp_path / "frame_images_DB")._file() == tmp_path / "splits.txt"
    assert YouTubeFacesPairs(tmp_path, "other.txt")._file().name == "other.txt"
    with pytest.raises(UserError, match=r"needs protocol\.pairs=FILE: the data set has no data\.root"):
        YouTubeFacesPairs()._file()
    with pytest.raises(UserError, match=r"protocol\.pairs: there is no file"):
        read_pairs(tmp_path / "other.txt")


def test_test_holds_the_clips_of_the_pairs_and_absent_ones_are_counted(tmp_path, faces):
    pairs = [*equal_folds(), Pair(1, "Ann_Lee/0", "Ann_Lee/9", True), Pair(2, "Nobody/0", "Cy/0", False)]
    split = YouTubeFacesPairs(pairs=write_text(tmp_path / "splits.txt", pairs)).split(faces, 0)
    assert split.pairs == sorted(equal_folds())
    assert split.notes == {ABSENT: 2}
    assert [clip.key for clip in split.test.clips] == [
        "Ann_Lee/0", "Ann_Lee/1", "Ann_Lee/2", "Bo_Öz/1", "Cy/0", "Cy/1",
    ]  # fmt: skip
    assert not split.test.stills
    assert not split.train.clips


def test_too_few_pairs_are_refused(tmp_path, faces):
    def split(pairs):
        return YouTubeFacesPairs(pairs=write_text(tmp_path / "splits.txt", pairs)).split(faces, 0)

    with pytest.raises(UserError, match=r"of the 1 pairs in .*splits\.txt the data set has the clips of 0"):
        split([Pair(1, "Nobody/0", "Nobody/1", True)])
    with pytest.raises(UserError, match="two folds or more"):
        split([pair for pair in equal_folds() if pair.fold == 1])
    with pytest.raises(UserError, match="has the clips of 6, all of one kind"):
        split([pair for pair in equal_folds() if pair.same])
    with pytest.raises(UserError, match="of the 0 pairs"):
        split([])


def test_pairs_come_back_from_the_split_file_and_are_part_of_its_hash(tmp_path, faces):
    split = YouTubeFacesPairs(pairs=write_text(tmp_path / "splits.txt", equal_folds())).split(faces, 0)
    path = tmp_path / "split.json"
    split.save(path)
    loaded = Split.load(path, faces)
    assert loaded == split
    assert loaded.sha256 == json.loads(path.read_text())["sha256"]
    other = [*split.pairs[:-1], split.pairs[-1]._replace(same=not split.pairs[-1].same)]
    assert Split(split.protocol, 0, False, test=split.test, pairs=other).sha256 != split.sha256
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "pairs": [[1, "Ann_Lee/0", "Di/1", False]]}))
    with pytest.raises(UserError, match="a pair of Ann_Lee/0 and Di/1, not both clips of test"):
        Split.load(path, faces)
    path.write_text(json.dumps({**content, "pairs": [[1, "Ann_Lee/0"]]}))
    with pytest.raises(UserError, match="is not a split file"):
        Split.load(path, faces)


def test_a_split_without_pairs_keeps_its_hash_and_file(tmp_path):
    clips = [Clip(p, f"p{p}/c{c}", f"p{p}/c{c}", (2 * p + c,)) for p in range(2) for c in range(2)]
    split = Split("leave_one_out", 7, False, test=Part(clips))
    split.save(tmp_path / "split.json")
    # As written before there were pairs.
    assert split.sha256 == "4c924c394c915502c43b454b4b48fa632923c1e6ca17e39bed7639c03df62ad5"
    assert list(json.loads((tmp_path / "split.json").read_text())) == [
        "protocol", "seed", "searches_train", "train", "val", "test", "pretrain_only", "sha256", "notes",
    ]  # fmt: skip


def test_drawn_pairs_are_pairs_of_the_drawn_tree(tmp_path, faces):
    pairs = read_pairs(make_pairs(tmp_path, PEOPLE, n_folds=2))
    assert {pair.fold for pair in pairs} == {1, 2}
    assert {pair.same for pair in pairs} == {True, False}
    assert all(pair.same == (pair.first.split("/")[0] == pair.second.split("/")[0]) for pair in pairs)
    assert {key for pair in pairs for key in (pair.first, pair.second)} <= {clip.key for clip in faces.clips}
