"""Find the videos in folders: extensions, links, recycle bins, and unreadable files."""

import os

import pytest
from commands import run
from films import make_film

from facereel.errors import UserError
from facereel.system.skipped import Skipped
from facereel.video.file_kinds import IMAGE_ENDINGS, VIDEO_ENDINGS
from facereel.video.find_videos import find_videos

ENDINGS = """
    3g2 3gp asf avi dav divx dv f4v flv h264 hevc m2t m2ts m2v m4v mjpeg mjpg mkv mod mov mp4 mpe mpeg mpg mts mxf
    ogm ogv qt rm rmvb tod trp ts vob webm wmv wtv y4m
""".split()  # noqa: SIM905


def touch(*paths):
    """Files that differ."""
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0" * (number + 1))


def found(*paths):
    """The names of the videos below the first path, and a line for each kind of skipped files."""
    skipped = Skipped()
    videos = find_videos(paths, skipped)
    return [str(video) for video in videos], skipped.lines()


@pytest.mark.parametrize("ending", ENDINGS)
def test_video_extensions_ignore_case(tmp_path, ending):
    touch(tmp_path / f"a.{ending}", tmp_path / f"b.{ending.upper()}", tmp_path / f"c.x.{ending.title()}")
    videos, lines = found(tmp_path)
    assert len(videos) == 3
    assert lines == []


def test_video_and_image_extensions_are_disjoint():
    assert not set(VIDEO_ENDINGS) & set(IMAGE_ENDINGS)
    assert all(ending == ending.lower() and ending.startswith(".") for ending in VIDEO_ENDINGS + IMAGE_ENDINGS)


def test_other_files_are_counted_by_extension(tmp_path):
    touch(*(tmp_path / name for name in ("film.mp4", "a.jpg", "b.JPG", "c/d.jpg", "c.txt", "README", "Dr. No and Ada")))
    videos, lines = found(tmp_path)
    assert videos == [str(tmp_path / "film.mp4")]
    assert [line.partition(" (")[0] for line in lines] == [
        "3 x file that is not a video, .jpg",
        "2 x file that is not a video, without an extension",
        "1 x file that is not a video, .txt",
    ]


def test_source_code_is_not_a_video(tmp_path):
    for name, text in (("app.ts", "export const ä = 1;\n"), ("go.mod", "module x\n"), ("m.mts", "let a;\r\n\t")):
        (tmp_path / name).write_text(text)
    (tmp_path / "long.ts").write_text("ä" * 10_000)  # the head ends within a character
    (tmp_path / "odd.ts").write_text("x" + "ä" * 10_000)
    touch(tmp_path / "film.ts", tmp_path / "camera.mod")
    (tmp_path / "once.mp4").write_text("once upon a time")  # is bad, and not a text by its ending
    videos, lines = found(tmp_path)
    assert [os.path.basename(video) for video in videos] == ["camera.mod", "film.ts", "once.mp4"]
    assert sorted(line.partition(" (")[0] for line in lines) == [
        "1 x file that is not a video, .mod of text",
        "1 x file that is not a video, .mts of text",
        "3 x file that is not a video, .ts of text",
    ]
    assert found(tmp_path / "app.ts")[0] == [str(tmp_path / "app.ts")]  # who is named is tried


def test_linked_folders_and_files_are_followed(tmp_path):
    touch(tmp_path / "disk" / "deep" / "a.mp4", tmp_path / "other" / "b.mp4")
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "disk").symlink_to(tmp_path / "disk")
    (tmp_path / "films" / "linked.mp4").symlink_to("../other/b.mp4")
    videos, lines = found(tmp_path / "films")
    assert videos == [str(tmp_path / "films" / name) for name in ("disk/deep/a.mp4", "linked.mp4")]
    assert lines == []


def test_circular_links_terminate(tmp_path):
    touch(tmp_path / "films" / "a" / "a.mp4", tmp_path / "films" / "b" / "b.mp4", tmp_path / "outside.mp4")
    for link, target in (("a/to_b", "../b"), ("b/to_a", "../a"), ("up", "."), ("above", ".."), ("self", "self")):
        (tmp_path / "films" / link).symlink_to(target)
    videos, lines = found(tmp_path / "films")
    assert videos == [str(tmp_path / "films" / name) for name in ("a/a.mp4", "b/b.mp4")]
    folder = tmp_path / "films"
    assert lines == [
        f"2 x link to a folder that is read anyway ({folder / 'a' / 'to_b'}, {folder / 'b' / 'to_a'})",
        f"2 x link to a parent folder ({folder / 'above'}, {folder / 'up'})",
        f"1 x broken link ({folder / 'self'})",
    ]


def test_circular_links_outside_the_folder_terminate(tmp_path):
    """Two drives that link to each other, and one that links to what is around it."""
    touch(tmp_path / "x" / "one" / "1.mp4", tmp_path / "x" / "two" / "2.mp4", tmp_path / "x" / "far.mp4")
    (tmp_path / "x" / "one" / "two").symlink_to(tmp_path / "x" / "two")
    (tmp_path / "x" / "two" / "one").symlink_to(tmp_path / "x" / "one")
    (tmp_path / "x" / "two" / "around").symlink_to(tmp_path / "x")
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "in").symlink_to(tmp_path / "x" / "one")
    videos, lines = found(tmp_path / "films")
    assert videos == [str(tmp_path / "films" / "in" / name) for name in ("1.mp4", "two/2.mp4")]
    assert len(lines) == 1
    assert lines[0].startswith("2 x link to a parent folder (")


def test_video_with_several_paths_is_found_once(tmp_path):
    real = tmp_path / "films" / "z" / "film.mp4"
    touch(real)
    (tmp_path / "films" / "a.mp4").symlink_to(real)
    (tmp_path / "films" / "b").symlink_to("z")
    (tmp_path / "c").symlink_to(tmp_path / "films")
    for paths in ([tmp_path / "films"], [tmp_path / "c", tmp_path / "films"], [tmp_path / "films" / "a.mp4", real]):
        videos, lines = found(*paths)
        assert videos == [str(real)]
        assert any(f"({tmp_path / 'films' / 'a.mp4'} is {real}" in line for line in lines)


def test_first_hard_link_by_name_is_found(tmp_path):
    touch(tmp_path / "m.mp4")
    (tmp_path / "a").mkdir()
    for name in ("z.mp4", "a/x.mp4", "b.mp4"):
        os.link(tmp_path / "m.mp4", tmp_path / name)
    videos, lines = found(tmp_path)
    assert videos == [str(tmp_path / "a" / "x.mp4")]
    assert lines[0].startswith("3 x other path to the same video (")


def test_first_link_by_name_is_found_in_any_argument_order(tmp_path):
    touch(tmp_path / "disk" / "film.mp4")
    links = [tmp_path / name for name in ("l1", "l2")]
    for link in links:
        link.symlink_to("disk")
    for order in (links, links[::-1]):
        videos, lines = found(*order)
        assert videos == [str(links[0] / "film.mp4")]
        assert lines == [f"1 x link to a folder that is read anyway ({links[1]})"]


def test_folder_given_by_two_paths_is_read_once(tmp_path, monkeypatch):
    touch(tmp_path / "films" / "deep" / "film.mp4", tmp_path / "films" / "deep" / "still.jpg")
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    names = ("films", "films", "films/deep/..", "films/deep", str(tmp_path / "films"), "films/deep/film.mp4")
    videos, lines = found(*map(Path, names))
    assert videos == [str(tmp_path / "films" / "deep" / "film.mp4")]
    assert lines == [f"1 x file that is not a video, .jpg ({tmp_path / 'films' / 'deep' / 'still.jpg'})"]


NAMES = """
    .Trash, .Trash-1000, .Trashes, $RECYCLE.BIN, RECYCLER, @eaDir, #recycle, @Recycle, .@__thumb, .thumbnails,
    lost+found, System Volume Information, .Spotlight-V100, .fseventsd, .AppleDouble, __MACOSX, $Recycle.Bin, @EADIR
"""


@pytest.mark.parametrize("name", [name.strip() for name in NAMES.split(",")])
def test_recycle_bins_and_caches_are_skipped_unless_given_by_name(tmp_path, name):
    touch(tmp_path / "film.mp4", tmp_path / "deep" / name / "files" / "gone.mp4")
    videos, lines = found(tmp_path)
    assert videos == [str(tmp_path / "film.mp4")]
    assert lines == [f"1 x hidden or system folder ({tmp_path / 'deep' / name})"]
    assert found(tmp_path / "deep" / name)[0] == [str(tmp_path / "deep" / name / "files" / "gone.mp4")]


def test_system_files_are_skipped(tmp_path):
    names = ("._film.mp4", ".trashed-17-film.mp4", ".pending-17-film.mp4", "._notes.txt", ".film.mp4", ".DS_Store")
    touch(*(tmp_path / name for name in names))
    videos, lines = found(tmp_path)
    assert videos == [str(tmp_path / ".film.mp4")]
    assert lines[0].startswith("4 x system file (")
    assert lines[0].endswith(", ...)")
    assert lines[1] == f"1 x file that is not a video, without an extension ({tmp_path / '.DS_Store'})"


def test_unreadable_files_are_counted(tmp_path, monkeypatch):
    touch(tmp_path / "film.mp4", tmp_path / "secret" / "a.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "gone").symlink_to("/nowhere/at/all")
    os.mkfifo(tmp_path / "pipe.mp4")
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    videos, lines = found(tmp_path)
    assert videos == [str(tmp_path / "film.mp4")]
    assert lines == [
        f"2 x broken link ({tmp_path / 'gone'}, {tmp_path / 'gone.mp4'})",
        f"1 x file that is not a regular file ({tmp_path / 'pipe.mp4'})",
        f"1 x file or folder that cannot be read ({tmp_path / 'secret'})",
    ]
    assert found(tmp_path / "pipe.mp4") == ([], lines[1:2])  # nobody waits for what it may bring


def test_missing_path_raises(tmp_path):
    (tmp_path / "broken.mp4").symlink_to("nowhere.mp4")
    for name in ("absent", "broken.mp4"):
        with pytest.raises(UserError, match="there is no such file or folder"):
            find_videos([tmp_path / name])


def test_ingest_reports_skipped_files(tmp_path, capfd):
    make_film(tmp_path / "films" / "one.MP4".lower(), "Anna", seconds=1)
    (tmp_path / "films" / "one.mp4").rename(tmp_path / "films" / "one.MXF")
    os.link(tmp_path / "films" / "one.MXF", tmp_path / "films" / "two.mxf")
    touch(tmp_path / "films" / "a.jpg", tmp_path / "films" / "@eaDir" / "b.mp4")
    assert run("ingest", tmp_path / "films", "--out", tmp_path / "out") == 0
    out = capfd.readouterr().out
    assert f"note: skipped 1 x file that is not a video, .jpg ({tmp_path / 'films' / 'a.jpg'})\n" in out
    assert f"note: skipped 1 x hidden or system folder ({tmp_path / 'films' / '@eaDir'})\n" in out
    assert f"({tmp_path / 'films' / 'two.mxf'} is {tmp_path / 'films' / 'one.MXF'})\n" in out
    assert "1 of 1 videos; 1 new with" in out


def test_error_without_videos_lists_the_files_found(tmp_path, capfd):
    touch(tmp_path / "a.jpg")
    assert run("ingest", tmp_path, "--out", tmp_path / "out") == 2
    assert f"no videos found in {tmp_path}; skipped 1 x file that is not a video, .jpg (" in capfd.readouterr().err
