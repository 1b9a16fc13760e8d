"""Crops in memory or in memory-mapped files, taken by their row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from facereel.errors import UserError


class CropStore:
    """Crops of one size spread over blocks; a file's block is memory-mapped when it is first used, or by `open`.

    Args:
        blocks: tensors (n, 3, S, S) uint8, or safetensors files with such a tensor called `crops`.
        block: (N,) the block of each row.
        place: (N,) the row's place in it.
        size: S.
    """

    def __init__(self, blocks: Sequence[Tensor | Path], block: Tensor, place: Tensor, size: int) -> None:
        self.blocks = list(blocks)
        self.block, self.place, self.size = block, place, size
        self._opened: dict[int, Tensor] = {}

    @classmethod
    def of(cls, crops: Tensor) -> CropStore:
        """All crops in one tensor in memory."""
        return cls([crops], torch.zeros(len(crops), dtype=torch.int64), torch.arange(len(crops)), crops.shape[-1])

    def __len__(self) -> int:
        return len(self.block)

    def __add__(self, other: CropStore) -> CropStore:
        """The rows of both, one after the other; of one size."""
        block = torch.cat([self.block, other.block + len(self.blocks)])
        return CropStore([*self.blocks, *other.blocks], block, torch.cat([self.place, other.place]), self.size)

    def take(self, rows: Tensor) -> CropStore:
        """Some of the rows, without reading a crop."""
        return CropStore(self.blocks, self.block[rows], self.place[rows], self.size)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Crops of some rows: (n,) int64 -> (n, 3, S, S) uint8."""
        blocks, places = self.block[rows], self.place[rows]
        if len(rows) and bool((blocks == blocks[0]).all()):  # a clip lies in one block
            return self._open(int(blocks[0]))[places]
        crops = torch.empty(len(rows), 3, self.size, self.size, dtype=torch.uint8)
        for b in sorted(set(blocks.tolist())):
            mine = blocks == b
            crops[mine] = self._open(b)[places[mine]]
        return crops

    def open(self) -> None:
        """Map all files now.

        Raises:
            UserError: if one is absent or damaged.
        """
        for b in range(len(self.blocks)):
            self._open(b)

    def _open(self, b: int) -> Tensor:
        if b not in self._opened:
            block = self.blocks[b]
            if not isinstance(block, Tensor):
                block = self._checked(block, open_block(block).get("crops"), self.place[self.block == b])
            self._opened[b] = block
        return self._opened[b]

    def _checked(self, file: Path, crops: Tensor | None, places: Tensor) -> Tensor:
        if crops is None or crops.dtype != torch.uint8 or crops.shape[1:] != (3, self.size, self.size):
            raise UserError(f"{file} holds no crops of {self.size} pixels: delete it and run facereel prepare again")
        if len(places) and int(places.max()) >= len(crops):
            raise UserError(
                f"{file} holds fewer crops than its manifest says: delete it and run facereel prepare again"
            )
        return crops

    def __getstate__(self) -> dict[str, Any]:
        # A process that is started for loading maps the files itself.
        return {**self.__dict__, "_opened": {}}


def open_block(path: Path) -> dict[str, Tensor]:
    """Map a block's tensors.

    Raises:
        UserError: if the file is absent or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is absent or damaged: run facereel prepare again") from error
