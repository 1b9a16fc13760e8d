"""Milvus against the flat FAISS index, in a milvus-lite file and on a server; see conftest.py."""

import json
import re
import sys
from importlib.util import find_spec
from itertools import count

import numpy as np
import pytest
import torch

from facereel.cli.convert import convert_command
from facereel.errors import UserError
from facereel.functional import pack_codes
from facereel.models import VideoHasher
from facereel.models.hasher import DEFAULT_CONFIG
from facereel.retrieval import CodeIndex, milvus_queue
from facereel.retrieval.backends import milvus as module
from facereel.retrieval.backends.milvus import MilvusIndex, checked_uri
from facereel.retrieval.backends.milvus_collection import MilvusCollection
from facereel.retrieval.face_search import FaceSearch, Query
from facereel.retrieval.track_database import TrackDatabase
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord, Within

pytestmark = pytest.mark.slow

NUMBERS = count()


def new(n_bits, uri):
    return MilvusIndex(n_bits, uri, f"test_{next(NUMBERS)}")


@pytest.fixture(params=[12, 48, 64, 128])
def both(request, uri):
    """The same codes in Milvus and in FAISS: repetitions, ids in no order, some removed."""
    generator = torch.Generator().manual_seed(request.param)
    codes = torch.rand(30, request.param, generator=generator) > 0.5
    codes = codes[torch.randint(30, (120,), generator=generator)]
    codes[60:, :8] ^= torch.rand(60, 8, generator=generator) > 0.7
    ids = torch.randperm(500, generator=generator)[:120]
    indexes = new(request.param, uri), CodeIndex(request.param)
    for index in indexes:
        index.add(codes[:70], ids[:70])
        index.add(codes[70:], ids[70:])
        assert index.remove(torch.cat([ids[20:40], torch.tensor([1000])])) == 20
    return *indexes, torch.rand(9, request.param, generator=generator), ids


def assert_same(milvus, flat, *arguments, **options):
    ours, expected = milvus.search(*arguments, **options), flat.search(*arguments, **options)
    assert ours[0].dtype == expected[0].dtype
    assert torch.equal(ours[1], expected[1])
    assert torch.equal(ours[0], expected[0])


def assert_all_the_same(milvus, flat, scores, ids):
    codes = scores > 0.5
    assert len(milvus) == len(flat)
    for k in (1, 7, 100, 200):
        assert_same(milvus, flat, codes, k)
        assert_same(milvus, flat, codes, k, subset_ids=ids[::3])
    for k, rerank_k in ((3, 1), (3, 15), (20, 5), (5, 999)):
        assert_same(milvus, flat, codes, k, scores=scores, rerank_k=rerank_k)
        assert_same(milvus, flat, codes, k, scores=scores, rerank_k=rerank_k, subset_ids=ids[::3])
    for radius in (0, 3, flat.n_bits):
        for (distances, found), (its_distances, its_found) in zip(
            milvus.range_search(codes, radius), flat.range_search(codes, radius), strict=True
        ):
            assert torch.equal(distances, its_distances)
            assert torch.equal(found, its_found)


def test_results_equal_faiss_in_order(both):
    assert_all_the_same(*both)


@pytest.mark.parametrize("both", [12], indirect=True)
def test_ties_beyond_the_milvus_limit_are_requested_in_parts(both, monkeypatch):
    milvus, flat, scores, _ = both
    sizes = []
    search = MilvusCollection.search

    def watched(self, packed, limit, *rest):
        for found in search(self, packed, limit, *rest):
            sizes.append((len(found[0]), limit))
            yield found

    monkeypatch.setattr(MilvusCollection, "search", watched)
    monkeypatch.setattr(module, "MOST", 8)
    monkeypatch.setattr(module, "MORE", 1)
    codes = scores > 0.5
    for k in (1, 3, 8):
        assert_same(milvus, flat, codes, k)
    assert_same(milvus, flat, codes, 2, scores=scores, rerank_k=8)
    for ours, expected in zip(milvus.range_search(codes, 12), flat.range_search(codes, 12), strict=True):
        assert torch.equal(ours[1], expected[1])
    assert max(size for size, _ in sizes) == 8
    assert all(limit <= 8 for _, limit in sizes)
    with pytest.raises(UserError, match="at most 8 tracks per search, not 9"):
        milvus.search(codes, 9)


@pytest.mark.parametrize("both", [48], indirect=True)
def test_ids_and_packed_codes_are_sorted_by_id(both):
    milvus, flat, _, _ = both
    order = np.argsort(flat.ids)
    assert milvus.ids.tolist() == flat.ids[order].tolist()
    assert milvus.packed.tolist() == flat.packed[order].tolist()


@pytest.mark.parametrize("both", [48], indirect=True)
def test_other_client_and_server_find_the_same(both):
    milvus, flat, scores, _ = both
    place = milvus.place
    assert_same(MilvusIndex.at(flat.n_bits, place), flat, scores > 0.5, 9)
    if not place["uri"].endswith(".db"):  # test_milvus_server.py starts a server again
        return
    from milvus_lite.server_manager import server_manager_instance

    milvus.collection.client.close()
    server_manager_instance.release_server(place["uri"])
    assert_same(MilvusIndex.at(flat.n_bits, place), flat, scores > 0.5, 9)


def test_empty_milvus_index_finds_nothing(uri):
    index = new(12, uri)
    codes = torch.zeros(2, 12, dtype=torch.bool)
    assert len(index) == 0
    assert index.search(codes, 3)[1].shape == (2, 0)
    assert index.search(codes, 3, scores=codes.float(), rerank_k=4)[1].shape == (2, 0)
    assert [ids.tolist() for _, ids in index.range_search(codes, 12)] == [[], []]
    assert index.packed.shape == (0, 2)
    assert index.remove(torch.zeros(0, dtype=torch.int64)) == 0
    index.add(codes[:1], torch.tensor([5]))
    assert index.search(codes[:0], 3)[1].shape == (0, 1)
    assert index.search(codes, 3, subset_ids=torch.tensor([], dtype=torch.int64))[1].shape == (2, 0)


def test_invalid_input_raises_as_in_faiss(uri):
    index = new(12, uri)
    codes = torch.zeros(2, 12, dtype=torch.bool)
    index.add(codes[:1], torch.tensor([5]))
    for ids, message in (
        ([5, 6], "already stored"),
        ([7, 7], "ids must be unique"),
        ([-1, 3], "non-negative"),
        ([1], "must have the shape"),
    ):
        with pytest.raises(ValueError, match=message):
            index.add(codes, torch.tensor(ids))
    assert len(index) == 1
    with pytest.raises(ValueError, match="set rerank_k"):
        index.search(codes, 1, scores=codes.float())


def test_milvus_limit_is_reported_in_one_line(uri):
    index = new(12, uri)
    index.add(torch.zeros(2, 12, dtype=torch.bool), torch.tensor([0, 1]))
    index.__class__ = type("Large", (MilvusIndex,), {"__len__": lambda self: 10**6})
    with pytest.raises(UserError, match=r"^Milvus finds at most 16,384 tracks per search, not 16,385: .*") as error:
        index.search(torch.zeros(1, 12, dtype=torch.bool), 16_385)
    assert "\n" not in str(error.value)


def test_foreign_collection_is_not_changed(uri):
    client = new(12, uri).collection.client
    client.create_collection("foreign", dimension=4)
    with pytest.raises(UserError, match=r"collection foreign at .* was not created by facereel for codes of 12 bits"):
        MilvusIndex(12, uri, "foreign")
    assert client.has_collection("foreign")
    ours = new(12, uri)
    with pytest.raises(UserError, match='bits: it is "facereel: codes of 12 bits"'):
        MilvusIndex(16, uri, ours.place["collection"])


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "http://127.0.0.1:1/name"])
def test_missing_server_is_reported_in_one_line(uri, tmp_path):
    with pytest.raises(UserError, match=r"^Milvus at http://127\.0\.0\.1:1.*check that the server is running") as error:
        convert_command(index_in(tmp_path).folder, None, "milvus", uri)
    assert "\n" not in str(error.value)
    assert TrackIndex(tmp_path / "index").backend == {"kind": "flat"}


@pytest.mark.skipif(find_spec("milvus_lite") is None, reason="milvus-lite has no wheel for this system")
def test_locked_or_invalid_file_is_reported_in_one_line(tmp_path):
    (tmp_path / "bad.db").write_text("once upon a time\n" * 100)
    for name in ("bad.db", "absent/x.db"):
        with pytest.raises(UserError, match=r"^Milvus at .*\.db: .*one process at a time") as error:
            MilvusIndex(12, str(tmp_path / name), "x")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://me:secret@host:19530", "MILVUS_TOKEN"),
        ("host:19530", "must be an address such as http"),
        ("codes", "must be an address such as http"),
        ("a b.db", "must have at most 36 characters"),
        ("http://host:99999", "[Pp]ort"),
    ],
)
def test_invalid_addresses_raise(uri, message):
    with pytest.raises(UserError, match=message) as error:
        checked_uri(uri)
    assert "secret" not in str(error.value)


def test_missing_pymilvus_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(UserError, match=r"^pymilvus is not installed: pip install 'facereel\[milvus\]'$"):
        convert_command(tmp_path, None, "milvus", "http://localhost:19530")


def test_untrusted_index_contacts_no_server_and_creates_no_file(pair, tmp_path, monkeypatch):
    """An untrusted server would receive MILVUS_TOKEN. The user must choose an address; nothing is dropped there."""
    ours, expected = pair
    kept = ours.backend
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "of somebody else"))
    with monkeypatch.context() as patch:
        patch.setattr(MilvusCollection, "_connect", None)
        for place in (kept, {**kept, "uri": str(tmp_path / "new.db")}):
            with ours._database.write() as database:
                database.execute("UPDATE about SET value = ? WHERE name = 'codes'", (json.dumps(place),))
            chosen = f"at {re.escape(place['uri'])}, an address that another user chose.* facereel index"
            with pytest.raises(UserError, match=chosen):
                TrackIndex(ours.folder).codes()
        convert_command(ours.folder, backend="faiss")
    assert found(TrackIndex(ours.folder)) == found(expected)
    assert len(MilvusIndex(N_BITS, kept["uri"], kept["collection"])) == 12


def test_place_of_another_user_is_not_contacted(uri, monkeypatch):
    place = new(12, uri).place
    monkeypatch.setattr(MilvusCollection, "_connect", None)
    for harmed in ({**place, "collection": "other"}, {}, {"seal": place["seal"]}):
        with pytest.raises(UserError, match="another user"):
            MilvusIndex.at(12, harmed)


# An index of tracks.

N_BITS = 48
PATHS = ["/a/one.mp4", "/a/b/two.mp4", "/ab/three.mp4", '/a "q"/4.mp4', "/a\\b/5.mp4", "/ä/it's {6}.mp4"]


def code(seed):
    return torch.rand(N_BITS, generator=torch.Generator().manual_seed(seed)) > 0.5


def track(number, seed, person=None):
    return NewTrack(number, 0.0, 1.0, person, code(seed), b"image")


def index_in(tmp_path, name="index"):
    torch.manual_seed(1)
    model = VideoHasher({**DEFAULT_CONFIG, "pooling": {"_target_": "facereel.models.MeanPooling"}})
    index = TrackIndex.create(tmp_path / name, model, {"detector": "mtcnn", "size": 200, "margin": 1.4})
    for number, path in enumerate(PATHS):
        tracks = [track(0, 10 * number), track(1, 10 * number + 1, "Ada" if number % 2 else None)]
        index.upsert_video(VideoRecord(path, "s", None if number == 2 else 100.0 * number, "t"), tracks)
    return index


@pytest.fixture
def pair(tmp_path, uri):
    """The same tracks with the codes in Milvus and in FAISS."""
    ours, expected = index_in(tmp_path), index_in(tmp_path, "expected")
    ours.set_backend(uri=uri)
    ours.save_codes()
    return ours, expected


def found(index, within=None):
    scores = torch.rand(N_BITS, generator=torch.Generator().manual_seed(5))
    by_code = index.search(code(21), 20, within=within)
    by_scores = index.search(scores > 0.5, 20, scores=scores, within=within)
    return [[(match.track.id, match.track.video, match.distance) for match in some] for some in (by_code, by_scores)]


def collection(index):
    """The content of Milvus."""
    return MilvusIndex(N_BITS, index.backend["uri"], index.backend["collection"])


def test_filters_equal_faiss(pair):
    ours, expected = pair
    folders = ("/a", "/a/", "/a/b", '/a "q"', "/a\\b", "/ä", "/%", "/a/one.mp4")
    filters = [Within(folder=folder) for folder in folders]
    filters += [Within(since=200.0), Within(until=200.0), Within(folder="/a", since=50.0, until=150.5), Within()]
    sizes = []
    for within in (None, *filters):
        assert found(ours, within) == found(expected, within)
        sizes.append(len(found(ours, within)[0]))
    assert sizes == [12, 4, 4, 2, 2, 2, 2, 0, 0, 6, 4, 2, 12]


def test_filters_run_on_the_server(pair, monkeypatch):
    asked = []
    search = MilvusCollection.search
    monkeypatch.setattr(
        MilvusCollection,
        "search",
        lambda self, packed, limit, where: asked.append(where) or search(self, packed, limit, where),
    )
    monkeypatch.setattr(TrackDatabase, "ids_within", None)
    found(pair[0], Within(folder="/a", since=1.0))
    assert set(asked) == {'(video > "/a/" and video < "/a0" and date >= 1.0)'}


def test_additions_changes_and_erasures_reach_milvus(pair):
    for index in pair:
        index.upsert_video(VideoRecord("/a/one.mp4", "s2", 1.0, "t"), [track(0, 77)])
        index.remove_video("/ab/three.mp4")
        index.upsert_video(VideoRecord("/new.mp4", "s", None, "t"), [track(0, 21), track(1, 21)])
        index.remove_person("Ada")
        index.save_codes()
    ours, expected = pair
    held = collection(ours)
    assert held.ids.tolist() == [one.id for one in expected.tracks()]
    assert np.packbits(code(11)).tobytes() not in [row.tobytes() for row in held.packed]
    assert found(ours) == found(expected)
    assert found(TrackIndex(ours.folder)) == found(expected)


def test_pending_changes_are_sent_by_the_next_process(pair, monkeypatch):
    ours, expected = pair
    before = found(ours)
    for index in pair:
        index.remove_video("/a/b/two.mp4")
        index.upsert_video(VideoRecord("/new.mp4", "s", None, "t"), [track(0, 21)])

    def fail(*arguments):
        raise UserError("Milvus at x: no")

    with monkeypatch.context() as patch:
        patch.setattr(MilvusCollection, "delete", fail)  # after the codes were put there
        with pytest.raises(UserError, match="Milvus at x: no"):
            ours.save_codes()
    assert found(TrackIndex(ours.folder)) == found(expected) != before
    monkeypatch.setattr(MilvusCollection, "upsert", fail)
    assert found(TrackIndex(ours.folder)) == found(expected)  # and nothing is told twice


def test_many_changes_are_sent_in_parts(pair, monkeypatch):
    monkeypatch.setattr(milvus_queue, "_PUSHED_AT_ONCE", 2)
    for index in pair:
        index.upsert_video(VideoRecord("/new.mp4", "s", None, "t"), [track(number, number) for number in range(7)])
        index.remove_video("/a/b/two.mp4")
    assert found(pair[0]) == found(pair[1])


@pytest.mark.parametrize("harm", ["dropped", "emptied"])
def test_collection_with_lost_codes_is_refilled(pair, harm):
    ours, expected = pair
    held = collection(ours)
    if harm == "dropped":
        held.collection.drop()
    else:
        held.remove(torch.from_numpy(held.ids[:3]))
    assert found(TrackIndex(ours.folder)) == found(expected)
    assert len(collection(ours)) == 12


def test_switching_to_faiss_drops_the_collection(pair, uri):
    ours, expected = pair
    kept = ours.backend
    ours.set_backend(uri=uri)
    assert ours.backend == kept  # as it was
    convert_command(ours.folder, "ivf")
    assert ours.backend == {"kind": "ivf"}
    assert found(ours) == found(TrackIndex(ours.folder)) == found(expected)
    assert not new(12, uri).collection.client.has_collection(kept["collection"])
    ours.upsert_video(
        VideoRecord("/new.mp4", "s", None, "t"), [track(0, 21)]
    )  # with nothing left to note it for Milvus
    assert len(ours) == 13


def test_video_is_found_after_other_tracks_up_to_the_limit(pair, monkeypatch):
    ours, _ = pair
    ours.upsert_video(VideoRecord("/many.mp4", "s", None, "t"), [track(number, 21) for number in range(30)])
    monkeypatch.setattr(module, "MOST", 16)
    monkeypatch.setattr(MilvusIndex, "max_k", 16)
    search = FaceSearch.__new__(FaceSearch)
    search.index = ours
    search._model = ours.about["model"], ours.model(), 0
    videos = search.search(Query(None, np.zeros((1, 1, 3), np.uint8), code(21), None), 5)
    assert [one.best.track.video for one in videos] == ["/ab/three.mp4", "/many.mp4"]
    assert len(videos[1].others) == 14


def test_index_without_location_of_its_codes_is_damaged(tmp_path):
    index = index_in(tmp_path)
    for harm in ([], {"kind": "best"}, {"uri": "x.db"}, {"kind": ["flat"]}):
        with index._database.write() as database:
            database.execute("INSERT OR REPLACE INTO about VALUES ('codes', ?)", (json.dumps(harm),))
        with pytest.raises(UserError, match="damaged: the location of its codes is missing or invalid"):
            TrackIndex(index.folder).codes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("milvus", None, None), "needs --uri"),
        (("faiss", "x.db", None), "--uri is for Milvus"),
        ((None, "x.db", None), "--uri is for Milvus"),
        (("milvus", "x.db", "ivf"), "--index-type ivf is for FAISS"),
        (("chroma", None, None), "must be faiss or milvus"),
        ((None, None, "best"), "must be one of flat, ivf$"),
        ((None, None, None), "nothing to convert"),
    ],
)
def test_incompatible_options_raise(tmp_path, options, message):
    backend, uri, index_type = options
    with pytest.raises(UserError, match=message):
        convert_command(tmp_path, index_type, backend, uri)


def test_packed_codes_can_be_added(uri):
    index = new(12, uri)
    codes = torch.rand(5, 12) > 0.5
    index.add_packed(pack_codes(codes).numpy(), np.arange(5))
    assert index.search(codes[3:4], 1)[0].tolist() == [[0]]
