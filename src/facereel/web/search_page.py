"""The search page: upload a face, and see the videos with the same person."""

import base64
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import cv2
from nicegui import run
from nicegui.element import Element

from facereel.errors import UserError
from facereel.retrieval.face_search import FaceSearch, Query, SearchResult, combine
from facereel.retrieval.track_index import Track
from facereel.system.text import plural
from facereel.video.detector import Image
from facereel.video.image_file import encode_jpeg
from facereel.web.filters import Filters
from facereel.web.frame import page_frame
from facereel.web.moments import Moments, Wanted
from facereel.web.player import Player
from facereel.web.results import Decision, show_results
from facereel.web.tags import Status, Tag
from facereel.web.uploads import LARGEST_MB, LONGEST_S, Uploads, read_queries
from facereel.web.words import time_span, video_name

T = TypeVar("T")

# Number of ranked videos on the page.
_TOP = 12
_THUMBNAIL = 96
_LONGEST_NAME = 80


class DropZone(Element, component="drop_zone.js"):
    """Accepts a file by click, keyboard, drop or paste, and uploads it."""

    def __init__(self) -> None:
        super().__init__()
        self.props["largest"] = LARGEST_MB
        self.props["longest"] = LONGEST_S


class SearchPage:
    """The search page in one browser tab. Uploaded faces are kept as long as the tab is open.

    Args:
        search: the index.
        uploads: store of files from the drop zone.
        track: id of a track to search for at the start, or None.
        person: name of a person to search for at the start, or "".
        is_read_only: whether names can be confirmed and rejected.
    """

    def __init__(
        self,
        search: FaceSearch,
        uploads: Uploads,
        track: int | None = None,
        person: str = "",
        *,
        is_read_only: bool = False,
    ) -> None:
        self._search, self._uploads, self._is_read_only = search, uploads, is_read_only
        self._queries: list[Query] = []
        self._chosen = 0
        self._is_adding = False
        self._added: list[Query] = []
        self._person = person
        self._turn = 0
        index = search.index
        videos = index.videos()
        lede = (
            f"Choose a face, and search {plural(len(index), 'face')} in {plural(len(videos), 'video')} for that person."
        )
        with page_frame("/", "Find a person in your videos", lede), Tag("div", classes="columns"):
            with Tag("section", classes="panel query", aria_labelledby="query-title"):
                Tag("h2", "Who are you looking for?", id="query-title")
                zone = DropZone()
                self._faces = Tag("div", classes="faces", role="group", aria_label="Faces to search for")
                self._filters = Filters(videos, self._find, lambda sentence: self._status.say(sentence, "error"))
            with Tag("section", classes="panel found", aria_labelledby="found-title"):
                Tag("h2", "Results", id="found-title")
                self._status = Status()
                self._results = Tag("div")
            self._player = Player(index, self._find_track)
        zone.on("sending", lambda event: self._sending(_name(event.args)))
        zone.on("sent", lambda event: self._sent(str(event.args["id"]), _name(event.args)))
        zone.on("refused", lambda event: self._refused(_name(event.args), str(event.args["reason"])))
        if not len(index):
            self._status.say("The index is empty: add videos with facereel index.")
        elif track is None and not person:
            self._status.say("Choose a photo to start.")
            with self._results:
                _show_instructions()
        self._start = track

    async def start(self) -> None:
        """Search for the track or person in the address, after the browser is connected."""
        if self._person:
            await self._find_person(self._person)
        elif self._start is not None:
            found = self._search.index.tracks([self._start])
            if found:
                await self._find_track(found[0])
            else:
                self._status.say("That face is no longer in the index.", "error")

    def _sending(self, name: str) -> None:
        self._turn += 1
        if not self._is_adding:
            self._clear()
        self._status.say(f"Sending {name}…", "busy")

    def _refused(self, name: str, reason: str) -> None:
        self._turn += 1
        if not self._is_adding:
            self._clear()
        self._status.say(f"{name} was rejected: {reason}.", "error")

    async def _sent(self, upload: str, name: str) -> None:
        known = [*self._queries[self._chosen : self._chosen + 1]] if self._is_adding else []
        if not known:
            self._clear()

        def look() -> list[Query]:
            with self._uploads.take(upload) as path:
                return read_queries(self._search, path)

        queries = await self._work(f"Looking for faces in {name}…", look)
        if queries is not None and known:
            together = [*self._added, *([] if self._added else known), queries[0]]
            self._clear()
            self._added = together
            combined = await self._work("Searching…", partial(combine, together))
            if combined is not None:
                await self._show_faces([combined], [f"{len(together)} photos of one person"])
        elif queries is not None:
            labels = [_place(query, number) for number, query in enumerate(queries)]
            await self._show_faces(queries, labels)

    async def _find_person(self, person: str) -> None:
        self._clear()
        self._person = person

        def known() -> Query:
            return combine(self._search.named(person))

        query = await self._work("Searching…", known)
        if query is not None:
            await self._show_faces([query], [person])

    async def _find_track(self, track: Track) -> None:
        self._clear()
        query = await self._work("Searching…", partial(self._search.like, track.id))
        if query is not None:
            label = f"{track.person or 'Face'} in {video_name(track.video)}, {time_span(track)}"
            await self._show_faces([query], [label])

    async def _show_faces(self, queries: list[Query], labels: list[str]) -> None:
        self._queries, self._chosen = queries, 0
        with self._faces:
            Tag("h3", "Search for" if len(queries) == 1 else f"{len(queries)} faces: search for")
            buttons = []
            for query, label in zip(queries, labels, strict=True):
                with Tag("button", classes="face", type="button", aria_label=label) as button:
                    for shown in self._added or [query]:
                        Tag("img", src=_image(shown.crop), alt="", width=_THUMBNAIL, height=_THUMBNAIL)
                buttons.append(button)
            if len(queries) == 1:
                Tag("span", labels[0], "label")
            add = Tag("button", "Add another photo of this person", "small", type="button", aria_pressed="false")
            hint = Tag("p", "Choose it above: the next photo is added to this search.", "hint")
            hint.set_visibility(False)

        async def choose(number: int) -> None:
            self._chosen = number
            for i, button in enumerate(buttons):
                button.change(aria_pressed="true" if i == number else "false")
            await self._find()

        def toggle() -> None:
            self._is_adding = not self._is_adding
            add.change(aria_pressed="true" if self._is_adding else "false")
            hint.set_visibility(self._is_adding)

        add.on("click", toggle, args=[])
        for number, button in enumerate(buttons):
            button.on("click", partial(choose, number), args=[])
        await choose(0)

    async def _find(self) -> None:
        if not self._queries:
            return
        query, within = self._queries[self._chosen], self._filters.within()
        self._results.clear()
        self._player.close()

        def search() -> tuple[list[SearchResult], float | None]:
            return self._search.search(query, _TOP, within=within), self._search.threshold

        found = await self._work("Searching…", search)
        if found is not None:
            self._results.clear()
            with self._results:
                said = show_results(*found, self._player.play, self._decision(), is_too_poor=query.is_too_poor)
                if found[0] and found[1] is not None and not query.is_too_poor:
                    Moments(self._search, Wanted(query, self._person or None, within), self._player.play)
            self._status.say(*said)

    def _decision(self) -> Decision | None:
        """Return how results are confirmed and rejected, if the search is for a named person."""
        if not self._person or self._is_read_only:
            return None
        person = self._person

        async def decide(track: Track, is_same: bool) -> None:
            people = self._search.index.people
            act = partial(people.name, [track.id], person) if is_same else partial(people.reject, [track.id], person)
            if await self._work("Saving…", lambda: [act()]) is not None:
                await self._find_person(person)

        return Decision(person, decide)

    async def _work(self, saying: str, work: Callable[[], T]) -> T | None:
        """Return the result of long work in a thread; None if it failed or newer work has started."""
        self._turn += 1
        turn = self._turn
        self._status.say(saying, "busy")
        self._results.change(aria_busy="true")
        try:
            result = await run.io_bound(work)
        except UserError as error:
            if turn == self._turn:
                self._status.say(str(error), "error")
            return None
        except Exception:
            if turn == self._turn:
                self._status.say("Something went wrong: see the terminal of facereel serve.", "error")
            raise
        finally:
            if turn == self._turn:
                self._results.change(aria_busy=None)
        return result if turn == self._turn else None

    def _clear(self) -> None:
        self._queries, self._added = [], []
        self._is_adding, self._person = False, ""
        self._faces.clear()
        self._results.clear()
        self._player.close()


def _show_instructions() -> None:
    """Show instructions before the first search."""
    with Tag("div", classes="empty"):
        with Tag("ol"):
            Tag("li", "Choose a photo that shows the person's face from the front.")
            Tag("li", "If it shows several people, choose one of the faces.")
            Tag("li", "Choose a video from the results. It plays from the time at which the face appears.")
        Tag("a", "Or start from people in the videos", "button", href="/people")


def _name(args: dict[str, Any]) -> str:
    """Return the shortened name of a file."""
    name = str(args.get("name") or "the image")
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _place(query: Query, number: int) -> str:
    if query.start_s is not None and query.end_s is not None:
        return f"Face {number + 1}, seen for {query.end_s - query.start_s:.0f} seconds"
    return "The largest face" if number == 0 else f"Face {number + 1} by size"


def _image(crop: Image) -> str:
    """Return a small image as a data URI, so that it is stored only in the page."""
    small = cv2.resize(crop, (2 * _THUMBNAIL, 2 * _THUMBNAIL), interpolation=cv2.INTER_AREA)
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(small)).decode()}"
