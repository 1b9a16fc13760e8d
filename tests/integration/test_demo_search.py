"""The demonstration of `make demo-search`, without its server."""

import subprocess
import sys

import demo_search
from repository import REPOSITORY

from facereel.retrieval.track_index import TrackIndex


def test_the_demo_makes_films_photos_and_an_index(tmp_path):
    command = [sys.executable, REPOSITORY / "scripts" / "tools" / "demo_search.py", "--out", tmp_path / "demo"]
    for _ in range(2):
        done = subprocess.run([*command, "--no-serve"], check=True, capture_output=True, text=True)
    assert "added 0 videos with 0 tracks, 5 already indexed" in done.stdout
    index = TrackIndex(tmp_path / "demo" / "index")
    assert (len(index), len({track.cluster for track in index.tracks()})) == (7, 4)
    assert len(list((tmp_path / "demo" / "photos").iterdir())) == 5


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
