"""Filter the videos to search by folder and by date."""

import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from facereel.retrieval.track_index import Within
from facereel.web.tags import Tag

_MOST_FOLDERS = 500


def folders(videos: list[str]) -> list[tuple[str, str]]:
    """Return the folders of videos, and their parents below the folder that all share.

    Args:
        videos: paths of videos.

    Returns:
        Pairs of a path relative to the shared folder and the absolute path, sorted.
    """
    parents = {str(Path(video).parent) for video in videos if Path(video).is_absolute()}
    if len(parents) < 2:
        return []
    shared = Path(os.path.commonpath(list(parents)))
    found = {
        Path(folder)
        for parent in parents
        for folder in (parent, *map(str, Path(parent).parents))
        if Path(folder).is_relative_to(shared) and Path(folder) != shared
    }
    return [(str(folder.relative_to(shared)), str(folder)) for folder in sorted(found)][:_MOST_FOLDERS]


class Filters:
    """The filter fields: folder, first day and last day.

    Args:
        videos: paths of all videos.
        changed: called after a change.
        wrong: called with a sentence if the first day is after the last.
    """

    def __init__(self, videos: list[str], changed: Callable[[], Any], wrong: Callable[[str], Any]) -> None:
        self._folders = folders(videos)
        self._changed, self._wrong = changed, wrong
        self._values = {"folder": "", "since": "", "until": ""}
        # Closed by default, so that on a phone the results are directly below the image.
        with Tag("details", classes="filters"):
            Tag("summary", "Filter videos")
            if self._folders:
                with Tag("label", "Folder"), Tag("select") as select:
                    Tag("option", "any", value="")
                    # By number, so that the browser never sends a path.
                    for number, (name, _) in enumerate(self._folders):
                        Tag("option", name, value=str(number))
                self._listen(select, "folder")
            for name, text in (("since", "First day"), ("until", "Last day")):
                with Tag("label", text):
                    field = Tag("input", type="date", min="1970-01-01", max="9999-12-31")
                self._listen(field, name)

    def _listen(self, field: Tag, name: str) -> None:
        async def change(event: Any) -> None:
            self._values[name] = str(event.args)
            if (since := self._day("since")) and (until := self._day("until")) and since > until:
                self._wrong("The first day is after the last: change one of them.")
            else:
                await self._changed()

        field.on("change", change, js_handler="(e) => emit(e.target.value)")

    def _day(self, name: str) -> date | None:
        try:
            return date.fromisoformat(self._values[name])
        except ValueError:
            return None

    def within(self) -> Within:
        """Return the selected restriction."""
        number = self._values["folder"]
        known = number.isdecimal() and int(number) < len(self._folders)
        return Within.days(self._folders[int(number)][1] if known else None, self._day("since"), self._day("until"))
