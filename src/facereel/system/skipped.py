"""Count skipped items by reason."""

from collections import Counter
from collections.abc import Mapping, Sequence


class Skipped:
    """Counter of skipped items by reason, with the first few names for each reason."""

    EXAMPLES = 3

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Count one skipped item.

        Args:
            reason: the reason, as a singular noun phrase such as "file that is not a video".
            name: name of the item.
        """
        self.merge({reason: 1}, {reason: [name]})

    def merge(self, counts: Mapping[str, int], examples: Mapping[str, Sequence[str]]) -> None:
        """Add the items of another counter.

        Args:
            counts: number of items by reason.
            examples: first names of items by reason.
        """
        self.counts.update(counts)
        for reason, names in examples.items():
            self.examples[reason] = [*self.examples.get(reason, []), *names][: self.EXAMPLES]

    def lines(self) -> list[str]:
        """Return one line per reason, the most frequent first."""
        lines = []
        for reason, count in self.counts.most_common():
            more = ", ..." if count > self.EXAMPLES else ""
            lines.append(f"{count} x {reason} ({', '.join(self.examples[reason])}{more})")
        return lines
