"""Behind the commands index and search: what is said at the end."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from facereel.clock import clock
from facereel.console import Console, count, some
from facereel.engine import Engine, local
from facereel.errors import UserError
from facereel.models import VideoHasher, pretrained_hasher
from facereel.models.pretrained import CALIBRATION
from facereel.optional import import_faiss, import_pymilvus
from facereel.progress import advancing
from facereel.retrieval.approximate import KINDS
from facereel.retrieval.build import Indexed, index_source
from facereel.retrieval.face_search import MIN_FACE, ONE_IN, FaceSearch, Found, Query, deciding_digits, is_match
from facereel.retrieval.milvus import checked_uri
from facereel.retrieval.moved_videos import Absent, absent_videos, remove_absent
from facereel.retrieval.track_index import Track, TrackIndex, Within

console = Console(highlight=False, soft_wrap=True, markup=False)
aside = Console(highlight=False, soft_wrap=True, markup=False, stderr=True)


def run_index(
    source: Path | None,
    out: Path,
    checkpoint: Path | None,
    remove_videos: Sequence[str],
    remove_people: Sequence[str],
    backend: str | None = None,
    uri: str | None = None,
    kind: str | None = None,
    engine: Engine = local,
    absent: Absent | None = None,
) -> None:
    """Add to an index, erase from it, or choose how it is searched; see `facereel index --help`.

    Args:
        absent: says which videos are erased whose files are gone; None erases none.

    Raises:
        UserError: for a mistake in the options or the data.
    """
    keep = _how_kept(backend, uri, kind)
    if uri is None:
        import_faiss()  # so that its absence shows before anything is encoded
    if source is None and not remove_videos and not remove_people and keep is None and absent is None:
        raise UserError(
            "TRACKS_OR_MANIFEST is needed, or --remove-video, --remove-person, --remove-absent, --kind or --backend"
        )
    if remove_videos or remove_people:
        _erase(TrackIndex(out), remove_videos, remove_people)
    if source is None:
        if keep is not None:
            index = TrackIndex(out)
            keep(index)
            index.save_codes()
            console.print(f"{out}: {len(index)} tracks, searched {_said(index.kept)}")
        if absent is not None:
            _erase_absent(TrackIndex(out), absent)
        return
    model = _model(out, checkpoint)
    with advancing("encoding tracks, videos", console) as advance:
        calibration = CALIBRATION if checkpoint is None else ()
        skip = (lambda video: False) if absent is None else absent.includes
        done = index_source(source, out, model, calibration, advance, keep, engine, skip)
    _print_notes(done)
    for file, why in done.bad.items():
        console.print(f"bad: {file}: {why}")
    if absent is not None:
        _erase_absent(done.index, absent)
    else:
        _print_absent(done.index)
    n_codes = len(done.index)
    console.print(
        f"{out}: {n_codes} tracks of {len(done.index.videos())} videos in codes of {model.n_bits} bits; "
        f"{done.n_videos} videos added now with {done.n_tracks} tracks, {done.n_before} there before"
    )
    console.print(f"search it: facereel search PICTURE --index {out}")


def _how_kept(backend: str | None, uri: str | None, kind: str | None) -> Callable[[TrackIndex], None] | None:
    """Where and how codes are to be searched; None if they may stay as they are."""
    if backend not in (None, "faiss", "milvus"):
        raise UserError(f"--backend {backend}: must be faiss or milvus")
    if kind not in (None, *KINDS):
        raise UserError(f"--kind {kind}: must be one of {', '.join(KINDS)}")
    if backend == "milvus":
        if uri is None:
            raise UserError("--backend milvus needs --uri: http://localhost:19530, or a file ending in .db")
        if kind not in (None, "flat"):
            raise UserError(f"--kind {kind} is FAISS's: Milvus looks at all codes")
        import_pymilvus()
        return partial(TrackIndex.keep_codes, uri=checked_uri(uri))
    if uri is not None:
        raise UserError("--uri is Milvus's: --backend milvus")
    return None if backend is None and kind is None else partial(TrackIndex.keep_codes, kind=kind)


def _said(kept: dict[str, str]) -> str:
    return f"in Milvus at {kept['uri']}" if "uri" in kept else f"by FAISS, {kept['kind']}"


def _model(out: Path, checkpoint: Path | None) -> VideoHasher:
    """The one asked for; else that of the index, if there is one already; else the one that needs no training."""
    if checkpoint is not None:
        return VideoHasher.load(checkpoint)
    return TrackIndex(out).model() if TrackIndex.is_in(out) else pretrained_hasher()


def _erase(index: TrackIndex, videos: Sequence[str], people: Sequence[str]) -> None:
    held = set(index.videos())
    for video in videos:
        path = video if video in held else str(Path(video).absolute())
        if path not in held:
            raise UserError(f"--remove-video {video}: the index in {index.folder} does not hold it")
        console.print(f"erased {index.remove_video(path)} tracks of {path}")
    for person in people:
        n_tracks = index.remove_person(person)
        if not n_tracks:
            raise UserError(f"--remove-person {person}: no track in {index.folder} bears this name")
        console.print(f"erased {n_tracks} tracks of {person}; their crops are still where they were indexed from")
    index.save_codes()


def _print_notes(done: Indexed) -> None:
    console.print_notes(
        f"{video} was {before} before: its tracks, names and groups are kept" for video, before in done.moved.items()
    )
    console.print_notes(
        f"{video} is not listed: it has the same content as {other}, which is" for video, other in done.copies.items()
    )


def _print_absent(index: TrackIndex) -> None:
    absent = absent_videos(index)
    if absent:
        console.print(
            f"note: the index has {count(len(absent), 'absent video')} ({some(absent)}): connect the drive, ingest "
            f"what was moved where it is now, or erase them: facereel index --out {index.folder} --remove-absent"
        )


def _erase_absent(index: TrackIndex, absent: Absent) -> None:
    sources = {path: record.source for path, record in index.records().items()}
    erased = remove_absent(index, absent)
    index.save_codes()
    for path, n_tracks in erased.items():
        n_said = count(n_tracks, "track")
        console.print(f"erased {n_said} of {path}, which is gone; its crops are still in {sources[path]}")
    console.print(f"{index.folder}: erased {count(len(erased), 'absent video')}")
    if kept := absent_videos(index):
        console.print(
            f"note: kept {count(len(kept), 'absent video')} ({some(kept)}), as the whole folder is gone and may be on "
            "a drive that is not connected: --remove-absent-in FOLDER erases what was below it"
        )


def run_search(
    path: Path,
    folder: Path,
    *,
    top: int,
    face: str,
    every_track: bool,
    below: str | None,
    since: datetime | None,
    until: datetime | None,
    json: bool,
    min_face: int = MIN_FACE,
) -> None:
    """Search and print; see `facereel search --help`.

    Raises:
        UserError: for a mistake in the options, or if no face is found.
    """
    if face != "all" and not (face.isdecimal() and int(face) > 0):
        raise UserError(f"--face {face}: must be a number from 1 on, or all")
    search = FaceSearch(folder)
    queries = search.queries(path, min_face)
    if face != "all" and int(face) > len(queries):
        raise UserError(f"--face {face}: {path} has {len(queries)}")
    chosen = list(enumerate(queries, start=1))
    if face != "all":
        chosen = [chosen[int(face) - 1]]
    within = Within(
        None if below is None else str(Path(below).absolute()),
        None if since is None else since.timestamp(),
        None if until is None else (until + timedelta(days=1)).timestamp() - 1e-6,
    )
    listed: list[dict[str, Any]] = []
    for number, query in chosen:
        found, threshold = search.search(query, top, per_video=not every_track, within=within), search.threshold
        digits = deciding_digits((one.best.distance for one in found), threshold, least=3)
        if json:
            listed += [_entry(threshold, rank, one, number) for rank, one in enumerate(found, start=1)]
        else:
            _print(threshold, digits, number, query, len(queries), found)
        if found and is_match(found[0].best, threshold) is False:
            aside.print(
                f"face {number}: probably not here; the nearest is at {found[0].best.distance:.{digits}f}, beyond "
                f"{threshold:.{digits}f}, within which 1 in {ONE_IN} searches for people not here would find someone"
            )
    if json:
        print(json_module.dumps(listed, indent=1))


def _entry(threshold: float | None, rank: int, found: Found, face: int) -> dict[str, Any]:
    track = found.best.track
    return {
        "rank": rank,
        "video": track.video,
        "track": track.number,
        "start_s": track.start_s,
        "end_s": track.end_s,
        "distance": round(found.best.distance, 6),
        "thumbnail": str(track.thumbnail),
        "person": track.person,
        "match": is_match(found.best, threshold),
        "face": face,
        **({"absent": True} if track.is_absent else {}),
    }


def _print(threshold: float | None, digits: int, number: int, query: Query, n_faces: int, found: list[Found]) -> None:
    where = "" if query.box is None else " at " + ", ".join(str(round(value)) for value in query.box)
    seen = "" if query.start_s is None or query.end_s is None else f" from {query.start_s:.1f} to {query.end_s:.1f} s"
    console.print(f"face {number} of {n_faces}{where}{seen}")
    if not found:
        console.print("  no video to compare with")
    for rank, one in enumerate(found, start=1):
        track = one.best.track
        parts = [
            f"{rank:3}  {one.best.distance:.{digits}f}{'?' if is_match(one.best, threshold) is False else ' '}",
            track.video + (" (absent)" if track.is_absent else ""),
            _times(track),
            f"track {track.number}",
            *([f"and {len(one.others)} more"] if one.others else []),
            *([track.person] if track.person else []),
            str(track.thumbnail),
        ]
        console.print("  ".join(part for part in parts if part))


def _times(track: Track) -> str:
    if track.start_s is None or track.end_s is None:
        return ""
    return f"{clock(track.start_s, 1)} - {clock(track.end_s, 1)}"
