"""Access control and security headers, tested without a browser."""

import pytest

pytest.importorskip("nicegui", reason="the search page needs the extra web: pip install 'facereel[web]'")

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from facereel.web.guard import Guard, is_loopback

TOKEN = "an-example-token"


async def page(request):
    return HTMLResponse("<html><script>1</script><script type='module'>2</script></html>")


async def echo(websocket):
    await websocket.accept()
    await websocket.send_text("open")
    await websocket.close()


def client(*, loopback: bool = True, token: str | None = None, base: str = "http://127.0.0.1:7860") -> TestClient:
    routes = [
        Route("/", page, methods=["GET", "POST"]),
        Route("/api/v1/status", lambda request: JSONResponse({})),
        Route("/api/v1x", page),
        Route("/_nicegui/code.js", lambda request: PlainTextResponse("1", headers={"cache-control": "public"})),
        WebSocketRoute("/ws", echo),
    ]
    return TestClient(Guard(Starlette(routes=routes), loopback=loopback, token=token, port=7860), base_url=base)


def test_every_response_has_security_headers():
    for answer in (client().get("/"), client().get("/absent"), client(token=TOKEN).get("/")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "http" not in policy
        assert "*" not in policy
        assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"


def test_headers_are_case_insensitive():
    async def app(scope, receive, send):
        headers = [(b"Cache-Control", b"public"), (b"X-Frame-Options", b"ALLOWALL"), (b"Content-Type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"<script>"})

    answer = TestClient(Guard(app, loopback=False, token=None, port=1)).get("/")
    assert answer.headers.get_list("cache-control") == ["no-store"]
    assert answer.headers.get_list("x-frame-options") == ["DENY"]
    assert answer.text.startswith('<script nonce="')


def test_scripts_of_a_page_have_a_random_nonce():
    first, second = client().get("/"), client().get("/")
    nonces = [answer.headers["content-security-policy"].split("nonce-")[1].split("'")[0] for answer in (first, second)]
    assert nonces[0] != nonces[1]
    assert first.text.count(f'<script nonce="{nonces[0]}"') == 2
    assert int(first.headers["content-length"]) == len(first.content)


def test_only_code_may_be_cached():
    assert client().get("/_nicegui/code.js").headers["cache-control"] == "public"


@pytest.mark.parametrize("path", ["/", "/api/v1/status"])
@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "127.8.8.8"])
def test_loopback_names_are_accepted(host, path):
    assert client().get(path, headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/api/v1"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "192.168.1.5", "", "[", "localhost.evil"]
)
def test_other_host_names_are_rejected_on_loopback(host, path):
    answer = client().get(path, headers={"host": host})
    assert answer.status_code == 403
    assert "script" not in answer.text


def test_any_host_name_is_accepted_with_a_token():
    far = client(loopback=False, token=TOKEN, base="http://machine.example")
    assert far.get("/").status_code == 401
    assert far.get(f"/?token={TOKEN}").status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/v1/status"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1"])
def test_requests_of_other_pages_are_rejected(origin, path):
    headers = {"origin": origin}
    assert client().post(path, headers=headers).status_code == 403
    assert client().get(path, headers=headers).status_code == 403
    with_token = {**headers, "authorization": f"Bearer {TOKEN}"}
    assert client(token=TOKEN).get(path, headers=with_token).status_code == 403
    with pytest.raises(WebSocketDisconnect), client().websocket_connect("ws://127.0.0.1:7860/ws", headers=headers):
        pass


def test_same_origin_requests_and_websockets_are_accepted():
    headers = {"origin": "http://127.0.0.1:7860", "host": "127.0.0.1:7860"}
    assert client().post("/", headers=headers).status_code == 200
    with client().websocket_connect("ws://127.0.0.1:7860/ws", headers=headers) as socket:
        assert socket.receive_text() == "open"


def test_bearer_token_opens_the_api_only():
    guarded = client(token=TOKEN)
    for wrong in ("", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN):
        answer = guarded.get("/api/v1/status", headers={"authorization": wrong})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert list(answer.json()) == ["detail"]
    for kind in ("Bearer", "bearer"):
        headers = {"authorization": f"{kind} {TOKEN}"}
        answer = guarded.get("/api/v1/status", headers=headers)
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert guarded.get("/", headers=headers).status_code == 401
        assert guarded.get("/api/v1x", headers=headers).status_code == 401


@pytest.mark.parametrize("path", ["/", "/api/v1/status"])
def test_token_in_the_address_sets_a_cookie(path):
    guarded = client(token=TOKEN)
    assert guarded.get(path).status_code == 401
    for wrong in ("", "a-token-of-our", TOKEN + "x", "ä"):
        assert guarded.get(path, params={"token": wrong}).status_code == 401
    with pytest.raises(WebSocketDisconnect), guarded.websocket_connect("ws://127.0.0.1:7860/ws"):
        pass
    answer = guarded.get(path, params={"token": TOKEN})
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("facereel-7860=")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert guarded.get(path).status_code == 200
    assert "set-cookie" not in guarded.get(path).headers
    with guarded.websocket_connect("ws://127.0.0.1:7860/ws", headers={"cookie": f"facereel-7860={TOKEN}"}) as socket:
        assert socket.receive_text() == "open"


@pytest.mark.parametrize("path", ["/", "/api/v1/status"])
def test_wrong_or_malformed_cookie_is_rejected(path):
    for cookie in ("facereel-7860=wrong", f"facereel-7861={TOKEN}", "=;=", 'facereel-7860="', "\xff"):
        assert client(token=TOKEN).get(path, headers={"cookie": cookie.encode("latin-1")}).status_code == 401


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)],
)
def test_is_loopback(host, expected):
    assert is_loopback(host) is expected
