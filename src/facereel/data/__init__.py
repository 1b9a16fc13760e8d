"""Data sets -> manifest -> crops -> batches."""

from facereel.data.augment import PictureAugment
from facereel.data.batches import Batch, FaceItems, PeopleBatchSampler, collate
from facereel.data.faces import Clip, FaceSet, Still, load_faces
from facereel.data.manifest import Row, Skipped, write_manifest
from facereel.data.readers import read_folder, read_orl, read_stills, read_youtube_faces

__all__ = [
    "Batch",
    "Clip",
    "FaceItems",
    "FaceSet",
    "PeopleBatchSampler",
    "PictureAugment",
    "Row",
    "Skipped",
    "Still",
    "collate",
    "load_faces",
    "read_folder",
    "read_orl",
    "read_stills",
    "read_youtube_faces",
    "write_manifest",
]
