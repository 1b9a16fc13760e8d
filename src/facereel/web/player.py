"""The player of the selected video, with a list of its faces."""

from collections.abc import Callable
from pathlib import Path

from nicegui import run
from nicegui.element import Element

from facereel.retrieval.track_index import Track, TrackIndex
from facereel.system.text import format_timestamp, plural
from facereel.web.media import is_playable, thumbnail_url, video_url
from facereel.web.tags import Tag
from facereel.web.words import time_span, video_name

# Number of people in the overview of a video.
_LANES = 20


class Screen(Element, component="player.js"):
    """A native video element that starts at a given time, and a button that searches with the current frame.

    Args:
        first: a track of the video, always the same one, so that the browser loads the video once.
        track: track at whose start to play.
        unplayable: called if the browser cannot play the video.
    """

    def __init__(self, first: Track, track: Track, unplayable: Callable[[], object]) -> None:
        super().__init__()
        name = video_name(track.video)
        self.props["src"] = video_url(first)
        self.props["name"] = name
        self.props["label"] = f"Video {name}"
        self.props["turn"] = 0
        self.props["start"] = track.start_s or 0.0
        self.on("unplayable", unplayable, args=[])

    def start_at(self, track: Track) -> None:
        """Play from the start of a track."""
        self.props["start"] = track.start_s or 0.0
        self.props["turn"] += 1
        self.update()


class Player:
    """The part of the page that plays videos.

    Args:
        index: index of the tracks.
        find: called with a track to search for its person.
    """

    def __init__(self, index: TrackIndex, find: Callable[[Track], object]) -> None:
        self._index, self._find = index, find
        self._video: str | None = None
        self._screen: Screen | None = None
        self._back: Tag | None = None
        self._section = Tag("section", classes="panel player", aria_labelledby="player-title")
        self._section.set_visibility(False)

    async def play(self, track: Track, chosen_by: Tag | None = None) -> None:
        """Play a track.

        Args:
            track: the track.
            chosen_by: the pressed button, which "Back to the results" focuses.
        """
        if chosen_by is not None:
            if self._back is not None and not self._back.is_deleted:
                self._back.change(aria_current=None)
            chosen_by.change(aria_current="true")
            self._back = chosen_by
        if track.video == self._video and self._screen is not None:
            self._screen.start_at(track)
            return
        tracks = await run.io_bound(self._index.tracks, video=track.video) or [track]
        self._video, self._screen = track.video, None
        self._section.clear()
        self._section.set_visibility(True)
        with self._section:
            Tag("h2", video_name(track.video), id="player-title")
            with Tag("div") as place:
                reason = _why_not(track)
                if reason is None:
                    self._screen = Screen(tracks[0], track, lambda: self._unplayable(place, track))
                else:
                    _sentence(reason, track).focus()
            Tag("p", f"File: {track.video}", "path")
            back = Tag("button", "Back to the results", "button", type="button")
            back.on("click", self._go_back, args=[])
            self._lanes(tracks)
            Tag("h3", f"{plural(len(tracks), 'face')} in this video")
            with Tag("ul", classes="tracks"):
                for other in tracks:
                    self._track(other)

    def close(self) -> None:
        """Remove the video."""
        self._video, self._screen, self._back = None, None, None
        self._section.clear()
        self._section.set_visibility(False)

    def _lanes(self, tracks: list[Track]) -> None:
        """Show when each person is on screen: a lane per person, with a button per track."""
        timed = [track for track in tracks if track.start_s is not None and track.end_s is not None]
        lanes: dict[str, list[Track]] = {}
        for track in timed:
            lanes.setdefault(_who(track), []).append(track)
        if not timed:
            return
        # The length of a video is not stored: the lanes end with the last face.
        length = max(track.end_s or 0.0 for track in timed) or 1.0
        Tag("h3", "Who is on screen when", id="lanes-title")
        with Tag("div", classes="lanes", role="group", aria_labelledby="lanes-title"):
            for who, its in sorted(lanes.items(), key=lambda lane: lane[1][0].start_s or 0.0)[:_LANES]:
                with Tag("div", classes="lane"):
                    Tag("span", who, "name", title=who)
                    with Tag("div", classes="time"):
                        for track in its:
                            self._bar(track, who, length)
            with Tag("div", classes="lane ends"):
                Tag("span")
                with Tag("div", classes="time", aria_hidden="true"):
                    Tag("span", "0:00")
                    Tag("span", format_timestamp(length))
        if len(lanes) > _LANES:
            Tag("p", f"{plural(len(lanes) - _LANES, 'more person', 'more people')} below.", "hint")

    def _bar(self, track: Track, who: str, length: float) -> None:
        start, end = track.start_s or 0.0, track.end_s or 0.0
        name = f"{who}, {time_span(track)}"
        bar = Tag("button", type="button", title=name, aria_label=f"Play {name}",
                  style=f"left: {100 * start / length:.2f}%; width: {100 * (end - start) / length:.2f}%")  # fmt: skip
        bar.on("click", lambda: self.play(track), args=[])

    def _track(self, track: Track) -> None:
        who = _who(track)
        name = f"{who}, {time_span(track)}"
        with Tag("li"):
            Tag("img", src=thumbnail_url(track), alt=f"Face: {name}", width=64, height=64, loading="lazy")
            with Tag("div", classes="facts"):
                Tag("span", who, "name")
                Tag("span", time_span(track), "times")
                with Tag("span", classes="buttons"):
                    play = Tag("button", "Play", "small", type="button", aria_label=f"Play from {time_span(track)}")
                    find = Tag("button", "Find this person", "small", type="button", aria_label=f"Find {name}")
            play.on("click", lambda: self.play(track), args=[])
            find.on("click", lambda: self._find(track), args=[])

    def _unplayable(self, place: Tag, track: Track) -> None:
        if self._screen is None:
            return
        self._screen = None
        place.clear()
        with place:
            _sentence("This browser cannot play this kind of video: open the file with another program.", track).focus()

    def _go_back(self) -> None:
        if self._back is not None and not self._back.is_deleted:
            self._back.focus()


def _who(track: Track) -> str:
    group = "no name yet" if track.cluster is None else f"group {track.cluster}"
    return group if track.person is None else track.person


def _sentence(reason: str, track: Track) -> Tag:
    moment = "" if track.start_s is None else f" The face is at {format_timestamp(track.start_s)}."
    return Tag("p", reason + moment, "cannot", role="alert", tabindex=-1)


def _why_not(track: Track) -> str | None:
    """Return why no browser can play a video, or None."""
    path = Path(track.video)
    if not path.is_file():
        return "This video's file no longer exists, or was never a file."
    if not is_playable(track.video):
        return f"Browsers cannot play {path.suffix.lower()} files: open the file with another program."
    return None
