"""Encoding of clips and stills into codes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from facereel.data import Batch, Clip, FaceDataset, FaceSet, Still, collate
from facereel.errors import UserError
from facereel.evaluation.split import Part
from facereel.models import VideoHasher
from facereel.parallel.distributed import gather_by_index, shard


@dataclass
class Encoded:
    """Codes of one kind of item, with their labels and items.

    Raises:
        UserError: if a score is not finite, since finite weights can overflow.
    """

    codes: Tensor
    """(N, K) bool."""
    scores: Tensor
    """(N, K) float, the real-valued outputs from which codes are thresholded; compared by squared distance."""
    labels: Tensor
    """(N,) int64, the person of each item."""
    items: Sequence[Clip | Still]

    def __post_init__(self) -> None:
        bad = (~self.scores.isfinite().all(dim=1)).nonzero().flatten()
        if len(bad):
            raise UserError(
                f"the model's scores are not finite for {len(bad)} of {len(self.items)} items, the first being "
                f"{self.items[int(bad[0])].key}: its weights are too large; train it with a lower learning rate"
            )

    def __len__(self) -> int:
        return len(self.items)


@torch.inference_mode()
def encode_part(
    hasher: VideoHasher,
    faces: FaceSet,
    part: Part,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    features: FaceSet | None = None,
) -> dict[str, Encoded]:
    """Encode the clips and stills of a part. Several processes share the batches, and each returns all codes.

    Args:
        hasher: the model.
        faces: the data set, which has the images.
        part: the clips and stills to encode.
        device: device to encode on.
        batch_size: number of items encoded at once.
        features: features of the model's encoder, to use instead of images; see `FaceSet.with_features`.

    Returns:
        The items under "clip" and "still"; a kind without items is omitted.

    Raises:
        UserError: if a score is not finite.
    """
    hasher = hasher.to(device).eval()
    if features is None:
        hasher.prepare_inference()
    encoded = {}
    for kind, items in part.by_kind.items():
        ids, chunks = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, hasher.n_bits)]
        for places, batch in _batches(features or faces, items, batch_size, device):
            if features is not None and kind == "clip":
                scores = hasher.hash_clips(batch.clips, batch.mask)
            elif features is not None:
                scores = hasher.hash_stills(batch.stills)
            elif kind == "clip":
                _, scores = hasher.encode_clips(batch.clips / 255, batch.mask, return_scores=True)
            else:
                _, scores = hasher.encode_stills(batch.stills / 255, return_scores=True)
            ids.append(places)
            chunks.append(scores.cpu())
        joined = gather_by_index(torch.cat(ids), torch.cat(chunks), len(items))
        assert joined is not None, "the processes skipped an item"
        scores = joined
        encoded[kind] = Encoded(scores > 0.5, scores, labels_of(items), items)
    return encoded


def labels_of(items: Sequence[Clip | Still]) -> Tensor:
    """Return the person of each item.

    Args:
        items: N clips or stills.

    Returns:
        (N,) int64.
    """
    return torch.tensor([item.person for item in items], dtype=torch.int64)


def _batches(
    faces: FaceSet, items: Sequence[Clip | Still], batch_size: int, device: torch.device | str
) -> Iterator[tuple[Tensor, Batch]]:
    """Yield the batches of this process, a shard of those of a single process, with the indices of their items."""
    data = FaceDataset(faces, items)
    for start in shard(range(0, len(data), batch_size)):
        places = range(start, min(start + batch_size, len(data)))
        yield torch.tensor(places), Batch(*(tensor.to(device) for tensor in collate([data[i] for i in places])))
