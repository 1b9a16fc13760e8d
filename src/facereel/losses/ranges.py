"""Range checks of the arguments of losses."""

from collections.abc import Mapping
from math import inf

from facereel.errors import UserError


def check_ranges(positive: Mapping[str, float], at_least_zero: Mapping[str, float]) -> None:
    """Check that numbers are finite and in their range.

    Args:
        positive: numbers that must be > 0, by argument name.
        at_least_zero: numbers that must be >= 0, by argument name.

    Raises:
        UserError: if a number is out of range.
    """
    for name, number in positive.items():
        if not 0 < number < inf:
            raise UserError(f"loss {name}={number}: must be > 0")
    for name, number in at_least_zero.items():
        if not 0 <= number < inf:
            raise UserError(f"loss {name}={number}: must be at least 0")
