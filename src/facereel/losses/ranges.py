"""Range checks of the losses' arguments."""

from collections.abc import Mapping
from math import inf

from facereel.errors import UserError


def check_ranges(positive: Mapping[str, float], at_least_zero: Mapping[str, float]) -> None:
    """Raise a UserError if a number, given by its name, is not finite or out of its range."""
    for name, number in positive.items():
        if not 0 < number < inf:
            raise UserError(f"loss {name}={number}: must be > 0")
    for name, number in at_least_zero.items():
        if not 0 <= number < inf:
            raise UserError(f"loss {name}={number}: must be at least 0")
