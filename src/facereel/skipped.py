"""What was left out, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


class Skipped:
    """A count and the first few names of each kind of what was left out."""

    EXAMPLES = 3

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one more of a kind."""
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < self.EXAMPLES:
            examples.append(name)

    def merge(self, counts: Mapping[str, int], examples: Mapping[str, Sequence[str]]) -> None:
        """Add what was counted elsewhere."""
        self.counts.update(counts)
        for kind, names in examples.items():
            self.examples[kind] = [*self.examples.get(kind, []), *names][: self.EXAMPLES]

    def lines(self) -> list[str]:
        """One line a kind, most frequent first."""
        lines = []
        for kind, count in self.counts.most_common():
            more = ", ..." if count > self.EXAMPLES else ""
            lines.append(f"{count} x {kind} ({', '.join(self.examples[kind])}{more})")
        return lines
