"""`Query`: a face to search for, and how several faces of a person are combined."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facereel.errors import UserError
from facereel.video.detector import Box, Image

OTHER_MODEL = "the index was encoded by another model in the meantime: choose the photos again"


@dataclass(frozen=True)
class Query:
    """A face to search for."""

    box: Box | None
    """Left, top, width and height in pixels of the image; None for a track of a video."""
    crop: Image
    """(S, S, 3) BGR uint8; for a track its best crop."""
    code: Tensor
    """(K,) bool."""
    scores: Tensor | None
    """(K,) float in 0..1; None if only the code is known."""
    start_s: float | None = None
    end_s: float | None = None
    """Start and end of a track in seconds."""
    feature: Tensor | None = None
    """(D,) float of length 1, for an index with features."""
    is_too_poor: bool = False
    """Whether the photo does not show who it is, so that results are a matter of chance."""
    rejected: frozenset[int] = frozenset()
    """Ids of tracks that are known not to show the person; they are never results."""
    encoding: int = 0
    """Number of times that the index had been encoded by another model when the query was encoded."""


def combine(queries: Sequence[Query]) -> Query:
    """Make one query of several faces of one person: their mean feature and scores, or the majority of their bits.

    Args:
        queries: the faces.

    Returns:
        The query; it is too poor if all faces are.

    Raises:
        ValueError: if there is no face.
        UserError: if the faces were encoded by different models of the index.
    """
    if not queries:
        raise ValueError("there is no face to search for")
    if len({query.encoding for query in queries}) > 1:
        raise UserError(OTHER_MODEL)
    known = [query.scores for query in queries if query.scores is not None]
    scores = torch.stack(known).mean(dim=0) if len(known) == len(queries) else None
    mean = torch.stack([query.code.float() for query in queries]).mean(dim=0) if scores is None else scores
    features = [query.feature for query in queries if query.feature is not None]
    feature = normalize(torch.stack(features).mean(dim=0), dim=0) if len(features) == len(queries) else None
    poor = all(query.is_too_poor for query in queries)
    rejected = frozenset[int]().union(*(query.rejected for query in queries))
    return replace(queries[0], code=mean > 0.5, scores=scores, feature=feature, is_too_poor=poor, rejected=rejected)
