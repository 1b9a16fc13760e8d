"""The page of named people and unnamed groups, with questions about who is the same person."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlencode

from nicegui import run

from facereel.data.person_names import LONGEST_NAME, check_name
from facereel.errors import UserError
from facereel.retrieval.clustering.groups import grouped
from facereel.retrieval.suggestions import Party, Suggestion, suggest
from facereel.retrieval.track_index import Track, TrackIndex
from facereel.system.text import plural
from facereel.web.frame import page_frame
from facereel.web.media import thumbnail_url
from facereel.web.tags import Status, Tag
from facereel.web.words import time_span, video_name

# Images per card, and cards to show at first: an index may have thousands of groups.
_IMAGES = 5
_CARDS = 60
# Faces of a card to check one by one, and questions to show.
_CHECKED = 60
_QUESTIONS = 3
# In an index with more tracks, finding questions takes too long for a page: `facereel people suggest` does.
_MOST_ASKED = 50_000


@dataclass
class Card:
    """The card of one person or group."""

    title: str
    """Name of the person, or number of the group."""
    person: str | None
    """Name of the person; None for a group without a name."""
    tracks: list[Track]
    """Tracks, the longest first."""
    maybe: list[str] = field(default_factory=list)
    """Names of other tracks in the group."""

    def __post_init__(self) -> None:
        self.tracks = sorted(self.tracks, key=lambda track: (track.start_s or 0) - (track.end_s or 0))


def cards_of(tracks: list[Track]) -> tuple[list[Card], list[Card], int]:
    """Sort tracks into cards.

    Args:
        tracks: all tracks of an index.

    Returns:
        Cards of people by name, cards of the unnamed tracks of each group by size, and the number of other tracks.
    """
    people: dict[str, list[Track]] = defaultdict(list)
    for track in tracks:
        if track.person is not None:
            people[track.person].append(track)
    named = [
        Card(person, person, people[person]) for person in sorted(people, key=lambda name: (name.casefold(), name))
    ]
    unnamed = [
        Card(f"Group {group.number}", None, group.unnamed, group.names) for group in grouped(tracks) if group.unnamed
    ]
    rest = sum(track.person is None and track.cluster is None for track in tracks)
    return named, sorted(unnamed, key=lambda card: -len(card.tracks)), rest


class PeoplePage:
    """The people page in one browser tab.

    Args:
        index: index of the tracks.
        is_read_only: whether to show names without fields to change them.
    """

    def __init__(self, index: TrackIndex, is_read_only: bool = False) -> None:
        self._index, self._is_read_only = index, is_read_only
        self._shown: dict[str, int] = defaultdict(lambda: _CARDS)
        lede = "Name a group to name all its faces. Groups with the same name are merged."
        if is_read_only:
            lede = "Names cannot be changed: this server is read-only."
        with page_frame("/people", "People", lede):
            self._status = Status("Loading the people…")
            self._undo = Tag("button", "Undo", "button undo", type="button")
            if not is_read_only:
                self._undo.on("click", self._take_back, args=[])
            self._undo.set_visibility(False)
            self._questions = Tag("div")
            self._place = Tag("div")

    async def load(self, said: str = "", focus: str = "") -> None:
        """Read the index and show its people.

        Args:
            said: sentence for the status line.
            focus: title of the card to give the keyboard focus.
        """
        tracks = await run.io_bound(self._index.tracks) or []
        people, groups, rest = cards_of(tracks)
        self._place.clear()
        with self._place:
            inputs = self._section("Named people", people) | self._section("Groups without a name", groups)
            if rest:
                advice = "To group them, run facereel people cluster --index DIR."
                Tag("p", f"{plural(rest, 'face')} in no group. {advice}", "hint")
        if not said and not people and not groups:
            said = "There are no groups yet."
        named = plural(len(people), "named person", "named people")
        self._status.say(said or f"{named}, {plural(len(groups), 'group')} without a name.")
        if focus in inputs:
            inputs[focus].focus()
        if not self._is_read_only:
            await self._ask()

    async def _ask(self) -> None:
        """Show the most useful questions, and what can be undone."""
        history = await run.io_bound(self._index.people.history) or []
        self._undo.set_visibility(bool(history))
        if history:
            self._undo.set_text(f"Undo: {history[0].what}")
        questions: list[Suggestion] = []
        if len(self._index) <= _MOST_ASKED:
            with suppress(UserError):  # there is no calibration, or there are no groups
                questions = await run.io_bound(suggest, self._index, _QUESTIONS) or []
        self._questions.clear()
        if questions:
            with self._questions, Tag("section", aria_label="Questions"):
                Tag("h2", "Are these the same person?")
                with Tag("ul", classes="cards"):
                    for question in questions:
                        self._question(question)

    def _question(self, question: Suggestion) -> None:
        first, second = question.first, question.second
        with Tag("li", classes="card panel question"):
            Tag("h3", f"{_title(first)} and {_title(second)}")
            Tag("p", f"The same person with a probability of {question.probability:.0%}", "hint")
            for party in (first, second):
                _images(party.tracks, _title(party))
            with Tag("div", classes="buttons"):
                for answer, meaning, act in (("Yes", "one person", _join), ("No", "two people", _separate)):
                    said = f"{_title(first)} and {_title(second)} are {meaning}"
                    button = Tag("button", answer, "button", type="button", aria_label=f"{answer}, {said}")
                    decide = partial(self._decide, partial(act, self._index, question), f"{said}.")
                    button.on("click", decide, args=[])

    async def _decide(self, act: Callable[[], object], said: str) -> None:
        """Carry out a decision, and show the people again."""
        try:
            await run.io_bound(act)
        except UserError as error:
            self._status.say(str(error), "error")
            return
        await self.load(said)

    async def _take_back(self) -> None:
        try:
            what = await run.io_bound(self._index.people.undo)
        except UserError as error:
            self._status.say(str(error), "error")
            return
        await self.load(f"Undone: {what}.")

    def _section(self, heading: str, groups: list[Card]) -> dict[str, Tag]:
        inputs = {}
        if groups:
            with Tag("section", aria_label=heading):
                Tag("h2", heading)
                with Tag("ul", classes="cards"):
                    for group in groups[: self._shown[heading]]:
                        name = self._card(group)
                        if name is not None:
                            inputs[group.title] = name
                more = len(groups) - self._shown[heading]
                if more > 0:
                    button = Tag("button", f"Show {min(more, _CARDS)} more of {more}", "button", type="button")
                    button.on("click", partial(self._show_more, heading), args=[])
        return inputs

    async def _show_more(self, heading: str) -> None:
        self._shown[heading] += _CARDS
        await self.load()

    def _card(self, group: Card) -> Tag | None:
        """Show a card, and return the field of its name, unless the page is read-only."""
        n_videos = len({track.video for track in group.tracks})
        with Tag("li", classes="card panel"):
            Tag("h3", group.title)
            Tag("p", f"{plural(len(group.tracks), 'face')} in {plural(n_videos, 'video')}", "hint")
            if group.maybe:
                Tag("p", f"Maybe {' or '.join(group.maybe)}: other faces in this group have that name.", "maybe")
            _images(group.tracks, group.title)
            name = None if self._is_read_only else self._name_field(group)
            chosen = {"person": group.person} if group.person else {"track": group.tracks[0].id}
            Tag("a", "Find in all videos", "button primary", href=f"/?{urlencode(chosen)}",
                aria_label=f"Find {group.title} in all videos")  # fmt: skip
            if not self._is_read_only and (group.person or len(group.tracks) > 1):
                self._check_button(group)
        return name

    def _check_button(self, group: Card) -> None:
        """Show a button that lists the faces of a card, each with a button that takes it out."""
        button = Tag(
            "button", "Check the faces", "small", type="button", aria_label=f"Check the faces of {group.title}"
        )
        place = Tag("ul", classes="tracks checked")

        def show() -> None:
            button.set_visibility(False)
            with place:
                for number, track in enumerate(group.tracks[:_CHECKED], start=1):
                    self._checked_face(group, track, number)
                if len(group.tracks) > _CHECKED:
                    Tag("li", f"and {len(group.tracks) - _CHECKED} more", "hint")

        button.on("click", show, args=[])

    def _checked_face(self, group: Card, track: Track, number: int) -> None:
        where = f"{video_name(track.video)}, {time_span(track)}"
        with Tag("li"):
            Tag("img", src=thumbnail_url(track), alt=f"Face {number}: {where}", width=56, height=56, loading="lazy")
            with Tag("div", classes="facts"):
                Tag("span", where, "times")
                text = f"Not {group.person}" if group.person else "Not this person"
                button = Tag("button", text, "small", type="button", aria_label=f"Face {number}: {text}")
        people = self._index.people
        act = partial(people.reject, [track.id], group.person) if group.person else partial(people.split, [track.id])
        button.on("click", partial(self._decide, act, f"Face {number} is not {group.title}."), args=[])

    def _name_field(self, group: Card) -> Tag:
        with Tag("div", classes="naming"):
            with Tag("label", "Name"):
                name = Tag("input", type="text", value=group.person or "", maxlength=LONGEST_NAME,
                           autocomplete="off", aria_label=f"Name of {group.title}")  # fmt: skip
            save = Tag("button", "Save", "button", type="button", aria_label=f"Save the name of {group.title}")
        take = f"() => emit(getHtmlElement({name.id}).value)"
        name.on("keydown.enter", partial(self._save, group), js_handler=take)
        save.on("click", partial(self._save, group), js_handler=take)
        return name

    async def _save(self, group: Card, event: Any) -> None:
        name = " ".join(str(event.args).split())
        if not name and group.person is None:
            self._status.say(f"Enter a name for {group.title} first.", "error")
            return
        try:
            await run.io_bound(self._index.people.name, [track.id for track in group.tracks], check_name(name))
        except UserError as error:
            self._status.say(str(error), "error")
            return
        said = f"{group.title} is now {name}." if name else f"{group.title} no longer has a name."
        await self.load(said, name)


def _images(tracks: list[Track], title: str) -> None:
    with Tag("div", classes="images"):
        for track in tracks[:_IMAGES]:
            alt = f"{title} in {video_name(track.video)}, {time_span(track)}"
            Tag("img", src=thumbnail_url(track), alt=alt, width=72, height=72, loading="lazy")


def _title(party: Party) -> str:
    return party.person or f"Group {party.number}"


def _join(index: TrackIndex, question: Suggestion) -> None:
    """Record that the two are one person."""
    first, second = question.first, question.second
    if first.person is not None:
        index.people.name([track.id for track in second.tracks], first.person)
    else:
        index.people.merge([party.number for party in (first, second) if party.number is not None])


def _separate(index: TrackIndex, question: Suggestion) -> None:
    """Record that the two are two people."""
    first, second = question.first, question.second
    if first.person is not None:
        index.people.reject([track.id for track in second.tracks], first.person)
    elif first.number is not None and second.number is not None:
        index.people.differ(first.number, second.number)
