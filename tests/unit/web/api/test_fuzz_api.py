"""Requests that the API's own description allows, and ones that it forbids: every answer is as described."""

import pytest

pytest.importorskip("nicegui", reason="the HTTP API needs the extra web: pip install 'facereel[web]'")
pytest.importorskip("schemathesis", reason="needs schemathesis: pip install schemathesis")

import schemathesis
from drawn_api import TOKEN, make_guarded, make_search
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.types import ASGIApp

IGNORED = list(HealthCheck)
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def on_loopback(app: ASGIApp) -> ASGIApp:
    """Send every request to a name of this machine."""

    async def send_to(scope, receive, send):
        headers = [(name, value) for name, value in scope.get("headers", []) if name != b"host"]
        await app({**scope, "headers": [*headers, (b"host", b"127.0.0.1:7860")]}, receive, send)

    return send_to


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed")
    app = on_loopback(make_guarded(make_search(folder), folder / "uploads", token=TOKEN))
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers=HEADERS)
    found = [one.ok() for one in schema.get_all_operations() if isinstance(one, Ok)]
    return {operation.label: operation for operation in found}


# Whether a photo shows a face, and a name can be printed, is not in the description.
UNDESCRIBED = {"POST /search", "PUT /groups/{group}/name", "PUT /tracks/{track}/name"}


def check(operation, mode, excluded):
    @settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=IGNORED)
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        case.call_and_validate(headers=HEADERS, excluded_checks=excluded)

    send()


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_answers_are_as_described(operations, method, mode):
    chosen = {label: one for label, one in operations.items() if label.startswith(method)}
    assert chosen
    for label, operation in chosen.items():
        check(operation, mode, [positive_data_acceptance] if label in UNDESCRIBED else [])
