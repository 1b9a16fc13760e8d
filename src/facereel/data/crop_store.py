"""Crops in memory or in memory-mapped files, selected by row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from facereel.errors import UserError


class CropStore:
    """Crops of one size, stored in blocks; a block in a file is memory-mapped on first use, or by `open`.

    Args:
        blocks: (n, 3, S, S) uint8 tensors, or safetensors files with such a tensor named `crops`.
        block: (N,) index of each row's block.
        place: (N,) position of each row in its block.
        size: side S of a crop in pixels.
    """

    def __init__(self, blocks: Sequence[Tensor | Path], block: Tensor, place: Tensor, size: int) -> None:
        self.blocks = list(blocks)
        self.block, self.place, self.size = block, place, size
        self._opened: dict[int, Tensor] = {}

    @classmethod
    def of(cls, crops: Tensor) -> Self:
        """Return a store of one (N, 3, S, S) uint8 tensor in memory."""
        return cls([crops], torch.zeros(len(crops), dtype=torch.int64), torch.arange(len(crops)), crops.shape[-1])

    def __len__(self) -> int:
        return len(self.block)

    def __add__(self, other: "CropStore") -> "CropStore":
        """Return the rows of both stores in sequence; their crops must have the same size."""
        block = torch.cat([self.block, other.block + len(self.blocks)])
        return CropStore([*self.blocks, *other.blocks], block, torch.cat([self.place, other.place]), self.size)

    def take(self, rows: Tensor) -> "CropStore":
        """Return a store of the rows given by (n,) int64 indices, without reading crops."""
        return CropStore(self.blocks, self.block[rows], self.place[rows], self.size)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the (n, 3, S, S) uint8 crops of the rows given by (n,) int64 indices."""
        blocks, places = self.block[rows], self.place[rows]
        if len(rows) and bool((blocks == blocks[0]).all()):  # such as a clip
            return self._open(int(blocks[0]))[places]
        crops = torch.empty(len(rows), 3, self.size, self.size, dtype=torch.uint8)
        for b in sorted(set(blocks.tolist())):
            in_block = blocks == b
            crops[in_block] = self._open(b)[places[in_block]]
        return crops

    def open(self) -> None:
        """Memory-map all files.

        Raises:
            UserError: if a file is missing or damaged.
        """
        for b in range(len(self.blocks)):
            self._open(b)

    def _open(self, b: int) -> Tensor:
        if b not in self._opened:
            block = self.blocks[b]
            self._opened[b] = block if isinstance(block, Tensor) else self._map(block, self.place[self.block == b])
        return self._opened[b]

    def _map(self, file: Path, places: Tensor) -> Tensor:
        crops = open_block(file).get("crops")
        if crops is None or crops.dtype != torch.uint8 or crops.shape[1:] != (3, self.size, self.size):
            raise UserError(f"{file} has no crops of {self.size} pixels: delete it and run facereel prepare again")
        if len(places) and int(places.max()) >= len(crops):
            raise UserError(f"{file} has fewer crops than the manifest lists: delete it and run facereel prepare again")
        return crops

    def __getstate__(self) -> dict[str, Any]:
        # Each process of a DataLoader maps the files itself.
        return {**self.__dict__, "_opened": {}}


def open_block(path: Path) -> dict[str, Tensor]:
    """Memory-map the tensors of a block.

    Args:
        path: safetensors file.

    Returns:
        The tensors by name.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is missing or damaged: run facereel prepare again") from error
