"""What a visitor of the search page does and reads, with Playwright."""

from pathlib import Path

from playwright.sync_api import Locator, Page

NOBODY = "Probably in none of these videos"


def upload(page: Page, path: Path) -> None:
    """Choose a photo or a video as the query."""
    page.get_by_label("Choose a photo").set_input_files(path)


def status(page: Page, text: str) -> str:
    """Wait until the status line contains a text, and return the line."""
    page.get_by_role("status").filter(has_text=text).wait_for()
    return page.get_by_role("status").inner_text()


def results(page: Page) -> Locator:
    """The buttons of the videos that were found."""
    return page.locator("button.result")


def played_from(page: Page) -> float:
    """Where the video began to play, in seconds; it has advanced since."""
    page.wait_for_function(
        "() => { const v = document.querySelector('video');"
        " return v && v.played.length && v.currentTime > v.played.start(0) + 0.3; }"
    )
    assert page.evaluate("document.querySelector('video').played.length") == 1
    return float(page.evaluate("document.querySelector('video').played.start(0)"))
