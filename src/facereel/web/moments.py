"""When a person is on screen, alone or together with someone else, and export of these times to other programs."""

import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nicegui import run, ui

from facereel.errors import UserError
from facereel.export.timeline import write_timeline
from facereel.retrieval.face_search import FaceSearch, Query
from facereel.retrieval.intervals import Interval
from facereel.retrieval.person_intervals import Person, find_intervals
from facereel.retrieval.track_index import Track, Within
from facereel.system.text import format_timestamp, plural
from facereel.web.tags import Status, Tag
from facereel.web.words import video_name

# Names to choose from, and intervals to list.
_NAMES = 500
_LISTED = 100
_FORMATS = {
    "csv": "CSV table",
    "json": "JSON",
    "vtt": "WebVTT subtitles",
    "srt": "SRT subtitles",
    "otio": "OpenTimelineIO",
    "edl": "CMX 3600 EDL",
    "xml": "Final Cut XML",
}


@dataclass(frozen=True)
class Wanted:
    """The person whose times are wanted."""

    query: Query
    name: str | None
    """Name in the index, or None."""
    within: Within


class Moments:
    """The part of the results that lists times. It is filled when a visitor opens it.

    Args:
        search: the index.
        wanted: the person.
        play: called with a track to play, and the pressed button.
    """

    def __init__(self, search: FaceSearch, wanted: Wanted, play: Callable[[Track, Tag], Awaitable[None]]) -> None:
        self._search, self._wanted, self._play = search, wanted, play
        self._found: list[Interval] = []
        self._other = ""
        self._turn = 0
        self._format = next(iter(_FORMATS))
        self._button = Tag("button", "When is this person on screen?", "button", type="button", aria_expanded="false")
        self._button.on("click", self._open, args=[])
        self._place = Tag("section", classes="moments", aria_label="Times on screen")
        self._place.set_visibility(False)

    async def _open(self) -> None:
        self._button.set_visibility(False)
        self._place.set_visibility(True)
        names = await run.io_bound(self._names) or []
        with self._place:
            Tag("h3", "Times on screen", tabindex=-1).focus()
            with Tag("div", classes="choices"):
                if names:
                    self._select("Together with", {"": "anyone", **{str(i): name for i, name in enumerate(names)}},
                                 lambda value: self._choose(names[int(value)] if value else ""))  # fmt: skip
                self._select("Format", _FORMATS, self._choose_format)
                save = Tag("button", "Download", "button", type="button")
                save.on("click", self._download, args=[])
            self._status = Status("Searching…")
            self._list = Tag("ol", classes="times-list")
        await self._find()

    def _names(self) -> list[str]:
        found = self._search.index.listing.people("", _NAMES)
        return [person.name for person in found if person.name != self._wanted.name]

    def _select(self, label: str, options: dict[str, str], choose: Callable[[str], Any]) -> None:
        with Tag("label", label), Tag("select") as select:
            for value, text in options.items():
                Tag("option", text, value=value)

        async def change(event: Any) -> None:
            if str(event.args) in options:
                result = choose(str(event.args))
                if result is not None:
                    await result

        select.on("change", change, js_handler="(e) => emit(e.target.value)")

    async def _choose(self, other: str) -> None:
        self._other = other
        await self._find()

    def _choose_format(self, name: str) -> None:
        self._format = name

    def _intervals(self) -> list[Interval]:
        name = self._wanted.name
        people = [Person(name or "this person", [self._wanted.query], name)]
        if self._other:
            people.append(Person(self._other, self._search.named(self._other), self._other))
        return find_intervals(self._search, people, within=self._wanted.within)

    async def _find(self) -> None:
        self._turn += 1
        turn = self._turn
        self._status.say("Searching…", "busy")
        found: list[Interval] = []
        problem = ""
        try:
            found = await run.io_bound(self._intervals) or []
        except UserError as error:
            problem = str(error)
        if turn != self._turn:  # another choice was made in the meantime
            return
        self._found = found
        self._list.clear()
        if problem:
            self._status.say(problem, "error")
            return
        n_videos = len({one.video for one in self._found})
        seconds = sum(one.duration_s for one in self._found)
        self._status.say(
            f"{plural(len(self._found), 'time')} in {plural(n_videos, 'video')}, {format_timestamp(seconds)} in total."
            if self._found
            else "Never, as far as these videos show.",
            "" if self._found else "none",
        )
        with self._list:
            for one in self._found[:_LISTED]:
                with Tag("li"):
                    times = f"{format_timestamp(one.start_s)} to {format_timestamp(one.end_s)}"
                    label = f"Play {video_name(one.video)}, {times}"
                    button = Tag("button", times, "small", type="button", aria_label=label)
                    Tag("span", video_name(one.video), "name")
                button.on("click", partial(self._play_interval, one, button), args=[])
            if len(self._found) > _LISTED:
                Tag("li", f"and {len(self._found) - _LISTED} more: download them", "hint")

    async def _play_interval(self, one: Interval, button: Tag) -> None:
        tracks = await run.io_bound(self._search.index.tracks, video=one.video) or []
        shown = [track for track in tracks if track.number in one.tracks]
        if shown:
            await self._play(shown[0]._replace(start_s=one.start_s), button)

    async def _download(self) -> None:
        try:
            content = await run.io_bound(self._exported)
        except UserError as error:
            self._status.say(str(error), "error")
            return
        if content is not None:
            ui.download.content(content, f"{self._wanted.name or 'person'}.{self._format}")

    def _exported(self) -> bytes:
        with tempfile.TemporaryDirectory(prefix="facereel-") as folder:
            path = Path(folder) / f"times.{self._format}"
            try:
                write_timeline(path, self._found)
            except UserError as error:
                # The message starts with a path that the visitor has not chosen.
                raise UserError(str(error).removeprefix(f"{path}: ")) from error
            return path.read_bytes()
