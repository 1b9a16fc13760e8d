"""Groups, names, and an index that another process changes."""

import pytest
from drawn_archive import make_index
from search_page import status
from serving import serving

from facereel.retrieval.track_index import TrackIndex


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """An index of this module's own, since names are written into it, and its address."""
    folder = make_index(tmp_path_factory.mktemp("own"), seconds=3.0)
    with serving(folder / "index") as address:
        yield TrackIndex(folder / "index"), address


def test_a_group_gets_a_name_and_is_searched_by_it(open_page, own):
    index, address = own
    page = open_page(f"{address}people")
    status(page, "0 named people, 4 groups without a name.")
    assert page.locator(".card h3").all_inner_texts() == [f"Group {n}" for n in (1, 2, 3, 4)]
    anna = page.get_by_role("textbox", name="Name of Group 1")
    page.get_by_role("button", name="Save the name of Group 1").click()
    status(page, "Enter a name for Group 1 first.")
    anna.fill("  Anna <b>Example</b> ")
    anna.press("Enter")
    status(page, "Group 1 is now Anna <b>Example</b>.")
    page.wait_for_function("document.activeElement.value === 'Anna <b>Example</b>'")
    assert page.get_by_role("heading", name="Named people").count() == 1
    named = [track for track in index.tracks() if track.person == "Anna <b>Example</b>"]
    assert {track.cluster for track in named} == {1}
    assert len(named) == 2
    page.get_by_role("link", name="Find Anna <b>Example</b> in all videos").click()
    status(page, "Probably in 2 videos")
    assert page.locator(".chip").all_inner_texts() == ["Anna <b>Example</b>"] * 2
    page.get_by_role("link", name="People").click()
    status(page, "1 named person, 3 groups without a name.")
    # Another track of her group lost its name: it is proposed, not given.
    index.people.name([named[0].id], None)
    page.reload()
    page.get_by_text("Maybe Anna <b>Example</b>: other faces in this group have that name.").wait_for()
    index.people.name([named[0].id], "Anna <b>Example</b>")
    page.reload()
    status(page, "1 named person, 3 groups without a name.")
    # Two groups of one name are one; no name is none.
    page.get_by_role("textbox", name="Name of Group 4").fill("Anna <b>Example</b>")
    page.get_by_role("button", name="Save the name of Group 4").click()
    page.get_by_text("3 faces in 3 videos").wait_for()
    page.get_by_role("textbox", name="Name of Anna").fill("")
    page.get_by_role("textbox", name="Name of Anna").press("Enter")
    status(page, "Anna <b>Example</b> no longer has a name.")
    assert {track.person for track in index.tracks()} == {None}


def test_the_index_changes_under_the_page(open_page, own):
    index, address = own
    page = open_page(f"{address}?track=1")
    status(page, "Probably in 2 videos; 3 less")
    page.wait_for_load_state("networkidle")  # images that are asked for now will be gone
    (lake,) = [video for video in index.videos() if video.endswith("lake.webm")]
    index.remove_video(lake)
    page.get_by_text("Filter videos").click()
    page.get_by_label("Folder").select_option("holiday")
    page.get_by_label("Folder").select_option("any")
    status(page, "Probably in 1 video; 3 less")


def test_an_empty_index(open_page, tmp_path, own):
    from facereel.models import pretrained_hasher

    TrackIndex.create(tmp_path / "index", pretrained_hasher(), {"detector": "mtcnn", "size": 200, "margin": 1.4})
    with serving(tmp_path / "index") as address:
        page = open_page(address)
        status(page, "The index is empty")
        page.get_by_role("link", name="People").click()
        status(page, "There are no groups yet.")
        page.close()  # it would miss the server
