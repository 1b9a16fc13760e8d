"""Every format is read by another program or library than the one that wrote it, or by its rules."""

import csv
import json
import math
import xml.etree.ElementTree as ET
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import opentimelineio as otio
import pycmx
import pysubs2
import pytest
import webvtt
from av.subtitles.subtitle import AssSubtitle
from films import encode_film, frames
from PIL import Image

from facereel.errors import UserError
from facereel.export.timeline import check_timeline_path, describe_video, write_player_files, write_timeline
from facereel.export.timeline.folders import files_of_videos
from facereel.export.timeline.sidecars import to_xmp, write_sidecars
from facereel.retrieval.intervals import Interval

NTSC = Fraction(30000, 1001)
# Rate of the file, its timecode, and the timecodes of 0.5 s and 1.5 s into it.
RATES = {
    "25": (Fraction(25), "10:00:00:00", "10:00:00:13", "10:00:01:13"),
    "23.976": (Fraction(24000, 1001), "01:00:00:00", "01:00:00:12", "01:00:01:12"),
    "29.97 drop frame": (NTSC, "01:00:00;00", "01:00:00;15", "01:00:01;15"),
    "29.97": (NTSC, "01:00:00:00", "01:00:00:15", "01:00:01:15"),
    "over a dropped number": (NTSC, "00:00:59;20", "00:01:00;07", "00:01:01;07"),
    "50": (Fraction(50), "00:59:59:00", "00:59:59:25", "01:00:00:25"),
    "no timecode": (Fraction(50), None, "00:00:00:25", "00:00:01:25"),
}
NAMES = ("Ada <b> & Co", "a --> b\n\nc", "=1+1", "{x}", "Élodie 李")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    made = {}
    for kind, (rate, timecode, _, _) in RATES.items():

        def change(stream, timecode=timecode):
            if timecode is not None:
                stream.metadata["timecode"] = timecode

        images = frames("Anna", seconds=2, fps=round(rate))
        made[kind] = encode_film(folder / f"{kind} film.mov", "libx264", images, rate, change=change)
    return made


@pytest.fixture(scope="module")
def film(films):
    return str(films["25"])


def interval(video, start_s=0.5, end_s=1.5, *people, **how):
    return Interval(str(video), start_s, end_s, people or ("Ada",), (3,), 0.1, 0.97, **how)


def frames_of(rate, seconds):
    return math.floor(seconds * rate + Fraction(1, 2))


@pytest.mark.parametrize("kind", RATES)
def test_otio_has_the_frames_of_the_files_timecode(films, tmp_path, kind):
    rate, _, start, _ = RATES[kind]
    path = tmp_path / "a.otio"
    write_timeline(path, [interval(films[kind]), interval(films[kind], 1.6, 1.8, "Alan")], title="people")
    content = json.loads(path.read_text())  # by the schema, not by the library that wrote it
    (track,) = content["tracks"]["children"]
    clip, other = track["children"]
    span, media = clip["source_range"], clip["media_references"]["DEFAULT_MEDIA"]
    assert span["start_time"]["rate"] == pytest.approx(float(rate), abs=1e-9)
    assert span["duration"]["value"] == frames_of(rate, 1.5) - frames_of(rate, 0.5)
    offset = span["start_time"]["value"] - media["available_range"]["start_time"]["value"]
    assert offset == frames_of(rate, 0.5)
    assert media["target_url"] == films[kind].as_uri()
    assert [marker["name"] for marker in clip["markers"]] == ["Ada (0.97)"]
    assert other["metadata"]["facereel"]["people"] == ["Alan"]
    back = otio.adapters.read_from_file(str(path))
    first = next(iter(back.find_clips())).source_range.start_time
    drop = ";" in start
    assert otio.opentime.to_timecode(first, float(rate), drop) == start


@pytest.mark.parametrize("kind", RATES)
def test_pycmx_reads_the_edl_with_source_and_record_timecode(films, tmp_path, kind):
    _, _, start, end = RATES[kind]
    path = tmp_path / "a.edl"
    write_timeline(path, [interval(films[kind]), interval(films[kind], 0.0, 0.2, "Alan")], title="people")
    with path.open() as file:
        read = pycmx.parse_cmx3600(file)
    assert read.title == "people"
    assert list(read.unrecognized_statements) == []
    other, edit = (event.edits[0] for event in read.events)
    mark = ";" if ";" in start else ":"
    assert (edit.source_in, edit.source_out) == (start, end)
    assert other.record_in == f"00:00:00{mark}00"
    assert other.record_out == edit.record_in
    assert edit.clip_name == films[kind].name
    text = path.read_text()
    assert f"FCM: {'DROP FRAME' if mark == ';' else 'NON-DROP FRAME'}\n" in text
    assert f"* LOC: {start} GREEN   ADA (0.97)" in text


@pytest.mark.parametrize("kind", RATES)
def test_edl_comes_back_through_opentimelineio(films, tmp_path, kind):
    rate, _, start, _ = RATES[kind]
    path = tmp_path / "a.edl"
    write_timeline(path, [interval(films[kind])])
    counted = float(rate) if ";" in start else float(round(rate))
    (clip,) = otio.adapters.read_from_file(str(path), rate=counted).find_clips()
    assert otio.opentime.to_timecode(clip.source_range.start_time, counted) == start
    assert clip.source_range.duration.value == frames_of(rate, 1.5) - frames_of(rate, 0.5)
    if ";" not in start:  # which its reader does not take for a marker
        assert [marker.name for marker in clip.markers] == ["ADA (0.97)"]


@pytest.mark.parametrize("kind", RATES)
def test_final_cut_xml_has_rate_timecode_and_frames_from_the_files_start(films, tmp_path, kind):
    rate, timecode, _, _ = RATES[kind]
    path = tmp_path / "a.xml"
    write_timeline(path, [interval(films[kind])], title="people")
    sequence = ET.parse(path).getroot().find("./project/children/sequence")
    item = sequence.find("./media/video/track/clipitem")
    file = item.find("file")
    for element in (sequence, item, file):
        assert element.findtext("rate/timebase") == str(round(rate))
        assert element.findtext("rate/ntsc") == ("FALSE" if rate.denominator == 1 else "TRUE")
    first, last = frames_of(rate, 0.5), frames_of(rate, 1.5)
    assert (item.findtext("in"), item.findtext("out")) == (str(first), str(last))
    assert (item.findtext("start"), item.findtext("end")) == ("0", str(last - first))
    assert file.findtext("pathurl") == films[kind].as_uri()
    assert file.findtext("timecode/string") == (timecode or "00:00:00:00")
    assert file.findtext("timecode/displayformat") == ("DF" if ";" in (timecode or "") else "NDF")
    assert (item.findtext("marker/name"), item.findtext("marker/in")) == ("Ada (0.97)", str(first))


@pytest.mark.parametrize("kind", RATES)
def test_final_cut_xml_comes_back_through_opentimelineio(films, tmp_path, kind):
    rate, _, start, _ = RATES[kind]
    path = tmp_path / "a.xml"
    write_timeline(path, [interval(films[kind])])
    (clip,) = otio.adapters.read_from_file(str(path)).find_clips()
    found = otio.opentime.to_timecode(clip.source_range.start_time, float(rate), ";" in start)
    assert found == start
    assert clip.source_range.duration.value == frames_of(rate, 1.5) - frames_of(rate, 0.5)


def test_videos_of_several_rates_share_otio_and_xml_but_no_edl(films, tmp_path):
    found = [interval(films["25"]), interval(films["29.97 drop frame"]), interval(films["50"])]
    write_timeline(tmp_path / "a.otio", found)
    clips = list(otio.adapters.read_from_file(str(tmp_path / "a.otio")).find_clips())
    assert {round(clip.source_range.start_time.rate, 2) for clip in clips} == {25.0, 29.97, 50.0}
    write_timeline(tmp_path / "a.xml", found)
    items = ET.parse(tmp_path / "a.xml").getroot().findall(".//clipitem")
    assert [item.findtext("rate/timebase") for item in items] == ["25", "30", "50"]
    ends = [int(item.findtext("end")) for item in items]
    assert ends == pytest.approx([50, 100, 150], abs=1)  # in the sequence's rate, the highest
    with pytest.raises(UserError, match="an EDL has one frame rate, and these videos have 3"):
        write_timeline(tmp_path / "a.edl", found)
    assert not (tmp_path / "a.edl").exists()


def test_rate_without_timecode_is_written_at_the_nearest_one(tmp_path):
    film = encode_film(tmp_path / "a.avi", "mjpeg", frames("Anna", seconds=2, fps=10), 10)
    for ending in ("edl", "xml", "otio"):
        write_timeline(tmp_path / f"a.{ending}", [interval(film)])
    (clip,) = otio.adapters.read_from_file(str(tmp_path / "a.otio")).find_clips()
    assert (clip.source_range.start_time.value, clip.source_range.start_time.rate) == (5, 10)
    with (tmp_path / "a.edl").open() as file:
        (event,) = pycmx.parse_cmx3600(file).events
    assert event.edits[0].source_in == "00:00:00:12"  # of 23.976


def test_clip_ends_with_its_file(film, tmp_path):
    write_timeline(tmp_path / "a.otio", [interval(film, 1.5, 2.3), interval(film, 5.0, 5.1)])
    clips = list(otio.adapters.read_from_file(str(tmp_path / "a.otio")).find_clips())
    for clip in clips:
        there, shown = clip.available_range(), clip.source_range
        assert there.start_time <= shown.start_time < shown.end_time_exclusive() <= there.end_time_exclusive()


def test_reels_of_an_edl_are_different(tmp_path):
    films = [
        encode_film(tmp_path / name, "libx264", frames("Anna", seconds=1), 25)
        for name in ("holiday 1.mov", "holiday-1.mp4", "holidays-in-rome.mp4", "李.mp4")
    ]
    write_timeline(tmp_path / "a.edl", [interval(film, 0.0, 0.2) for film in films])
    with (tmp_path / "a.edl").open(encoding="utf-8") as file:
        reels = [event.edits[0].source for event in pycmx.parse_cmx3600(file).events]
    assert sorted(reels) == ["HOLIDAY1", "HOLIDAY2", "HOLIDAYS", "REEL"]


def test_edl_has_at_most_999_events(film, tmp_path):
    many = [interval(film, number / 1000, number / 1000 + 0.001) for number in range(1000)]
    with pytest.raises(UserError, match=r"at most 999 events, not 1,000: choose \.otio or \.xml"):
        write_timeline(tmp_path / "a.edl", many)
    write_timeline(tmp_path / "a.edl", many[:999])


@pytest.mark.parametrize("ending", ["edl", "xml", "otio"])
def test_any_name_can_be_a_marker(film, tmp_path, ending):
    write_timeline(tmp_path / f"a.{ending}", [interval(film, 0.0, 1.0, *NAMES, "bell\a")], title="a\nb\0")
    how = {"rate": 25} if ending == "edl" else {}
    (clip,) = otio.adapters.read_from_file(str(tmp_path / f"a.{ending}"), **how).find_clips()
    expected = "Ada <b> & Co, a --> b c, =1+1, {x}, Élodie 李, bell\N{REPLACEMENT CHARACTER} (0.97)"
    assert clip.markers[0].name == (expected.upper() if ending == "edl" else expected)


def test_csv_is_read_by_the_standard_library(tmp_path):
    path = tmp_path / "a.csv"
    write_timeline(path, [interval("/films/b, c.mp4", 0.5, 1.5, *NAMES), interval("/films/a.mp4", 0.0, 61.25, "=1+1")])
    with path.open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert first == {
        "video": "/films/a.mp4",
        "start_s": "0.0",
        "end_s": "61.25",
        "people": "'=1+1",  # no formula
        "probability": "0.97",
        "distance": "0.1",
        "tracks": "3",
    }
    assert second["video"] == "/films/b, c.mp4"
    assert second["people"] == "; ".join(NAMES)


@pytest.mark.parametrize("name", ["=1", "+1", "-1", "@a", "\t=1", "\r=1"])
def test_no_name_is_a_formula_of_a_spreadsheet(tmp_path, name):
    write_timeline(tmp_path / "a.csv", [interval("a.mp4", 0.0, 1.0, name)])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["people"] == f"'{name}"


def test_json_has_all_values(tmp_path):
    write_timeline(tmp_path / "a.json", [interval("a.mp4", 0.5, 1.5, *NAMES), Interval("b.mp4", 0, 1)])
    first, second = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert first == {
        "video": "a.mp4",
        "start_s": 0.5,
        "end_s": 1.5,
        "people": list(NAMES),
        "probability": 0.97,
        "distance": 0.1,
        "tracks": [3],
    }
    assert second["probability"] is None


def cues_of_ffmpeg(path):
    """Start and duration in milliseconds, and the text of each cue."""
    with av.open(str(path)) as container:
        (stream,) = container.streams
        assert stream.type == "subtitle"
        return [
            (packet.pts, packet.duration, cast(AssSubtitle, packet.decode()[0]).dialogue.decode())
            for packet in container.demux(stream)
            if packet.size
        ]


def test_webvtt_is_read_by_two_libraries(tmp_path):
    path = tmp_path / "a.vtt"
    write_timeline(path, [interval("a.mp4", 0.5, 1.5, *NAMES), interval("a.mp4", 3723.0004, 3724.25)])
    first, second = webvtt.read(str(path))
    assert (first.start, first.end) == ("00:00:00.500", "00:00:01.500")
    assert first.text == "Ada &lt;b&gt; &amp; Co, a --&gt; b c, =1+1, {x}, Élodie 李"
    assert (second.start, second.end, second.text) == ("01:02:03.000", "01:02:04.250", "Ada")
    one, other = cues_of_ffmpeg(path)
    assert one[:2] == (500, 1000)
    assert "Ada <b> & Co, a --> b c" in one[2]  # unescaped again
    assert other[0] == 3_723_000


def test_subrip_is_read_by_two_libraries(tmp_path):
    path = tmp_path / "a.srt"
    write_timeline(path, [interval("a.mp4", 0.5, 1.5, *NAMES), interval("a.mp4", 3723.0004, 3724.25)])
    first, second = pysubs2.load(str(path), encoding="utf-8")
    assert (first.start, first.end) == (500, 1500)
    assert first.text == "Ada (b) & Co, a --) b c, =1+1, (x), Élodie 李"
    assert (second.start, second.end, second.text) == (3_723_000, 3_724_250, "Ada")
    assert [cue[:2] for cue in cues_of_ffmpeg(path)] == [(500, 1000), (3_723_000, 1250)]


@pytest.mark.parametrize("ending", ["vtt", "srt"])
def test_subtitles_of_several_videos_are_an_error(tmp_path, ending):
    with pytest.raises(UserError, match="subtitles belong to one video, and these intervals are of 2"):
        write_timeline(tmp_path / f"a.{ending}", [interval("a.mp4"), interval("b.mp4")])


@pytest.mark.parametrize("ending", ["csv", "json", "vtt", "srt"])
def test_no_interval_is_a_file_without_any(tmp_path, ending):
    write_timeline(tmp_path / f"a.{ending}", [])
    assert (tmp_path / f"a.{ending}").is_file()


@pytest.mark.parametrize("ending", ["otio", "edl", "xml"])
def test_a_timeline_needs_an_interval_and_its_video(tmp_path, ending):
    with pytest.raises(UserError, match="there is no interval to write"):
        write_timeline(tmp_path / f"a.{ending}", [])
    with pytest.raises(UserError, match=r"gone\.mp4: there is no such file"):
        write_timeline(tmp_path / f"a.{ending}", [interval(tmp_path / "gone.mp4")])
    assert list(tmp_path.iterdir()) == []


def test_path_is_checked_before_anything_slow(tmp_path):
    with pytest.raises(UserError, match=r"a\.doc: the ending must be one of \.csv, \.json"):
        check_timeline_path(tmp_path / "a.doc")
    with pytest.raises(UserError, match="its folder does not exist"):
        check_timeline_path(tmp_path / "none" / "a.csv")
    check_timeline_path(tmp_path / "a.OTIO")


def test_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "otio_fcp_adapter", None)
    with pytest.raises(UserError, match=r"otio_fcp_adapter: pip install 'facereel\[timeline\]'"):
        check_timeline_path(tmp_path / "a.edl")


def test_player_file_says_who_is_on_screen(film, tmp_path):
    both = interval(film, 1.0, 1.25, "Ada", "Alan")
    (path,) = write_player_files(tmp_path / "out", [interval(film, 1.5, 1.75), both, interval(film, 0.0, 0.5)])
    assert path == tmp_path / "out" / f"{Path(film).name}.json"
    assert json.loads(path.read_text()) == {
        "video": film,
        "duration_s": 2.0,
        "people": [
            {"name": "Ada", "intervals": [[0.0, 0.5], [1.0, 1.25], [1.5, 1.75]]},
            {"name": "Alan", "intervals": [[1.0, 1.25]]},
        ],
    }
    assert describe_video("gone.mp4", []) == {"video": "gone.mp4", "people": []}


def test_files_of_videos_are_below_the_folder_and_different():
    videos = ["/films/a/x.mp4", "/films/b/x.mp4", "/films/b/x.mov", "/films/b/../../etc/y.mp4"]
    found = files_of_videos(Path("out"), videos, ".xmp")
    assert found["/films/a/x.mp4"] == Path("out/a/x.mp4.xmp")
    assert len(set(found.values())) == 4
    assert all(".." not in path.parts for path in found.values())
    assert files_of_videos(Path("out"), ["/x.mp4"], ".xmp") == {"/x.mp4": Path("out/x.mp4.xmp")}
    assert files_of_videos(Path("out"), [], ".xmp") == {}


XMP = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "iptc": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}


def test_sidecar_has_the_people_as_persons_and_keywords(tmp_path):
    found = [interval("/films/a.mp4", 0.0, 1.0, *NAMES), interval("/films/a.mp4", 2.0, 3.0, "=1+1")]
    (path,) = write_sidecars(tmp_path, found)
    assert path == tmp_path / "a.mp4.xmp"
    description = ET.parse(path).getroot().find("rdf:RDF/rdf:Description", XMP)
    for list_ in ("iptc:PersonInImage", "dc:subject"):
        names = [item.text for item in description.findall(f"{list_}/rdf:Bag/rdf:li", XMP)]
        assert names == sorted(" ".join(name.split()) for name in NAMES)
    text = path.read_text(encoding="utf-8")
    assert "<Iptc4xmpExt:PersonInImage>" in text
    assert "<x:xmpmeta" in text


def test_sidecar_is_read_by_pillow(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", xmp=to_xmp(["Ada", "Alan"]).encode())
    with Image.open(tmp_path / "a.jpg") as image:
        found = image.getxmp()["xmpmeta"]["RDF"]["Description"]
    assert found["PersonInImage"]["Bag"]["li"] == ["Ada", "Alan"]


def test_sidecar_of_another_program_is_kept(tmp_path):
    found = [interval("/films/a.mp4"), interval("/films/b.mp4")]
    write_sidecars(tmp_path, found)
    write_sidecars(tmp_path, found)  # its own are replaced
    (tmp_path / "b.mp4.xmp").write_text("<x:xmpmeta xmptk='another'/>")
    (tmp_path / "a.mp4.xmp").unlink()
    with pytest.raises(UserError, match=r"b\.mp4\.xmp was written by another program"):
        write_sidecars(tmp_path, found)
    assert [path.name for path in tmp_path.iterdir()] == ["b.mp4.xmp"]
