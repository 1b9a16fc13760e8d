"""The list of ranked videos."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from facereel.retrieval.face_search import SearchResult, deciding_digits
from facereel.retrieval.track_index import Match, Track
from facereel.system.text import format_timestamp, plural
from facereel.web.media import thumbnail_url
from facereel.web.tags import Tag
from facereel.web.words import explain_distance, time_span, video_name

Play = Callable[[Track, Tag], object]

# Number of a video's other tracks in the results; the player lists all.
_OTHERS = 6


class Decision(NamedTuple):
    """How a track of the results is confirmed or rejected."""

    person: str
    decide: Callable[[Track, bool], object]
    """Called with the track, and whether it shows the person."""


# What a result says about its probability.
_MARKS = {
    "likely": "Probably the same person",
    "maybe": "Maybe the same person",
    "unlikely": "Probably someone else",
}


def show_results(
    found: list[SearchResult],
    threshold: float | None,
    play: Play,
    decision: Decision | None = None,
    *,
    is_too_poor: bool = False,
) -> tuple[str, str]:
    """Fill the current element with results.

    Args:
        found: results, nearest first.
        threshold: distance up to which a face is probably the same person, or None.
        play: called with the selected track and its button.
        decision: how results are confirmed and rejected, or None.
        is_too_poor: whether the photo does not show who it is.

    Returns:
        A sentence about the results, and its kind for `Status.say`.
    """
    if not found:
        return "There are no faces in these videos: choose other filters.", "none"
    if is_too_poor:
        _show_anyway(found, 2, play)
        return "This photo is too poor to tell who it is: choose a sharper, larger or brighter one.", "none"
    likely = sum(one.best.verdict == "likely" for one in found)
    digits = deciding_digits((m.distance for one in found for m in (one.best, *one.others)), threshold, least=2)
    hint = explain_distance(threshold, digits)
    if threshold is not None and found[0].distance > threshold:
        _show_anyway(found, digits, play, hint)
        nearest = f"{found[0].distance:.{digits}f}"
        return (
            f"Probably in none of these videos: the nearest face has a distance of {nearest}, above the limit of "
            f"{threshold:.{digits}f}.",
            "none",
        )
    Tag("p", hint, "hint")
    _list(found, digits, play, decision)
    if threshold is None:
        return f"{plural(len(found), 'video')}, the nearest first.", ""
    if not likely:  # near enough, but brief or poor: see `Match.verdict`
        return "Maybe in these videos: the nearest faces are seen too briefly or too poorly to tell.", ""
    return f"Probably in {plural(likely, 'video')}; {len(found) - likely} less likely.", ""


def _show_anyway(found: list[SearchResult], digits: int, play: Play, hint: str = "") -> None:
    with Tag("details", classes="nobody"):
        Tag("summary", f"Show the nearest {plural(len(found), 'video')} anyway")
        if hint:
            Tag("p", hint, "hint")
        _list(found, digits, play)


def _list(found: list[SearchResult], digits: int, play: Play, decision: Decision | None = None) -> None:
    with Tag("ol", classes="results"):
        for one in found:
            _result(one, digits, play, decision)


def _result(one: SearchResult, digits: int, play: Play, decision: Decision | None) -> None:
    track = one.best.track
    with Tag("li", classes="" if one.best.verdict in (None, "likely") else "beyond"):
        with Tag("button", "", "result", type="button") as button:
            Tag("img", src=thumbnail_url(track), alt="", width=88, height=88, loading="lazy")
            with Tag("span", classes="facts"):
                Tag("span", video_name(track.video), "name")
                if track.person is not None:
                    Tag("span", track.person, "chip")
                Tag("span", time_span(track), "times")
                _score(one.best, digits)
        button.on("click", lambda: play(track, button), args=[])
        if decision is not None and track.person != decision.person and one.best.verdict != "unlikely":
            _decision(track, decision)
        # Other faces in a video are listed as the same person only if they are near too.
        same = [other for other in one.others if other.verdict == "likely"]
        _others("Also at", same, digits, play)
        _others("Other faces at", [other for other in one.others if other not in same], digits, play)


def _decision(track: Track, decision: Decision) -> None:
    with Tag("div", classes="others"):
        for text, is_same in ((f"This is {decision.person}", True), (f"Not {decision.person}", False)):
            button = Tag("button", text, "small", type="button", aria_label=f"{text}: {video_name(track.video)}")
            button.on("click", partial(decision.decide, track, is_same), args=[])


def _others(heading: str, matches: list[Match], digits: int, play: Play) -> None:
    if matches:
        with Tag("div", classes="others"):
            Tag("span", heading)
            for match in matches[:_OTHERS]:
                _other(match, digits, play)


def _score(match: Match, digits: int) -> None:
    with Tag("span", classes="score"):
        with Tag("span", classes="scale", aria_hidden="true"):
            Tag("span", style=f"width: {max(2, round(100 * (1 - match.distance)))}%")
        Tag("span", f"distance {match.distance:.{digits}f}")
    if match.verdict is not None:
        Tag("span", _MARKS[match.verdict], "mark")


def _other(match: Match, digits: int, play: Play) -> None:
    track = match.track
    moment = "no times" if track.start_s is None else format_timestamp(track.start_s)
    label = f"Play at {moment}, distance {match.distance:.{digits}f}"
    button = Tag("button", f"{moment} ({match.distance:.{digits}f})", "small", type="button", aria_label=label)
    button.on("click", lambda: play(track, button), args=[])
