"""Data sets -> manifest -> crops -> batches."""

from facereel.data.augment import ImageAugment, OnCPU
from facereel.data.batches import Batch, FaceDataset, PKBatchSampler, augment_batch, collate, shard_batch
from facereel.data.crop_table import load_faces, open_prepared
from facereel.data.face_set import Clip, FaceSet, Still
from facereel.data.manifest import Manifest, Row
from facereel.data.readers import (
    read_folder,
    read_ijb,
    read_insightface,
    read_orl,
    read_stills,
    read_umdfaces,
    read_umdfaces_videos,
    read_youtube_celebrities,
    read_youtube_faces,
)
from facereel.system.skipped import Skipped

__all__ = [
    "Batch",
    "Clip",
    "FaceDataset",
    "FaceSet",
    "ImageAugment",
    "Manifest",
    "OnCPU",
    "PKBatchSampler",
    "Row",
    "Skipped",
    "Still",
    "augment_batch",
    "collate",
    "load_faces",
    "open_prepared",
    "read_folder",
    "read_ijb",
    "read_insightface",
    "read_orl",
    "read_stills",
    "read_umdfaces",
    "read_umdfaces_videos",
    "read_youtube_celebrities",
    "read_youtube_faces",
    "shard_batch",
]
