"""Upload, results, playing, nobody found, filters: as a visitor does it."""

import re

import pytest
from films import make_film
from search_page import NOBODY, played_from, results, status, upload


def test_a_photo_finds_the_videos_and_they_play_where_the_face_is(open_page, address, photo):
    page = open_page(address)
    upload(page, photo("Anna", width=640, height=480))
    assert status(page, "Probably in") == "Probably in 2 videos; 3 less likely."
    names = page.locator("button.result .name").all_inner_texts()
    assert set(names[:2]) == {"lake.webm", "meeting.webm"}
    marks = page.locator("button.result .mark").all_inner_texts()
    assert marks == ["Probably the same person"] * 2 + ["Probably someone else"] * 3
    distances = [float(text.split()[1]) for text in page.locator(".score > span:last-child").all_inner_texts()]
    assert distances == sorted(distances)
    assert distances[1] <= 0.08 < distances[2]
    loaded = "() => [...document.images].every(i => i.complete && i.naturalWidth > 0)"
    page.wait_for_function(loaded)
    results(page).filter(has_text="lake.webm").click()
    # Anna comes into the image after 1.5 seconds.
    assert 1.4 <= played_from(page) < 1.8
    # The other way: back by the keyboard's button, and another video.
    page.get_by_role("button", name="Back to the results").click()
    page.wait_for_function("document.activeElement.innerText.includes('lake.webm')")
    results(page).filter(has_text="meeting.webm").click()
    page.get_by_role("heading", name="2 faces in this video").wait_for()
    page.wait_for_function("document.querySelector('video').currentSrc.includes('/media/video/')")


def test_the_largest_of_several_faces_is_chosen_first(open_page, address, photo):
    page = open_page(address)
    upload(page, photo("Dora", "Bert", width=800, height=480))
    faces = page.get_by_role("group", name="Faces to search for").locator("button.face")
    faces.nth(1).wait_for()
    assert [face.get_attribute("aria-pressed") for face in faces.all()] == ["true", "false"]
    status(page, "Probably in")
    assert "stand-up.mov" in page.locator("button.result .name").all_inner_texts()[:2]
    faces.nth(1).click()
    results(page).first.filter(has_text=re.compile("picnic|meeting")).wait_for()
    assert [face.get_attribute("aria-pressed") for face in faces.all()] == ["false", "true"]


def test_nobody(open_page, address, photo):
    page = open_page(address)
    upload(page, photo("Cleo", width=640, height=480))
    assert NOBODY in status(page, NOBODY)
    assert not results(page).first.is_visible()
    page.get_by_text("Show the nearest 5 videos anyway").click()
    assert results(page).count() == 5
    assert results(page).first.is_visible()


def test_a_short_video_as_the_query(open_page, address, tmp_path):
    page = open_page(address)
    upload(page, make_film(tmp_path / "clip.webm", "Bert", seconds=2, seed=5))
    assert status(page, "Probably in") == "Probably in 2 videos; 3 less likely."
    assert "seen for 2 seconds" in page.locator(".faces").inner_text()


def test_a_frame_of_the_playing_video_as_the_query(open_page, address):
    page = open_page(f"{address}?track=1")
    status(page, "Probably in")
    results(page).filter(has_text="meeting.webm").click()
    page.wait_for_function(
        "() => { const v = document.querySelector('video'); return v?.currentTime >= 0.6 && v.readyState >= 2; }"
    )
    page.get_by_role("button", name="Search with this frame").click()
    faces = page.get_by_role("group", name="Faces to search for").locator("button.face")
    faces.nth(1).wait_for()
    status(page, "Probably in 2 videos")
    """A function that draws people into a photo."""


def test_another_face_of_the_video_is_found_in_its_turn(open_page, address):
    page = open_page(f"{address}?track=1")
    status(page, "Probably in")
    results(page).filter(has_text="meeting.webm").click()
    bert = page.locator(".tracks > li").filter(has_not_text="group 1")
    bert.get_by_role("button", name="Find").click()
    page.locator("button.result").first.filter(has_text=re.compile("picnic|meeting")).wait_for()
    names = page.locator("button.result .name").all_inner_texts()
    assert set(names[:2]) == {"picnic.webm", "meeting.webm"}


def test_filters(open_page, address, photo):
    page = open_page(address)
    upload(page, photo("Anna", width=640, height=480))
    status(page, "Probably in 2 videos")
    page.get_by_text("Filter videos").click()
    page.get_by_label("Folder").select_option("holiday")
    status(page, "Probably in 1 video; 1 less")
    page.get_by_label("Folder").select_option("any")
    status(page, "Probably in 2 videos")
    page.get_by_label("First day").fill("2025-02-03")
    status(page, "Probably in 1 video; 2 less")
    page.get_by_label("Last day").fill("2025-02-03")
    status(page, "Probably in 1 video; 0 less")
    page.get_by_label("Last day").fill("2025-02-01")
    status(page, "The first day is after the last")
    page.get_by_label("First day").fill("2025-02-01")
    status(page, "There are no faces in these videos")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("interview.avi", "Browsers cannot play .avi files"),
        # MPEG-4 part 2 in a container that browsers know: only trying tells.
        ("stand-up.mov", "This browser cannot play this kind of video"),
    ],
)
def test_what_browsers_cannot_play_gets_a_sentence(open_page, address, name, sentence):
    page = open_page(f"{address}?track=1")
    status(page, "Probably in")
    results(page).filter(has_text=name).click()
    page.get_by_role("alert").filter(has_text=sentence).wait_for()
    page.wait_for_function("document.activeElement.getAttribute('role') === 'alert'")
    assert page.locator("video").count() == 0


def test_a_face_that_is_gone(open_page, address):
    page = open_page(f"{address}?track=999")
    status(page, "That face is no longer in the index.")
