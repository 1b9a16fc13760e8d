"""Augmentation of the pictures of a clip or still, with torchvision's transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from facereel.errors import UserError

Transform = Callable[[Tensor], Tensor]


class PictureAugment:
    """Change the frames of a clip, or a still, at random.

    A transform of torchvision draws once a call. A call for all frames of a clip changes them alike, as a camera would,
    and takes about a quarter of the time of a call for each. Draws come from torch's global generator, which each
    worker of a DataLoader seeds for itself.

    Args:
        geometric: transforms that move pixels, by name, in the order they are applied in; first of all. One that is
            None is left out.
        photometric: transforms that change colours, by name, applied after them.
        same_geometry: one draw of `geometric` for all frames of a clip; otherwise each frame has its own.
        same_photometry: the same for `photometric`.
        drop_frames: chance of each frame of a clip to be left out, in 0..1; one always stays, so stills do.

    Raises:
        UserError: if `drop_frames` is not in 0..1.

    Examples:
        >>> from torchvision.transforms import v2
        >>> augment = PictureAugment({"crop": v2.RandomResizedCrop(64, scale=(0.75, 1.0))})
        >>> tuple(augment(torch.zeros(10, 3, 112, 112, dtype=torch.uint8)).shape)
        (10, 3, 64, 64)
    """

    def __init__(
        self,
        geometric: Mapping[str, Transform | None] | None = None,
        photometric: Mapping[str, Transform | None] | None = None,
        same_geometry: bool = True,
        same_photometry: bool = True,
        drop_frames: float = 0.0,
    ) -> None:
        if not 0 <= drop_frames <= 1:
            raise UserError(f"augment.pictures.drop_frames={drop_frames}: must be in 0..1")
        self.geometric = {name: change for name, change in (geometric or {}).items() if change is not None}
        self.photometric = {name: change for name, change in (photometric or {}).items() if change is not None}
        self.same_geometry = same_geometry
        self.same_photometry = same_photometry
        self.drop_frames = drop_frames

    def __call__(self, frames: Tensor) -> Tensor:
        """Draw once.

        Args:
            frames: (T, 3, H, W) uint8 of one clip in time order, T = 1 for a still.

        Returns:
            (T', 3, H', W') uint8 with 1 <= T' <= T, in time order; H' and W' are what `geometric` makes of H and W.

        Raises:
            UserError: if a transform gives something else than uint8.
        """
        if self.drop_frames > 0:
            keep = torch.rand(len(frames)) >= self.drop_frames
            if not keep.any():
                keep[torch.randint(len(frames), ())] = True
            frames = frames[keep]
        frames = _apply(self.geometric.values(), frames, self.same_geometry)
        frames = _apply(self.photometric.values(), frames, self.same_photometry)
        if frames.dtype != torch.uint8:
            # A batch would take the numbers as they are, and cut their fractions off.
            raise UserError(f"augment.pictures: its transforms give {frames.dtype} pictures, not uint8")
        return frames


def _apply(transforms: Iterable[Transform], frames: Tensor, alike: bool) -> Tensor:
    if not alike and len(frames) > 1:
        return torch.stack([_apply(transforms, frame, True) for frame in frames])
    for transform in transforms:
        frames = transform(frames)
    return frames
