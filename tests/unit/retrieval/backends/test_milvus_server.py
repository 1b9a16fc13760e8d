"""What only a Milvus server shows: a million codes, a server that is killed, and passwords; see conftest.py."""

import threading

import numpy as np
import pytest
import torch
from mean_hasher import CONFIG
from milvus_server import MilvusServer

from facereel.errors import UserError
from facereel.models import VideoHasher
from facereel.retrieval import milvus_queue
from facereel.retrieval.backends import milvus_collection
from facereel.retrieval.backends.milvus import MilvusIndex
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord

pytestmark = [pytest.mark.milvus, pytest.mark.slow]

N_BITS = 48


def nearest(packed, ids, query, k):
    """Distances and ids of the nearest codes by numpy, ties by id."""
    distances = np.bitwise_count(packed ^ query).sum(axis=1, dtype=np.int64)
    order = np.lexsort((ids, distances))[:k]
    return distances[order].tolist(), ids[order].tolist()


def test_million_codes_with_filters_equal_numpy(milvus_server):
    n, generator = 1_000_000, np.random.default_rng(0)
    packed = generator.integers(256, size=(n, N_BITS // 8), dtype=np.uint8)
    ids = generator.permutation(2 * n)[:n]
    years, days = generator.integers(5, size=n), generator.integers(1000, size=n)
    # One video in 10 has no date.
    videos = [
        (f"/{year}/{day}.mp4", float(day) if day % 10 else None)
        for year, day in zip(years.tolist(), days.tolist(), strict=True)
    ]
    index = MilvusIndex(N_BITS, milvus_server.uri, "million")
    index.collection.upsert(packed, ids, videos)
    index.remove(torch.from_numpy(ids[:1000]))
    kept, dated = np.arange(n) >= 1000, days % 10 > 0
    queries = generator.integers(256, size=(3, N_BITS // 8), dtype=np.uint8)
    codes = torch.from_numpy(np.unpackbits(queries, axis=1).astype(bool))
    filters = [
        ((None, None, None), kept),
        (("/3", None, None), kept & (years == 3)),
        ((None, 250.0, None), kept & dated & (days >= 250)),
        ((None, None, 250.0), kept & dated & (days <= 250)),
        (("/0", 10.5, 20.0), kept & dated & (years == 0) & (days > 10) & (days <= 20)),
    ]

    def check():
        for within, selected in filters:
            part = index.in_videos(*within)
            assert len(part) == selected.sum()
            for k in (10, 1000):
                found = part.search(codes, k)
                for query, distances, its_ids in zip(queries, *found, strict=True):
                    expected = nearest(packed[selected], ids[selected], query, k)
                    assert (distances.tolist(), its_ids.tolist()) == expected

    check()
    index.collection.client.flush("million")  # in sealed segments, with their indexes, as in the growing ones before
    check()
    order = ids[kept].argsort()
    assert np.array_equal(index.ids, ids[kept][order])
    assert np.array_equal(index.packed, packed[kept][order])
    index.collection.drop()


def track(number, seed):
    code = torch.rand(N_BITS, generator=torch.Generator().manual_seed(seed)) > 0.5
    return NewTrack(number, 0.0, 1.0, None, code, b"image")


def index_in(folder):
    index = TrackIndex.create(folder, VideoHasher(CONFIG), {"detector": "mtcnn", "size": 200, "margin": 1.4})
    for number in range(2):
        tracks = [track(one, 2_000 * number + one) for one in range(2_000)]
        index.upsert_video(VideoRecord(f"/a/{number}.mp4", "s", 100.0 * number, "t"), tracks)
    return index


def found(index):
    queries = [torch.rand(N_BITS, generator=torch.Generator().manual_seed(seed)) > 0.5 for seed in (5, 3_000, 900_000)]
    return [[(match.track.id, match.distance) for match in index.search(query, 20)] for query in queries]


@pytest.mark.parametrize("request_number", [0, 2, 6])
def test_killed_server_loses_and_doubles_nothing(milvus_server, tmp_path, monkeypatch, request_number):
    """It is killed during a request. The process continues after the restart, and so does another."""
    # The tracks are sent in two parts, of four requests each.
    monkeypatch.setattr(milvus_queue, "_PUSHED_AT_ONCE", 2_000)
    monkeypatch.setattr(milvus_collection, "_AT_ONCE", 500)
    index, expected = index_in(tmp_path / "index"), index_in(tmp_path / "expected")
    index.set_backend(uri=milvus_server.uri)
    client = type(MilvusIndex.at(N_BITS, index.backend).collection.client)
    upsert, n_sent = client.upsert, 0

    def upsert_and_kill(self, *arguments, **options):
        nonlocal n_sent
        n_sent += 1
        if n_sent == request_number + 1:
            threading.Timer(0.01, milvus_server.kill).start()
        return upsert(self, *arguments, **{**options, "timeout": 5})

    with monkeypatch.context() as patch:
        patch.setattr(client, "upsert", upsert_and_kill)
        with pytest.raises(UserError, match=r"^Milvus at http://127\.0\.0\.1:\d+: .*check that the server is running"):
            index.save_codes()
    milvus_server.start()
    for opened in (index, TrackIndex(index.folder)):
        assert found(opened) == found(expected)
        assert len(opened.codes()) == 4_000
        assert opened.codes().ids.tolist() == [one.id for one in expected.tracks()]
    index.set_backend("flat")


def test_open_index_continues_after_a_restart(milvus_server):
    index = MilvusIndex(N_BITS, milvus_server.uri, "restarted")
    code = torch.zeros(1, N_BITS, dtype=torch.bool)
    index.add(code, torch.tensor([7]))
    milvus_server.kill()
    with pytest.raises(UserError, match=r"^Milvus at .*check that the server is running") as error:
        index.search(code, 1)
    assert "\n" not in str(error.value)
    milvus_server.start()
    assert index.search(code, 1)[1].tolist() == [[7]]
    assert index.ids.tolist() == [7]
    index.collection.drop()


@pytest.fixture(scope="module")
def locked_server(milvus_server, tmp_path_factory):
    """A server that needs a password. Depends on the other one, which skips the test if there is no program."""
    server = MilvusServer(tmp_path_factory.mktemp("locked_server"), authorization=True)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (
            None,
            r"^Milvus at http://127\.0\.0\.1:\d+ needs a password in the environment variable MILVUS_TOKEN: set it to ",
        ),
        (
            "root:wrong",
            r"^Milvus at http://\S+ refused the user or password in the environment variable MILVUS_TOKEN: ",
        ),
        (
            "nobody:Milvus",
            r"^Milvus at http://\S+ refused the user or password in the environment variable MILVUS_TOKEN",
        ),
        ("no-colon", r"^Milvus at http://\S+ refused the user or password in the environment variable MILVUS_TOKEN"),
    ],
)
def test_missing_or_wrong_password_is_reported_in_one_line(locked_server, monkeypatch, token, message):
    monkeypatch.delenv("MILVUS_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("MILVUS_TOKEN", token)
    with pytest.raises(UserError, match=message) as error:
        MilvusIndex(N_BITS, locked_server.uri, "locked")
    assert "\n" not in str(error.value)
    assert token is None or token not in str(error.value)


def test_right_password_opens_the_collection_until_it_changes(locked_server, monkeypatch):
    monkeypatch.setenv("MILVUS_TOKEN", locked_server.token)
    index = MilvusIndex(N_BITS, locked_server.uri, "locked")
    code = torch.zeros(1, N_BITS, dtype=torch.bool)
    index.add(code, torch.tensor([7]))
    assert index.search(code, 1)[1].tolist() == [[7]]
    user, _, password = locked_server.token.partition(":")
    index.collection.client.update_password(user, password, "Another1")
    with pytest.raises(UserError, match=r"^Milvus at \S+ refused the user or password in .*MILVUS_TOKEN"):
        index.search(code, 1)
    monkeypatch.setenv("MILVUS_TOKEN", f"{user}:Another1")
    MilvusIndex(N_BITS, locked_server.uri, "locked").collection.client.update_password(user, "Another1", password)
