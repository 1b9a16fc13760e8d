"""Errors of the HTTP API: a JSON object with one sentence, whatever happens."""

from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

# Number of invalid values that one answer names.
_MOST_INVALID = 5


class Problem(BaseModel):
    """An error."""

    detail: str = Field(description="What is wrong.", examples=["There is no track 7 in the index."])


_SENTENCES = {
    400: "The body of the request cannot be parsed.",
    401: "The token is missing or wrong.",
    403: "The request came from another page or for another host, or it is a change and the server is read-only.",
    404: "There is no such video, track, crop, person or group.",
    409: "A decision of the user contradicts this one.",
    413: "The body of the request is too large.",
    422: "A value is invalid, or a photo cannot be used.",
    500: "Something went wrong on the server.",
    503: "Too many searches are waiting: try again after the seconds in Retry-After.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of errors for OpenAPI.

    Args:
        statuses: HTTP status codes.
    """
    return {status: {"model": Problem, "description": _SENTENCES[status]} for status in statuses}


def absent(what: str) -> HTTPException:
    """Return the error for something that is not in the index.

    Args:
        what: what is absent, such as "track 7".
    """
    return HTTPException(404, f"There is no {what} in the index.")


def sentence(text: str) -> str:
    """Return a message of the library as a sentence."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def add_handlers(app: FastAPI) -> None:
    """Make every error of an application a `Problem`. Its other handlers already are of this form."""

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = [f"{_place(one['loc'])}: {_explain(one)}" for one in error.errors()[:_MOST_INVALID]]
        return JSONResponse({"detail": sentence("; ".join(found))}, 422)

    async def failed(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises the error again after this answer, and the server logs it.
        return JSONResponse({"detail": "Something went wrong: see the terminal of facereel serve."}, 500)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, failed)


def _explain(invalid: dict[str, Any]) -> str:
    # The name of a class says nothing to the author of a client.
    return "must be a file" if "UploadFile" in invalid["msg"] else str(invalid["msg"])


def _place(location: tuple[int | str, ...]) -> str:
    """Return the name of an invalid value: its location without "query", "path" or "body"."""
    named = location[1:] if len(location) > 1 and not isinstance(location[1], int) else location
    return ".".join(str(part) for part in named)
