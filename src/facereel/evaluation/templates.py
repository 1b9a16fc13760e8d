"""Tasks on templates: pairs of templates to compare, and probes that search galleries of templates.

A template is a set of stills and clips of one person.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facereel.data import Clip, Still


@dataclass(frozen=True)
class TemplatePairs:
    """P pairs of T templates to verify."""

    names: NDArray[np.int64]
    """(T,), numbers of the templates, increasing."""
    pairs: NDArray[np.int64]
    """(P, 2), indices into `names`."""
    same: NDArray[np.bool_]
    """(P,), True for a pair of the same person."""
    file: str
    """Name of the file from which the pairs were read."""
    n_absent: int = 0
    """Number of pairs that were excluded because a template is not in the data set."""

    @cached_property
    def sha256(self) -> str:
        """Hash of the content."""
        return _hash(self.names, self.pairs, self.same)


@dataclass(frozen=True)
class TemplateSearches:
    """Probes that search several galleries of T templates in total."""

    names: NDArray[np.int64]
    """(T,), numbers of the templates, increasing."""
    galleries: dict[str, NDArray[np.int64]]
    """Indices into `names`, by the name of the gallery."""
    probes: NDArray[np.int64]
    """(P,), indices into `names`."""
    n_absent: int = 0
    """Number of templates that were excluded because none of their images is in the data set."""

    @cached_property
    def sha256(self) -> str:
        """Hash of the content."""
        return _hash(self.names, *self.galleries.values(), self.probes)


def template_of(item: Clip | Still) -> int:
    """Return the template number of a clip or still, which is the name of its source."""
    return int(item.source.rpartition("/")[2])


def _hash(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
