"""The demonstration of `make demo-search`, without its server."""

import sys

import demo_search
import drawn_films
import pytest
from commands import run
from repository import REPOSITORY

from facereel.retrieval.track_index import TrackIndex


def test_the_demo_makes_films_photos_and_an_index(tmp_path, monkeypatch, capsys):
    """Its commands run in this process, for speed."""

    def call(*command):
        if command[:3] == demo_search.FACEREEL:
            assert run(*command[3:]) == 0
            return
        assert command[:2] == (sys.executable, demo_search.DRAW)
        monkeypatch.setattr(sys, "argv", [str(word) for word in command[1:]])
        drawn_films.main()

    monkeypatch.setattr(demo_search, "call", call)
    for _ in range(2):
        capsys.readouterr()
        demo_search.prepare(tmp_path / "demo")
    assert "added 0 videos with 0 tracks, 5 already indexed" in capsys.readouterr().out
    index = TrackIndex(tmp_path / "demo" / "index")
    assert (len(index), len({track.cluster for track in index.tracks()})) == (7, 4)
    assert len(list((tmp_path / "demo" / "photos").iterdir())) == 5


def test_a_command_that_fails_ends_the_demo(capfd):
    demo_search.call(sys.executable, "-c", "print('done')")
    assert capfd.readouterr().out == "$ python -c print('done')\ndone\n"
    with pytest.raises(SystemExit, match="3"):
        demo_search.call(sys.executable, "-c", "raise SystemExit(3)")


def test_the_page_is_opened_in_a_browser(monkeypatch, tmp_path, capsys):
    opened = []
    monkeypatch.setattr("demo_search.webbrowser.open", opened.append)
    monkeypatch.setattr("demo_search.threading.Thread", Immediate)
    line = "facereel: the search page is at http://127.0.0.1:7861/"
    monkeypatch.setattr(demo_search, "FACEREEL", (sys.executable, "-c", f"print('{line}')"))
    assert demo_search.serve(tmp_path / "index", 0) == 0
    assert opened == ["http://127.0.0.1:7861/"]
    assert f"{line}\nchoose a photo from {tmp_path / 'photos'}" in capsys.readouterr().out


class Immediate:
    def __init__(self, target, args, daemon):
        target(*args)

    def start(self):
        pass


def test_make_has_the_demo():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert "$(BIN)/python scripts/tools/demo_search.py --out $(SEARCH_OUT) --port $(PORT)" in makefile
    assert "/demo-search/" in (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
