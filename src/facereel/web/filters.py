"""Which videos to search: by folder and by date."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from facereel.retrieval.track_index import Within
from facereel.web.tags import Tag

# More folders than this nobody looks through.
_MOST_FOLDERS = 500


def folders(videos: list[str]) -> list[tuple[str, str]]:
    """The folders that hold videos, and those above them as far as they hold different ones.

    Args:
        videos: paths.

    Returns:
        Pairs of a name below what all share, and the folder's path; by name.
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
    """Three fields.

    Args:
        videos: paths of all.
        changed: called when one of them was changed.
        wrong: called with a sentence where what was entered cannot be.
    """

    def __init__(self, videos: list[str], changed: Callable[[], Any], wrong: Callable[[str], Any]) -> None:
        self._folders = folders(videos)
        self._changed, self._wrong = changed, wrong
        self._values = {"folder": "", "since": "", "until": ""}
        # Folded, so that on a phone the results come right below the picture.
        with Tag("details", classes="filters"):
            Tag("summary", "Only some videos")
            if self._folders:
                with Tag("label", "in the folder"), Tag("select") as select:
                    Tag("option", "any", value="")
                    # By number: no path comes from the browser.
                    for number, (name, _) in enumerate(self._folders):
                        Tag("option", name, value=str(number))
                self._listen(select, "folder")
            for name, text in (("since", "from"), ("until", "up to")):
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
        """What is chosen."""
        number = self._values["folder"]
        known = number.isdecimal() and int(number) < len(self._folders)
        since, until = self._day("since"), self._day("until")
        return Within(
            folder=self._folders[int(number)][1] if known else None,
            since=datetime.combine(since, time.min).timestamp() if since else None,
            until=datetime.combine(until, time.max).timestamp() if until else None,
        )
