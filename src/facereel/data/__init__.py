"""Data sets -> manifest -> crops -> batches."""

from facereel.data.augment import PictureAugment
from facereel.data.batches import Batch, FaceItems, PeopleBatchSampler, collate, share
from facereel.data.faces import Clip, FaceSet, Still
from facereel.data.load import load_faces, open_prepared
from facereel.data.manifest import Manifest, Row
from facereel.data.readers import (
    read_folder,
    read_orl,
    read_stills,
    read_umdfaces,
    read_umdfaces_videos,
    read_youtube_celebrities,
    read_youtube_faces,
)
from facereel.skipped import Skipped

__all__ = [
    "Batch",
    "Clip",
    "FaceItems",
    "FaceSet",
    "Manifest",
    "PeopleBatchSampler",
    "PictureAugment",
    "Row",
    "Skipped",
    "Still",
    "collate",
    "load_faces",
    "open_prepared",
    "read_folder",
    "read_orl",
    "read_stills",
    "read_umdfaces",
    "read_umdfaces_videos",
    "read_youtube_celebrities",
    "read_youtube_faces",
    "share",
]
