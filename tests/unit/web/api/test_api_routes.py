"""Every address of the HTTP API, its errors, its pages, who may use it, and its description."""

import re
from itertools import pairwise

import pytest

pytest.importorskip("nicegui", reason="the HTTP API needs the extra web: pip install 'facereel[web]'")

from drawn_api import BASE, TOKEN, make_guarded, make_search
from starlette.testclient import TestClient

from facereel import __version__
from facereel.data.person_names import LONGEST_NAME
from facereel.retrieval.face_search import FaceSearch
from facereel.video.image_file import Unreadable, decode_image
from facereel.web.api import limits
from facereel.web.uploads import LARGEST_MB

API = "/api/v1"


def client(search: FaceSearch, folder, **how) -> TestClient:
    app = make_guarded(search, folder / "uploads", **how)
    return TestClient(app, base_url=BASE, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return make_search(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def api(shared, tmp_path_factory):
    """The API on an index that no test changes."""
    return client(shared, tmp_path_factory.mktemp("api"))


@pytest.fixture
def own(tmp_path):
    """The API on an index that the test may change, and the index."""
    search = make_search(tmp_path)
    return client(search, tmp_path), search.index


def send(api, *photos: bytes, **form):
    return api.post(f"{API}/search", files=[("photo", ("p.jpg", photo)) for photo in photos], data=form)


def shape(content: bytes) -> tuple[int, ...]:
    image = decode_image(content)
    assert not isinstance(image, Unreadable)
    return image.shape


def fails(answer, status: int, text: str) -> None:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["detail"]
    assert re.search(text, answer.json()["detail"]), answer.text


def test_search_ranks_the_videos_of_the_face(api):
    answer = send(api, b"1", top=2)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert set(found) == {"faces", "results", "threshold"}
    assert [one["video"].rpartition("/")[2] for one in found["results"]] == ["a.mp4", "b.mp4"]
    first = found["results"][0]
    assert first["track"] in (1, 3)
    assert (first["start_s"], first["end_s"], first["person"]) == (0.0, 4.0, "Ada")
    assert first["distance"] <= 4 / 64 < found["threshold"]
    assert first["probability"] > 0.5
    assert first["verdict"] == "likely"
    assert api.get(first["thumbnail"]).headers["content-type"] == "image/jpeg"
    assert found["faces"] == [
        {"photo": 1, "face": 1, "box": [1.0, 2.0, 30.0, 40.0], "start_s": None, "end_s": None, "is_too_poor": False,
         "is_used": True}
    ]  # fmt: skip


def test_face_chooses_among_the_faces_of_one_photo(api):
    found = send(api, b"1 3", face=2, top=1).json()
    assert [one["person"] for one in found["results"]] == ["Bo"]
    assert [face["is_used"] for face in found["faces"]] == [False, True]
    assert found["results"][0]["verdict"] == "maybe"  # a brief track
    fails(send(api, b"1 3", face=3), 422, "at most 2")
    fails(send(api, b"1", b"1", face=2), 422, "several photos")


def test_several_photos_are_one_person(api):
    found = send(api, b"1 3", b"1", b"1", top=1).json()
    assert [(face["photo"], face["face"], face["is_used"]) for face in found["faces"]] == [
        (1, 1, True), (1, 2, False), (2, 1, True), (3, 1, True)
    ]  # fmt: skip
    assert found["results"][0]["person"] == "Ada"


def test_photo_that_is_too_poor_gets_no_verdict(api):
    found = send(api, b"poor").json()
    assert found["faces"][0]["is_too_poor"]
    assert {(one["probability"], one["verdict"]) for one in found["results"]} == {(None, None)}


def test_search_is_limited_to_a_folder_and_to_days(api, shared):
    folder = str(shared.index.folder.parent / "films")
    assert len(send(api, b"1", folder=folder).json()["results"]) == 3
    assert send(api, b"1", folder=folder + "/elsewhere").json()["results"] == []
    # All films are of 1970-01-01 (UTC).
    assert len(send(api, b"1", since="1969-12-31", until="1970-01-02").json()["results"]) == 3
    assert send(api, b"1", since="1970-01-03").json()["results"] == []
    assert send(api, b"1", until="0001-01-01").json()["results"] == []
    fails(send(api, b"1", since="yesterday"), 422, "^Since: ")


@pytest.mark.parametrize(
    ("photos", "form", "text"),
    [
        ([b""], {}, "^No face found"),
        ([b"text"], {}, "not a supported image or video"),
        ([b"1", b"text"], {}, "^Photo 2: This is not a supported"),
        ([b"1"], {"top": 0}, "^Top: "),
        ([b"1"], {"top": 101}, "^Top: "),
        ([b"1"], {"top": "x"}, "^Top: "),
        ([b"1"], {"face": 0}, "^Face: "),
        ([b"1"], {"tpo": 5}, "^Tpo: "),
        ([], {"photo": "text"}, "^Photo.0: must be a file.$"),
        ([b"1"] * (limits.MOST_PHOTOS + 1), {}, "^Photo: "),
        ([], {"top": 1}, "^Photo: "),
    ],
)
def test_search_that_cannot_be_made_is_one_sentence(api, photos, form, text):
    fails(send(api, *photos, **form), 422, text)


def test_photos_are_deleted(shared, tmp_path):
    api = client(shared, tmp_path)
    assert send(api, b"1").status_code == 200
    assert send(api, b"text").status_code == 422
    assert list((tmp_path / "uploads").iterdir()) == []


def test_malformed_form_is_an_error(api):
    answer = api.post(f"{API}/search", content=b"x", headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code in (400, 422)
    assert list(answer.json()) == ["detail"]


def test_large_requests_are_refused_by_their_header_and_by_their_size(api, monkeypatch):
    fails(api.post(f"{API}/search", content=b"", headers={"content-length": str(LARGEST_MB * 2**21)}), 413, "50 MB")
    monkeypatch.setattr(limits, "_LARGEST_FORM", 1000)
    form = {"content-type": "multipart/form-data; boundary=b"}
    start = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="p"\r\n\r\n'
    pieces = [start, *[bytes(500)] * 3, b"\r\n--b--\r\n"]
    fails(api.post(f"{API}/search", content=iter(pieces), headers=form), 413, "larger than")
    fails(api.put(f"{API}/tracks/1/name", json={"name": "x" * 70_000}), 413, "64 KB")
    pieces = [b'{"name": "', *[b"x" * 40_000] * 2, b'"}']
    json = {"content-type": "application/json"}
    fails(api.put(f"{API}/tracks/1/name", content=iter(pieces), headers=json), 413, "64 KB")


def test_full_queue_asks_to_try_again(api, monkeypatch):
    monkeypatch.setattr(limits, "MOST_SEARCHES", 0)
    for answer in (send(api, b"1"), api.get(f"{API}/tracks/1/similar")):
        fails(answer, 503, "try again")
        assert int(answer.headers["retry-after"]) > 0
    assert api.get(f"{API}/status").status_code == 200


def test_status(api):
    answer = api.get(f"{API}/status").json()
    threshold = answer.pop("threshold")
    assert 0 < threshold < 1
    assert answer == {
        "version": __version__, "n_tracks": 4, "n_videos": 4, "n_bits": 64, "is_calibrated": True, "read_only": False
    }  # fmt: skip


def test_videos(api):
    answer = api.get(f"{API}/videos").json()
    assert answer["next"] is None
    assert [one["video"].rpartition("/")[2] for one in answer["videos"]] == ["a.mp4", "b.mp4", "c.mp4", "empty.mp4"]
    assert [one["n_tracks"] for one in answer["videos"]] == [2, 1, 1, 0]
    assert {(one["is_absent"], one["date"]) for one in answer["videos"]} == {(False, 0.0)}


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [("videos", "video", 4), ("tracks", "track", 4), ("people", "name", 2), ("groups", "group", 3)],
)
@pytest.mark.parametrize("limit", [1, 2, 4, 1000])
def test_pages_have_every_entry_once(api, name, key, expected, limit):
    seen, after = [], {}
    while True:
        page = api.get(f"{API}/{name}", params={"limit": limit, **after}).json()
        assert len(page[name]) <= limit
        seen += [entry[key] for entry in page[name]]
        if page["next"] is None:
            break
        assert len(page[name]) == limit
        after = {"after": page["next"]}
    assert len(seen) == expected
    assert all(a < b for a, b in pairwise(seen))


@pytest.mark.parametrize("name", ["videos", "tracks", "people", "groups"])
@pytest.mark.parametrize("limit", [0, 1001, -1, "x", ""])
def test_limit_of_a_page(api, name, limit):
    fails(api.get(f"{API}/{name}", params={"limit": limit}), 422, "^Limit: ")


@pytest.mark.parametrize("address", ["tracks", "status", "tracks/1/similar"])
def test_misspelled_parameter_is_refused(api, address):
    fails(api.get(f"{API}/{address}", params={"persn": "Ada"}), 422, "^Unknown parameter persn: ")


def test_tracks_of_a_person_a_group_and_a_video(api, shared):
    def ids(**params):
        return [one["track"] for one in api.get(f"{API}/tracks", params=params).json()["tracks"]]

    video = str(shared.index.folder.parent / "films" / "a.mp4")
    assert ids() == [1, 2, 3, 4]
    assert ids(person="Ada") == [1]
    assert ids(group=1) == [1, 3]
    assert ids(video=video) == [1, 2]
    assert ids(video=video, group=1) == [1]
    assert ids(group=1, after=1) == [3]
    assert ids(person="nobody") == ids(person="' OR 1 --") == ids(video="a\0") == []


def test_track(api):
    track = api.get(f"{API}/tracks/1").json()
    assert track["video"].endswith("films/a.mp4")
    del track["video"]
    assert track == {
        "track": 1, "number": 0, "start_s": 0.0, "end_s": 4.0, "person": "Ada", "group": 1,
        "thumbnail": "/api/v1/tracks/1/thumbnail",
    }  # fmt: skip


def test_images(api):
    assert shape(api.get(f"{API}/tracks/1/thumbnail").content) == (128, 128, 3)
    crops = api.get(f"{API}/tracks/1/crops").json()["crops"]
    assert crops == [f"{API}/tracks/1/crops/{n}" for n in (1, 2, 3)]
    images = [api.get(address) for address in crops]
    assert {image.headers["content-type"] for image in images} == {"image/jpeg"}
    assert shape(images[0].content) == (32, 32, 3)
    assert images[0].content != images[1].content
    fails(api.get(f"{API}/tracks/1/crops/4"), 404, "only 3 crops")
    fails(api.get(f"{API}/tracks/1/crops/0"), 422, "^Crop: ")


def test_missing_images_are_not_found_and_their_paths_are_not_told(own):
    api, index = own
    index.thumbnails.path(1).unlink()
    fails(api.get(f"{API}/tracks/1/thumbnail"), 404, "no thumbnail")
    for path in (index.folder.parent / "tracks").iterdir():
        path.unlink()
    for address in ("crops", "crops/1"):
        answer = api.get(f"{API}/tracks/1/{address}")
        fails(answer, 404, "run facereel index again")
        assert ".parquet" not in answer.text


def test_similar(api):
    answer = api.get(f"{API}/tracks/3/similar", params={"top": 2}).json()
    assert [one["track"] for one in answer["results"]] == [3, 1]
    assert answer["results"][0]["distance"] == 0
    fails(api.get(f"{API}/tracks/3/similar", params={"top": 101}), 422, "^Top: ")


@pytest.mark.parametrize("address", ["", "/thumbnail", "/crops", "/crops/1", "/similar"])
def test_unknown_tracks_are_not_found(api, address):
    for number in ("5", f"{2**53 - 1}"):
        fails(api.get(f"{API}/tracks/{number}{address}"), 404, f"no track {number} ")
    for number in ("0", "-1", f"{2**53}", f"{2**64}", "x", "1e0", "%00"):
        fails(api.get(f"{API}/tracks/{number}{address}"), 422, "^Track: ")


def test_people_and_groups(api):
    assert api.get(f"{API}/people").json()["people"] == [
        {"name": "Ada", "n_tracks": 1, "n_videos": 1}, {"name": "Bo", "n_tracks": 1, "n_videos": 1}
    ]  # fmt: skip
    groups = api.get(f"{API}/groups").json()["groups"]
    assert groups[0] == {
        "group": 1, "n_tracks": 2, "n_videos": 2, "seconds": 8.0, "names": ["Ada"], "n_unnamed": 1,
        "thumbnail": groups[0]["thumbnail"],
    }  # fmt: skip
    assert [group["group"] for group in groups] == [1, 2, 5]


def test_groups_and_tracks_are_named(own):
    api, index = own
    answer = api.put(f"{API}/groups/1/name", json={"name": " Eva "})
    assert answer.json()["names"] == ["Eva"]
    assert [track.person for track in index.tracks()] == ["Eva", None, "Eva", "Bo"]
    assert api.put(f"{API}/tracks/2/name", json={"name": "Cy"}).json()["person"] == "Cy"
    assert api.put(f"{API}/groups/1/name", json={"name": None}).json()["names"] == []
    assert api.put(f"{API}/tracks/2/name", json={"name": "  "}).json()["person"] is None
    assert [track.person for track in index.tracks()] == [None, None, None, "Bo"]


def test_groups_are_merged_into_the_smallest_number(own):
    api, index = own
    answer = api.post(f"{API}/groups/merge", json={"groups": [5.0, 2]}).json()
    assert (answer["group"], answer["n_tracks"], answer["names"]) == (2, 2, ["Bo"])
    assert [track.cluster for track in index.tracks()] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("method", "address", "body", "status", "text"),
    [
        ("PUT", "groups/9/name", {"name": "x"}, 404, "no group 9 "),
        ("PUT", "tracks/9/name", {"name": "x"}, 404, "no track 9 "),
        ("PUT", "tracks/1/name", {"name": "x" * (LONGEST_NAME + 1)}, 422, "at most 200 characters"),
        ("PUT", "tracks/1/name", {"name": "a\nb"}, 422, "printable"),
        ("PUT", "groups/1/name", {}, 422, "^Name: "),
        ("PUT", "groups/1/name", {"name": 1}, 422, "^Name: "),
        ("PUT", "groups/1/name", [], 422, "."),
        ("POST", "groups/merge", {"groups": [1, 9]}, 404, "no group 9 "),
        ("POST", "groups/merge", {"groups": [1]}, 422, "^Groups: "),
        ("POST", "groups/merge", {"groups": [1, 1]}, 422, "must be different"),
        ("POST", "groups/merge", {"groups": ["1", "2"]}, 422, "^Groups.0: "),
        ("POST", "groups/merge", {"groups": [1, 2**70]}, 422, "^Groups.1: "),
    ],
)
def test_wrong_changes_are_refused(own, method, address, body, status, text):
    api, index = own
    before = index.tracks()
    fails(api.request(method, f"{API}/{address}", json=body), status, text)
    assert index.tracks() == before


def test_body_that_is_not_json(api):
    for content in (b"{", b"\xff", b"", b'{"name": NaN}', b'{"name": "\\ud800"}'):
        answer = api.put(f"{API}/tracks/1/name", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422)
        assert list(answer.json()) == ["detail"]


CHANGES = [("PUT", "groups/1/name", {"name": "x"}), ("PUT", "tracks/1/name", {"name": "x"}),
           ("POST", "groups/merge", {"groups": [1, 2]})]  # fmt: skip


@pytest.mark.parametrize(("method", "address", "body"), CHANGES)
def test_read_only_server_refuses_changes(shared, tmp_path, method, address, body):
    api = client(shared, tmp_path, is_read_only=True)
    before = shared.index.tracks()
    fails(api.request(method, f"{API}/{address}", json=body), 403, "read-only")
    assert shared.index.tracks() == before
    assert api.get(f"{API}/status").json()["read_only"] is True
    assert send(api, b"1").status_code == 200


def test_every_change_is_in_the_test_of_read_only(api):
    paths = api.get(f"{API}/openapi.json").json()["paths"]
    changes = {(method.upper(), path) for path, methods in paths.items() for method in methods if method != "get"}
    known = {(method, re.sub(r"^(\w+)/1/", r"/\1/{\1}/", path).replace("s}", "}")) for method, path, _ in CHANGES}
    assert changes - {("POST", "/search")} == {(m, p if p.startswith("/") else f"/{p}") for m, p in known}


@pytest.mark.parametrize("address", ["x", "tracks/1/x", "search/", "docs/x"])
def test_unknown_addresses_are_json(api, address):
    answer = api.get(f"{API}/{address}", follow_redirects=False)
    assert answer.status_code in (404, 405, 422)
    assert list(answer.json()) == ["detail"]


def test_other_methods_are_json(api):
    for method, address in (("DELETE", "tracks/1"), ("GET", "search"), ("TRACE", "status"), ("POST", "status")):
        answer = api.request(method, f"{API}/{address}")
        fails(answer, 405, "Method Not Allowed")
        assert answer.headers["allow"]


def test_errors_of_the_server_tell_nothing(shared, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(type(shared), "like", fail)
    answer = client(shared, tmp_path).get(f"{API}/tracks/1/similar")
    fails(answer, 500, "Something went wrong")
    assert "secret" not in answer.text


ADDRESSES = ["status", "videos", "tracks", "tracks/1", "tracks/1/thumbnail", "tracks/1/crops", "tracks/1/crops/1",
             "tracks/1/similar", "people", "groups", "openapi.json", "docs", "assets/swagger-ui.css", "x"]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_token_is_required(shared, tmp_path, address):
    api = client(shared, tmp_path, token=TOKEN)
    wrong = ("", "wrong", TOKEN + "x", TOKEN[:-1], "ä")
    for value in (*(f"Bearer {token}" for token in wrong), f"Basic {TOKEN}", TOKEN, None):
        headers = {} if value is None else {b"authorization": value.encode("latin-1")}
        answer = api.get(f"{API}/{address}", headers=headers)
        fails(answer, 401, "Authorization: Bearer")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "set-cookie" not in answer.headers
    good = {"authorization": f"Bearer {TOKEN}"}
    assert api.get(f"{API}/{address}", headers=good).status_code == (404 if address == "x" else 200)
    assert api.get(f"{API}/{address}", headers={"cookie": f"facereel-7860={TOKEN}"}).status_code in (200, 404)


def test_token_is_required_for_changes_and_searches(shared, tmp_path):
    api = client(shared, tmp_path, token=TOKEN)
    for method, address, body in CHANGES:
        fails(api.request(method, f"{API}/{address}", json=body), 401, "token")
    fails(send(api, b"1"), 401, "token")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999"])
def test_requests_of_other_pages_are_refused_also_with_the_token(shared, tmp_path, origin):
    api = client(shared, tmp_path, token=TOKEN)
    headers = {"origin": origin, "authorization": f"Bearer {TOKEN}"}
    fails(api.get(f"{API}/status", headers=headers), 403, "another page")
    fails(api.post(f"{API}/search", headers=headers), 403, "another page")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", ""])
def test_other_host_names_are_refused_on_loopback(shared, tmp_path, host):
    fails(client(shared, tmp_path).get(f"{API}/status", headers={"host": host}), 403, "not the address")


def test_token_opens_it_from_other_machines(shared, tmp_path):
    api = client(shared, tmp_path, token=TOKEN, loopback=False)
    headers = {"host": "machine.example", "authorization": f"bearer {TOKEN}"}
    assert api.get(f"{API}/status", headers=headers).status_code == 200


def test_description_names_every_operation_once_and_its_errors(api, shared, tmp_path):
    schema = api.get(f"{API}/openapi.json").json()
    assert schema["info"]["version"] == __version__
    assert schema["servers"] == [{"url": API}]
    operations = [one for methods in schema["paths"].values() for one in methods.values()]
    names = [one["operationId"] for one in operations]
    assert sorted(names) == sorted(set(names))
    assert {"search", "get_status", "list_tracks", "name_group"} <= set(names)
    for one in operations:
        assert one["description"]
        for status in ("403", "422", "500"):
            content = one["responses"][status]["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    assert "securitySchemes" not in schema["components"]
    guarded = client(shared, tmp_path, token=TOKEN)
    schema = guarded.get(f"{API}/openapi.json", headers={"authorization": f"Bearer {TOKEN}"}).json()
    assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"


def test_page_of_the_description_needs_no_other_host(api):
    page = api.get(f"{API}/docs")
    assert page.headers["content-type"].startswith("text/html")
    addresses = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
    assert len(addresses) == 3
    assert all(address.startswith(("/api/v1/", "data:")) for address in addresses)
    assert not re.search(r"https?://", page.text)
    policy = page.headers["content-security-policy"]
    nonce = re.search(r"'nonce-([^']+)'", policy)[1]
    assert page.text.count("<script") == page.text.count(f'<script nonce="{nonce}"') == 2
    for address in addresses:
        if address.startswith("/"):
            assert api.get(address).status_code == 200
    assert api.get(API, follow_redirects=False).headers["location"] == f"{API}/docs"


def test_merge_that_contradicts_a_decision_is_a_conflict(own):
    api, index = own
    groups = {track.cluster: track.id for track in index.tracks()}
    first, second = sorted(groups)[:2]
    index.people.name([groups[first]], "Ada")
    index.people.reject([groups[second]], "Ada")
    answer = api.post(f"{API}/groups/merge", json={"groups": [first, second]})
    fails(answer, 409, r"^Track \d+ was marked as not Ada")
    assert api.get(f"{API}/groups").json()["groups"][1]["group"] == second
