import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from commands import run
from drawn_people import PEOPLE, draw_background, draw_image, put_person
from films import encode_film, make_film, write_film
from PIL import Image

from facereel import models
from facereel.errors import UserError
from facereel.retrieval.build_index import IndexOptions, index_source
from facereel.retrieval.calibration import Calibration
from facereel.retrieval.face_search import FaceSearch, deciding_digits
from facereel.retrieval.track_database import DATABASE
from facereel.retrieval.track_index import TrackIndex, Within
from facereel.video import TrackSettings
from facereel.video.find_videos import find_videos
from facereel.video.ingest import ingest

pytestmark = pytest.mark.slow

# Drawn people: one person's features are up to 0.03 apart, two people's 0.08 and more.
CALIBRATION = Calibration(22.0, 400.0)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for name in ("Anna", "Bert", "Cleo"):
        make_film(folder / "solo" / f"{name}.mp4", name, seconds=1)
    make_film(folder / "duo.mp4", "Anna", "Cleo", seconds=1, seed=3)
    # One person in two shots, far apart: two tracks of one video.
    make_film(folder / "again.mp4", "Bert", seconds=3, appear_s=2.2, seed=5)
    return folder


@pytest.fixture(scope="module")
def search(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    ingest(find_videos([films]), folder / "tracks", TrackSettings())
    index_source(folder / "tracks", folder / "index", models.pretrained_hasher(), IndexOptions(CALIBRATION))
    return FaceSearch(folder / "index")


def names(found):
    return [one.best.track.video.rsplit("/", 1)[1] for one in found]


def test_an_image_finds_the_videos_of_the_person(search):
    for name, videos in {
        "Anna": {"Anna.mp4", "duo.mp4"},
        "Bert": {"Bert.mp4", "again.mp4"},
        "Cleo": {"Cleo.mp4", "duo.mp4"},
    }.items():
        (query,) = search.faces(draw_image(name, seed=8))
        found = search.search(query)
        assert set(names(found)[:2]) == videos
        assert len(found) == 5  # every video once
        distances = [one.best.distance for one in found]
        assert distances == sorted(distances)
        assert distances[1] < 0.05 < distances[2]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_rotated_photo_finds_the_same(search, k):
    image = draw_image("Anna", seed=8)
    turned = np.ascontiguousarray(np.rot90(image, k))
    (upright,), (query,) = search.faces(image), search.faces(turned)
    assert set(names(search.search(query))[:2]) == {"Anna.mp4", "duo.mp4"}
    assert np.abs(query.crop.astype(int) - upright.crop).mean() < 8
    x, y, width, height = (round(value) for value in query.box)
    seen = turned[y : y + height, x : x + width]
    assert seen.shape[:2] == (height, width)


def test_video_without_faces_raises_with_the_reason(search, tmp_path):
    black = [np.zeros((240, 320, 3), np.uint8)] * 25
    film = encode_film(tmp_path / "black.mp4", "libx264", black, 25)
    with pytest.raises(UserError, match="no face found: 5 of the 5 sampled frames have a single color"):
        search.queries(film)


def test_small_faces_of_a_large_photo_are_queries(search):
    image = draw_background(3000, 2000)
    for i, name in enumerate(PEOPLE):
        put_person(image, name, 100 + 560 * i, 900, 150)
    queries = search.faces(image)
    assert len(queries) == len(PEOPLE)
    assert min(query.box[3] for query in queries) < 120
    found = {frozenset(names(search.search(query))[:2]) for query in queries}
    assert {frozenset({"Anna.mp4", "duo.mp4"}), frozenset({"Cleo.mp4", "duo.mp4"})} <= found
    assert len(search.faces(image, min_face=150)) < len(PEOPLE)
    with pytest.raises(UserError, match="min_face=5: must be 20 to"):
        search.faces(image, min_face=5)


@pytest.mark.parametrize("kind", ["heic", "avif", "gif", "webp", "tiff", "jpg"])
def test_photos_of_all_formats_are_queries(search, tmp_path, kind):
    image = Image.fromarray(draw_image("Anna", seed=8)[:, :, ::-1])
    exif = Image.Exif()
    exif[0x112] = 6
    how: dict[str, Any] = {} if kind == "gif" else {"exif": exif.tobytes()}
    if kind == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if kind != "gif":
        image = image.rotate(90, expand=True)
    image.save(tmp_path / f"someone.{kind}", **how)
    if kind == "jpg":  # and the film that a phone appends
        with (tmp_path / "someone.jpg").open("ab") as file:
            file.write(bytes(range(256)) * 20 + b"\xff\xda\0\x0c")
    (query,) = search.queries(tmp_path / f"someone.{kind}")
    assert set(names(search.search(query))[:2]) == {"Anna.mp4", "duo.mp4"}


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_first_frame_with_a_face_of_an_animation_is_used(search, tmp_path, kind):
    room = Image.fromarray(draw_background(320, 240))
    frames = [Image.fromarray(draw_image(name, seed=8)[:, :, ::-1]) for name in ("Anna", "Bert")]
    room.save(tmp_path / f"film.{kind}", save_all=True, append_images=frames, duration=100)
    (query,) = search.queries(tmp_path / f"film.{kind}")
    assert set(names(search.search(query))[:2]) == {"Anna.mp4", "duo.mp4"}


def test_query_video_uses_the_settings_of_the_index(films, tmp_path):
    frame = draw_background(1600, 1200)
    put_person(frame, "Anna", 420, 330, 75)
    large = write_film(tmp_path / "large.mp4", iter([frame] * 10))
    tracks = tmp_path / "tracks"
    ingest([films / "solo" / "Anna.mp4", large], tracks, TrackSettings(min_face=40))
    index_source(tracks, tmp_path / "index", models.pretrained_hasher())
    search = FaceSearch(tmp_path / "index")
    assert len(search.index) == 2
    (query,) = search.queries(large)
    assert names(search.search(query))[0] == "large.mp4"
    # Tracks of another search may be added, and an index from before there was a choice is read.
    ingest([films / "solo" / "Bert.mp4"], tmp_path / "more", TrackSettings())
    index_source(tmp_path / "more", tmp_path / "index", models.pretrained_hasher())
    with closing(sqlite3.connect(tmp_path / "index" / DATABASE)) as database, database:
        assert database.execute("SELECT value FROM about WHERE name = 'min_face'").fetchone() == ("40",)
        database.execute("DELETE FROM about WHERE name = 'min_face'")
    search = FaceSearch(tmp_path / "index")
    assert len(search.index) == 3
    with pytest.raises(UserError, match="no face found"):
        search.queries(large)


def test_faces_are_sorted_by_size(search):
    queries = search.faces(draw_image("Bert", "Anna", width=640))
    assert len(queries) == 2
    areas = [query.box[2] * query.box[3] for query in queries]
    assert areas == sorted(areas, reverse=True)
    assert set(names(search.search(queries[0]))[:2]) == {"Bert.mp4", "again.mp4"}
    assert set(names(search.search(queries[1]))[:2]) == {"Anna.mp4", "duo.mp4"}


def test_a_video_finds_the_other_videos_of_the_person(search, films):
    (query,) = search.queries(films / "solo" / "Cleo.mp4")
    assert (query.start_s, query.box) == (0.0, None)
    assert names(search.search(query))[:2] == ["Cleo.mp4", "duo.mp4"]


def test_every_track_can_be_a_result(search, films):
    (query,) = search.faces(draw_image("Anna", seed=8))
    merged = search.search(query, 10)
    listed = search.search(query, 10, per_video=False)
    assert len(listed) == len(search.index) == 6
    assert len(merged) == 5
    in_video = {m.track.id for one in merged for m in (one.best, *one.others)}
    assert in_video == {one.best.track.id for one in listed}
    (duo,) = [one for one in merged if one.best.track.video == str(films / "duo.mp4")]
    assert len(duo.others) == 1


def test_search_per_video_requests_as_many_tracks_as_needed(search, monkeypatch):
    (query,) = search.faces(draw_image("Anna", seed=8))
    everything = names(search.search(query, 5))
    asked = []
    original = search.index.search
    monkeypatch.setattr(search.index, "search", lambda code, k, **how: asked.append(k) or original(code, k, **how))
    assert names(search.search(query, 1)) == everything[:1]
    assert names(search.search(query, 5)) == everything
    assert asked[0] == 4
    # A video of a hundred tracks must not hide the others.
    monkeypatch.setattr("facereel.retrieval.face_search._TRACKS_A_VIDEO", 0.2)
    asked.clear()
    assert names(search.search(query, 5)) == everything
    assert asked == [1, 4, 6]


def test_track_of_the_index_is_a_query(search, films):
    (track,) = [t for t in search.index.tracks() if t.video == str(films / "solo" / "Bert.mp4")]
    query = search.like(track.id)
    assert query.scores is None
    found = search.search(query)
    assert names(found)[:2] == ["Bert.mp4", "again.mp4"]
    assert found[0].best.distance == pytest.approx(0, abs=1e-6)
    with pytest.raises(UserError, match="track 999 is not in the index"):
        search.like(999)


@pytest.mark.parametrize(
    ("distances", "threshold", "digits"),
    [
        ([], 0.21, 2),
        ([0.1, 0.3], None, 2),
        ([0.1, 0.3], 0.21, 2),
        ([0.1, 0.2138, 0.3], 0.2136, 4),  # both would be 0.21, and 0.214
        ([0.2132, 0.3], 0.2134, 4),
        ([0.2149, 0.2151], 0.215, 4),  # 0.21 and 0.22, but the threshold is either
        ([0.21 + 1e-12], 0.21, 12),
        ([0.2135], 0.2135, 2),  # the same is no further
    ],
)
def test_digits_separate_distances_from_the_threshold(distances, threshold, digits):
    assert deciding_digits(distances, threshold, 2) == digits
    for distance in distances if threshold is not None else ():
        shown, limit = (float(f"{value:.{digits}f}") for value in (distance, threshold))
        assert (shown <= limit) == (distance <= threshold)


def test_search_is_restricted_to_some_videos(search, films):
    (query,) = search.faces(draw_image("Anna", seed=8))
    assert names(search.search(query, within=Within(folder=str(films / "solo"))))[0] == "Anna.mp4"
    assert len(search.search(query, within=Within(folder=str(films / "solo")))) == 3
    assert search.search(query, within=Within(until=0.0)) == []


def test_threshold_decreases_with_index_size(search, monkeypatch):
    assert search.threshold == pytest.approx((22 - np.log(500)) / 400)  # as if it had 500 tracks
    monkeypatch.setattr(type(search.index), "__len__", lambda self: 1000)
    assert search.threshold == pytest.approx((22 - np.log(1000)) / 400)
    monkeypatch.setattr(type(search.index), "__len__", lambda self: 10**12)
    assert search.threshold == 0


def test_results_within_the_threshold_are_likely(search):
    (query,) = search.faces(draw_image("Emil", seed=8))
    within = Within(folder="/nowhere")
    assert search.search(query, within=within) == []
    (bert,) = search.faces(draw_image("Bert", seed=8))
    found = search.search(bert)
    assert [one.probability >= 0.5 for one in found] == [one.distance <= search.threshold for one in found]
    # The second shot of again.mp4 is too brief to be likely.
    assert [one.best.verdict for one in found] == [
        "maybe"
        if one.video.endswith("again.mp4") and one.start_s > 1
        else "likely"
        if one.probability > 0.5
        else "unlikely"
        for one in found
    ]
    assert sum(one.probability > 0.5 for one in found) == 2
    for one in found:
        odds = 22 - 400 * one.distance - np.log(500)
        assert one.probability == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-9)


def test_threshold_and_verdict_are_none_without_calibration(search, monkeypatch):
    (query,) = search.faces(draw_image("Anna", seed=8))
    monkeypatch.setattr(TrackIndex, "calibration", None)
    assert search.threshold is None
    found = search.search(query)
    assert {one.probability for one in found} == {one.best.verdict for one in found} == {None}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jpg", None, "there is no such file"),
        ("empty.jpg", b"", "empty image file"),
        ("text.jpg", b"once upon a time\n" * 100, "a text file, not a video"),
        ("scan.pdf", b"%PDF-1.7\n" + bytes(5000), "PDF file, which is not a supported image or video: save it"),
        (
            "raw.cr3",
            b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(999),
            r"RAW \(CR3\) file, which is not a supported image",
        ),
        (
            "half.png",
            cv2.imencode(".png", draw_image("Anna"))[1].tobytes()[:2000],
            "PNG image that cannot be decoded",
        ),
        ("half.jpg", cv2.imencode(".jpg", draw_image("Anna"))[1].tobytes()[:2000], "truncated"),
        ("room.png", cv2.imencode(".png", np.full((200, 200, 3), 90, np.uint8))[1].tobytes(), "no face found"),
    ],
)
def test_file_without_a_face_raises(search, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        search.queries(tmp_path / name)


def test_too_large_image_raises(search, tmp_path):
    from zlib import compress, crc32

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + crc32(kind + data).to_bytes(4, "big")

    side = 30_000
    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(UserError, match="more than 200 million pixels"):
        search.queries(tmp_path / "bomb.png")


@pytest.mark.parametrize("margin", ["1.0", "1e-309"])
def test_index_with_too_narrow_crops_raises(search, tmp_path, margin):
    shutil.copytree(search.index.folder, tmp_path / "index")
    with closing(sqlite3.connect(tmp_path / "index" / DATABASE)) as database, database:
        database.execute("UPDATE about SET value = ? WHERE name = 'margin'", (margin,))
    with pytest.raises(UserError, match=r"but the model needs 1\.\d"):
        FaceSearch(tmp_path / "index")


@pytest.fixture
def named_search(search, films, tmp_path):
    shutil.copytree(search.index.folder, tmp_path / "index")
    return FaceSearch(tmp_path / "index")


def test_rejected_tracks_are_no_results_for_the_person(named_search):
    people = named_search.index.people
    (query,) = named_search.faces(draw_image("Anna", seed=8))
    solo, duo = (one.best.track.id for one in named_search.search(query, top=2))
    people.name([solo], "Anna")
    found = named_search.search(named_search.named("Anna"), top=50)
    assert duo in [one.best.track.id for one in found]
    people.reject([duo], "Anna")
    for per_video in (True, False):
        found = named_search.search(named_search.named("Anna"), top=50, per_video=per_video)
        ids = {match.track.id for one in found for match in (one.best, *one.others)}
        assert ids == {track.id for track in named_search.index.tracks()} - {duo}


def test_a_photo_defines_a_person(named_search, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "bert.png"), draw_image("Bert", seed=8))
    index = named_search.index.folder
    with pytest.raises(UserError, match="no track is named Bert"):
        named_search.named("Bert")
    assert run("people", "confirm", "Bert", tmp_path / "bert.png", "--index", index) == 0
    assert capsys.readouterr().out == "Bert: confirmed 1 photo\n"
    assert set(names(named_search.search(named_search.named("Bert")))[:2]) == {"Bert.mp4", "again.mp4"}
    (query,) = named_search.faces(draw_image("Bert", seed=8))
    (stored,) = named_search.named("Bert")
    assert torch.nn.functional.cosine_similarity(query.feature, stored.feature, dim=0) > 0.99


def test_damaged_photo_of_a_person_raises(named_search):
    named_search.index.people.add_photo("Bert", b"no image")
    with pytest.raises(UserError, match="the photo of a person cannot be read"):
        named_search.named("Bert")


def test_track_of_poor_crops_is_at_most_maybe(named_search, monkeypatch):
    (query,) = named_search.faces(draw_image("Anna", seed=8))
    best = named_search.search(query)[0].best
    assert (best.verdict, best.is_too_poor) == ("likely", False)
    scores = named_search.model.pooling.recognizability(
        torch.from_numpy(named_search.index.vectors.features([best.track.id]))
    )
    monkeypatch.setattr(named_search.model.pooling, "photo_limit", float(scores[0]) + 1e-4)
    poor = named_search.search(replace(query, is_too_poor=False))[0].best
    assert poor.track.id == best.track.id
    assert (poor.verdict, poor.is_too_poor) == ("maybe", True)
    assert poor.probability == best.probability
