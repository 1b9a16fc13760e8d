"""What templates, sets of stills and clips of one person, are compared or searched for."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facereel.data import Clip, Still


@dataclass(frozen=True)
class TemplatePairs:
    """P pairs of T templates: the same person or not?"""

    names: NDArray[np.int64]
    """(T,) numbers of the templates, increasing."""
    pairs: NDArray[np.int64]
    """(P, 2) places in `names`."""
    same: NDArray[np.bool_]
    """(P,)."""
    file: str
    """Name of the file that the pairs were read from."""
    n_absent: int = 0
    """Number of pairs that were excluded, since the data set lacks a template of theirs."""

    @cached_property
    def sha256(self) -> str:
        """Hash of the content."""
        return _hash(self.names, self.pairs, self.same)


@dataclass(frozen=True)
class TemplateSearches:
    """Probes that search each of several galleries, of T templates."""

    names: NDArray[np.int64]
    """(T,) numbers of the templates, increasing."""
    galleries: dict[str, NDArray[np.int64]]
    """By name, places in `names`."""
    probes: NDArray[np.int64]
    """(P,) places in `names`."""
    n_absent: int = 0
    """Number of templates that were excluded, since the data set lacks all their images."""

    @cached_property
    def sha256(self) -> str:
        """Hash of the content."""
        return _hash(self.names, *self.galleries.values(), self.probes)


def template_of(item: Clip | Still) -> int:
    """The number of the template that a clip or still is of: its source's name."""
    return int(item.source.rpartition("/")[2])


def _hash(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
