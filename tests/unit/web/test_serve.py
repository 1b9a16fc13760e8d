"""Errors of the command line (one line, exit code 2), and words and filters of the page."""

import importlib.util
import socket
from contextlib import nullcontext
from typing import Any

import pytest
from commands import run

pytest.importorskip("nicegui", reason="the search page needs the extra web: pip install 'facereel[web]'")

from facereel.retrieval.face_search import SearchResult
from facereel.retrieval.track_index import Match, Track
from facereel.system.text import plural
from facereel.web import people_page, results
from facereel.web.filters import folders
from facereel.web.people_page import cards_of
from facereel.web.words import explain_distance, time_span


def fails(capsys, *arguments: object) -> str:
    assert run("serve", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_missing_index_is_an_error(capsys, tmp_path):
    assert "has no index" in fails(capsys, "--index", tmp_path)


def test_missing_extra_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'facereel[web]'" in fails(capsys, "--index", tmp_path)


@pytest.mark.parametrize("token", ["short", "with space", "semi;colon", "ümlautümlaut", "x" * 201, ""])
def test_weak_token_is_an_error(capsys, tmp_path, token):
    assert "--token" in fails(capsys, "--index", tmp_path, "--token", token)


@pytest.fixture
def any_index(monkeypatch):
    monkeypatch.setattr("facereel.retrieval.face_search.FaceSearch", lambda folder: None)


def test_port_in_use_is_an_error(capsys, tmp_path, any_index):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = fails(capsys, "--index", tmp_path, "--port", port)
    assert f"cannot listen on 127.0.0.1, port {port}" in said
    assert "choose another --port" in said


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "a..b"])
def test_host_of_another_machine_is_an_error(capsys, tmp_path, any_index, host):
    assert f"cannot listen on {host}" in fails(capsys, "--index", tmp_path, "--host", host, "--port", 0)


def test_invalid_port_is_an_error(capsys, tmp_path):
    assert "--port" in fails(capsys, "--index", tmp_path, "--port", 70000)


def test_token_is_generated_beyond_loopback(capsys, tmp_path, any_index, monkeypatch):
    tokens = []
    monkeypatch.setattr("facereel.web.server.serve", lambda search, listener, host, token, **how: tokens.append(token))
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "0.0.0.0"):
        assert run("serve", "--index", tmp_path, "--host", host, "--port", 0) == 0
    assert tokens[:2] == [None, None]
    assert tokens[2] != tokens[3]
    assert all(len(token) >= 32 for token in tokens[2:])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("facereel: the search page is at http://127.0.0.1:")
    assert lines[2].endswith(f"/?token={tokens[2]}")


@pytest.mark.parametrize("options", [(), ("--read-only",)])
def test_read_only_is_passed_on(tmp_path, any_index, monkeypatch, options):
    seen = []
    monkeypatch.setattr("facereel.web.server.serve", lambda *_, is_read_only: seen.append(is_read_only))
    assert run("serve", "--index", tmp_path, "--port", 0, *options) == 0
    assert seen == [bool(options)]


def track(number: int, person: str | None, cluster: int | None, seconds: float = 1.0) -> Track:
    return Track(number, "film.mp4", 0, 0.0, seconds, person, cluster, None, "", None)


def test_cards_are_sorted():
    tracks = [
        track(1, None, 7),
        track(2, "bo", 7),
        track(3, "Al", 9, 1.0),
        track(4, "Al", 8, 3.0),
        track(5, None, None),
        track(6, None, 8),
        track(7, None, 8),
    ]
    people, groups, rest = cards_of(tracks)
    assert [(group.title, [t.id for t in group.tracks]) for group in people] == [("Al", [4, 3]), ("bo", [2])]
    assert [(group.title, len(group.tracks)) for group in groups] == [("Group 8", 2), ("Group 7", 1)]
    assert [group.maybe for group in groups] == [["Al"], ["bo"]]
    assert rest == 1


def test_folders_below_the_shared_folder():
    videos = ["/v/a/1.mp4", "/v/a/x/2.mp4", "/v/b/3.mp4", "a data set's name"]
    assert folders(videos) == [("a", "/v/a"), ("a/x", "/v/a/x"), ("b", "/v/b")]
    assert folders(videos[:1]) == []
    assert folders([]) == []


@pytest.fixture
def texts(monkeypatch):
    """The texts of all tags that a test makes, or their labels for screen readers."""
    made = []

    class Recorded(nullcontext[Any]):
        id = 1

        def __init__(self, name, text="", *classes, **attributes):
            super().__init__(self)
            made.append(attributes.get("aria_label") or text)

        def on(self, *arguments, **options):
            pass

        set_visibility = on

    monkeypatch.setattr(results, "Tag", Recorded)
    monkeypatch.setattr(people_page, "Tag", Recorded)
    return made


@pytest.mark.parametrize("is_read_only", [False, True])
def test_names_can_be_changed_unless_the_page_is_read_only(texts, monkeypatch, is_read_only):
    monkeypatch.setattr(people_page, "page_frame", lambda *texts: nullcontext())
    monkeypatch.setattr(people_page, "Status", lambda text: None)
    page = people_page.PeoplePage(None, is_read_only)
    (card, *_), *_ = cards_of([track(1, "Al", 7)])
    field = page._card(card)
    assert (field is None) is is_read_only
    assert ("Save the name of Al" in texts) is not is_read_only
    assert "Find Al in all videos" in texts


def shown(match, threshold, *others, **options):
    return results.show_results([SearchResult(match, list(others))], threshold, lambda track, tag: None, **options)


@pytest.mark.parametrize(("threshold", "is_near"), [(0.2139, True), (0.2136, False)])
def test_distance_and_limit_are_shown_with_enough_decimals(texts, threshold, is_near):
    match = Match(track(1, None, 1), 0.2137, 0.5001 if is_near else 0.4999)
    said, _ = shown(match, threshold, Match(track(2, None, 2), 0.3, 0.01))
    assert "distance 0.2137" in texts
    assert any(f"Up to {threshold:.4f} it is" in text for text in texts)
    assert ("Probably the same person" in texts) == is_near
    assert ("Maybe the same person" in texts) == (not is_near)
    assert said.endswith("a distance of 0.2137, above the limit of 0.2136.") == (not is_near)


def test_brief_face_within_the_limit_is_not_said_to_be_above_it(texts):
    brief = track(1, None, 1)._replace(start_s=1.0, end_s=1.2)
    said, _ = shown(Match(brief, 0.1, 0.9), 0.2)
    assert said == "Maybe in these videos: the nearest faces are seen too briefly or too poorly to tell."
    assert "Maybe the same person" in texts


def test_poor_photo_gives_no_verdict(texts):
    said, kind = shown(Match(track(1, None, 1), 0.1), 0.2, is_too_poor=True)
    assert said.startswith("This photo is too poor to tell")
    assert kind == "none"
    assert "Show the nearest 1 video anyway" in texts


def test_words():
    assert time_span(track(1, None, None)._replace(start_s=None)) == "no times"
    assert (plural(1, "face"), plural(2000, "face"), plural(0, "man", "men")) == ("1 face", "2,000 faces", "0 men")
    assert "Up to 0.31 " in explain_distance(0.314, 2)
    assert "Up to 0.314 " in explain_distance(0.314, 3)
    assert "was not measured" in explain_distance(None, 2)
