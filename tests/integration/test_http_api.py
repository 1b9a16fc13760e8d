"""The HTTP API of a real server: photos of drawn people, and the example of its page."""

import contextlib
import io
import re

import cv2
import pytest
from drawn_archive import Clip
from drawn_people import draw_image
from repository import REPOSITORY

pytest.importorskip("nicegui", reason="the HTTP API needs the extra web: pip install 'facereel[web]'")

import httpx
from drawn_archive import make_index
from serving import serving

TOKEN = "a-word-of-your-own"
CLIPS = (Clip("a/anna.webm", ("Anna",), 0.5, "2024-05-01"), Clip("b/bert.webm", ("Bert",), 0.0, "2025-02-03"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("drawn"), CLIPS, seconds=2.0)


@pytest.mark.slow
def test_real_server(root, monkeypatch):
    photo = root / "someone.jpg"
    cv2.imwrite(str(photo), draw_image("Bert", "Anna", width=800, height=480))
    with serving(root / "index", "--token", TOKEN, "--read-only") as address:
        base = f"{address.partition('/?')[0]}/api/v1"
        with httpx.Client(base_url=base, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=300) as api:
            content = photo.read_bytes()
            films = set()
            for face in (1, 2):
                found = api.post("/search", files={"photo": content}, data={"face": face}).raise_for_status().json()
                assert len(found["faces"]) == 2
                assert [result["verdict"] for result in found["results"]] == ["likely", "unlikely"]
                films.add(found["results"][0]["video"])
            assert films == {str(root / "videos" / clip.file) for clip in CLIPS}
            empty = cv2.imencode(".png", draw_image(width=320, height=240))[1].tobytes()
            assert "No face found" in api.post("/search", files={"photo": empty}).json()["detail"]
            assert api.put("/tracks/1/name", json={"name": "Ada"}).status_code == 403
            assert api.get("/docs").status_code == 200
        with httpx.Client(base_url=base, timeout=60) as stranger:
            assert stranger.get("/status").status_code == 401
        page = httpx.get(address, follow_redirects=True, timeout=60)
        assert page.status_code == 200
        example = re.search(
            r"```python\n(import httpx.*?)```", (REPOSITORY / "docs/how-to/http_api.md").read_text(), flags=re.DOTALL
        )[1]
        assert len(example.splitlines()) == 6
        monkeypatch.chdir(root)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(example.replace("http://127.0.0.1:7860/api/v1", base), {})
        assert re.match(r"\S+\.webm [\d.]+ [\d.]+ likely\n", printed.getvalue())
