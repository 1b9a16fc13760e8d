"""Media by id and in ranges, and never by a path; uploads within their limit."""

import asyncio
import time
from pathlib import Path

import pytest

pytest.importorskip("nicegui", reason="the search page needs the extra web: pip install 'facereel[web]'")

import torch
from starlette.applications import Starlette
from starlette.testclient import TestClient

from facereel.errors import UserError
from facereel.models import VideoHasher
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord
from facereel.web import uploads as module
from facereel.web.media import is_playable, media_type, routes
from facereel.web.uploads import Uploads, is_video

VIDEO = (b"\x00\x00\x00\x18ftyp" + bytes(range(8, 256))) * 40


@pytest.fixture
def index(tmp_path) -> TrackIndex:
    config = {
        "preprocess": {"_target_": "facereel.models.Preprocess", "size": 32},
        "encoder": {"_target_": "facereel.models.CasiaEncoder", "width": 0.125},
        "pooling": {"_target_": "facereel.models.MeanPooling"},
        "head": {"_target_": "facereel.models.RotationHead", "n_bits": 16},
    }
    index = TrackIndex.create(tmp_path / "index", VideoHasher(config), {"detector": "mtcnn", "size": 32, "margin": 1.4})
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "film.mp4").write_bytes(VIDEO)
    for video in ("film.mp4", "gone.mp4"):
        track = NewTrack(0, 0.0, 1.0, None, torch.zeros(16, dtype=torch.bool), b"\xff\xd8thumbnail")
        index.upsert_video(VideoRecord(str(tmp_path / video), "1", None, "here"), [track])
    return index


@pytest.fixture
def client(index) -> TestClient:
    return TestClient(Starlette(routes=routes(index)))


def test_thumbnail_and_video_are_served_by_id(client):
    assert client.get("/media/thumbnail/1").content == b"\xff\xd8thumbnail"
    assert client.get("/media/thumbnail/1").headers["content-type"] == "image/jpeg"
    answer = client.get("/media/video/1")
    assert answer.content == VIDEO
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("asked", "start", "end"), [("bytes=0-99", 0, 99), ("bytes=5000-", 5000, 10239), ("bytes=-10", 10230, 10239)]
)
def test_byte_ranges_are_served(client, asked, start, end):
    answer = client.get("/media/video/1", headers={"range": asked})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{end}/{len(VIDEO)}"
    assert answer.content == VIDEO[start : end + 1]


def test_byte_range_beyond_the_end(client):
    assert client.get("/media/video/1", headers={"range": "bytes=99999-"}).status_code == 416


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    ["0", "3", "-1", "1.0", "1e0", "٣", "99999999999999999999999", "film.mp4", "..", "%2e%2e%2fsecret.txt",
     "..%2F..%2Fsecret.txt", "%2Fetc%2Fpasswd", "1%00", "1%0a", "1/../../secret.txt", ""],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["thumbnail", "video"])
def test_no_other_path_is_served(client, kind, number):
    answer = client.get(f"/media/{kind}/{number}")
    assert answer.status_code == 404
    assert b"secret" not in answer.content


def test_untrusted_index_cannot_serve_local_files(client, index, tmp_path):
    track = NewTrack(0, 0.0, 1.0, None, torch.zeros(16, dtype=torch.bool), b"")
    (tmp_path / "secret.mp4").symlink_to(tmp_path / "secret.txt")
    for name in ("secret.txt", "secret.mp4", "index/index.sqlite", "index"):
        index.upsert_video(VideoRecord(str(tmp_path / name), "1", None, "here"), [track])
    ids = [track.id for track in index.tracks()][2:]
    assert len(ids) == 4
    for number in ids:
        answer = client.get(f"/media/video/{number}")
        assert answer.status_code == 404
        assert b"secret" not in answer.content


def test_thumbnail_that_links_elsewhere_is_not_served(client, index, tmp_path):
    index.thumbnails.path(1).unlink()
    index.thumbnails.path(1).symlink_to(tmp_path / "secret.txt")
    assert client.get("/media/thumbnail/1").status_code == 404
    assert client.get("/media/thumbnail/2").status_code == 200


def test_missing_files_are_not_found(client, index):
    assert client.get("/media/video/2").status_code == 404
    index.remove_video(index.tracks([1])[0].video)
    assert client.get("/media/video/1").status_code == 404
    assert client.get("/media/thumbnail/1").status_code == 404


def test_media_types_are_video_types_only():
    assert media_type("a.webm") == "video/webm"
    assert media_type("a.MOV") == "video/mp4"
    assert media_type("page.html") == "application/octet-stream"
    assert media_type("none") == "application/octet-stream"
    assert not is_playable("A.AVI")
    assert is_playable("a.mp4")


def test_upload_is_deleted_after_it_is_read():
    uploads = Uploads()
    client = TestClient(Starlette(routes=uploads.routes()))
    number = client.post("/upload", content=b"abc").json()["id"]
    with uploads.take(number) as path:
        assert path.read_bytes() == b"abc"
        assert path.parent == uploads.folder
    assert list(uploads.folder.iterdir()) == []
    with pytest.raises(UserError, match="send it again"), uploads.take(number):
        pass
    with pytest.raises(UserError, match="send it again"), uploads.take("../secret.txt"):
        pass
    uploads.close()
    assert not uploads.folder.exists()


def test_upload_limit_does_not_depend_on_the_header(monkeypatch):
    monkeypatch.setattr(module, "_LARGEST", 1000)
    uploads = Uploads()
    client = TestClient(Starlette(routes=uploads.routes()))
    assert client.post("/upload", content=bytes(1000)).status_code == 200
    answer = client.post("/upload", content=iter([bytes(600), bytes(600)]))
    assert answer.status_code == 413
    assert answer.text == "larger than 50 MB"
    assert len(list(uploads.folder.iterdir())) == 1


def test_unread_uploads_are_deleted(monkeypatch):
    uploads = Uploads()
    client = TestClient(Starlette(routes=uploads.routes()))
    for _ in range(module._MOST + 3):
        client.post("/upload", content=b"abc")
    assert len(list(uploads.folder.iterdir())) == module._MOST

    async def wait() -> None:
        monkeypatch.setattr(module, "_PATIENCE_S", 0.01)
        from httpx import ASGITransport, AsyncClient

        application = Starlette(routes=uploads.routes())
        async with AsyncClient(transport=ASGITransport(application), base_url="http://here") as sender:
            number = (await sender.post("/upload", content=b"abc")).json()["id"]
            until = time.monotonic() + 60
            while (uploads.folder / number).exists():
                assert time.monotonic() < until
                await asyncio.sleep(0.01)

    asyncio.run(wait())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\0\0\0\x18ftypmp42", True),
        (b"RIFF\0\0\0\0AVI LIST", True),
        (b"RIFF\0\0\0\0WAVEfmt ", False),
        (b"\x1a\x45\xdf\xa3", True),
        (b"\x47" + bytes(187) + b"\x47", True),
        (b"#EXTM3U\nhttp://elsewhere.example/", False),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", False),
        (b"<?xml version='1.0'?><MPD/>", False),
        (b"v=0\r\no=- 0 0 IN IP4 192.0.2.1\r\n", False),
        (b"", False),
    ],
)
def test_only_video_containers_reach_the_decoder(tmp_path: Path, content, expected):
    (tmp_path / "file").write_bytes(content)
    assert is_video(tmp_path / "file") is expected
