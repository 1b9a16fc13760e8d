"""Deciding who is who on the page: questions, faces of a person, results of a named person, and undo."""

import shutil

import pytest
from search_page import results, status, upload
from serving import serving

from facereel.retrieval.calibration import Calibration
from facereel.retrieval.track_index import TrackIndex


@pytest.fixture(scope="module")
def served(drawn, tmp_path_factory):
    """A copy of the index, and its address."""
    folder = tmp_path_factory.mktemp("decisions") / "index"
    shutil.copytree(drawn / "index", folder)
    index = TrackIndex(folder)
    # Other drawn people become probable enough for questions.
    index.set_calibration(Calibration(12.0, 45.0))
    with serving(folder) as address:
        yield index, address


@pytest.fixture
def own(served):
    """The index without decisions, except that the first group is Anna, and its address."""
    index, address = served
    while index.people.history():
        index.people.undo()
    index.people.name([track.id for track in index.tracks() if track.cluster == 1], "Anna")
    return index, address


def named(index):
    return sum(track.person == "Anna" for track in index.tracks())


def test_questions_are_answered_and_undone(open_page, own):
    index, address = own
    page = open_page(f"{address}people")
    questions = page.get_by_role("region", name="Questions").locator(".question")
    questions.first.wait_for()
    first = next(q for q in questions.all() if "Anna and Group" in q.inner_text())
    title = first.locator("h3").inner_text()
    number = int(title.rsplit(" ", 1)[1])
    first.get_by_role("button", name="Yes").click()
    status(page, f"{title} are one person.")
    assert {track.person for track in index.tracks() if track.cluster == number} == {"Anna"}
    page.get_by_role("button", name="Undo: ").click()
    status(page, "Undone: ")
    assert named(index) == 2
    page.get_by_role("button", name=f"No, {title} are two people").click()
    status(page, f"{title} are two people.")
    assert {track for track, person in index.people.rejected("Anna")} == {
        track.id for track in index.tracks() if track.cluster == number
    }
    page.wait_for_function(f"![...document.querySelectorAll('.question h3')].some(e => e.innerText === '{title}')")


def test_a_face_is_taken_out_of_a_person_and_of_a_group(open_page, own):
    index, address = own
    page = open_page(f"{address}people")
    page.get_by_role("button", name="Check the faces of Anna").click()
    page.get_by_role("button", name="Face 1: Not Anna").click()
    status(page, "Face 1 is not Anna.")
    assert named(index) == 1
    before = {track.id: track.cluster for track in index.tracks()}
    page.get_by_role("button", name="Check the faces of Group 2").click()
    page.get_by_role("button", name="Face 2: Not this person").click()
    status(page, "Face 2 is not Group 2.")
    changed = [track for track in index.tracks() if track.cluster != before[track.id]]
    assert len(changed) == 1
    assert before[changed[0].id] == 2
    page.get_by_role("button", name="Undo: 1 track split off").click()
    status(page, "Undone: 1 track split off.")
    assert {track.id: track.cluster for track in index.tracks()} == before


def test_results_of_a_person_are_confirmed_and_rejected(open_page, own):
    index, address = own
    page = open_page(f"{address}people")
    page.get_by_role("link", name="Find Anna in all videos").click()
    status(page, "Probably in")
    assert page.locator(".faces .label").inner_text() == "Anna"
    found = page.locator(".results > li").filter(has=page.get_by_role("button", name="Not Anna: "))
    video = found.first.locator(".name").inner_text()
    found.first.get_by_role("button", name=f"Not Anna: {video}").click()
    page.wait_for_function(f"![...document.querySelectorAll('.results .name')].some(e => e.innerText === '{video}')")
    assert len(index.people.rejected("Anna")) == 1
    video = found.first.locator(".name").inner_text()
    found.first.get_by_role("button", name=f"This is Anna: {video}").click()
    page.locator(".results > li").filter(has_text=video).locator(".chip").filter(has_text="Anna").wait_for()
    assert named(index) == 3


def test_several_photos_are_one_person(open_page, address, photo):
    page = open_page(address)
    upload(page, photo("Anna", width=640, height=480, file="one.jpg"))
    status(page, "Probably in 2 videos")
    add = page.get_by_role("button", name="Add another photo of this person")
    for count, file in ((2, "two.jpg"), (3, "three.jpg")):
        add.click()
        page.get_by_role("button", name="Add another photo of this person", pressed=True).wait_for()
        upload(page, photo("Anna", "Bert", width=900, height=600, file=file, seed=count))
        page.get_by_text(f"{count} photos of one person").wait_for()
        assert page.locator(".face img").count() == count
        status(page, "Probably in")
    # Without it, the next photo starts a new search.
    upload(page, photo("Dora", width=640, height=480, file="dora.jpg"))
    page.get_by_text("The largest face").wait_for()
    assert page.locator(".face img").count() == 1


def test_lanes_show_who_is_on_screen_and_play(open_page, own):
    _, address = own
    page = open_page(f"{address}?person=Anna")
    results(page).filter(has_text="meeting.webm").click()
    lanes = page.get_by_role("group", name="Who is on screen when")
    lanes.wait_for()
    assert lanes.locator(".lane .name").all_inner_texts()[0] in ("Anna", "group 3")
    assert sorted(lanes.locator(".lane .name").all_inner_texts()) == ["Anna", "group 3"]
    page.wait_for_function("document.querySelector('video')?.currentTime > 2")
    lanes.get_by_role("button", name="Play Anna").click()
    page.wait_for_function("document.querySelector('video').currentTime < 1.5")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_color_schemes(open_page, own, scheme):
    _, address = own
    page = open_page(f"{address}people", color_scheme=scheme)
    page.get_by_role("button", name="Undo: ").wait_for()
    for selector in ("h1", ".lede", ".hint", ".button.primary", ".button:not(.primary)", ".naming input", ".status"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector


# The ratio of WCAG 2 between an element's text and the nearest background that is not transparent.
CONTRAST = """selector => {
    const element = document.querySelector(selector);
    const parse = color => color.match(/[\\d.]+/g).map(Number);
    const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
    let behind = element, back;
    do {
        back = parse(getComputedStyle(behind).backgroundColor);
        behind = behind.parentElement;
    } while (back[3] === 0 && behind);
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(back)].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
}"""
