"""The people commands, from groups to a model trained on people they named."""

import cv2
import numpy as np
import pytest
from commands import run
from drawn_index import Seen, code_of, make_index

from facereel import VideoHasher
from facereel.data import Skipped, read_folder
from facereel.retrieval.calibration import Calibration
from facereel.retrieval.track_index import TrackIndex

# Each of five faces in three videos, two tracks of a video never at the same time; the sixth once.
VIDEOS = {f"{v}.mp4": [Seen(face, 10 * face, 10 * face + 4) for face in range(5)] for v in range(3)}
VIDEOS["0.mp4"].append(Seen(5, 60, 61))


@pytest.fixture
def index(tmp_path):
    make_index(tmp_path, VIDEOS)
    return tmp_path / "index"


@pytest.fixture
def people(index, capsys):
    def call(command, *options, code=0):
        assert run("people", command, "--index", index, *options) == code
        return capsys.readouterr()

    return call


@pytest.fixture
def clustered(people):
    people("cluster", "--threshold", 0.2)


def names(index):
    return [track.person for track in TrackIndex(index).tracks()]


def test_groups_are_listed(people):
    lines = people("cluster", "--threshold", 0.2).out.splitlines()
    assert lines[1].split() == ["group", "tracks", "videos", "seconds", "name"]
    assert lines[2].split() == ["1", "3", "3", "12.0"]
    assert lines[-1] == "6 groups of 16 tracks"
    assert people("list").out.splitlines() == lines[1:]
    lines = people("list", "--min-tracks", 2).out.splitlines()
    assert lines[-1] == "6 groups of 16 tracks; 1 with fewer than 2 tracks are not listed"
    assert len(lines) == 7


def test_default_threshold_needs_a_calibration(people, index):
    err = people("cluster", code=2).err
    assert "has no calibration: give --threshold, or calibrate it on known people" in err
    assert "Traceback" not in err
    TrackIndex(index).set_calibration(Calibration(22.0, 40.0))
    # exp(-1.8) at 500 tracks, the fewest.
    assert "a mean distance of at most 0.440" in people("cluster").out


@pytest.mark.usefixtures("clustered")
def test_naming_and_unnaming_a_group(people, index):
    out = people("name", "1=Ada Lovelace").out
    assert "group 1: 3 tracks named Ada Lovelace" in out
    assert names(index) == ["Ada Lovelace" if i in (0, 6, 11) else None for i in range(16)]
    people("name", "1=")
    assert set(names(index)) == {None}


def test_a_named_track_proposes_its_name_for_the_group(people, index):
    TrackIndex(index).people.name([1], "Ada")
    assert "Ada? (1 of 3 have this name)" in people("cluster", "--threshold", 0.2).out
    assert names(index) == ["Ada"] + [None] * 15


@pytest.mark.usefixtures("clustered")
def test_groups_are_merged_under_the_smallest_number(people, index):
    people("merge", 5, 2)
    people("merge", 2, 3)
    assert "group 2: 9 tracks named Bo" in people("name", "2=Bo").out
    assert names(index).count("Bo") == 9
    assert {track.cluster for track in TrackIndex(index).tracks()} == {1, 2, 4, 6}
    assert "there is no group 5" in people("name", "5=Ada", code=2).err


def test_contact_sheet_shows_each_group(people, tmp_path):
    people("cluster", "--threshold", 0.2, "--contact-sheet", tmp_path / "sheet.jpg")
    sheet = cv2.imread(str(tmp_path / "sheet.jpg"))
    assert sheet.shape[0] > 6 * 96
    first, last = sheet[10:90, 200:280], sheet[5 * 104 + 10 : 5 * 104 + 90, 310:390]
    assert first.std() > 20  # a face
    assert np.all(last > 250)  # the last group has one track
    people("list", "--contact-sheet", tmp_path / "again.jpg")
    assert (tmp_path / "again.jpg").read_bytes() == (tmp_path / "sheet.jpg").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("clustered")
def test_exported_people_can_be_trained_on(people, tmp_path):
    people("name", *(f"{number}=Person {number}" for number in range(1, 6)))
    out = people("export", tmp_path / "people").out
    assert "5 people; 15 new clips, 0 already there" in out
    again = people("export", tmp_path / "people").out
    assert "5 people; 0 new clips, 15 already there" in again
    data = ["data=folder", f"data.root={tmp_path / 'people'}", "data.detector=null", "data.size=32"]
    run_dir = tmp_path / "run"
    assert run("train", *data, "encoder.width=0.125", "head.n_bits=5", "debug=tiny", f"out={run_dir}") == 0
    assert (run_dir / "metrics.json").is_file()


def test_export_all_skips_tracks_that_may_show_a_named_person(people, tmp_path, index):
    TrackIndex(index).people.name([1], "Ada")
    people("cluster", "--threshold", 0.2)
    out = people("export", tmp_path / "people", "--all").out
    assert "note: skipped 2 tracks of group 1, which may show Ada" in out
    rows = list(read_folder(tmp_path / "people", Skipped()))
    clips = {person: len({row.clip for row in rows if row.person == person}) for person in {row.person for row in rows}}
    assert clips == {"Ada": 1, **{f"group_000{number}": 3 for number in (2, 3, 4, 5)}, "group_0006": 1}


def test_an_indexed_data_set_can_be_exported(prepare, tmp_path, capsys):
    prepare("--size", "40")
    model = VideoHasher(
        {
            "preprocess": {"_target_": "facereel.models.Preprocess", "size": 32},
            "encoder": {"_target_": "facereel.models.CasiaEncoder", "width": 0.125},
            "pooling": {"_target_": "facereel.models.MeanPooling"},
            "head": {"_target_": "facereel.models.SharedHead", "n_bits": 16},
        }
    )
    model.save(tmp_path / "model")
    assert run("index", tmp_path / "out", "--checkpoint", tmp_path / "model", "--out", tmp_path / "index") == 0
    assert run("people", "export", tmp_path / "people", "--index", tmp_path / "index") == 0
    assert "3 people; 8 new clips" in capsys.readouterr().out
    rows = list(read_folder(tmp_path / "people", Skipped()))
    assert {row.person for row in rows} == {"Ann_Lee", "Bo_Öz", "Cy"}
    assert cv2.imread(rows[0].file).shape == (40, 40, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["name", "Ada"], "a group's number and a name"),
        (["name", "99=Ada"], "there is no group 99"),
        (["name", "1=a\nb"], "printable"),
        (["name", "1=" + "x" * 201], "at most 200"),
        (["name", "1=Ada", "1=Bo"], "named twice"),
        (["name", "1=Ada", "99=Bo"], "there is no group 99; the numbers are 1 to 6"),
        (["merge", "3"], "facereel people merge 3 7"),
        (["merge", "3", "3"], "facereel people merge 3 7"),
        (["merge", "3", "99"], "there is no group 99"),
        (["cluster", "--threshold", "1.5"], "0..1"),
        (["cluster", "--threshold", "nan"], "0..1"),
        (["export", "people"], "no group has a name"),
        (["list", "--contact-sheet", "sheet.doc"], "cannot write an image"),
        (["list", "--min-tracks", "9", "--contact-sheet", "sheet.jpg"], "no group to draw"),
    ],
)
@pytest.mark.usefixtures("clustered")
def test_a_mistake_is_reported_in_one_line_and_changes_nothing(people, index, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = people(*options, code=2).err
    assert message in error
    assert error.count("\n") == 1
    assert set(names(index)) == {None}


@pytest.mark.parametrize("options", [["name", "1=Ada"], ["merge", "1", "2"], ["list"], ["export", "out", "--all"]])
def test_groups_must_be_made_before_they_are_used(people, options):
    assert "the index has no groups: make them with facereel people cluster --index " in people(*options, code=2).err


@pytest.mark.usefixtures("clustered")
def test_tracks_changed_after_indexing_are_not_exported(people, tmp_path):
    people("name", "1=Ada")
    make_index(tmp_path / "other", {"0.mp4": [Seen(3, 7, 8)]})
    (made,) = (tmp_path / "other" / "tracks").iterdir()
    (there,) = (tmp_path / "tracks").glob("0-*")
    made.rename(there)
    assert "has changed since" in people("export", tmp_path / "people", code=2).err


def test_an_empty_index_is_refused(tmp_path, capsys):
    make_index(tmp_path, {"a.mp4": []})
    assert run("people", "cluster", "--index", tmp_path / "index") == 2
    assert "has no tracks" in capsys.readouterr().err


def test_drawn_codes_are_near_for_one_face_and_far_for_two():
    same = [(code_of(0, i) != code_of(0, j)).sum() for i in range(5) for j in range(5)]
    other = [(code_of(a, 0) != code_of(b, 1)).sum() for a in range(6) for b in range(a)]
    assert max(same) <= 4
    assert min(other) > 16


@pytest.mark.usefixtures("clustered")
def test_similar_names_are_noted_and_kept_apart(people, index):
    assert "note:" not in people("name", "1=Ada Lovelace", "2=Alan Turing").out
    out = people("name", "3=ada_lovelace ").out
    assert 'note: "ada_lovelace" looks like "Ada Lovelace", but is treated as another person' in out
    assert {"Ada Lovelace", "ada_lovelace"} < set(names(index))
    assert "note:" not in people("name", "3=Ada Lovelace").out
    out = people("name", "4=Jose\N{COMBINING ACUTE ACCENT}", "5=Jos\N{LATIN SMALL LETTER E WITH ACUTE}").out
    assert out.count("looks like") == 2


def test_default_help_lists_the_decisions(capsys):
    assert run("people", "--help") == 0
    out = capsys.readouterr().out
    assert all(f" {command} " in out for command in ("show", "confirm", "reject", "split", "differ", "suggest", "undo"))


@pytest.mark.usefixtures("clustered")
def test_decisions_survive_new_groups_and_are_undone(people, index):
    out = people("confirm", "Ada", "--group", 1).out
    assert out == "Ada: confirmed 3 tracks\n"
    assert people("reject", "Ada", "--track", 7).out == "Ada: rejected 1 track\n"
    assert people("split", "--track", 2).out == "1 track now in group 8\n"
    assert "groups 3 and 4 are two people" in people("differ", 3, 4).out
    people("cluster", "--threshold", 0.2)
    shown = people("show", "Ada").out.splitlines()
    assert [line.split()[0] for line in shown[:-1]] == ["1", "12"]
    assert "0:00.0 - 0:04.0" in shown[0]
    assert shown[-1] == "2 tracks"
    listed = people("undo", "--list").out.splitlines()
    assert [line[21:] for line in listed[:-1]] == [
        "groups 3 and 4 differ",
        "1 track split off",
        "1 track not Ada",
        "3 tracks named Ada",
    ]
    assert listed[-1] == "4 decisions can be undone"
    for said in ("groups 3 and 4 differ", "1 track split off", "1 track not Ada", "3 tracks named Ada"):
        assert people("undo").out == f"undone: {said}\n"
    assert set(names(index)) == {None}
    assert "nothing to undo" in people("undo", code=2).err


@pytest.mark.usefixtures("clustered")
def test_suggestions_print_commands_for_both_answers(people, index):
    TrackIndex(index).set_calibration(Calibration(24.0, 34.0))
    people("confirm", "Ada Lovelace", "--group", 1)
    lines = people("suggest", "--top", 50).out.splitlines()
    assert len(lines) == 3 * (5 + 10)  # Ada and five groups, and the groups among each other
    place = next(i for i, line in enumerate(lines) if "is Ada Lovelace (3 tracks) the same person as group 2" in line)
    assert lines[place + 1].strip() == f"yes: facereel people confirm 'Ada Lovelace' --group 2 --index {index}"
    assert lines[place + 2].strip() == f"no: facereel people reject 'Ada Lovelace' --group 2 --index {index}"
    assert any(line.strip() == f"no: facereel people differ 2 3 --index {index}" for line in lines)


@pytest.mark.usefixtures("clustered")
@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("confirm", ["Ada"], "nothing to confirm: give photos, --track ID or --group NUMBER"),
        ("confirm", [" ", "--track", 1], "NAME is empty"),
        ("confirm", ["Ada", "--track", 99], "--track 99: it is not in the index"),
        ("reject", ["Ada"], "nothing to reject"),
        ("reject", ["Ada", "--group", 99], "--group 99: there is no such group"),
        ("split", [], "nothing to split off"),
        ("differ", [1, 99], "there is no group 99"),
        ("show", ["Nobody"], "there is no group or person Nobody"),
        ("suggest", [], "has no calibration"),
    ],
)
def test_mistakes_in_decisions_are_one_line(people, command, options, message):
    err = people(command, *options, code=2).err
    assert message in err
    assert len(err.splitlines()) == 1


def test_person_known_by_a_photo_only_is_erased(index, capsys):
    TrackIndex(index).people.add_photo("Ada", b"the photo")
    assert run("erase", "--index", index, "--person", "Ada") == 0
    assert "erased 0 tracks and 1 photo of Ada" in capsys.readouterr().out
    assert TrackIndex(index).people.photos("Ada") == []
    assert run("erase", "--index", index, "--person", "Ada") == 2
    assert "no track in" in capsys.readouterr().err


@pytest.mark.usefixtures("clustered")
def test_answers_to_a_suggestion_leave_named_tracks_alone(people, index):
    people("confirm", "Ada", "--track", 1)
    people("confirm", "Bob", "--track", 2)
    # Group 1 has the tracks 1, 7 and 12; group 2 has 2, 8 and 13.
    people("reject", "Ada", "--group", 1)
    assert TrackIndex(index).people.rejected() == {(7, "Ada"), (12, "Ada")}
    assert TrackIndex(index).ids_of_person("Ada") == [1]
    people("confirm", "Ada", "--group", 2)
    assert TrackIndex(index).ids_of_person("Bob") == [2]
    assert TrackIndex(index).ids_of_person("Ada") == [1, 8, 13]
    assert "--group 2: all its tracks have a name" in people("reject", "Ada", "--group", 2, code=2).err
    assert "Nobody: no track or photo has this name" in people("reject", "Nobody", "--track", 7, code=2).err


@pytest.mark.usefixtures("clustered")
def test_a_name_in_the_undo_log_can_be_erased(people, index, capsys):
    people("name", "2=Zoe")
    people("name", "2=")
    assert run("erase", "--index", index, "--person", "Zoe") == 0
    assert b"Zoe" not in (index / "index.sqlite").read_bytes()
    assert run("erase", "--index", index, "--person", "Zoe") == 2


@pytest.mark.usefixtures("clustered")
def test_people_with_photos_only_are_listed(people, index):
    TrackIndex(index).people.add_photo("Ada", b"photo")
    assert "Ada: 1 photo" in people("list").out
