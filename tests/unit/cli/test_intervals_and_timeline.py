import csv
import json

import cv2
import pycmx
import pytest
import webvtt
from commands import run
from drawn_people import draw_image
from films import make_film

import facereel
from facereel.retrieval.calibration import Calibration
from facereel.retrieval.track_index import TrackIndex

pytestmark = pytest.mark.slow

KEYS = {"video", "start_s", "end_s", "people", "probability", "distance", "tracks"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Films, their index with a named person and groups, and photos."""
    folder = tmp_path_factory.mktemp("world")
    make_film(folder / "films" / "duo.mp4", "Anna", "Cleo", seconds=3, seed=3)
    make_film(folder / "films" / "solo" / "Anna.mp4", "Anna", seconds=3, appear_s=1.2)
    make_film(folder / "films" / "solo" / "Bert.mp4", "Bert", seconds=2)
    index = facereel.index_videos(folder / "films", out=folder / "index")
    # Drawn people are more alike than real ones.
    index.set_calibration(Calibration(22.0, 400.0))
    for name in ("Anna", "Bert", "Cleo"):
        cv2.imwrite(str(folder / f"{name}.png"), draw_image(name, seed=8))
    tracks = {(track.video.rsplit("/", 1)[1], track.number): track.id for track in index.tracks()}
    index.people.name([tracks["Bert.mp4", 0]], "Bert B.")
    index.set_clusters({id_: number for number, id_ in enumerate(sorted(tracks.values()), start=1)})
    return folder


def call(world, capsys, *arguments, code=0):
    capsys.readouterr()
    assert run(*arguments, "--index", world / "index") == code
    return capsys.readouterr()


def listed(world, capsys, *arguments):
    return json.loads(call(world, capsys, "search", *arguments, "--json").out)


def test_intervals_are_listed_as_json(world, capsys):
    found = listed(world, capsys, world / "Anna.png", "--intervals")
    assert all(set(one) == KEYS for one in found)
    assert [one["video"] for one in found] == [str(world / "films" / name) for name in ("duo.mp4", "solo/Anna.mp4")]
    assert found[1]["people"] == ["Anna"]
    assert found[1]["start_s"] == pytest.approx(1.2, abs=0.2)
    assert found[1]["end_s"] == pytest.approx(3.0, abs=0.2)
    assert found[1]["probability"] > 0.5


def test_intervals_are_listed_as_text(world, capsys):
    lines = call(world, capsys, "search", world / "Bert.png", "--intervals").out.splitlines()
    assert lines == [
        f"{world}/films/solo/Bert.mp4  0:00.0 - 0:01.9  1.00  Bert  track 0",
        "1 interval in 1 video, 1.9 seconds",
    ]


def test_with_and_without_imply_intervals(world, capsys):
    (both,) = listed(world, capsys, world / "Anna.png", "--with", world / "Cleo.png")
    assert both["video"] == str(world / "films" / "duo.mp4")
    assert both["people"] == ["Anna", "Cleo"]
    (alone,) = listed(world, capsys, world / "Anna.png", "--without", world / "Cleo.png")
    assert alone["video"] == str(world / "films" / "solo" / "Anna.mp4")
    photos = [world / f"{name}.png" for name in ("Anna", "Cleo", "Bert")]
    assert listed(world, capsys, photos[0], "--with", photos[1], "--with", photos[2]) == []
    assert listed(world, capsys, photos[0], "--without", photos[1], "--folder", world / "films" / "none") == []


def test_named_person_has_intervals(world, capsys):
    (found,) = listed(world, capsys, "--person", "Bert B.", "--intervals")
    assert (found["people"], found["probability"]) == (["Bert B."], 1.0)


def test_photos_of_the_same_file_name_are_told_apart(world, capsys, tmp_path):
    cv2.imwrite(str(tmp_path / "Anna.png"), draw_image("Cleo", seed=8))
    (found,) = listed(world, capsys, world / "Anna.png", "--with", tmp_path / "Anna.png")
    assert found["people"] == [str(world / "Anna.png"), str(tmp_path / "Anna.png")]


def test_export_chooses_the_format_by_the_ending(world, capsys, tmp_path):
    out = call(world, capsys, "search", world / "Anna.png", "--export", tmp_path / "a.csv").out
    assert out.splitlines()[-1] == f"written: {tmp_path / 'a.csv'}"
    with (tmp_path / "a.csv").open(newline="") as file:
        assert [row["people"] for row in csv.DictReader(file)] == ["Anna", "Anna"]
    call(world, capsys, "search", world / "Anna.png", "--with", world / "Cleo.png", "--export", tmp_path / "a.edl")
    with (tmp_path / "a.edl").open() as file:
        edl = pycmx.parse_cmx3600(file)
    assert edl.title == "Anna, Cleo"
    assert [event.edits[0].clip_name for event in edl.events] == ["duo.mp4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--export", "a.doc"], "a.doc: the ending must be one of .csv, .json"),
        (["--intervals", "--tracks"], "--tracks cannot be combined with intervals"),
        (["--intervals", "--face", "all"], "--face all cannot be combined with intervals"),
        (["--intervals", "--face", "2"], "--face 2: "),
        (["--intervals", "--gap", "-1"], "--gap -1: must be at least 0 seconds"),
        (["--intervals", "--gap", "nan"], "--gap nan: must be at least 0 seconds"),
        (["--with", "gone.png"], "gone.png: there is no such file"),
    ],
)
def test_a_mistake_is_one_line(world, capsys, options, message):
    err = call(world, capsys, "search", world / "Anna.png", *options, code=2).err
    assert message in err
    assert err.count("\n") == 1


def test_ending_is_checked_before_the_index_is_read(tmp_path, capsys):
    assert run("search", "a.png", "--index", tmp_path / "none", "--export", tmp_path / "a.doc") == 2
    assert "the ending must be" in capsys.readouterr().err


def test_index_without_calibration_says_how_to_calibrate(world, capsys, monkeypatch):
    monkeypatch.setattr(TrackIndex, "calibration", None)
    err = call(world, capsys, "search", world / "Anna.png", "--intervals", code=2).err
    assert f"facereel convert --index {world / 'index'} --calibrate PREPARED" in err


def test_timeline_of_named_people(world, capsys, tmp_path):
    lines = call(world, capsys, "people", "timeline", "--export", tmp_path / "a.vtt").out.splitlines()
    assert lines[0] == f"{world}/films/solo/Bert.mp4  0:00.0 - 0:01.9  1.00  Bert B.  track 0"
    assert lines[-1] == f"written: {tmp_path / 'a.vtt'}"
    (cue,) = webvtt.read(str(tmp_path / "a.vtt"))
    assert (cue.start, cue.text) == ("00:00:00.000", "Bert B.")


def test_timeline_of_everyone_and_of_one_video(world, capsys, tmp_path):
    out = call(world, capsys, "people", "timeline", "--all", "--player-json", tmp_path / "players").out
    assert f"written: 3 JSON files in {tmp_path / 'players'}" in out
    duo = json.loads((tmp_path / "players" / "duo.mp4.json").read_text())
    assert [one["name"][:6] for one in duo["people"]] == ["group_", "group_"]
    assert duo["duration_s"] == pytest.approx(3, abs=0.1)
    solo = json.loads((tmp_path / "players" / "solo" / "Bert.mp4.json").read_text())
    assert [one["name"] for one in solo["people"]] == ["Bert B."]
    out = call(world, capsys, "people", "timeline", "--all", "--video", world / "films" / "duo.mp4").out
    assert out.splitlines()[-1].startswith("2 intervals in 1 video, ")


def test_sidecars_have_the_names(world, capsys, tmp_path):
    out = call(world, capsys, "people", "timeline", "--person", "Bert B.", "--xmp", tmp_path / "xmp").out
    assert f"written: 1 sidecar in {tmp_path / 'xmp'}" in out
    assert "<rdf:li>Bert B.</rdf:li>" in (tmp_path / "xmp" / "Bert.mp4.xmp").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--person", "Nobody"], "no track is named Nobody"),
        (["--video", "gone.mp4"], "gone.mp4 is not in the index in"),
        (["--all", "--person", "Bert B."], "--all lists everyone: omit it or --person"),
        (["--export", "a"], "a: the ending must be one of"),
        (["--all", "--export", "all.srt"], "all.srt: subtitles belong to one video, and these intervals are of 3"),
        (["--gap", "-1"], "--gap -1: must be at least 0 seconds"),
    ],
)
def test_a_mistake_in_a_timeline_is_one_line(world, capsys, options, message):
    assert message in call(world, capsys, "people", "timeline", *options, code=2).err
