"""`FilmFolder`: a folder of drawn films that changes at random, for `kill_index.py`."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from facereel.video.content import content_of


@dataclass
class FilmFolder:
    """A folder of films.

    Args:
        root: folder in which the films are.
        pool: films that can be added.
        draws: source of randomness.
    """

    root: Path
    pool: list[Path]
    draws: random.Random
    away: list[Path] = field(default_factory=list)
    """Films that are in another folder for now."""
    counter: int = 0

    @property
    def films(self) -> Path:
        """The folder of the films."""
        return self.root / "films"

    def present(self) -> dict[Path, str]:
        """Return the content of each film."""
        return {path: content_of(path) for path in sorted(self.films.rglob("*.mp4"))}

    def change(self) -> str:
        """Change the folder in a random way.

        Returns:
            The name of the change.
        """
        here = self.present()
        changes: list[Callable[[], object]] = [self.add] * 2 if self._fresh() else []
        if here:
            changes += [self._rename, self._copy, self._touch, self._remove, self._overwrite]
        if len(here) > 1:
            changes += [self._swap, self._take_path]
        if self.away:
            changes.append(self._return)
        chosen = self.draws.choice(changes)
        chosen()
        return chosen.__name__.strip("_").replace("_", " ")

    def complete(self) -> None:
        """Return all films that are away."""
        while self.away:
            self._return()

    def add(self) -> None:
        """Add a film of the pool."""
        shutil.copy(self.draws.choice(self._fresh()), self._aside)
        self._aside.rename(self._new_path())

    @property
    def _aside(self) -> Path:
        return self.root / "aside"

    def _fresh(self) -> list[Path]:
        used = {*self.present().values(), *map(content_of, self.away)}
        return [film for film in self.pool if content_of(film) not in used]

    def _new_path(self, below: str = "films") -> Path:
        """Return a path that no film had."""
        self.counter += 1
        folder = self.root / below / self.draws.choice((".", "a", "b/c"))
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.counter:03}.mp4"

    def _pick(self) -> Path:
        return self.draws.choice(sorted(self.present()))

    def _rename(self) -> None:
        self._pick().rename(self._new_path())

    def _copy(self) -> None:
        shutil.copy(self._pick(), self._new_path())

    def _touch(self) -> None:
        os.utime(self._pick())

    def _remove(self) -> None:
        """Move a film to another folder, which is not indexed."""
        self._move_away(self._pick())

    def _move_away(self, path: Path) -> None:
        self.away.append(path.rename(self._new_path("away")))

    def _return(self) -> None:
        film = self.away.pop(self.draws.randrange(len(self.away)))
        film.rename(self._new_path())

    def _swap(self) -> None:
        one, other = self.draws.sample(sorted(self.present()), 2)
        one.rename(self._aside)
        other.rename(one)
        self._aside.rename(other)

    def _take_path(self) -> None:
        """Move a film away, and another one to its path."""
        one, other = self.draws.sample(sorted(self.present()), 2)
        self._move_away(one)
        other.rename(one)

    def _overwrite(self) -> None:
        """Replace a film by a new one or by a copy of another one."""
        path = self._pick()
        film = self.draws.choice(self._fresh() or sorted(self.present()))
        shutil.copy(film, self._aside)
        self._move_away(path)
        self._aside.replace(path)
