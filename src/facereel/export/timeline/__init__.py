"""Write intervals for other programs: tables, subtitles, editing programs, players and photo programs."""

from facereel.export.timeline.players import describe_video, write_player_files
from facereel.export.timeline.sidecars import write_sidecars
from facereel.export.timeline.tables import describe_interval
from facereel.export.timeline.write import check_timeline_path, write_timeline

__all__ = [
    "check_timeline_path",
    "describe_interval",
    "describe_video",
    "write_player_files",
    "write_sidecars",
    "write_timeline",
]
