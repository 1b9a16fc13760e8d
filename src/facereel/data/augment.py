"""Augmentation of the images of a clip or still, with torchvision's transforms."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from facereel.errors import UserError

Transform = Callable[[Tensor], Tensor]


class ImageAugment:
    """Change the frames of a clip, or a still, at random.

    A torchvision transform draws its parameters once per call. One call for all frames of a clip changes them in the
    same way, as a camera would, and takes about a quarter of the time of a call per frame. Random numbers come from
    torch's global generator, which each worker of a DataLoader seeds for itself.

    Args:
        geometric: transforms that move pixels, by name, in the order they are applied; None skips one.
        photometric: transforms that change colors, by name, applied after the geometric ones; None skips one.
        same_geometry: apply the same `geometric` parameters to all frames of a clip, instead of drawing them per frame.
        same_photometry: apply the same `photometric` parameters to all frames of a clip, instead of drawing them per
            frame.
        drop_frames: probability of dropping each frame of a clip, in 0..1; at least one frame is kept.

    Raises:
        UserError: if `drop_frames` is not in 0..1.

    Examples:
        >>> from torchvision.transforms import v2
        >>> augment = ImageAugment({"crop": v2.RandomResizedCrop(64, scale=(0.75, 1.0))})
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
            raise UserError(f"drop_frames={drop_frames}: must be in 0..1")
        self.geometric = {name: change for name, change in (geometric or {}).items() if change is not None}
        self.photometric = {name: change for name, change in (photometric or {}).items() if change is not None}
        self.same_geometry = same_geometry
        self.same_photometry = same_photometry
        self.drop_frames = drop_frames

    def __call__(self, frames: Tensor) -> Tensor:
        """Augment one clip or still.

        Args:
            frames: (T, 3, H, W) uint8 of one clip in time order, T = 1 for a still.

        Returns:
            (T', 3, H', W') uint8 with 1 <= T' <= T, in time order; `geometric` determines H' and W'.

        Raises:
            UserError: if a transform returns a dtype other than uint8.
        """
        if self.drop_frames > 0:
            keep = torch.rand(len(frames)) >= self.drop_frames
            if not keep.any():
                keep[torch.randint(len(frames), ())] = True
            frames = frames[keep]
        frames = _apply(self.geometric.values(), frames, self.same_geometry)
        frames = _apply(self.photometric.values(), frames, self.same_photometry)
        if frames.dtype != torch.uint8:
            # Batches are uint8: fractions would be lost silently.
            raise UserError(
                f"image augmentation: the transforms return {frames.dtype} images, not uint8. Add a transform that "
                "converts them to uint8"
            )
        return frames


class OnCPU:
    """Apply a transform that has no GPU version, such as JPEG, to images on any device.

    Args:
        transform: the transform. Its result is moved back to the device of the images.
    """

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def __call__(self, frames: Tensor) -> Tensor:
        """Transform images on the CPU."""
        return self.transform(frames.cpu()).to(frames.device)


def _apply(transforms: Iterable[Transform], frames: Tensor, same_for_all: bool) -> Tensor:
    if not same_for_all and len(frames) > 1:
        return torch.stack([_apply(transforms, frame, True) for frame in frames])
    for transform in transforms:
        frames = transform(frames)
    return frames
