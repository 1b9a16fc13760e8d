"""Kill `facereel index` and `index --watch` at random times while videos are added, moved and named.

    python scripts/tools/kill_watch.py --work FOLDER [--kills 200] [--seed 0]

Films of drawn people are added to a folder, renamed, moved, swapped, copied, touched, deleted and overwritten, and
their tracks are named, while a process indexes them. It is killed with SIGKILL at a random time and started again.
After each kill no name may be missing. After every 20 kills the command runs to its end, and the index must equal the
expected one: each content once, at a path where it is, with the tracks, codes and crops of an index that was never
interrupted, and with its names. Exits with 1 if something differs.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from facereel.cli.main import main as command
from facereel.models import VideoHasher
from facereel.models.hasher import DEFAULT_CONFIG
from facereel.retrieval.track_index import TrackIndex
from facereel.system.environment import commit, hardware
from facereel.video.content import content_of
from facereel.video.track_file import read_tracks

REPOSITORY = Path(__file__).parents[2]
CAST = (("Anna",), ("Bert",), ("Cleo",), ("Dora",), ("Emil",), ("Anna", "Bert"), ("Cleo", "Dora"), ("Emil", "Anna"))
# Kills of one folder, before it is compared with the expected one.
ROUND = 20

# Number, start, end and code of each track of a video.
Tracks = list[tuple[int, float | None, float | None, bytes]]


def tracks_by_content(index: TrackIndex) -> dict[str, Tracks]:
    """Return the tracks of each video by its content."""
    found: dict[str, Tracks] = {str(record.content): [] for record in index.records().values()}
    for track in index.tracks():
        code = index.code(track.id)
        assert code is not None
        found[str(track.content)].append((track.number, track.start_s, track.end_s, code.numpy().tobytes()))
    return {content: sorted(tracks) for content, tracks in found.items()}


def names_of(index: TrackIndex) -> dict[tuple[str, int], str]:
    """Return the name of each named track by content and number."""
    return {(str(t.content), t.number): t.person for t in index.tracks() if t.person is not None}


def run_command(arguments: list[str], log: Path) -> None:
    """Run a command in this process, which ends with it; its output goes to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    command(arguments)


@dataclass
class World:
    """A folder of films, its index, and what the index must have."""

    root: Path
    pool: list[Path]
    """Films that can be added."""
    whole: dict[str, Tracks]
    """Tracks of each film of the pool, from an index that was never interrupted."""
    draws: random.Random
    names: dict[tuple[str, int], str] = field(default_factory=dict)
    overwritten: set[str] = field(default_factory=set)
    counter: int = 0

    @property
    def films(self) -> Path:
        """The folder of the films."""
        return self.root / "films"

    @property
    def index(self) -> Path:
        """The folder of the index."""
        return self.root / "index"

    def present(self) -> dict[Path, str]:
        """Return the content of each film."""
        return {path: content_of(path) for path in sorted(self.films.rglob("*.mp4"))}

    def new_path(self) -> Path:
        """Return a path that no film had."""
        self.counter += 1
        folder = self.films / self.draws.choice((".", "a", "b/c"))
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.counter:03}.mp4"

    def change(self) -> str:
        """Change the folder in a random way.

        Returns:
            The name of the change.
        """
        here = self.present()
        fresh = [film for film in self.pool if content_of(film) not in {*here.values(), *self.overwritten}]
        changes: list[Callable[[], object]] = [self._add] * 3 if fresh else []
        if here:
            changes += [self._rename, self._rename, self._copy, self._touch, self._delete]
        if len(here) > 1:
            changes += [self._swap, self._swap]
        if here and len(fresh) > 4:
            changes.append(self._overwrite)
        chosen = self.draws.choice(changes)
        chosen()
        return chosen.__name__.strip("_")

    def _pick(self) -> Path:
        return self.draws.choice(sorted(self.present()))

    def _fresh(self) -> Path:
        used = {*self.present().values(), *self.overwritten}
        return self.draws.choice([film for film in self.pool if content_of(film) not in used])

    def _add(self) -> None:
        film = self._fresh()
        shutil.copy(film, self.new_path())

    def _rename(self) -> None:
        self._pick().rename(self.new_path())

    def _copy(self) -> None:
        shutil.copy(self._pick(), self.new_path())

    def _touch(self) -> None:
        os.utime(self._pick())

    def _delete(self) -> None:
        """Delete a film. Its names are kept if the index lists it there: another film may have taken its old path."""
        path = self._pick()
        content = content_of(path)
        listed = TrackIndex(self.index).records() if TrackIndex.is_in(self.index) else {}
        path.unlink()
        is_listed = str(path) in listed and listed[str(path)].content == content
        if not is_listed and content not in self.present().values():
            self._drop_names(content)

    def _swap(self) -> None:
        one, other = self.draws.sample(sorted(self.present()), 2)
        aside = self.root / "aside"
        one.rename(aside)
        other.rename(one)
        aside.rename(other)

    def _overwrite(self) -> None:
        """Replace a film by another one in place; its own tracks and names are erased, unless there is a copy."""
        path, film = self._pick(), self._fresh()
        before = content_of(path)
        shutil.copy(film, self.root / "aside")
        (self.root / "aside").replace(path)
        if before not in self.present().values():
            self._forget(before)

    def _forget(self, content: str) -> None:
        self.overwritten.add(content)
        self._drop_names(content)

    def _drop_names(self, content: str) -> None:
        self.names = {key: name for key, name in self.names.items() if key[0] != content}

    def name_tracks(self) -> None:
        """Name a few random tracks of the index, which a process may be writing to."""
        if not TrackIndex.is_in(self.index):
            return
        index = TrackIndex(self.index)
        here = set(self.present().values())
        known = [track for track in index.tracks() if track.content in here]
        for track in self.draws.sample(known, min(2, len(known))):
            name = f"person {self.draws.randrange(1000)}"
            index.people.name([track.id], name)
            self.names[str(track.content), track.number] = name

    def missing_names(self) -> dict[tuple[str, int], str]:
        """Return the names that the index has lost."""
        found = names_of(TrackIndex(self.index)) if TrackIndex.is_in(self.index) else {}
        return {key: name for key, name in self.names.items() if found.get(key) != name}

    def faults(self) -> list[str]:
        """Return how the index differs from the expected one."""
        index, here = TrackIndex(self.index), self.present()
        found, faults = tracks_by_content(index), []
        needed = {*here.values(), *(content for content, _ in self.names)}
        faults += [f"{content[-8:]} is not in the index" for content in needed - found.keys()]
        faults += [f"{content[-8:]} has other tracks" for content in found if found[content] != self.whole[content]]
        faults += [f"{key} lost the name {name}" for key, name in self.missing_names().items()]
        counts = Counter(record.content for record in index.records().values())
        faults += [f"{content} is listed {n} times" for content, n in counts.items() if n > 1]
        for path, record in index.records().items():
            if record.content in here.values() and here.get(Path(path)) != record.content:
                faults.append(f"{path} does not have the content that is listed")
            try:
                numbers = [track.number for track in read_tracks(Path(record.source))]
            except Exception as error:  # any error is a fault
                faults.append(str(error))
            else:
                if len(numbers) != len(self.whole[str(record.content)]):
                    faults.append(f"{record.source} has {len(numbers)} tracks")
        return faults


def start(arguments: list[object], log: Path) -> Any:
    """Start a command in a forked process, in which everything is imported, for speed."""
    return fork(run_command, [*map(str, arguments)], log)


def fork(work: Callable[..., object], *arguments: object) -> Any:
    """Start a forked process. This process must not use OpenCV or PyTorch itself: their threads do not survive."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def to_the_end(world: World, model: Path) -> None:
    """Run the command without interruption."""
    log = world.root / "log.txt"
    process = start(["index", world.films, "--out", world.index, "--checkpoint", model, "--workers", 1], log)
    process.join()
    if process.exitcode:
        raise SystemExit(f"index ended with {process.exitcode}: {log.read_text(encoding='utf-8')[-500:]}")


def kill_once(world: World, model: Path, longest_s: float) -> tuple[str, bool]:
    """Start a command, change the folder while it runs, kill it, and check the names.

    Returns:
        What was done, and whether the process was still running.
    """
    draws, log = world.draws, world.root / "log.txt"
    is_watch = draws.random() < 0.7
    changes = [world.change() for _ in range(draws.randrange(0, 3))]
    options: list[object] = ["--workers", 1, *(("--watch", "--interval", 0.1) if is_watch else ())]
    if not TrackIndex.is_in(world.index):
        options += ["--checkpoint", model]
    process = start(["index", world.films, "--out", world.index, *options], log)
    until = time.monotonic() + draws.uniform(0.05, longest_s)
    for _ in range(draws.randrange(0, 3)):
        time.sleep(max(0.0, draws.random() * (until - time.monotonic())))
        if draws.random() < 0.5:
            world.name_tracks()
        elif is_watch:
            changes.append(world.change())
    time.sleep(max(0.0, until - time.monotonic()))
    was_running = process.is_alive()
    process.kill()
    process.join()
    return f"{'watch' if is_watch else 'index'}: {', '.join(changes) or 'no change'}", was_running


def make_pool(work: Path, n_films: int) -> tuple[list[Path], Path]:
    """Draw the films, and save a small model.

    Returns:
        The films, and the folder of the model.
    """
    films = [work / "pool" / f"{number:02}.mp4" for number in range(n_films)]
    drawing = fork(draw_pool, films, work / "model")
    drawing.join()
    if drawing.exitcode:
        raise SystemExit(f"the films were not drawn: {drawing.exitcode}")
    return films, work / "model"


def draw_pool(films: list[Path], model: Path) -> None:
    """Draw the films and save the model, if they do not exist."""
    sys.path += [str(REPOSITORY / "examples")]
    people = import_module("drawn_people")
    for number, film in enumerate(films):
        if not film.is_file():
            people.write_film(film, people.frames(*CAST[number % len(CAST)], seconds=1.0, seed=number))
    if not model.is_dir():
        pooling = {"_target_": "facereel.models.MeanPooling"}
        VideoHasher({**DEFAULT_CONFIG, "pooling": pooling}).eval().save(model)


def unbroken(work: Path, model: Path) -> dict[str, Tracks]:
    """Index the pool without interruption, and return the tracks by content."""
    process = start(["index", work / "pool", "--out", work / "whole", "--checkpoint", model], work / "whole.txt")
    process.join()
    if process.exitcode:
        raise SystemExit((work / "whole.txt").read_text(encoding="utf-8")[-500:])
    return tracks_by_content(TrackIndex(work / "whole"))


def trial(
    world: World, model: Path, n_kills: int, say: Callable[[str], object], longest_s: float = 3.0
) -> tuple[int, list[str]]:
    """Kill a command several times, then let it end.

    Returns:
        The number of processes that were running when they were killed, and the faults.
    """
    running = 0
    world.films.mkdir(parents=True)
    if n_kills > ROUND // 2:  # so that there are names from the start; otherwise the index is created under kills
        for _ in range(3):
            world._add()
        to_the_end(world, model)
        world.name_tracks()
    else:
        world._add()
    for number in range(n_kills):
        what, was_running = kill_once(world, model, longest_s)
        running += was_running
        lost = world.missing_names()
        say(f"kill {number + 1:3}, {what}{'' if was_running else ' (had ended)'}: {len(world.names)} names")
        if lost:
            return running, [f"after {what}: lost {lost}"]
    if not world.present():
        world._add()
    to_the_end(world, model)
    return running, world.faults()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--films", type=int, default=2 * len(CAST), help="number of different films")
    parser.add_argument("--longest", type=float, default=3.0, help="longest time until a kill in seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    pool, model = make_pool(work, options.films)
    whole = unbroken(work, model)
    print(f"{hardware()}; commit {commit() or 'unknown'}; seed {options.seed}; {len(pool)} films", flush=True)
    n_faults = n_running = 0
    say = partial(print, flush=True)
    for first in range(0, options.kills, ROUND):
        root = work / f"trial-{first // ROUND}"
        shutil.rmtree(root, ignore_errors=True)
        world = World(root, pool, whole, random.Random(f"{options.seed} {first}"))
        running, faults = trial(world, model, min(ROUND, options.kills - first), say, options.longest)
        n_running += running
        n_faults += bool(faults)
        print(f"{root.name}: {len(world.names)} names, {'; '.join(faults) or 'equal'}", flush=True)
    print(f"{options.kills} kills, {n_running} of running processes; {n_faults} folders differ")
    sys.exit(n_faults != 0)


if __name__ == "__main__":
    main()
