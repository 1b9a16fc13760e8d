"""Routes of people and groups, and of their names."""

from fastapi import APIRouter, HTTPException

from facereel.data.person_names import check_name
from facereel.errors import UserError
from facereel.web.api.context import (
    LIMIT,
    AfterNumber,
    AfterText,
    ApiContext,
    Context,
    GroupNumber,
    Limit,
    TrackId,
    WritableContext,
)
from facereel.web.api.errors import absent, problems, sentence
from facereel.web.api.models import (
    GroupAnswer,
    GroupsPage,
    MergeBody,
    NameBody,
    PeoplePage,
    PersonAnswer,
    TrackAnswer,
)

router = APIRouter(tags=["people"])

_CHANGE = problems(400, 404, 413)


@router.get("/people", operation_id="list_people")
def list_people(context: Context, after: AfterText = "", limit: Limit = LIMIT) -> PeoplePage:
    """List the named people. `GET /tracks?person=NAME` lists the tracks of one."""
    found = context.index.listing.people(after, limit + 1)
    return PeoplePage(
        people=[PersonAnswer.of(entry) for entry in found[:limit]],
        next=found[limit - 1].name if len(found) > limit else None,
    )


@router.get("/groups", operation_id="list_groups")
def list_groups(context: Context, after: AfterNumber = 0, limit: Limit = LIMIT) -> GroupsPage:
    """List the groups that `facereel people cluster` made. `GET /tracks?group=NUMBER` lists the tracks of one."""
    found = context.index.listing.groups(after, limit + 1)
    return GroupsPage(
        groups=[GroupAnswer.of(entry) for entry in found[:limit]],
        next=found[limit - 1].number if len(found) > limit else None,
    )


@router.put("/groups/{group}/name", operation_id="name_group", responses=_CHANGE)
def name_group(context: WritableContext, group: GroupNumber, body: NameBody) -> GroupAnswer:
    """Name all tracks of a group, or remove their names."""
    name = _check(body.name)
    _group(context, group)
    tracks = context.index.listing.ids_of_group(group)
    context.index.people.name(tracks, name)
    return _group(context, group)


@router.post("/groups/merge", operation_id="merge_groups", responses={**_CHANGE, **problems(409)})
def merge_groups(context: WritableContext, body: MergeBody) -> GroupAnswer:
    """Merge groups into the one with the smallest number. Names are kept."""
    numbers = sorted(set(body.groups))
    if len(numbers) < len(body.groups):
        raise HTTPException(422, "Groups: must be different.")
    for number in numbers:
        _group(context, number)
    try:
        context.index.people.merge(numbers)
    except UserError as error:
        raise HTTPException(409, sentence(str(error))) from error
    return _group(context, numbers[0])


@router.put("/tracks/{track}/name", operation_id="name_track", responses=_CHANGE)
def name_track(context: WritableContext, track: TrackId, body: NameBody) -> TrackAnswer:
    """Name one track, or remove its name."""
    name = _check(body.name)
    context.index.people.name([context.track(track).id], name)
    return TrackAnswer.of(context.track(track))


def _check(text: str | None) -> str | None:
    try:
        return None if text is None else check_name(text)
    except UserError as error:
        raise HTTPException(422, sentence(str(error))) from error


def _group(context: ApiContext, number: int) -> GroupAnswer:
    found = context.index.listing.group(number)
    if found is None:
        raise absent(f"group {number}")
    return GroupAnswer.of(found)
