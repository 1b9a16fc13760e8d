"""A list of your own is evaluated exactly, and what is wrong in it is named by line."""

import pytest
import torch
from bare_faces import make_faces

from facereel.data import Clip, FaceSet
from facereel.errors import UserError
from facereel.evaluation import Encoded, Lists, Split, evaluate_codes

LIST = """part,key,remark
train,p0/c0,
gallery,p0/c0,also trained on
gallery,p1/c0,
gallery,p1/c1,
gallery,stills/p0/0,
val,p2/c0,
query,p0/c1,
query,stills/p1/0,
"query","p1/c2/1",a frame
"""


@pytest.fixture
def faces():
    return make_faces([3, 3, 2], [1, 2, 0])


def make(tmp_path, text=LIST, **options):
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    return Lists(tmp_path / "list.csv", **options)


def keys(part):
    return [item.key for item in part.clips], [item.key for item in part.stills]


def test_parts_follow_the_order_of_the_file(tmp_path, faces):
    split = make(tmp_path).split(faces, 7)
    assert keys(split.train) == (["p0/c0"], [])
    assert keys(split.val) == (["p2/c0"], [])
    assert keys(split.test) == (["p0/c1"], ["stills/p1/0", "p1/c2/1"])
    assert keys(split.gallery(split.test)) == (["p0/c0", "p1/c0", "p1/c1"], ["stills/p0/0"])
    assert split.gallery(split.val) is split.train  # some of the gallery is trained on
    assert (split.protocol, split.seed, split.leaves_out) == ("lists", 7, "item")
    # Every clip is a source of its own here.
    assert split.notes == {}


def test_spaces_order_of_columns_and_a_byte_order_mark_do_not_matter(tmp_path, faces):
    expected = make(tmp_path).split(faces, 0)
    lines = ["key, part", *(", ".join(line.split(",")[1::-1]) for line in LIST.replace('"', "").splitlines()[1:]), ""]
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert Lists(tmp_path / "list.csv").split(faces, 0) == expected


def test_without_training_val_searches_itself(tmp_path, faces):
    split = make(tmp_path, LIST.replace("train,p0/c0", "train,p2/c1")).split(faces, 0)
    assert not split.searches_train
    assert split.gallery(split.val) is split.val


def test_a_split_file_keeps_the_gallery(tmp_path, faces):
    split = make(tmp_path).split(faces, 0)
    split.save(tmp_path / "split.json")
    loaded = Split.load(tmp_path / "split.json", faces)
    assert loaded == split
    assert keys(loaded.gallery(loaded.test)) == keys(split.listed_gallery)
    other = make(tmp_path, LIST.replace("gallery,p1/c1,\n", "")).split(faces, 0)
    assert other.sha256 != split.sha256


def encoded(part, n_bits=8):
    """Codes that depend on the key only."""
    both = {}
    for kind, items in part.by_kind.items():
        rows = [torch.rand(n_bits, generator=torch.Generator().manual_seed(sum(item.key.encode()))) for item in items]
        scores = torch.stack(rows)
        both[kind] = Encoded(scores > 0.5, scores, torch.tensor([item.person for item in items]), items)
    return both


@pytest.mark.parametrize(("leave_out", "n_excluded"), [("nothing", 0), ("item", 1), ("source", 2)])
def test_every_query_searches_the_whole_gallery(tmp_path, leave_out, n_excluded):
    faces = make_faces([3, 3], [0, 0])
    # p0/c0 and p0/c1 are of one source.
    clips = [Clip(c.person, "p0/c0" if c.key == "p0/c1" else c.source, c.key, c.rows) for c in faces.clips]
    faces = FaceSet(faces.people, faces.crops, faces.rows, clips, [])
    text = "part,key\n" + "".join(f"gallery,{clip.key}\n" for clip in clips) + "query,p0/c0\n"
    split = make(tmp_path, text, leave_out=leave_out).split(faces, 0)
    assert split.notes == {"queries with an item of the same source in the gallery, as listed": 1}
    results = evaluate_codes(encoded(split.test), encoded(split.gallery(split.test)), split.leaves_out)
    (result,) = results.values()
    assert result.metrics["n_gallery"] == 6
    assert result.n_items.sum() == 6 - n_excluded


def test_source_in_train_and_query_is_noted(tmp_path):
    faces = make_faces([2, 1], [2, 0], own_source=False)
    text = "part,key\ntrain,p0/c0\ngallery,p0/c1\nquery,stills/p0/0\n"
    split = make(tmp_path, text).split(faces, 0)
    assert split.notes == {"queries of a source that is also in train, as listed": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must have the columns part and key"),
        ("part;key\ntrain;p0/c0\n", "the first line must have the columns part and key"),
        ("train,p0/c0\n", "the first line must have the columns part and key"),
        ("part,key\n\ntest,p0/c0\n", "line 3: part 'test' is not one of train, val, gallery, query"),
        ("part,key\nquery\n", "line 2: it has no key"),
        ("part,key\nquery,p0/c0\nquery, p0/c0 \n", "line 3: repeats line 2, query of p0/c0"),
        ("part,key\nquery,p0/c0\n", "no line has the part gallery"),
        ("part,key\ntrain,p0/c0\n", "no line has the part gallery or query"),
    ],
)
def test_file_is_checked_before_data_is_read(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path, text)
    assert "list.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("query,p0/c1", "query,p0/c9"),
            r"1 of 9 keys are not in the data set: line 8 \(p0/c9\)\. Its keys look like p0/c0 or stills/p0/0$",
        ),
        (("key,remark\n", "key\n" + "".join(f"val,x{i}\n" for i in range(7))), r"line 6 \(x4\) and 2 more"),
        (("query,p0/c1", "query,p0/c0"), "has the item p0/c0 in both train and test"),
        (("query,p0/c1", "query,p2/c0"), "has the item p2/c0 in both val and test"),
    ],
)
def test_mistakes_in_the_keys_are_named(tmp_path, faces, change, message):
    protocol = make(tmp_path, LIST.replace(*change))
    with pytest.raises(UserError, match=message):
        protocol.split(faces, 0)


def test_gallery_without_a_match_raises(tmp_path, faces):
    with pytest.raises(UserError, match="no query has an item of the same person in the gallery"):
        make(tmp_path, "part,key\ngallery,p0/c0\nquery,p1/c0\n").split(faces, 0)
    with pytest.raises(UserError, match="no query has an item of the same person in the gallery"):
        make(tmp_path, "part,key\ngallery,p0/c0\nquery,p0/c0\n").split(faces, 0)
    split = make(tmp_path, "part,key\ngallery,p0/c0\nquery,p0/c0\n", leave_out="nothing").split(faces, 0)
    assert split.gallery(split.test).clips == split.test.clips


def test_wrong_arguments_raise(tmp_path, faces):
    with pytest.raises(UserError, match=r"protocol=lists needs protocol\.file=FILE"):
        Lists(None)
    with pytest.raises(UserError, match=r"protocol\.leave_out=clip: must be one of source, item, nothing"):
        make(tmp_path, leave_out="clip")
    # A run with a split of its own does not need the file any more.
    protocol = Lists(tmp_path / "gone.csv")
    with pytest.raises(UserError, match=r"protocol\.file: there is no file .*gone\.csv"):
        protocol.split(faces, 0)


def test_ambiguous_key_raises(tmp_path, faces):
    still = faces.stills[0]
    both = FaceSet(faces.people, faces.crops, faces.rows, faces.clips, [type(still)(0, "s", "p0/c1", still.row)])
    with pytest.raises(UserError, match="p0/c1 is the key of both a clip and a still"):
        make(tmp_path, "part,key\ngallery,p0/c0\nquery,p0/c1\n").split(both, 0)
