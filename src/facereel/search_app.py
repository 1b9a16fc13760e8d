"""Behind the commands index and search: what is said at the end."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from facereel.clock import clock
from facereel.console import Console
from facereel.engine import Engine, local
from facereel.errors import UserError
from facereel.models import VideoHasher, pretrained_hasher
from facereel.models.pretrained import CALIBRATION
from facereel.optional import import_faiss, import_pymilvus
from facereel.progress import advancing
from facereel.retrieval.approximate import KINDS
from facereel.retrieval.build import index_source
from facereel.retrieval.face_search import MIN_FACE, ONE_IN, FaceSearch, Found, Query, is_match
from facereel.retrieval.milvus import checked_uri
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
) -> None:
    """Add to an index, erase from it, or choose how it is searched; see `facereel index --help`.

    Raises:
        UserError: for a mistake in the options or the data.
    """
    keep = _how_kept(backend, uri, kind)
    if uri is None:
        import_faiss()  # so that its absence shows before anything is encoded
    if source is None and not remove_videos and not remove_people and keep is None:
        raise UserError("TRACKS_OR_MANIFEST is needed, or --remove-video, --remove-person, --kind or --backend")
    if remove_videos or remove_people:
        _erase(TrackIndex(out), remove_videos, remove_people)
    if source is None:
        if keep is not None:
            index = TrackIndex(out)
            keep(index)
            index.save_codes()
            console.print(f"{out}: {len(index)} tracks, searched {_said(index.kept)}")
        return
    model = _model(out, checkpoint)
    with advancing("encoding tracks, videos", console) as advance:
        calibration = CALIBRATION if checkpoint is None else ()
        done = index_source(source, out, model, calibration, advance, keep, engine)
    for file, why in done.bad.items():
        console.print(f"bad: {file}: {why}")
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
        if json:
            listed += [_entry(threshold, rank, one, number) for rank, one in enumerate(found, start=1)]
        else:
            _print(threshold, number, query, len(queries), found)
        if found and is_match(found[0].best, threshold) is False:
            aside.print(
                f"face {number}: probably not here; the nearest is at {found[0].best.distance:.3f}, beyond "
                f"{threshold:.3f}, within which 1 in {ONE_IN} searches for people not here would find someone"
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
    }


def _print(threshold: float | None, number: int, query: Query, n_faces: int, found: list[Found]) -> None:
    where = "" if query.box is None else " at " + ", ".join(str(round(value)) for value in query.box)
    seen = "" if query.start_s is None or query.end_s is None else f" from {query.start_s:.1f} to {query.end_s:.1f} s"
    console.print(f"face {number} of {n_faces}{where}{seen}")
    if not found:
        console.print("  no video to compare with")
    for rank, one in enumerate(found, start=1):
        track = one.best.track
        parts = [
            f"{rank:3}  {one.best.distance:.3f}{'?' if is_match(one.best, threshold) is False else ' '}",
            track.video,
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
