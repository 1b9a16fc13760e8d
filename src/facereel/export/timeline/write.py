"""Write intervals to a file in the format of its ending."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from facereel.errors import UserError
from facereel.export.timeline.editing import to_edl, to_fcp_xml, to_otio
from facereel.export.timeline.subtitles import to_srt, to_webvtt
from facereel.export.timeline.tables import to_csv, to_json
from facereel.retrieval.intervals import Interval
from facereel.storage.files import atomic_write
from facereel.system.optional import import_opentimelineio

_EDITING = (".otio", ".edl", ".xml")
_SUBTITLES = (".vtt", ".srt")
_ENDINGS = (".csv", ".json", *_SUBTITLES, *_EDITING)


def check_timeline_path(path: str | Path) -> None:
    """Check that a timeline can be written to a path, before the intervals are known.

    Args:
        path: path of the file.

    Raises:
        UserError: if the ending is unknown, the folder does not exist, or a package is missing.
    """
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise UserError(f"{path}: the ending must be one of {', '.join(_ENDINGS)}, which choose the format")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: its folder does not exist")
    if path.suffix.lower() in _EDITING:
        import_opentimelineio()


def write_timeline(path: str | Path, intervals: Sequence[Interval], title: str = "facereel") -> None:
    """Write intervals in the format of the file's ending, completely or not at all.

    | ending | format |
    |---|---|
    | .csv, .json | one row or object per interval |
    | .vtt, .srt | subtitles of one video: WebVTT, SubRip |
    | .otio | OpenTimelineIO: a clip and a marker per interval, with the times and timecode of the file |
    | .edl | CMX 3600 edit decision list, of videos with one frame rate |
    | .xml | Final Cut Pro 7 XML, which Premiere Pro and DaVinci Resolve read |

    Args:
        path: path of the file; an existing file is replaced.
        intervals: the intervals; they are written in the order of videos and times.
        title: title of the timeline, for editing programs.

    Raises:
        UserError: if the ending is unknown, a package is missing, subtitles are of several videos, or an editing
            program cannot use the intervals: there are none, or a video cannot be read.
        OSError: if the file cannot be written.
    """
    check_timeline_path(path)
    path = Path(path)
    ordered = sorted(intervals, key=lambda one: (one.video, one.start_s, one.end_s, one.people))
    ending = path.suffix.lower()
    if ending in _SUBTITLES and len({one.video for one in ordered}) > 1:
        raise UserError(
            f"{path}: subtitles belong to one video, and these intervals are of "
            f"{len({one.video for one in ordered})}: choose one video, or another ending"
        )
    if ending in _EDITING and not ordered:
        raise UserError(f"{path}: there is no interval to write")
    writers: dict[str, Callable[[Sequence[Interval]], str]] = {
        ".csv": to_csv,
        ".json": to_json,
        ".vtt": to_webvtt,
        ".srt": to_srt,
        ".otio": partial(to_otio, title=title),
        ".edl": partial(to_edl, title=title),
        ".xml": partial(to_fcp_xml, title=title),
    }
    text = writers[ending](ordered)
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\r\n" if ending == ".edl" else "")
