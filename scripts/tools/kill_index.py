"""Kill `facereel index`, `convert` and `people` at random times: nothing that a user decided may be lost.

    python scripts/tools/kill_index.py --work FOLDER [--kills 200] [--seed 0]

Two indexes of one folder of drawn films get the same random steps. One is never interrupted. The processes of the other
are killed with SIGKILL at random times and started again. The steps are:

- films are added, renamed, moved away and back, swapped, copied, touched and overwritten, while `index` or
  `index --watch` runs, sometimes together with `convert` and `people confirm`,
- `people confirm`, with tracks, groups and photos, `reject`, `split`, `merge`, `differ` and `undo`,
- `people cluster`,
- `convert --checkpoint` with another model, sometimes with changed films between two of its runs.

A killed decision must be there as a whole or not at all. After each kill no name may be missing. After each step both
indexes must have the same tracks, codes, names, rejections, pairs, photos and groups. Exits with 1 if not.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from film_folder import FilmFolder
from index_state import Key, groups_of, kept_names, key_by_id, names_of, state_of

from facereel.cli.main import main as command
from facereel.models import VideoHasher
from facereel.models.hasher import DEFAULT_CONFIG
from facereel.retrieval.track_index import TrackIndex
from facereel.system.environment import commit, hardware
from facereel.video.track_file import read_tracks

REPOSITORY = Path(__file__).parents[2]
CAST = (("Anna",), ("Bert",), ("Cleo",), ("Dora",), ("Emil",), ("Anna", "Bert"), ("Cleo", "Dora"), ("Emil", "Anna"))
PEOPLE = ("Ada", "Bo", "Cy", "Di")
# Kills of one folder, and of one step before it runs to its end.
ROUND = 20
MOST_KILLS = 4
# Seeds and code lengths of the models.
MODELS = ((1, 48), (2, 32), (3, 64))

# What the commands import when they run. Forked processes start fast if this process has imported it.
IMPORTS = (
    *("faiss", "cv2", "scipy.sparse", "facereel.data.person_names", "facereel.models.pretrained"),
    *(f"facereel.cli.{name}" for name in ("convert", "index", "people", "people_decisions", "search")),
    *(f"facereel.retrieval.{name}" for name in ("change_model", "clustering.groups", "face_search", "index_videos")),
    *("facereel.retrieval.watch", "facereel.parallel.executor", "facereel.system.progress", "facereel.system.optional"),
    *("facereel.video.image_file", "facereel.video.find_videos", "facereel.video.ingest", "facereel.system.skipped"),
)

# Returns the arguments of a command for an index, in which ids and numbers may differ.
Step = Callable[[Path], list[object]]


class DifferenceError(Exception):
    """The index differs from the expected one."""


def run_command(arguments: list[str], log: Path) -> None:
    """Run a command in this process, which ends with it; its output goes to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    print("facereel", *arguments, flush=True)
    command(arguments)


def fork(work: Callable[..., object], *arguments: object) -> Any:
    """Start a forked process, in which everything is imported, for speed."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


class Trial:
    """The two indexes of a folder."""

    def __init__(self, folder: FilmFolder, models: list[Path], photos: dict[str, Path], longest_s: float) -> None:
        self._folder, self._models, self._photos, self._longest_s = folder, models, photos, longest_s
        self._draws, self._model = folder.draws, models[0]
        self._broken, self._whole = folder.root / "index", folder.root / "whole"
        self._undoable, self._is_converting = 0, False
        self.counts: Counter[str] = Counter()
        """Kills of running processes by step."""
        self.n_kills = 0

    def run(self, n_kills: int) -> None:
        """Take random steps until there were enough kills.

        Raises:
            DifferenceError: if the indexes differ.
        """
        self._folder.films.mkdir(parents=True)
        for _ in range(6):
            self._folder.add()
        self._update()
        for name in self._draws.sample(PEOPLE, 2):  # each folder has names and rejections from the start
            keys = sorted(key_by_id(TrackIndex(self._whole)).values())
            one, other = self._draws.sample(keys, 2)
            for index in (self._whole, self._broken):
                self._must_end(_on_tracks(index, "confirm", name, [one]))
                self._must_end(_on_tracks(index, "reject", name, [other]))
        self._undoable = 4
        while self.n_kills < n_kills:
            step = self._draws.choice([self._films, self._films, self._convert, self._convert, self._decide])
            for _ in range(3 if step == self._decide else 1):
                step()
        self._update()

    def _start(self, arguments: Sequence[object]) -> Any:
        return fork(run_command, [*map(str, arguments)], self._log)

    @property
    def _log(self) -> Path:
        return self._folder.root / "log.txt"

    def _end(self, arguments: Sequence[object]) -> int:
        """Run a command to its end, and return its exit code."""
        process = self._start(arguments)
        process.join()
        return int(process.exitcode)

    def _must_end(self, arguments: Sequence[object]) -> None:
        if code := self._end(arguments):
            raise DifferenceError(f"{' '.join(map(str, arguments))} ended with {code}")

    def _kill(self, what: str, processes: Sequence[Any], after_s: float) -> bool:
        """Kill processes after some time; return whether one of them was running."""
        time.sleep(max(0.0, after_s))
        was_running = [process.is_alive() for process in processes]
        for process in processes:
            process.kill()
            process.join()
        if any(was_running):
            self.n_kills += 1
            self.counts[what] += 1
        if "Traceback" in self._log.read_text(encoding="utf-8"):
            raise DifferenceError(f"{what}: there is a traceback in {self._log}")
        return any(was_running)

    def _until_done(self, step: Step, version: Callable[[TrackIndex], object], between: Callable[[], bool]) -> None:
        """Take a step in both indexes, killed in one of them, and repeat it there if it was not committed.

        Args:
            step: the step.
            version: returns something that the step changes.
            between: called after kills; returns whether it changed the folder.
        """
        arguments = step(self._whole)
        what = " ".join(map(str, arguments[:2])) if arguments[0] == "people" else str(arguments[0])
        began, old = time.monotonic(), version(TrackIndex(self._whole))
        code, seconds = self._end(arguments), time.monotonic() - began
        if (code == 0) == (version(TrackIndex(self._whole)) == old):
            raise DifferenceError(
                f"{what} ended with {code}, but {'changed nothing' if code == 0 else 'changed the index'}"
            )
        before, after = state_of(self._broken), state_of(self._whole)
        old, is_strict = version(TrackIndex(self._broken)), True
        for _ in range(MOST_KILLS):
            process = self._start(step(self._broken))
            was_running = self._kill(what, [process], self._draws.uniform(0, 1.1 * seconds))
            is_done = version(TrackIndex(self._broken)) != old
            if not was_running and process.exitcode != code:
                raise DifferenceError(f"{what} ended with {process.exitcode}, not {code}")
            if is_strict:
                _check(f"{what}, {'committed' if is_done else 'killed'}", after if is_done else before, self._broken)
            if is_done or not was_running:
                break
            is_strict &= not between()
        else:
            if self._end(step(self._broken)) != code:
                raise DifferenceError(f"{what} did not end with {code}")
            if is_strict:
                _check(what, after, self._broken)
        print(f"  {what}: {len(after['names'])} names, {len(after['rejections'])} rejections", flush=True)

    def _update(self) -> None:
        """Return all films, bring both indexes up to date, and compare them."""
        self._folder.complete()
        options: list[object] = ["--workers", 1]
        for index in (self._whole, self._broken):
            new = [] if TrackIndex.is_in(index) else ["--checkpoint", self._model]
            self._must_end(["index", self._folder.films, "--out", index, *options, *new])
            if self._is_converting:
                self._must_end(["convert", "--index", index, "--checkpoint", self._model])
            self._must_end(["people", "cluster", "--index", index, "--threshold", self._threshold()])
        _check("index", state_of(self._whole), self._broken)
        here = self._folder.present()
        for index in (self._whole, self._broken):
            records = TrackIndex(index).records()
            listed = Counter(record.content for record in records.values())
            if listed.keys() != set(here.values()) or max(listed.values()) > 1:
                raise DifferenceError(f"{index} lists {listed} instead of {set(here.values())}")
            for path, record in records.items():
                if here.get(Path(path)) != record.content:
                    raise DifferenceError(f"{path} does not have the content that is listed")
                list(read_tracks(Path(record.source)))
        self._is_converting = False
        self._undoable = 0  # videos may have been replaced, and tracks added again

    def _threshold(self) -> str:
        """Return the distance below which a quarter of all pairs of tracks are."""
        index = TrackIndex(self._whole)
        vectors = index.vectors.unit(list(key_by_id(index)))
        above = np.triu_indices(len(vectors), 1)
        return f"{max(0.0, float(np.quantile((1 - vectors @ vectors.T)[above] / 2, 0.25))):.6f}"

    def _films(self) -> None:
        """Change the films while the index is brought up to date, and is killed."""
        names = names_of(TrackIndex(self._broken))
        new: dict[Key, str] = {}
        for _ in range(self._draws.randrange(1, 4)):
            is_watch = self._draws.random() < 0.7
            options: list[object] = ["--workers", 1, *(("--watch", "--interval", 0.1) if is_watch else ())]
            changes = [self._folder.change() for _ in range(self._draws.randrange(0, 3))]
            until = time.monotonic() + self._draws.uniform(0.05, self._longest_s)
            processes = [self._start(["index", self._folder.films, "--out", self._broken, *options])]
            if self._draws.random() < 0.3:
                self._model, self._is_converting = self._draws.choice(self._models), True
                processes.append(self._start(["convert", "--index", self._broken, "--checkpoint", self._model]))
                changes.append("convert")
            for _ in range(self._draws.randrange(0, 3)):
                time.sleep(max(0.0, self._draws.random() * (until - time.monotonic())))
                if self._draws.random() < 0.5:
                    new |= self._name_another()
                elif is_watch:
                    changes.append(self._folder.change())
            what = "index --watch" if is_watch else "index"
            self._kill(what, processes, until - time.monotonic())
            found, kept = names_of(TrackIndex(self._broken)), kept_names(self._broken)
            for key, name in (names | new).items():
                if found.get(key) != name and (key[1], name) not in kept:
                    raise DifferenceError(f"{what}, {', '.join(changes)}: track {key} lost the name {name}")
            print(f"  {what}: {', '.join(changes) or 'no change'}; {len(names | new)} names", flush=True)
        for index in (self._whole, self._broken):
            self._folder.complete()
            self._must_end(["index", self._folder.films, "--out", index, "--workers", 1])
        for key, name in new.items():
            self._must_end(_on_tracks(self._whole, "confirm", name, [key]))
        self._update()

    def _name_another(self) -> dict[Key, str]:
        """Name a track without a name, while other processes run."""
        index = TrackIndex(self._broken)
        unnamed = sorted(set(key_by_id(index).values()) - names_of(index).keys())
        if not unnamed:
            return {}
        key, name = self._draws.choice(unnamed), f"person {self._draws.randrange(10**6)}"
        try:
            arguments = _on_tracks(self._broken, "confirm", name, [key])
        except KeyError:  # erased in the meantime
            return {}
        return {} if self._end(arguments) else {key: name}

    def _convert(self) -> None:
        """Encode all tracks with another model; in some cases films change between two runs."""
        changes = []
        may_change = self._draws.random() < 0.4

        def between() -> bool:
            if not may_change:
                return False
            changes.append(self._folder.change())
            self._must_end(["index", self._folder.films, "--out", self._broken, "--workers", 1])
            if self._draws.random() < 0.5:
                self._must_end(["people", "cluster", "--index", self._broken, "--threshold", self._threshold()])
            return True

        self._model = self._draws.choice([model for model in self._models if model != self._model])
        self._until_done(
            lambda index: ["convert", "--index", index, "--checkpoint", self._model],
            lambda index: index.about.get("encoding"),
            between,
        )
        if changes:
            print(f"  between two runs of convert: {', '.join(changes)}", flush=True)
        self._update()

    def _decide(self) -> None:
        """Take a random decision."""
        index = TrackIndex(self._whole)
        step = self._draws.choice(
            [
                *(self._confirm, self._confirm, self._reject, self._reject, self._split, self._merge, self._undo),
                *(self._confirm_group, self._photo, self._differ, self._cluster),
            ]
        )(index)
        if step is None:
            return
        is_undo = step(self._whole)[1] == "undo"
        if step(self._whole)[1] == "cluster":
            self._until_done(step, lambda index: index.about.get("clustering"), lambda: False)
            return
        n_before = len(index.people.history())
        self._until_done(step, lambda index: index.people.history(), lambda: False)
        n_now = len(TrackIndex(self._whole).people.history())
        self._undoable += -1 if is_undo else n_now - n_before

    def _some(self, index: TrackIndex) -> list[Key]:
        keys = sorted(key_by_id(index).values())
        return self._draws.sample(keys, self._draws.randrange(1, 3))

    def _confirm(self, index: TrackIndex) -> Step:
        keys, name = self._some(index), self._draws.choice(PEOPLE)
        return lambda folder: _on_tracks(folder, "confirm", name, keys)

    def _reject(self, index: TrackIndex) -> Step:
        keys, name = self._some(index), self._draws.choice(PEOPLE)
        return lambda folder: _on_tracks(folder, "reject", name, keys)

    def _confirm_group(self, index: TrackIndex) -> Step:
        group, name = self._draws.choice(_sorted_groups(index)), self._draws.choice(PEOPLE)
        return lambda folder: ["people", "confirm", name, "--group", _number(folder, group), "--index", folder]

    def _photo(self, index: TrackIndex) -> Step:
        keys, name = self._some(index), self._draws.choice(PEOPLE)
        photos = [self._photos[who] for who in self._draws.sample(sorted(self._photos), 2)]
        return lambda folder: [*_on_tracks(folder, "confirm", name, keys), *photos]

    def _split(self, index: TrackIndex) -> Step | None:
        # The most typical one of two tracks depends on their order.
        groups = [group for group in _sorted_groups(index) if len(group) == 2 or len(group) > 3]
        if not groups:
            return None
        keys = [self._draws.choice(sorted(self._draws.choice(groups)))]
        return lambda folder: ["people", "split", *_tracks(folder, keys), "--index", folder]

    def _merge(self, index: TrackIndex) -> Step | None:
        return self._pair(index, "merge", lambda group: True)

    def _differ(self, index: TrackIndex) -> Step | None:
        return self._pair(index, "differ", lambda group: len(group) != 2)

    def _pair(self, index: TrackIndex, what: str, is_allowed: Callable[[frozenset[Key]], bool]) -> Step | None:
        groups = [group for group in _sorted_groups(index) if is_allowed(group)]
        if len(groups) < 2:
            return None
        two = self._draws.sample(groups, 2)
        return lambda folder: ["people", what, *(_number(folder, one) for one in two), "--index", folder]

    def _cluster(self, index: TrackIndex) -> Step:
        threshold = self._threshold()
        return lambda folder: ["people", "cluster", "--index", folder, "--threshold", threshold]

    def _undo(self, index: TrackIndex) -> Step | None:
        return (lambda folder: ["people", "undo", "--index", folder]) if self._undoable else None


def _check(what: str, expected: dict[str, Any], folder: Path) -> None:
    found = state_of(folder)
    different = [name for name in expected if found[name] != expected[name]]
    if different:
        shown = [f"{name}: {found[name]} instead of {expected[name]}" for name in different if name != "codes"]
        raise DifferenceError(f"after {what} {', '.join(different)} differ; {'; '.join(shown)}")


def _sorted_groups(index: TrackIndex) -> list[frozenset[Key]]:
    return sorted(groups_of(index).values(), key=sorted)


def _number(folder: Path, group: frozenset[Key]) -> int:
    """Return the number of a group in an index."""
    return next(number for number, tracks in groups_of(TrackIndex(folder)).items() if tracks == group)


def _tracks(folder: Path, keys: Sequence[Key]) -> list[object]:
    ids = {key: id_ for id_, key in key_by_id(TrackIndex(folder)).items()}
    return [part for key in keys for part in ("--track", ids[key])]


def _on_tracks(folder: Path, what: str, name: str, keys: Sequence[Key]) -> list[object]:
    return ["people", what, name, *_tracks(folder, keys), "--index", folder]


def make_pool(work: Path, n_films: int) -> tuple[list[Path], list[Path], dict[str, Path]]:
    """Draw films and photos, and save small models.

    Returns:
        The films, the folders of the models, and the photos.
    """
    films = [work / "pool" / f"{number:02}.mp4" for number in range(n_films)]
    models = [work / f"model-{seed}" for seed, _ in MODELS]
    photos = {names[0]: work / f"{names[0]}.png" for names in CAST[:5]}
    drawing = fork(draw_pool, films, models, photos)
    drawing.join()
    if drawing.exitcode:
        raise SystemExit(f"the films were not drawn: {drawing.exitcode}")
    return films, models, photos


def draw_pool(films: list[Path], models: list[Path], photos: dict[str, Path]) -> None:
    """Draw the films and photos and save the models, if they do not exist."""
    sys.path += [str(REPOSITORY / "examples")]
    people, image_file = import_module("drawn_people"), import_module("cv2")
    for number, film in enumerate(films):
        if not film.is_file():
            people.write_film(film, people.frames(*CAST[number % len(CAST)], seconds=1.0, seed=number))
    for name, photo in photos.items():
        image_file.imwrite(str(photo), people.draw_image(name))
    for (seed, n_bits), folder in zip(MODELS, models, strict=True):
        torch.manual_seed(seed)
        parts = {
            "encoder": {"_target_": "facereel.models.CasiaEncoder", "width": 0.125},
            "pooling": {"_target_": "facereel.models.MeanPooling"},
            "head": {"_target_": "facereel.models.RotationHead", "n_bits": n_bits},
        }
        if not folder.is_dir():
            VideoHasher({**DEFAULT_CONFIG, **parts}).eval().save(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--films", type=int, default=2 * len(CAST), help="number of different films")
    parser.add_argument("--longest", type=float, default=3.0, help="longest time until index is killed, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # forked processes have no other threads
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    pool, models, photos = make_pool(work, options.films)
    for name in IMPORTS:
        import_module(name)
    say = partial(print, flush=True)
    say(f"{hardware()}; commit {commit() or 'unknown'}; seed {options.seed}; {len(pool)} films")
    n_faults, counts = 0, Counter[str]()
    n_kills = n_folders = 0
    while n_kills < options.kills:
        root = work / f"trial-{n_folders}"
        shutil.rmtree(root, ignore_errors=True)
        folder = FilmFolder(root, pool, random.Random(f"{options.seed} {n_folders}"))
        trial = Trial(folder, models, photos, options.longest)
        fault = ""
        try:
            trial.run(min(ROUND, options.kills - n_kills))
        except DifferenceError as error:
            n_faults += 1
            fault = str(error)
        n_kills, n_folders, counts = n_kills + trial.n_kills, n_folders + 1, counts + trial.counts
        state = state_of(root / "whole")
        decided = f"{len(state['names'])} names, {len(state['rejections'])} rejections"
        say(f"{root.name}: {len(state['tracks'])} tracks, {decided}, {fault or 'equal'}")
    say(", ".join(f"{n} of {what}" for what, n in counts.most_common()))
    print(f"{n_kills} kills of running processes in {n_folders} folders; {n_faults} folders differ")
    raise SystemExit(bool(n_faults))


if __name__ == "__main__":
    main()
