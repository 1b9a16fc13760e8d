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
            Tag("h3", f"{plural(len(tracks), 'face')} in this video")
            with Tag("ul", classes="tracks"):
                for other in tracks:
                    self._track(other)

    def close(self) -> None:
        """Remove the video."""
        self._video, self._screen, self._back = None, None, None
        self._section.clear()
        self._section.set_visibility(False)

    def _track(self, track: Track) -> None:
        group = "no name yet" if track.cluster is None else f"group {track.cluster}"
        who = group if track.person is None else track.person
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
