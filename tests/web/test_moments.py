"""When a person is on screen: the list, playing from it, together with a named person, and download."""

import csv
import json
import shutil

import pytest
from search_page import status, upload
from serving import serving

from facereel.retrieval.track_index import TrackIndex


@pytest.fixture(scope="module")
def own(drawn, tmp_path_factory):
    """A copy of the index in which Bert has a name, and its address."""
    folder = tmp_path_factory.mktemp("moments") / "index"
    shutil.copytree(drawn / "index", folder)
    index = TrackIndex(folder)
    # In meeting.webm, Bert is on screen together with Anna.
    (bert,) = {t.cluster for t in index.tracks() if t.video.endswith("picnic.webm") and t.cluster != 2}
    index.people.name([track.id for track in index.tracks() if track.cluster == bert], "Bert")
    with serving(folder) as address:
        yield index, address


def test_times_are_listed_played_and_downloaded(own, open_page, photo, tmp_path):
    _, address = own
    page = open_page(address, accept_downloads=True)
    upload(page, photo("Anna", width=640, height=480))
    status(page, "Probably in 2 videos")
    page.get_by_role("button", name="When is this person on screen?").click()
    times = page.get_by_role("region", name="Times on screen")
    times.get_by_role("status").filter(has_text="2 times in 2 videos").wait_for()
    assert sorted(times.locator("li .name").all_inner_texts()) == ["lake.webm", "meeting.webm"]
    times.get_by_role("button", name="Play lake.webm").click()
    page.get_by_role("heading", name="lake.webm").wait_for()
    page.wait_for_function("document.querySelector('video')?.currentTime > 1.3")
    with page.expect_download() as download:
        times.get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "times.csv")
    rows = list(csv.DictReader((tmp_path / "times.csv").open(encoding="utf-8", newline="")))
    assert sorted(row["video"].rsplit("/", 1)[1] for row in rows) == ["lake.webm", "meeting.webm"]
    # Subtitles belong to one video.
    times.get_by_label("Format").select_option("srt")
    times.get_by_role("button", name="Download").click()
    message = times.get_by_role("status").filter(has_text="ubtitles belong to one video")
    message.wait_for()
    assert "/tmp" not in message.inner_text().split("belong")[0]
    # Together with Bert: only one video is left, and it can be saved as subtitles.
    times.get_by_label("Together with").select_option(label="Bert")
    times.get_by_role("status").filter(has_text="1 time in 1 video").wait_for()
    assert times.locator("li .name").all_inner_texts() == ["meeting.webm"]
    with page.expect_download() as download:
        times.get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "times.srt")
    assert "-->" in (tmp_path / "times.srt").read_text(encoding="utf-8")
    times.get_by_label("Format").select_option("json")
    with page.expect_download() as download:
        times.get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "times.json")
    (entry,) = json.loads((tmp_path / "times.json").read_text(encoding="utf-8"))
    assert "Bert" in entry["people"]


def test_an_index_without_calibration_has_no_times(own, open_page, photo, tmp_path):
    index, _ = own
    shutil.copytree(index.folder, tmp_path / "index")
    copy = TrackIndex(tmp_path / "index")
    with copy._database.write(codes_change=False) as connection:
        copy._database.set_about(connection, {"calibration": None})
    with serving(copy.folder) as address:
        page = open_page(address)
        upload(page, photo("Anna", width=640, height=480))
        status(page, "5 videos, the nearest first.")
        assert page.get_by_role("button", name="When is this person on screen?").count() == 0
        page.close()
