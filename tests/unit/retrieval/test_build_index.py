import shutil

import pytest
import torch
from films import make_film

from facereel.data import open_prepared
from facereel.errors import UserError
from facereel.retrieval import build_index as module
from facereel.retrieval.build_index import IndexOptions, index_source
from facereel.retrieval.encode import check_margin, encode_clips, to_images
from facereel.retrieval.track_index import TrackIndex
from facereel.video import TrackSettings
from facereel.video.find_videos import find_videos
from facereel.video.ingest import ingest
from facereel.video.track_file import read_tracks, track_path


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ingested")
    make_film(folder / "films" / "anna.mp4", "Anna", seconds=1)
    make_film(folder / "films" / "both.mp4", "Anna", "Cleo", seconds=1)
    make_film(folder / "films" / "room.mp4", seconds=1)
    ingest(find_videos([folder / "films"]), folder / "tracks", TrackSettings())
    return folder


@pytest.fixture
def tracks(ingested, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(ingested / "tracks", tmp_path / "tracks")


def test_every_track_has_the_code_of_its_crops(ingested, tmp_path, model):
    done = index_source(ingested / "tracks", tmp_path / "index", model)
    assert (done.n_videos, done.n_tracks, done.n_before, done.bad) == (3, 3, 0, {})
    film = ingested / "films" / "both.mp4"
    expected = {}
    for track in read_tracks(track_path(ingested / "tracks", film)):
        # By hand: the middle 1.2 of crops of margin 1.4, red first.
        crops = torch.stack([torch.from_numpy(crop.copy()) for crop in track.crops]).flip(3).permute(0, 3, 1, 2)
        codes = model.encode_clips(crops[:, :, 14:185, 14:185].float()[None] / 255)
        expected[track.number] = codes[0].tolist()
    found = {t.number: done.index.vectors.code(t.id).tolist() for t in done.index.tracks() if t.video == str(film)}
    assert found == expected
    sources = {t.source for t in done.index.tracks() if t.video == str(film)}
    assert sources == {str(track_path(ingested / "tracks", film))}
    assert done.index.tracks()[0].date == pytest.approx(film.stat().st_mtime, abs=60)


def test_tracks_that_are_encoded_together_have_the_same_codes(ingested, model, monkeypatch):
    sizes, real = [], model.features
    monkeypatch.setattr(model, "features", lambda images: sizes.append(len(images)) or real(images))
    random = torch.Generator().manual_seed(0)
    clips = [torch.randint(256, (n, 3, 112, 112), generator=random, dtype=torch.uint8) for n in (3, 5, 2, 4)]
    alone = list(encode_clips(clips, model))
    assert sizes == [3, 5, 2, 4]
    sizes.clear()
    together = list(encode_clips(iter(clips), model, at_once=7))
    assert sizes == [8, 6]
    for a, b in zip(alone, together, strict=True):
        assert torch.allclose(a.scores, b.scores, atol=1e-5)
        assert torch.allclose(a.feature, b.feature, atol=1e-5) if a.feature is not None else b.feature is None


def test_codes_made_on_a_device_are_stored_with_the_same_model(ingested, tmp_path, model):
    """The model of the index stays on the CPU; another device encodes with a copy of it."""
    other = IndexOptions(device="cpu:0")  # by its name
    assert other.place(model) is not model
    assert IndexOptions().place(model) is model
    done = index_source(ingested / "tracks", tmp_path / "index", model, other)
    plain = index_source(ingested / "tracks", tmp_path / "plain", model)
    assert done.index.about["model"] == plain.index.about["model"]
    ids = [track.id for track in plain.index.tracks()]
    assert len(ids) == 3
    assert all(torch.equal(done.index.vectors.code(i), plain.index.vectors.code(i)) for i in ids)


def test_indexed_videos_are_not_encoded_again(tracks, tmp_path, model, monkeypatch):
    index_source(tracks, tmp_path / "index", model)
    ids = [track.id for track in TrackIndex(tmp_path / "index").tracks()]
    monkeypatch.setattr(module, "encode_clips", None)  # would be called in vain
    done = index_source(tracks, tmp_path / "index", model)
    assert (done.n_videos, done.n_before) == (0, 3)
    assert [track.id for track in done.index.tracks()] == ids


def test_video_ingested_again_replaces_its_tracks(ingested, tmp_path, model):
    film = make_film(tmp_path / "film.mp4", "Anna", seconds=1)
    ingest([film], tmp_path / "tracks", TrackSettings())
    assert index_source(tmp_path / "tracks", tmp_path / "index", model).n_tracks == 1
    make_film(film, "Anna", "Bert", seconds=1)
    ingest([film], tmp_path / "tracks", TrackSettings())
    done = index_source(tmp_path / "tracks", tmp_path / "index", model)
    assert (done.n_videos, done.n_tracks, len(done.index), len(done.index.videos())) == (1, 2, 2, 1)


def test_duplicate_track_files_are_encoded_once(tracks, tmp_path, model):
    files = sorted(tracks.iterdir())
    shutil.copy(files[0], tracks / f"again-{files[0].name}")
    done = index_source(tracks, tmp_path / "index", model)
    assert (done.n_videos, done.n_before, len(done.index.videos())) == (3, 1, 3)


def test_damaged_track_file_does_not_stop_the_run(tracks, tmp_path, model):
    files = sorted(tracks.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-10])
    done = index_source(tracks, tmp_path / "index", model)
    assert done.n_videos == 2
    assert list(done.bad) == [str(files[0])]
    assert "run facereel ingest again" in done.bad[str(files[0])]


def test_damaged_crops_do_not_stop_the_run(tracks, tmp_path, model):
    file = next(path for path in tracks.iterdir() if path.name.startswith("anna"))
    content = bytearray(file.read_bytes())
    for start in range(2000, 20000):  # JPEG data, and Parquet keeps no checksums of it by default
        content[start] = 0
    file.write_bytes(content)
    done = index_source(tracks, tmp_path / "index", model)
    assert done.n_videos == 2
    assert list(done.bad) == [str(file)]


def test_tracks_with_other_crop_settings_raise(ingested, tracks, tmp_path, model):
    film = ingested / "films" / "anna.mp4"
    ingest([film], tracks, TrackSettings(size=100))
    with pytest.raises(UserError, match=r"was made with .*, other track files with .*: run facereel ingest for all"):
        index_source(tracks, tmp_path / "index", model)
    index_source(ingested / "tracks", tmp_path / "index", model)
    with pytest.raises(UserError, match="was made with size 200, not 100"):
        index_source(track_path(tracks, film), tmp_path / "index", model)


def test_empty_source_raises(tmp_path, model):
    with pytest.raises(UserError, match="has neither tracks nor a prepared data set"):
        index_source(tmp_path, tmp_path / "index", model)
    assert not (tmp_path / "index").exists()


def test_crops_too_narrow_for_the_model_raise(model):
    with pytest.raises(UserError, match=r"margin of 1 but the model needs 1\.2"):
        check_margin(model, 1.0)
    check_margin(model, 1.4)


def test_to_images_cuts_the_part_for_the_model(model):
    crop = torch.arange(70 * 70 * 3, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(70, 70, 3)
    images = to_images([crop.numpy()], 1.4, model)
    assert torch.equal(images[0], crop[5:65, 5:65].flip(2).permute(2, 0, 1))


def test_prepared_clips_are_indexed_with_their_names(prepare, tmp_path, model):
    prepare("--margin", "1.4")
    folder = tmp_path / "out"
    done = index_source(folder, tmp_path / "index", model)
    faces = open_prepared(folder).face_set(margin=1.2, max_frames=30)
    assert len(done.index) == len(faces.clips) > 0
    by_key = {(faces.people[clip.person], clip.source): clip for clip in faces.clips}
    for track in done.index.tracks():
        clip = by_key[track.person, track.video]
        codes = model.encode_clips(faces.images(clip.rows).float()[None] / 255)
        assert done.index.vectors.code(track.id).tolist() == codes[0].tolist()
        assert (track.start_s, track.end_s) == (None, None)
    again = index_source(folder, tmp_path / "index", model)
    assert (again.n_videos, again.n_before) == (0, done.n_videos)
