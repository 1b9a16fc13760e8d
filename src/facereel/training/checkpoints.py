"""Checkpoints that appear whole or not at all, and are read without unpickling code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import TorchCheckpointIO

from facereel.files import write_beside


class WholeFileIO(TorchCheckpointIO):
    """Write beside, then rename."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save a checkpoint to a local path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_beside(path) as beside:
            super().save_checkpoint(checkpoint, beside, storage_options)
