"""The erase command: remove videos and people from an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facereel.cli.options import IndexFolder
from facereel.errors import UserError
from facereel.system.console import console
from facereel.system.text import first_few, plural

if TYPE_CHECKING:
    from facereel.retrieval.moved_videos import Absent
    from facereel.retrieval.track_index import TrackIndex


def erase_command(
    folder: IndexFolder,
    video: Annotated[list[str] | None, typer.Option(metavar="PATH", help="Video to erase; may be repeated.")] = None,
    person: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Person to erase; may be repeated.")] = None,
    absent: Annotated[
        bool,
        typer.Option(
            "--absent",
            help="Erase videos that no longer exist on disk. Videos below a missing or empty folder are kept: "
            "its drive may not be connected.",
        ),
    ] = False,
    absent_in: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Erase all videos below this folder that no longer exist on disk, even if the folder is missing; may "
            "be repeated.",
        ),
    ] = None,
) -> None:
    """Erase videos or people from an index: tracks, codes, thumbnails, and crops in the index folder.

    Other files are kept: see docs/how-to/erase_people.md.

    Example: facereel erase --index index --person "Ada Lovelace"

    Erase deleted videos: facereel erase --index index --absent
    """
    from facereel.retrieval.erase import erase_person
    from facereel.retrieval.moved_videos import Absent
    from facereel.retrieval.track_index import TrackIndex

    if not (video or person or absent or absent_in):
        raise UserError("nothing to erase: give --video, --person, --absent or --absent-in")
    index = TrackIndex(folder)
    _erase_videos(index, video or [])
    for name in person or []:
        sources = {track.source for track in index.tracks(index.ids_of_person(name))}
        n_photos = len(index.people.photos(name))
        if not sources and not index.people.mentions(name):
            raise UserError(f"--person {name}: no track in {folder} has this name")
        erased = plural(erase_person(index, name), "track")
        photos = f" and {plural(n_photos, 'photo')}" if n_photos else ""
        console.print(f"erased {erased}{photos} of {name}{_kept_crops(index, sources)}")
    if absent or absent_in:
        _erase_absent(index, Absent(absent, absent_in or []))
    index.save_codes()


def _kept_crops(index: TrackIndex, sources: set[str]) -> str:
    """Return the end of a line about erased tracks: whether and where their crops still exist."""
    from facereel.retrieval.erase import has_own_crops

    kept = sorted(source for source in sources if not has_own_crops(index, source))
    return f"; crops are still in {first_few(kept)}" if kept else " and their crops"


def _erase_videos(index: TrackIndex, videos: list[str]) -> None:
    from facereel.retrieval.erase import erase_video

    known = index.records()
    for video in videos:
        path = video if video in known else str(Path(video).absolute())
        if path not in known:
            raise UserError(f"--video {video}: the index in {index.folder} does not contain it")
        erased = plural(erase_video(index, path), "track")
        console.print(f"erased {erased} of {path}{_kept_crops(index, {known[path].source})}")


def _erase_absent(index: TrackIndex, absent: Absent) -> None:
    from facereel.retrieval.moved_videos import absent_videos, remove_absent

    sources = {path: record.source for path, record in index.records().items()}
    erased = remove_absent(index, absent)
    for path, n_tracks in erased.items():
        tracks = plural(n_tracks, "track")
        console.print(f"erased {tracks} of {path}, which no longer exists{_kept_crops(index, {sources[path]})}")
    console.print(f"{index.folder}: erased {plural(len(erased), 'absent video')}")
    if kept := absent_videos(index):
        console.print(
            f"note: kept {plural(len(kept), 'absent video')} ({first_few(kept)}): their folder is missing or "
            "empty, so its drive may not be connected; --absent-in FOLDER erases the videos below it"
        )
