"""Readers: convert a data set's original folder to manifest rows, one module for each data set.

A reader is a function `read_NAME(root, skipped, ...)` that yields a `Row` for each frame or still: people in order, the
frames of a clip together and in time order, keys unique and the same on every machine. It counts files that it does not
use in `skipped`.
"""

from facereel.data.readers.folder import read_folder
from facereel.data.readers.ijb import read_ijb
from facereel.data.readers.insightface import read_insightface
from facereel.data.readers.orl import read_orl
from facereel.data.readers.stills import read_stills
from facereel.data.readers.umdfaces import read_umdfaces, read_umdfaces_videos
from facereel.data.readers.youtube_celebrities import read_youtube_celebrities
from facereel.data.readers.youtube_faces import read_youtube_faces

__all__ = [
    "read_folder",
    "read_ijb",
    "read_insightface",
    "read_orl",
    "read_stills",
    "read_umdfaces",
    "read_umdfaces_videos",
    "read_youtube_celebrities",
    "read_youtube_faces",
]
