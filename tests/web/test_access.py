"""Keyboard, screen reader, narrow screens."""

import time
from itertools import pairwise

from search_page import NOBODY, played_from, status, upload

# Relative luminance and contrast as WCAG 2 defines them, of every text against the nearest background behind it.
CONTRAST = """
() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const element of document.querySelectorAll("header *, main *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) bad.push([element.innerText, contrast]);
  }
  return bad;
}
"""
NAMELESS = """
() => [...document.querySelectorAll("main :is(button, a, input, select, video, img, summary), header a")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.getAttribute("aria-label") || e.innerText?.trim() || e.labels?.length || e.hasAttribute("alt")))
  .map((e) => e.outerHTML)
"""


def sound(page) -> None:
    """What a checker of accessibility looks for first."""
    assert page.locator("html").get_attribute("lang").startswith("en")
    assert page.get_by_role("heading", level=1).count() == 1
    for role in ("banner", "main", "navigation", "status"):
        assert page.get_by_role(role).count() == 1, role
    levels = page.evaluate("[...document.querySelectorAll('main :is(h1,h2,h3,h4)')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels)), levels
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(CONTRAST) == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def narrow(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    too_wide = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > 361)"
    assert page.evaluate(f"{too_wide}.map(e => e.outerHTML.slice(0, 200))") == []


def tab_to(page, condition: str, most: int = 40) -> None:
    """Press Tab until the focused element, `e`, is the one; every stop on the way is to be seen."""
    for _ in range(most):
        page.keyboard.press("Tab")
        seen = page.evaluate(
            "() => { let e = document.activeElement; if (e.matches('.unseen')) e = e.closest('label');"
            " const s = getComputedStyle(e); return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2; }"
        )
        assert seen, page.evaluate("document.activeElement.outerHTML")
        if page.evaluate(f"(e => {condition})(document.activeElement)"):
            return
    """A function that draws people into a photo."""


def test_by_keyboard_from_the_first_tab_to_playing(open_page, address, photo):
    page = open_page(address)
    # Listened to from the start: the browser is told to report file choosers without waiting for it to have heard.
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    tab_to(page, "e.innerText === 'Skip to the content'", 1)
    page.keyboard.press("Enter")
    tab_to(page, "e.type === 'file'", 1)
    page.keyboard.press("Enter")
    until = time.monotonic() + 120
    while not choosers:
        assert time.monotonic() < until
        page.wait_for_timeout(50)
    choosers[0].set_files(photo("Anna", "Bert", width=800, height=480))
    status(page, "Probably in 2 videos")
    # The order on the page: the faces, the filters, the results.
    tab_to(page, "e.matches('.face')", 1)
    tab_to(page, "e.matches('.face:nth-of-type(2)')", 1)
    page.keyboard.press("Space")
    page.locator(".face:nth-of-type(2)[aria-pressed=true]").wait_for()
    status(page, "Probably in 2 videos")
    tab_to(page, "e.matches('summary')", 1)
    page.keyboard.press("Enter")
    tab_to(page, "e.matches('select')", 1)
    tab_to(page, "e.matches('button.result')")
    first = page.evaluate("document.activeElement.querySelector('.name').innerText")
    page.keyboard.press("Enter")
    played_from(page)
    page.wait_for_function("document.activeElement.tagName === 'VIDEO'")
    assert page.get_by_role("region", name=first).count() == 1
    tab_to(page, "e.innerText === 'Search with this frame'", 8)
    tab_to(page, "e.innerText === 'Back to the results'", 1)
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.matches('button.result')")


def test_by_keyboard_on_the_page_of_people(open_page, address):
    page = open_page(f"{address}people")
    status(page, "without a name")
    tab_to(page, "e.matches('input')")
    tab_to(page, "e.innerText === 'Save'", 1)
    tab_to(page, "e.innerText === 'Find in all videos'", 1)
    page.keyboard.press("Enter")
    status(page, "Probably in")


def test_roles_and_names(open_page, address, photo):
    page = open_page(address)
    sound(page)
    upload(page, photo("Anna", "Bert", width=800, height=480))
    status(page, "Probably in 2 videos")
    sound(page)
    said = page.locator("main").aria_snapshot()
    for line in (
        'region "Who are you looking for?"',
        'group "Faces to search for"',
        'button "The largest face" [pressed]',
        'region "Results"',
        "status: Probably in 2 videos",
    ):
        assert line in said, said
    page.get_by_text("Filter videos").click()
    page.locator("button.result").first.click()
    played_from(page)
    sound(page)
    said = page.locator("main").aria_snapshot()
    for line in ('combobox "Folder"', 'textbox "First day"', 'textbox "Last day"', 'button "Search with this frame"'):
        assert line in said, said
    upload(page, photo("Cleo", width=640, height=480, file="cleo.jpg"))
    status(page, NOBODY)
    page.get_by_text("anyway").click()
    sound(page)
    page.goto(f"{address}people")
    status(page, "without a name")
    sound(page)


def test_waiting_is_said(open_page, address, photo):
    page = open_page(address)
    page.evaluate(
        "() => { window.said = []; const s = document.querySelector('[role=status]');"
        " new MutationObserver(() => window.said.push(s.innerText)).observe(s, {childList: true, characterData: true,"
        " subtree: true}); }"
    )
    upload(page, photo("Anna", width=640, height=480))
    status(page, "Probably in")
    said = page.evaluate("window.said")
    assert any(text.startswith("Looking for faces in photo.jpg") for text in said), said


def test_on_a_phone(open_page, address, photo):
    page = open_page(address, width=360, height=740)
    narrow(page)
    upload(page, photo("Anna", "Bert", width=800, height=480))
    status(page, "Probably in 2 videos")
    narrow(page)
    page.locator("button.result").first.click()
    played_from(page)
    narrow(page)
    top = page.evaluate("document.querySelector('video').getBoundingClientRect().top")
    assert 0 <= top < 740
    page.goto(f"{address}people")
    status(page, "without a name")
    narrow(page)
