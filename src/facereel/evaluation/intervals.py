"""Means over queries, pairs or items, with intervals over people."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

# Values (Q,) in 0..1 of the same queries, by name.
Values = Mapping[str, Tensor]

# Fixed, so that an evaluation gives the same result each time.
_SEED = 0
# Number of draws in memory at once.
_BLOCK = 100


def means_over_people(
    strata: Sequence[tuple[Tensor, Values]], n_draws: int = 2_000, level: float = 0.95
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Compute means over queries, and their intervals by the bootstrap of Efron (1979) with people as the units.

    With several strata, such as the galleries of IJB-C, the result is the mean of the means of the strata, and people
    are drawn within each stratum.

    Args:
        strata: for each stratum the person (Q,) of each query, and values by name. Names that are missing in a stratum
            are dropped.
        n_draws: number of draws of people.
        level: fraction of the drawn means that is within the interval.

    Returns:
        The means by name, and the lower and upper ends of the intervals by name; both empty if there is no query.

    Examples:
        >>> import torch
        >>> means_over_people([(torch.tensor([1, 1, 2]), {"hit": torch.tensor([1.0, 0.0, 1.0])})])[0]
        {'hit': 0.6666666666666666}
    """
    names = [name for name in strata[0][1] if all(name in values for _, values in strata)] if strata else []
    if not names or not all(len(people) for people, _ in strata):
        return {}, {}
    means, drawn = np.zeros(len(names)), np.zeros((n_draws, len(names)))
    random = np.random.default_rng(_SEED)
    for people, values in strata:
        person = np.unique(people.numpy(), return_inverse=True)[1]
        table = np.stack([values[name].double().numpy() for name in names], axis=1)
        sums = np.stack([np.bincount(person, column) for column in table.T], axis=1)
        counts = np.bincount(person)
        means += table.mean(axis=0) / len(strata)
        for start in range(0, n_draws, _BLOCK):
            size = min(_BLOCK, n_draws - start)
            times = random.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=size)
            drawn[start : start + size] += times @ sums / (times @ counts)[:, None] / len(strata)
    tail = (1 - level) / 2
    ends = np.quantile(drawn, [tail, 1 - tail], axis=0).T
    return dict(zip(names, means.tolist(), strict=True)), dict(zip(names, ends.tolist(), strict=True))
