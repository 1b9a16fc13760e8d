"""Find the faces in videos and add them to an index: each video can be searched as soon as it is done."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from facereel.errors import UserError
from facereel.models import VideoHasher
from facereel.parallel.executor import Engine, local
from facereel.parallel.pool import n_processors
from facereel.retrieval.build_index import (
    IndexOptions,
    IndexReport,
    crop_settings,
    encode_video,
    finish,
    index_source,
    open_index,
    record_of,
    tracks_of_file,
)
from facereel.retrieval.encode import check_margin
from facereel.retrieval.erase import TRACKS
from facereel.retrieval.moved_videos import reconcile
from facereel.retrieval.track_database import damaged
from facereel.retrieval.track_index import TrackIndex, VideoRecord
from facereel.retrieval.track_records import is_video_file
from facereel.video import TrackSettings, make_detector
from facereel.video.detector import choose_detector
from facereel.video.ingest import IngestReport, Processors, ingest
from facereel.video.track_file import read_about, track_path
from facereel.video.track_folder import settings_in


@dataclass
class VideosReport:
    """The result of `index_videos`."""

    index: IndexReport
    ingest: IngestReport = field(default_factory=IngestReport)


def tracks_folder(out: Path) -> Path:
    """Return the folder of the track files of an index: OUT/tracks, unless the index was made from another one.

    Args:
        out: folder of the index, which may not exist.

    Raises:
        UserError: if the index cannot be read.
    """
    own = out / TRACKS
    if own.is_dir() or not TrackIndex.is_in(out):
        return own
    sources = [record.source for record in TrackIndex(out).records().values() if is_video_file(record.source)]
    folders = [Path(name) for name, _ in Counter(str(Path(source).parent) for source in sources).most_common()]
    return next((folder for folder in folders if folder.is_dir()), own)


def settings_for(out: Path, tracks: Path, *, detector: str | None = None, min_face: int | None = None) -> TrackSettings:
    """Return the settings with which to find faces for an index: those of its tracks, or else of a new index.

    Args:
        out: folder of the index, which may not exist.
        tracks: folder of its track files, which may not exist.
        detector: the detector of `TrackSettings`; None keeps that of the index, or selects the default.
        min_face: the `min_face` of `TrackSettings`; None keeps that of the index, or selects the default.

    Returns:
        The settings.

    Raises:
        UserError: if the index has other settings than the given ones, or they are out of range.
    """
    before = _settings_of_index(out, tracks) if TrackIndex.is_in(out) else settings_in(tracks)
    if before is None:
        return TrackSettings(detector=choose_detector(detector, None), min_face=min_face)
    chosen = choose_detector(detector, before.detector)
    for name, given, kept in (("detector", chosen, before.detector), ("min_face", min_face, before.min_face)):
        if given not in (None, kept):
            made = f"the default {name}" if kept is None else f"{name} {kept}"
            raise UserError(f"the index in {out} was made with {made}, not {given}: choose another folder")
    return before


def _settings_of_index(out: Path, tracks: Path) -> TrackSettings:
    about = TrackIndex(out).about
    try:
        needed = crop_settings(about)
        in_tracks = settings_in(tracks)
        if in_tracks is not None and crop_settings(asdict(in_tracks)) == needed:
            return in_tracks
        return TrackSettings(**{"min_face": about.get("min_face"), **about.get("settings", {}), **needed})
    except (KeyError, TypeError, UserError) as error:
        raise damaged(out, "cannot read its detector or crop settings") from error


def index_videos(
    videos: Sequence[Path],
    out: Path,
    model: VideoHasher,
    settings: TrackSettings,
    options: IndexOptions = IndexOptions(),  # noqa: B008, it cannot be changed
    *,
    work: "Work | None" = None,
) -> VideosReport:
    """Find the tracks of videos and add them to an index, except for videos that are up to date in it.

    Each video is added when its tracks are written. If this is killed, the next call continues, with the same result.
    Moved, renamed and copied videos are recognized by their content, see `ingest` and `index_source`.

    Args:
        videos: video files. They are processed in the order of their paths.
        out: folder of the index, created if it does not exist.
        model: model that encodes the crops.
        settings: settings of `find_tracks`, see `settings_for`.
        options: options of the index.
        work: how to process the videos.

    Returns:
        What was found and added.

    Raises:
        UserError: if the videos do not fit the model or the index, or if the disk is full.
    """
    work = work or Work()
    tracks = work.tracks or tracks_folder(out)
    check_margin(model, settings.margin)
    make_detector(settings.detector, options.device)  # fails here, before videos are read
    about = crop_settings(asdict(settings))
    index = open_index(out, model, about, options, {"min_face": settings.min_face, "settings": asdict(settings)})
    ordered = sorted(videos, key=str)  # the first of several copies is listed, as by `index_source`
    if work.engine is not local:
        found = ingest(ordered, tracks, settings, advance=work.advance, engine=work.engine)
        if not found.found and not found.made:
            return VideosReport(IndexReport(index), found)
        return VideosReport(index_source(tracks, out, model, options, engine=work.engine), found)
    adding = _Adding(index, options.place(model), tracks, settings)
    processors = Processors(work.n_workers or n_processors(), options.device)
    found = ingest(ordered, tracks, settings, processors, work.advance, sink=adding)
    adding.add_replaced()
    finish(adding.done)
    return VideosReport(adding.done, found)


@dataclass(frozen=True)
class Work:
    """How `index_videos` processes videos.

    Args:
        tracks: folder of the track files; None selects `tracks_folder`.
        n_workers: number of threads that detect faces in a video; None for one per processor.
        advance: called with the megabytes done since the last call, and the total.
        engine: executor that processes the videos. With another one than `local`, all faces are found before the first
            video is added.
    """

    tracks: Path | None = None
    n_workers: int | None = None
    advance: Callable[[int, int], object] = lambda done, of: None
    engine: Engine = local


class _Adding:
    """Adds videos to an index as soon as their tracks are written; a `TrackSink`."""

    def __init__(self, index: TrackIndex, model: VideoHasher, tracks: Path, settings: TrackSettings) -> None:
        self.done = IndexReport(index)
        self._tracks = tracks
        self._encode = partial(tracks_of_file, margin=settings.margin, model=model)
        self._up_to_date: set[Path] = set()
        self._expected: set[str] = set()
        self._passed_over: set[str] = set()
        self._replaced: list[VideoRecord] = []

    def expect(self, videos: Sequence[Path]) -> None:
        """Take over the names of moved videos, all at once, since videos may have swapped their paths."""
        records = {video: record for video in videos if (record := self._record(video)) is not None}
        self._reconcile(list(records.values()))
        known = self.done.index.records()
        for video, record in records.items():
            before = known.get(record.path)
            if before is not None and before.fingerprint == record.fingerprint:
                self._up_to_date.add(video)

    def add(self, video: Path) -> None:
        """Add a video, unless it is up to date or a copy."""
        if video in self._up_to_date:
            self.done.n_before += 1
            return
        record = self._record(video)
        if record is None:
            return
        known = self.done.index.records(like=record)
        before = known.get(record.path)
        if before is not None and before.content != record.content:
            # Its path had another video, which may be found at another path later, with its names.
            self._replaced.append(record)
            return
        if record.path not in self._expected and any(other.content == record.content for other in known.values()):
            self._reconcile([record])
        self._upsert(record)

    def add_replaced(self) -> None:
        """Add the videos that were written over other ones."""
        self._reconcile(self._replaced)
        for record in self._replaced:
            self._upsert(record)

    def _reconcile(self, records: Sequence[VideoRecord]) -> None:
        found = reconcile(self.done.index, records)
        self.done.moved |= found.moved
        self.done.copies |= found.copies
        self._passed_over |= found.passed_over
        self._expected |= {record.path for record in records}

    def _record(self, video: Path) -> VideoRecord | None:
        """Describe a video, or report why its tracks cannot be read."""
        file = track_path(self._tracks, video)
        try:
            return record_of(read_about(file), file)
        except UserError as error:
            self.done.bad[str(file)] = str(error)
            return None

    def _upsert(self, record: VideoRecord) -> None:
        index = self.done.index
        if record.path in self._passed_over:
            return
        if index.fingerprint(record.path) == record.fingerprint:
            self.done.n_before += 1
            return
        tracks: Any = encode_video(Path(record.source), self._encode)
        if isinstance(tracks, str):
            self.done.bad[record.source] = tracks
            return
        index.upsert_video(record, tracks)
        self.done.n_videos += 1
        self.done.n_tracks += len(tracks)
