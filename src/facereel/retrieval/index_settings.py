"""Read the settings with which an index was made."""

from facereel.retrieval.track_database import damaged
from facereel.retrieval.track_index import TrackIndex
from facereel.video.find_tracks import TrackSettings


def read_settings(index: TrackIndex) -> TrackSettings:
    """Return the settings with which the faces of an index were found and cropped.

    Args:
        index: the index.

    Returns:
        The settings; frames per second and the numbers of crops are the default ones.

    Raises:
        UserError: if the settings are damaged.
    """
    about = index.about
    try:
        settings = TrackSettings(
            size=about["size"], margin=about["margin"], detector=about["detector"], min_face=about.get("min_face")
        )
        types = type(settings.size), type(settings.detector), type(settings.min_face)
        if types not in ((int, str, int), (int, str, type(None))):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(index.folder, "cannot read its detector or crop settings") from error
    return settings
