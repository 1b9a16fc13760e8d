"""The ranges of the losses' numbers."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from facereel.errors import UserError


def check_ranges(positive: Mapping[str, float], at_least_zero: Mapping[str, float]) -> None:
    """Raise a UserError for a number, by its name, that is not finite or out of its range."""
    for name, number in positive.items():
        if not 0 < number < inf:
            raise UserError(f"loss {name}={number}: it must be > 0")
    for name, number in at_least_zero.items():
        if not 0 <= number < inf:
            raise UserError(f"loss {name}={number}: it must be at least 0")
