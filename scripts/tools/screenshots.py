"""Take the screenshots of the search page in docs/images, with drawn people, not real faces.

Needs the extras web and dev, and Chromium: python scripts/tools/screenshots.py [--out docs/images]
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
from PIL import Image

from facereel.retrieval.track_index import TrackIndex

REPOSITORY = Path(__file__).parents[2]
# Size limit per image: documentation is read over the network.
_LARGEST_KB = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "images")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="drawn-") as folder:
        shoot(Path(folder), out)
    for image in sorted(out.glob("search_page_*.png")):
        # 256 colors are enough, and halve the size.
        full = Image.open(image).convert("RGB")
        dithered = full.quantize(palette=full.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)
        dithered.save(image, optimize=True)
        size = image.stat().st_size / 1000
        print(f"{image.name:<34}{size:6.0f} kB")
        if size > _LARGEST_KB:
            sys.exit(f"{image} is larger than {_LARGEST_KB} kB")


def shoot(folder: Path, out: Path) -> None:
    """Make an index, serve it, and take the screenshots."""
    # Drawings and server of the tests, which are neither installed nor typed.
    sys.path += [str(REPOSITORY / "tests" / "helpers"), str(REPOSITORY / "examples")]
    drawn, people = importlib.import_module("drawn_archive"), importlib.import_module("drawn_people")
    serving = importlib.import_module("serving")
    playwright: Any = importlib.import_module("playwright.sync_api")
    index = TrackIndex(drawn.make_index(folder) / "index")
    for name, cluster in (("Anna Example", 1), ("Bert Sample", 3)):
        index.people.name([track.id for track in index.tracks() if track.cluster == cluster], name)
    photos = {"known": ("Anna", "Bert"), "unknown": ("Cleo",)}
    for file, names in photos.items():
        cv2.imwrite(str(folder / f"{file}.jpg"), people.draw_image(*names, width=800, height=480, seed=9, turn=0.2))
    with serving.serving(index.folder) as address, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=serving.CHROMIUM, args=list(serving.ARGUMENTS))
        for device, width, height in (("desktop", 1280, 800), ("phone", 360, 740)):
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address)
            page.get_by_text("Choose a photo to start").wait_for()
            page.screenshot(path=out / f"search_page_start_{device}.png")
            page.get_by_label("Choose a photo").set_input_files(folder / "known.jpg")
            page.locator("button.result").nth(3).wait_for()
            if device == "phone":
                page.locator(".found").scroll_into_view_if_needed()
                page.evaluate("document.querySelector('.found').scrollIntoView()")
            else:
                page.locator("button.result").filter(has_text="meeting").click()
                page.wait_for_function("document.querySelector('video')?.currentTime > 1.2")
                page.locator("video").evaluate("video => video.pause()")
            _settle(page)
            page.screenshot(path=out / f"search_page_results_{device}.png")
            if device == "phone":
                page.locator("button.result").first.click()
                page.wait_for_function("document.querySelector('video')?.currentTime > 1.2")
                page.locator("video").evaluate("video => video.pause()")
                _settle(page)
                page.screenshot(path=out / f"search_page_playing_{device}.png")
            page.get_by_label("Choose a photo").set_input_files(folder / "unknown.jpg")
            page.get_by_role("status").filter(has_text="Probably in none").wait_for()
            page.evaluate("window.scrollTo(0, 0)")
            if device == "phone":
                page.evaluate("document.querySelector('.found').scrollIntoView()")
            page.get_by_text("anyway").click()
            _settle(page)
            page.screenshot(path=out / f"search_page_nobody_{device}.png")
            page.goto(f"{address}people")
            page.get_by_role("heading", name="Named people").wait_for()
            _settle(page)
            page.screenshot(path=out / f"search_page_people_{device}.png")
            page.close()
        browser.close()


def _settle(page: Any) -> None:
    """Wait until every visible image is loaded."""
    page.wait_for_function(
        "() => [...document.images].filter(i => i.getBoundingClientRect().top < innerHeight).every(i => i.complete)"
    )
    page.wait_for_timeout(400)


if __name__ == "__main__":
    main()
