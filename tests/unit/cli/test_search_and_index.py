import importlib
import json
import os
import shutil
import sys

import cv2
import pytest
from commands import run
from drawn_people import draw_image
from films import make_film
from mean_hasher import CONFIG

from facereel.models import VideoHasher
from facereel.retrieval.calibration import SHIPPED, Calibration
from facereel.retrieval.several_indexes import SeveralIndexes
from facereel.retrieval.track_index import TrackIndex
from facereel.video.track_folder import detector_in

pytestmark = pytest.mark.slow

KEYS = {"rank", "video", "track", "start_s", "end_s", "distance", "probability", "thumbnail", "person", "match", "face"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Films, their index by the commands, and images."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("Anna", "Bert"):
        make_film(folder / "films" / name / "one.mp4", name, seconds=1)
    make_film(folder / "films" / "duo.mp4", "Anna", "Cleo", seconds=1, seed=3)
    os.utime(folder / "films" / "duo.mp4", (1.0e9, 1.0e9))  # 2001-09-09
    assert run("ingest", folder / "films", "--out", folder / "tracks") == 0
    assert run("index", folder / "tracks", "--out", folder / "index") == 0
    # Drawn people are more alike than real ones.
    TrackIndex(folder / "index").set_calibration(Calibration(22.0, 400.0))
    for name in ("Anna", "Bert"):
        cv2.imwrite(str(folder / f"{name}.png"), draw_image(name, seed=8))
    cv2.imwrite(str(folder / "both.png"), draw_image("Bert", "Anna", width=640))
    return folder


def search(world, capsys, name, *options, code=0):
    capsys.readouterr()
    assert run("search", world / name, "--index", world / "index", *options) == code
    return capsys.readouterr()


def listed(world, capsys, name, *options):
    return json.loads(search(world, capsys, name, "--json", *options).out)


def test_json_has_the_documented_keys(world, capsys):
    found = listed(world, capsys, "Anna.png")
    assert [entry["rank"] for entry in found] == [1, 2, 3]
    assert all(set(entry) == KEYS for entry in found)
    assert {found[0]["video"], found[1]["video"]} == {
        str(world / "films" / "Anna" / "one.mp4"),
        str(world / "films" / "duo.mp4"),
    }
    first = found[0]
    assert (first["track"], first["start_s"], round(first["end_s"], 1), first["person"]) == (0, 0.0, 0.8, None)
    assert 0 <= first["distance"] < 0.1
    assert first["match"] is True
    assert first["probability"] > 0.5
    assert cv2.imread(first["thumbnail"]).shape == (128, 128, 3)


def test_an_index_that_is_given_twice_answers_as_once(world, capsys):
    def best(*options):
        found = listed(world, capsys, "Anna.png", *options)
        return [(entry["rank"], entry["video"], entry["distance"], entry["match"]) for entry in found]

    assert best("--index", world / "index") == best()


def test_text_lists_videos_times_and_thumbnails(world, capsys):
    lines = search(world, capsys, "Bert.png", "--top", "1").out.splitlines()
    assert lines[0].startswith("face 1 of 1 at ")
    assert lines[1].startswith("  1  0.0")
    for part in (str(world / "films" / "Bert" / "one.mp4"), "0:00.0 - 0:00.8", "track 0", "thumbnails/0/"):
        assert part in lines[1]
    assert len(lines) == 2


def test_an_absent_person_is_reported(world, capsys):
    told = search(world, capsys, "Bert.png", "--folder", world / "films" / "Anna")
    assert "face 1: probably not in the index: the nearest distance, " in told.err
    assert told.out.splitlines()[1].split()[2] == "unlikely"
    assert listed(world, capsys, "Bert.png", "--folder", world / "films" / "Anna")[0]["match"] is False


@pytest.mark.parametrize("step", [-1e-5, 1e-5])
def test_printed_digits_show_which_side_of_the_threshold_a_distance_is_on(world, capsys, monkeypatch, step):
    nearest = listed(world, capsys, "Anna.png")[0]["distance"]
    monkeypatch.setattr(SeveralIndexes, "threshold", nearest + step)
    told = search(world, capsys, "Anna.png")
    rank, distance = told.out.splitlines()[1].split()[:2]
    assert rank == "1"
    assert float(distance) == pytest.approx(nearest, abs=1e-4)
    assert len(distance.partition(".")[2]) > 3
    assert (f", {distance}, is above " in told.err) == (step < 0)


def test_several_photos_are_one_person(world, capsys):
    cv2.imwrite(str(world / "Anna smiles.png"), draw_image("Anna", seed=9))
    capsys.readouterr()
    assert run("search", world / "Anna.png", world / "Anna smiles.png", "--index", world / "index", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    apart = [listed(world, capsys, name) for name in ("Anna.png", "Anna smiles.png")]
    assert [entry["video"] for entry in found[:2]] == [entry["video"] for entry in apart[0][:2]]
    # The mean of two features is nearer to a third one than they are on average.
    assert found[0]["distance"] < sum(entries[0]["distance"] for entries in apart) / 2
    said = search(world, capsys, "Anna.png", world / "Anna smiles.png").out
    assert said.startswith("one person, from 2 photos or videos\n")
    assert (
        "the largest face of each photo is used"
        in search(world, capsys, "Anna.png", world / "Anna smiles.png", "--face", "2", code=2).err
    )


def test_named_person_is_searched_for_by_tracks(world, capsys, tmp_path):
    index = tmp_path / "index"
    shutil.copytree(world / "index", index)
    tracks = TrackIndex(index)
    (track,) = tracks.tracks(video=str(world / "films" / "Anna" / "one.mp4"))
    tracks.people.name([track.id], "Anna A.")
    capsys.readouterr()
    assert run("search", "--person", "Anna A.", "--index", index, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found[0]["video"], found[0]["distance"]) == (track.video, pytest.approx(0, abs=1e-4))
    assert found[1]["video"] == str(world / "films" / "duo.mp4")
    assert run("search", world / "Anna.png", "--person", "Anna A.", "--index", index) == 0
    assert capsys.readouterr().out.startswith("one person, from 1 photo or video and 1 track or photo of Anna A.\n")
    assert run("search", "--person", "Nobody", "--index", index) == 2
    assert "no track is named Nobody" in capsys.readouterr().err
    assert run("search", "--index", index) == 2
    assert "give a photo or a video of the person, or --person NAME" in capsys.readouterr().err


def test_another_encoder_keeps_the_names(world, tmp_path, capsys):
    index = tmp_path / "index"
    shutil.copytree(world / "index", index)
    TrackIndex(index).people.name([1], "Ada")
    before = TrackIndex(index)
    assert run("convert", "--index", index, "--encoder", "dlib") == 0
    after = TrackIndex(index)
    assert after.tracks() == before.tracks()
    assert after.calibration == SHIPPED["dlib"][0]
    assert after.model().config["encoder"]["_target_"].endswith("DlibResNet")
    capsys.readouterr()
    assert run("convert", "--index", index, "--encoder", "dlib") == 0
    assert f"note: {index} already has this model" in capsys.readouterr().out
    assert run("convert", "--index", index, "--encoder", "nobody") == 2
    assert "--encoder nobody: must be sface, dlib, or the path of an .onnx file" in capsys.readouterr().err


def test_an_index_is_refitted_and_calibrated(world, prepare, trees, tmp_path, capsys):
    index = tmp_path / "index"
    shutil.copytree(world / "index", index)
    model, before = TrackIndex(index).about["model"], TrackIndex(index).calibration
    assert run("convert", "--index", index, "--refit") == 0
    assert TrackIndex(index).about["model"] != model
    assert TrackIndex(index).model().fingerprint() == TrackIndex(index).about["model"]
    prepare("--stills", trees / "lfw", "--size", "200", "--margin", "1.4")
    assert run("convert", "--index", index, "--calibrate", tmp_path / "out") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "calibrated on half of 2 people. Of the other half, with 8 clips: " in out
    assert TrackIndex(index).calibration != before
    assert run("convert", "--index", index) == 2
    assert (
        "nothing to convert: give --encoder, --checkpoint, --index-type, --backend, --refit or --calibrate"
        in capsys.readouterr().err
    )


def test_face_option_selects_the_query(world, capsys):
    bert, anna = (listed(world, capsys, "both.png", "--face", n, "--top", "1")[0] for n in ("1", "2"))
    assert bert["video"] == str(world / "films" / "Bert" / "one.mp4")
    assert anna["video"] != bert["video"]
    every = listed(world, capsys, "both.png", "--face", "all", "--top", "1")
    assert every == [bert, anna]
    assert [entry["face"] for entry in every] == [1, 2]
    assert "--face 3: " in search(world, capsys, "both.png", "--face", "3", code=2).err
    assert "--face 0: must be" in search(world, capsys, "both.png", "--face", "0", code=2).err


def test_tracks_and_date_filters(world, capsys):
    assert len(listed(world, capsys, "Anna.png", "--tracks")) == 4
    assert len(listed(world, capsys, "Anna.png", "--top", "2")) == 2
    duo = str(world / "films" / "duo.mp4")
    assert [e["video"] for e in listed(world, capsys, "Anna.png", "--until", "2001-09-09")] == [duo]
    assert [e["video"] for e in listed(world, capsys, "Anna.png", "--until", "2001-09-08")] == []
    assert duo not in [e["video"] for e in listed(world, capsys, "Anna.png", "--since", "2001-09-10")]


def test_a_video_can_be_the_query(world, capsys):
    found = listed(world, capsys, "films/Anna/one.mp4", "--top", "2")
    assert found[0]["video"] == str(world / "films" / "Anna" / "one.mp4")
    assert found[1]["video"] == str(world / "films" / "duo.mp4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "absent.png", "--index", "index"], "absent.png: there is no such file"),
        (["search", "Anna.png", "--index", "tracks"], "tracks has no index"),
        (["search", "Anna.png", "--index", "index", "--top", "0"], "Invalid value for '--top'"),
        (["search", "Anna.png", "--index", "index", "--since", "yesterday"], "Invalid value for '--since'"),
        (["index", "--out", "index"], "Missing argument 'SOURCE...'"),
        (["index", "empty", "--out", "new"], "no videos found in empty"),
        (["index", "absent", "--out", "new"], "absent: there is no such file or folder"),
        (["index", "tracks", "--out", "new", "--watch"], "--watch: tracks has tracks or a prepared data set"),
        (["index", "tracks", "--out", "new", "--min-face", "60"], "--detector and --min-face are for videos"),
        (["index", "films", "--out", "index", "--min-face", "60"], "was made with the default min_face, not 60"),
        (["index", "films", "--out", "index", "--detector", "mtcnn"], "was made with detector yunet, not mtcnn"),
        (["index", "tracks", "--out", "index", "--checkpoint", "absent"], "cannot load the model absent: no such file"),
        (["erase", "--index", "index", "--video", "x.mp4"], "--video x.mp4: the index"),
        (["erase", "--index", "index", "--person", "Nobody"], "--person Nobody: no track"),
        (["erase", "--index", "index"], "nothing to erase: give --video,"),
        (["erase", "--index", "new", "--person", "Nobody"], "new has no index"),
        (["index", "tracks", "--out", "new\udcff"], "new\\udcff: the name is not UTF-8"),
        (["search", "Anna.png", "--index", "index", "--folder", "films\udcff"], "the name is not UTF-8"),
    ],
)
def test_mistakes_are_reported_in_one_line(world, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(world)
    (world / "empty").mkdir(exist_ok=True)
    capsys.readouterr()
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_index_adds_new_videos_and_erase_removes_them(world, tmp_path, capsys):
    make_film(tmp_path / "film.mp4", "Anna", seconds=1)
    make_film(tmp_path / "other.mp4", "Cleo", seconds=1)
    for film in ("film.mp4", "other.mp4"):
        assert run("ingest", tmp_path / film, "--out", tmp_path / "tracks") == 0
        capsys.readouterr()
        assert run("index", tmp_path / "tracks", "--out", tmp_path / "index") == 0
    assert "2 tracks of 2 videos, codes of 256 bits; added 1 videos with 1 tracks, 1 already indexed" in (
        capsys.readouterr().out
    )
    monkey = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert run("erase", "--index", "index", "--video", "film.mp4") == 0
    finally:
        os.chdir(monkey)
    assert f"erased 1 track of {tmp_path / 'film.mp4'}" in capsys.readouterr().out
    assert run("search", world / "Anna.png", "--index", tmp_path / "index", "--json") == 0
    assert [entry["video"] for entry in json.loads(capsys.readouterr().out)] == [str(tmp_path / "other.mp4")]


def test_one_command_finds_faces_and_indexes_them(world, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 2000)
    capsys.readouterr()
    assert run("index", world / "films", tmp_path / "broken.mp4", "--out", tmp_path / "index") == 0
    told = capsys.readouterr().out.splitlines()
    assert f"{world / 'films' / 'duo.mp4'}: 2 tracks" in told
    assert sum(line.startswith(f"bad: {tmp_path / 'broken.mp4'}: ") for line in told) == 1
    assert told[-2].endswith("4 tracks of 3 videos, codes of 256 bits; added 3 videos with 4 tracks, 0 already indexed")
    one, two = (
        {(t.video, t.number, t.start_s, t.end_s) for t in TrackIndex(folder / "index").tracks()}
        for folder in (tmp_path, world)
    )
    assert one == two
    assert run("index", tmp_path / "broken.mp4", "--out", tmp_path / "index") == 2
    assert "cannot read any of 1 files as a video" in capsys.readouterr().err


def test_several_sources_of_any_kind_make_one_index(world, tmp_path, capsys):
    film = make_film(tmp_path / "film.mp4", "Dora", seconds=1)
    assert run("index", film, world / "tracks", "--out", tmp_path / "index") == 0
    assert "5 tracks of 4 videos, codes of 256 bits; added 4 videos with 5 tracks" in capsys.readouterr().out
    assert TrackIndex(tmp_path / "index").videos() == sorted(
        [str(film), *(str(path) for path in (world / "films").rglob("*.mp4"))]
    )


def test_an_index_of_ingested_tracks_is_extended_where_they_are(archive, capsys):
    """As made by earlier versions: nothing is found again, and no name is lost."""
    films, index, _ = archive
    TrackIndex(index).people.name([1], "Anna")
    make_film(films / "new.mp4", "Dora", seconds=1)
    assert run("index", films, "--out", index) == 0
    assert "added 1 videos with 1 tracks, 3 already indexed" in capsys.readouterr().out
    assert not (index / "tracks").exists()
    assert len(list((films.parent / "tracks").iterdir())) == 4
    assert [track.person for track in TrackIndex(index).tracks()] == ["Anna", None, None, None, None]


def test_erase_removes_crops_in_the_index_folder(world, tmp_path, capsys):
    assert run("index", world / "films", "--out", tmp_path / "index") == 0
    index = TrackIndex(tmp_path / "index")
    index.people.name([track.id for track in index.tracks() if track.number == 1], "Cleo C.")
    capsys.readouterr()
    assert run("erase", "--index", index.folder, "--person", "Cleo C.") == 0
    assert run("erase", "--index", index.folder, "--video", world / "films" / "Bert" / "one.mp4") == 0
    assert capsys.readouterr().out == (
        f"erased 1 track of Cleo C. and their crops\n"
        f"erased 1 track of {world / 'films' / 'Bert' / 'one.mp4'} and their crops\n"
    )
    assert len(list((index.folder / "tracks").iterdir())) == 2


def test_an_interrupted_index_can_be_rebuilt(world, tmp_path, capsys):
    """State after SIGKILL: SQLite makes an empty file before the first transaction ends."""
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.sqlite").touch()
    assert run("search", world / "Anna.png", "--index", tmp_path / "index") == 2
    assert "has no index: index.sqlite is missing or empty" in capsys.readouterr().err
    assert run("index", world / "tracks", "--out", tmp_path / "index") == 0
    assert run("search", world / "Anna.png", "--index", tmp_path / "index") == 0


def test_a_checkpoint_encodes_the_codes(world, tmp_path, capsys):
    VideoHasher(CONFIG).save(tmp_path / "model")
    made = ["index", world / "tracks", "--out", tmp_path / "index", "--checkpoint", tmp_path / "model"]
    assert run(*made) == 0
    assert ", codes of 48 bits" in capsys.readouterr().out
    assert run("search", world / "Anna.png", "--index", tmp_path / "index", "--json") == 0
    told = capsys.readouterr()
    assert {entry["match"] for entry in json.loads(told.out)} == {None}  # it was not calibrated
    assert told.err == ""
    # Videos added later are encoded by the model of the index, unless another is given.
    assert run("index", world / "tracks", "--out", tmp_path / "index") == 0
    assert "added 0 videos with 0 tracks, 3 already indexed" in capsys.readouterr().out
    VideoHasher(CONFIG).save(tmp_path / "other")
    assert run("index", world / "tracks", "--out", tmp_path / "index", "--checkpoint", tmp_path / "other") == 2
    assert "was made by another model" in capsys.readouterr().err


def test_an_index_grows_without_the_encoder_package(world, tmp_path, monkeypatch, capsys):
    """The index has its own model; built again elsewhere it might differ in the last bit, and be refused."""
    assert run("index", world / "tracks", "--out", tmp_path / "index") == 0
    monkeypatch.setattr("facereel.models.pretrained_hasher", None)  # a call would fail
    make_film(tmp_path / "film.mp4", "Cleo", seconds=1)
    assert run("ingest", tmp_path / "film.mp4", "--out", tmp_path / "tracks") == 0
    assert run("index", tmp_path / "tracks", "--out", tmp_path / "index") == 0
    assert "added 1 videos with 1 tracks" in capsys.readouterr().out


@pytest.mark.parametrize("named", ["dlib", "network.onnx"])
def test_an_index_with_another_encoder(named, world, tmp_path, capsys):
    if named != "dlib":
        onnx_faces = pytest.importorskip("onnx_faces", reason="needs onnx")
        pytest.importorskip("onnxruntime", reason="needs onnxruntime")
        (tmp_path / named).write_bytes(onnx_faces.onnx_network().SerializeToString())
    encoder = named if named == "dlib" else tmp_path / named
    index = ["index", world / "tracks", "--out", tmp_path / "index"]
    assert run(*index, "--encoder", encoder) == 0
    assert run(*index, "--encoder", encoder) == 0
    assert "added 0 videos with 0 tracks, 3 already indexed" in capsys.readouterr().out
    (tmp_path / "network.onnx").unlink(missing_ok=True)  # the index needs no other file
    assert run("search", world / "Anna.png", "--index", tmp_path / "index", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (None in {entry["match"] for entry in found}) == (named != "dlib")  # an unknown network is not calibrated
    assert run(*index, "--encoder", "sface") == 2
    error = capsys.readouterr().err
    assert f"--encoder sface: the index {tmp_path / 'index'} has another model; choose a new folder with --out" in error


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("arcface", "--encoder arcface: must be sface, dlib, or the path of an .onnx file"),
        ("absent.onnx", "cannot read the weights absent.onnx: No such file or directory"),
        ("text.onnx", "text.onnx: it is not an ONNX network for face images: "),
    ],
)
def test_a_wrong_encoder_gives_one_line(encoder, message, world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("text")
    assert run("index", world / "tracks", "--out", tmp_path / "index", "--encoder", encoder) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert error.count("\n") == 1
    assert not (tmp_path / "index").exists()


def test_a_missing_onnxruntime_gives_one_line(world, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run("index", world / "tracks", "--out", tmp_path / "index", "--encoder", tmp_path / "a.onnx") == 2
    assert "needs the packages onnx and onnxruntime: pip install 'facereel[export]'" in capsys.readouterr().err


def test_a_checkpoint_and_an_encoder_are_refused(world, tmp_path, capsys):
    options = ["--checkpoint", tmp_path, "--encoder", "sface"]
    assert run("index", world / "tracks", "--out", tmp_path / "index", *options) == 2
    assert "--checkpoint and --encoder both name a model: use one of them" in capsys.readouterr().err


@pytest.fixture(scope="module")
def original(world, tmp_path_factory):
    """Films, tracks and an index that their tests change, and a copy of the folder."""
    folder = tmp_path_factory.mktemp("archive")
    shutil.copytree(world / "films", folder / "films")
    assert run("ingest", folder / "films", "--out", folder / "tracks") == 0
    assert run("index", folder / "tracks", "--out", folder / "index") == 0
    return folder, shutil.copytree(folder, tmp_path_factory.mktemp("copy") / "archive")


@pytest.fixture
def archive(original, capsys):
    """The folders of the films and of the index as they were made, and how the index is brought up to date."""
    folder, copy = original
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)

    def update():
        capsys.readouterr()
        assert run("ingest", folder / "films", "--out", folder / "tracks") == 0
        assert run("index", folder / "tracks", "--out", folder / "index") == 0
        return capsys.readouterr().out

    return folder / "films", folder / "index", update


def test_a_deleted_film_is_marked_in_the_results(archive, world, capsys):
    films, index, update = archive
    (films / "duo.mp4").unlink()
    out = update()
    assert f"note: the index has 1 absent video ({films / 'duo.mp4'}): connect their drive" in out
    assert f"or erase them: facereel erase --absent --index {index}\n" in out
    assert run("search", world / "Anna.png", "--index", index, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {entry["video"]: entry.get("absent", False) for entry in found} == {
        str(films / "Anna" / "one.mp4"): False,
        str(films / "Bert" / "one.mp4"): False,
        str(films / "duo.mp4"): True,
    }
    assert run("search", world / "Anna.png", "--index", index) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [" (absent) " in line for line in lines if ".mp4" in line] == [
        f"{films / 'duo.mp4'} " in line for line in lines[1:]
    ]
    assert sum(" (absent) " in line for line in lines) == 1


def test_a_moved_film_is_listed_once_at_its_new_path(archive, world, capsys):
    films, index, update = archive
    (films / "Anna").rename(films / "Anna Archer")
    (films / "duo.mp4").rename(films / "Bert" / "trio.mov")
    out = update()
    assert (
        f"note: {films / 'Bert' / 'trio.mov'} was moved from {films / 'duo.mp4'}: its tracks, names and groups" in out
    )
    assert "added 0 videos with 0 tracks, 3 already indexed" in out
    assert run("search", world / "Anna.png", "--index", index, "--json") == 0
    found = [entry["video"] for entry in json.loads(capsys.readouterr().out)]
    assert sorted(found) == [str(films / name) for name in ("Anna Archer/one.mp4", "Bert/one.mp4", "Bert/trio.mov")]
    shutil.copy(films / "Bert" / "trio.mov", films / "copy.mov")
    assert (
        f"note: {films / 'copy.mov'} is not listed: it has the same content as {films / 'Bert' / 'trio.mov'}"
        in update()
    )


def test_erase_absent_removes_deleted_films(archive, capsys):
    films, index, _ = archive
    (films / "duo.mp4").unlink()
    (films / "Anna").rename(films.parent / "elsewhere")
    assert run("erase", "--index", index, "--absent") == 0
    out = capsys.readouterr().out
    assert f"erased 2 tracks of {films / 'duo.mp4'}, which no longer exists; crops are still in " in out
    assert f"{index}: erased 1 absent video" in out
    assert f"note: kept 1 absent video ({films / 'Anna' / 'one.mp4'}): their folder is missing" in out
    assert TrackIndex(index).videos() == [str(films / "Anna" / "one.mp4"), str(films / "Bert" / "one.mp4")]
    assert run("erase", "--index", index, "--absent-in", films / "Bert") == 0
    assert "erased 0 absent videos" in capsys.readouterr().out
    assert run("erase", "--index", index, "--absent-in", films) == 0
    assert TrackIndex(index).videos() == [str(films / "Bert" / "one.mp4")]


def test_a_folder_of_tracks_keeps_its_detector(tmp_path, monkeypatch, capsys):
    film, more = (make_film(tmp_path / f"{name}.mp4", name, seconds=1) for name in ("Anna", "Bert"))
    tracks = tmp_path / "tracks"
    assert run("ingest", film, "--out", tracks, "--detector", "mtcnn") == 0
    assert "note: detector" not in capsys.readouterr().out
    monkeypatch.setattr("facereel.video.detector.default_detector", lambda: "yunet")
    assert run("ingest", film, more, "--out", tracks) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"note: detector mtcnn, as for the tracks in {tracks}; --detector yunet finds all again" in out
    assert "1 new with 1 tracks, 1 done before" in out


def test_default_detector_without_yunet_is_printed(tmp_path, monkeypatch, capsys):
    film = make_film(tmp_path / "film.mp4", "Anna", seconds=1)
    monkeypatch.setattr("facereel.video.detector.default_detector", lambda: "mtcnn")
    assert run("ingest", film, "--out", tmp_path / "tracks") == 0
    assert "note: detector mtcnn; yunet is faster: pip install 'facereel[pretrained]'" in capsys.readouterr().out
    assert detector_in(tmp_path / "tracks") == "mtcnn"
    assert detector_in(tmp_path) is None


@pytest.mark.parametrize("command", ["index", "ingest"])
def test_device_is_checked_before_videos_are_read(command, world, tmp_path, capsys):
    films, out = world / "films", tmp_path / "out"
    assert run(command, films, "--out", out, "--device", "cuda:77") == 2
    assert "device=cuda:77: must be auto, cpu, or another device" in capsys.readouterr().err
    assert run(command, films, "--out", out, "--device", "auto", "--engine", "ray") == 2
    assert "--device auto: workers of --engine ray use the CPU" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("command", ["index", "ingest"])
def test_device_decodes_and_detects(command, world, tmp_path, monkeypatch):
    seen = []

    def noting(name, real):
        return lambda first, device="cpu": seen.append((name, str(device))) or real(first, device)

    for module, name in (("ingest", "Video"), ("find_tracks", "make_detector")):
        place = importlib.import_module(f"facereel.video.{module}")
        monkeypatch.setattr(place, name, noting(name, getattr(place, name)))
    assert run(command, world / "films", "--out", tmp_path / "out", "--device", "cpu:0") == 0
    assert {("Video", "cpu:0"), ("make_detector", "cpu:0")} <= set(seen)


def test_device_does_not_change_codes(world, tmp_path):
    out = tmp_path / "index"
    assert run("index", world / "tracks", "--out", out, "--device", "cpu:0") == 0
    before, after = (TrackIndex(folder) for folder in (world / "index", out))
    codes = [[index.vectors.code(t.id).tolist() for t in index.tracks()] for index in (before, after)]
    assert codes[0] == codes[1]
