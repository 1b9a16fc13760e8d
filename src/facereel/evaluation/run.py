"""From a model and a data set to metrics.json, per_query.csv and report.html."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich import box
from rich.table import Table

from facereel.console import Console
from facereel.data import FaceSet, Row, Skipped, open_prepared
from facereel.data.load import MANIFEST_FILE, Loaded, is_prepared, load_rows
from facereel.data.parallel import n_processors
from facereel.environment import hardware, versions
from facereel.errors import UserError
from facereel.evaluation.baselines import Comparison, Precisions, compare, compare_encoder, mean_precisions
from facereel.evaluation.encode import encode_part
from facereel.evaluation.features import encode_features, rows_of_split
from facereel.evaluation.metrics import PRECISIONS, TASKS, TaskResult, evaluate_codes
from facereel.evaluation.pairs import ABSENT
from facereel.evaluation.report import VERIFICATION_FIGURES, write_report
from facereel.evaluation.split import Split
from facereel.evaluation.verification import Verified, verify_pairs
from facereel.files import write_beside
from facereel.models import VideoHasher
from facereel.processes import rank
from facereel.progress import advancing

console = Console(highlight=False, soft_wrap=True)


def faces_from_config(data: DictConfig, seed: int, takes: Any) -> FaceSet:
    """Read the data set of a `data` group: what `facereel prepare` wrote, or the source as it lies.

    Args:
        data: its options.
        seed: of random draws.
        takes: the size, margin and shift of the crops that the model takes, as `Preprocess` has them; those that are
            read may be wider, of `data.margin`.

    Raises:
        UserError: if its root is not given or absent, or it is empty, or its crops are too small or too narrow.
    """
    chosen = {"max_frames": data.max_frames, "frames": data.frames, "seed": seed}
    n_people = data.n_people
    stills_prepared = data.stills_root is not None and is_prepared(data.stills_root)
    skipped = Skipped()
    if data.manifest is not None:
        loaded = open_prepared(data.manifest)
        wider = max(1.0, data.margin / takes.margin)
        needed = math.ceil(takes.size * wider - 1e-6)  # rounding must not add a pixel
        if round(loaded.crops.size / wider) < takes.size:
            raise UserError(
                f"data.manifest={data.manifest} holds crops of {loaded.crops.size} pixels, fewer than the {needed} "
                f"that the model takes: prepare it with --size {needed}"
            )
        if data.crops not in (None, loaded.about["crops"]):
            raise UserError(
                f"data.manifest={data.manifest} was prepared with other settings since: it holds "
                f"{loaded.about['crops']}, not {data.crops}; prepare it as before, or set data.crops=null"
            )
        if data.stills_root is not None and not stills_prepared:
            rows = instantiate(data.stills_reader, skipped=skipped)
            # Cut as the clips are.
            loaded = loaded.with_stills(_cut(rows, skipped, {}, **loaded.about["settings"]))
    else:
        if "root" in data.reader and data.reader.root is None:
            raise UserError(f"data={data.name} needs data.root=DIR, the folder it lies in, or data.manifest=DIR")
        rows = instantiate(data.reader, skipped=skipped)
        if data.stills_root is not None:
            rows = (row for row in rows if row.clip)
            if not stills_prepared:
                rows = chain(rows, instantiate(data.stills_reader, skipped=skipped))
        # People are chosen once: before faces are cut, or where their stills come from elsewhere, behind that.
        before, n_people = (None, n_people) if stills_prepared else (n_people, None)
        settings = {name: data[name] for name in ("size", "margin", "detector")}
        loaded = _cut(rows, skipped, {**chosen, "n_people": before}, **settings)
    if stills_prepared:
        loaded = loaded.with_stills(open_prepared(data.stills_root))
    view = {"grey": data.grey, "margin": takes.margin, "shift": takes.shift}
    return loaded.face_set(note=data.note, n_people=n_people, **view, **chosen)


def _cut(rows: Iterable[Row], skipped: Skipped, chosen: dict[str, Any], **settings: Any) -> Loaded:
    with advancing("finding and cutting faces" if settings["detector"] else "reading pictures", console) as advance:
        return load_rows(rows, skipped, chosen, **settings, n_workers=n_processors(), advance=advance)


def prepared_folder(data: DictConfig) -> Path | None:
    """The folder that `facereel prepare` wrote, if that is what is read."""
    if data.manifest is None:
        return None
    manifest = Path(data.manifest).expanduser()
    return manifest.parent if manifest.name == MANIFEST_FILE else manifest


def features_of(
    hasher: VideoHasher, faces: FaceSet, split: Split, device: torch.device | str, folder: Path | None
) -> FaceSet:
    """Encode all pictures of a split once, or read what was encoded before; see `encode_features`."""
    with advancing("encoding pictures once", console) as advance:
        features = encode_features(hasher, faces, rows_of_split(split), device, folder, advance, console.print)
    return faces.with_features(features)


def starting_encoder(encoder: dict[str, Any], hasher: VideoHasher, init_from: str | None = None) -> VideoHasher | None:
    """A model that holds an encoder with the weights it started from, ending where it was published to; or None.

    Args:
        encoder: the configuration that training began with.
        hasher: the trained model, whose preprocessing, code length and trusted modules are taken over.
        init_from: the run or checkpoint whose encoder training began with, if with one.
    """
    if encoder.get("weights") is None and init_from is None:
        return None
    published = {**encoder, **({"embedding": True} if "embedding" in encoder and init_from is None else {})}
    parts = {"preprocess": {**hasher.config["preprocess"], "mirror": False}, "encoder": published}
    pooling, head = ({"_target_": f"facereel.models.{name}"} for name in ("MeanPooling", "LshHead"))
    start = VideoHasher({**parts, "pooling": pooling, "head": {**head, "n_bits": hasher.n_bits}}, hasher.trust)
    if init_from is not None:
        start.encoder.load_state_dict(VideoHasher.load(init_from, trust=hasher.trust).encoder.state_dict())
    return start


def split_from_config(cfg: DictConfig, faces: FaceSet) -> Split:
    """Draw the split of a `protocol` group by the run's seed."""
    if cfg.seed < 0:
        raise UserError(f"seed={cfg.seed}: must be at least 0")
    split: Split = instantiate(cfg.protocol).split(faces, cfg.seed)
    return split


def shortlist_from_config(cfg: DictConfig) -> int | None:
    """Read the key `shortlist`.

    Raises:
        UserError: if it is neither null nor a whole number of at least 1.
    """
    size = cfg.shortlist
    if size is not None and (type(size) is not int or size < 1):
        raise UserError(f"shortlist={size}: must be a whole number of at least 1, or null")
    return size


def evaluate_model(
    hasher: VideoHasher,
    faces: FaceSet,
    split: Split,
    out: Path,
    *,
    seed: int,
    weights: str,
    device: torch.device | str = "cpu",
    compared: bool = False,
    shortlist: int | None = None,
    features: FaceSet | None = None,
    start: VideoHasher | None = None,
    manifest: Path | None = None,
) -> dict[str, Any]:
    """Run all tasks of a split's test part, or verify its pairs, and write the results into a folder.

    Several processes share what is encoded; the first writes.

    Args:
        hasher: the model.
        faces: the data set.
        split: test queries search its gallery.
        out: where metrics.json, per_query.csv, manifest.parquet and report.html go, and verification.csv of pairs.
        seed: recorded, and used by the baselines.
        weights: recorded: what the training started from.
        device: to encode on.
        compared: also score raw pixels, an untrained network, and `start`, into comparison.json
            and comparison_per_query.csv.
        shortlist: also rank so many items by real-valued queries, as `mAP_reranked`.
        features: of the model's encoder, if they are there already, see `FaceSet.with_features`.
        start: holds the encoder with the weights that training started from, if it started from any.
        manifest: the prepared data set's folder, in which features of `start` are kept.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: if no query has anything to find, or `compared` or `shortlist` is given where pairs are verified.
    """
    if compared and split.pairs is not None:
        raise UserError(f"compare=true: protocol={split.protocol} has no search to compare; leave compare away")
    if shortlist is not None and split.pairs is not None:
        raise UserError(f"shortlist={shortlist}: protocol={split.protocol} has no search; leave shortlist away")
    queries = encode_part(hasher, faces, split.test, device, features=features)
    gallery = encode_part(hasher, faces, split.train, device, features=features) if split.searches_train else queries
    results = evaluate_codes(queries, gallery, split.leaves_out, shortlist) if split.pairs is None else {}
    verified = None if split.pairs is None else verify_pairs(queries["clip"], split.pairs)
    if not results and verified is None:
        raise UserError(f"protocol={split.protocol}: no query has anything of its person to find")
    metrics = {
        "protocol": split.protocol,
        "split_sha256": split.sha256,
        "n_bits": hasher.n_bits,
        "seed": seed,
        "ties": "expected",
        "weights": weights,
        "versions": versions(),
        "hardware": hardware(),
        "tasks": {task: result.metrics for task, result in results.items()},
        "verification": None if verified is None else _verification(split, verified),
    }
    if shortlist is not None:
        metrics["shortlist"] = shortlist
    precisions: Precisions = {}
    if compared:
        precisions[f"facereel, {hasher.n_bits} bits"] = {
            task: found.precisions["mAP"] for task, found in results.items()
        }
        if start is not None:
            own = features_of(start, faces, split, device, manifest)
            precisions |= compare_encoder(start, own, split, seed, hasher.n_bits)
        precisions |= compare(hasher, faces, split, seed)
        if not any("ITQ" in name for name in precisions):
            console.print("note: ITQ is left out: the protocol has fewer training pictures to fit it on than bits")
    comparison = mean_precisions(precisions) if compared else None
    if rank() > 0:
        return metrics
    out.mkdir(parents=True, exist_ok=True)
    faces.used_rows().save(out / "manifest.parquet")
    with write_beside(out / "per_query.csv") as path:
        _write_per_query(results, faces, path)
    if verified is not None:
        with write_beside(out / "verification.csv") as path:
            _write_pairs(verified, path)
    if comparison is not None:
        with write_beside(out / "comparison.json") as path:
            path.write_text(json.dumps(comparison, indent=1), encoding="utf-8")
        with write_beside(out / "comparison_per_query.csv") as path:
            _write_compared(precisions, results, faces, path)
    write_report(out / "report.html", metrics, results, faces, split, comparison)
    # Last: where metrics.json is, everything is.
    with write_beside(out / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    _print(metrics, comparison, faces.note)
    console.print(f"report: {out / 'report.html'}")
    return metrics


def _write_per_query(results: dict[str, TaskResult], faces: FaceSet, path: Path) -> None:
    with _csv_writer(path) as writer:
        figures = [name.replace("mAP", "average_precision") for name in PRECISIONS]
        writer.writerow(["task", "query", "source", figures[0], "n_relevant", "person", *figures[1:]])
        for task, result in results.items():
            found = result.n_relevant.sum(dim=1).tolist()
            values = zip(*(result.precisions[name].tolist() for name in PRECISIONS), strict=True)
            for item, (codes, *others), count in zip(result.query.items, values, found, strict=True):
                known = [task, item.key, item.source, _precision(codes), count, faces.people[item.person]]
                writer.writerow([*known, *map(_precision, others)])


def _write_compared(precisions: Precisions, results: dict[str, TaskResult], faces: FaceSet, path: Path) -> None:
    with _csv_writer(path) as writer:
        writer.writerow(["method", "task", "query", "person", "average_precision"])
        for method, tasks in precisions.items():
            for task, values in tasks.items():
                for item, value in zip(results[task].query.items, values.tolist(), strict=True):
                    writer.writerow([method, task, item.key, faces.people[item.person], _precision(value)])


@contextmanager
def _csv_writer(path: Path) -> Iterator[Any]:
    # Names of folders need not be UTF-8; they stand in the file as they are.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        yield csv.writer(file)


def _precision(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def _verification(split: Split, verified: Verified) -> dict[str, Any]:
    return {
        "pairs": split.pairs_file,
        "n_pairs": len(verified.pairs),
        "n_pairs_absent": split.notes.get(ABSENT, 0),
        "n_folds": len({pair.fold for pair in verified.pairs}),
        **verified.metrics,
    }


def _write_pairs(verified: Verified, path: Path) -> None:
    with _csv_writer(path) as writer:
        writer.writerow(["fold", "first", "second", "same", "hamming", "distance"])
        distances = zip(verified.hamming.tolist(), verified.distance.tolist(), strict=True)
        for pair, (hamming, distance) in zip(verified.pairs, distances, strict=True):
            writer.writerow([pair.fold, pair.first, pair.second, int(pair.same), hamming, distance])


def _print(metrics: dict[str, Any], comparison: Comparison | None, note: str) -> None:
    table = _search_table(metrics, comparison) if metrics["tasks"] else _verification_table(metrics)
    console.print(table)
    if note:
        console.print(note)


def _verification_table(metrics: dict[str, Any]) -> Table:
    found = metrics["verification"]
    title = f"same person or not, {metrics['protocol']}, {found['n_pairs']} pairs in {found['n_folds']} folds"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("figure", no_wrap=True)
    for kind in ("codes", "real-valued"):
        table.add_column(kind, justify="right")
    for key, name in VERIFICATION_FIGURES.items():
        table.add_row(name, *(f"{found[kind][key]:.3f}" for kind in ("codes", "real_valued")))
    return table


def _search_table(metrics: dict[str, Any], comparison: Comparison | None) -> Table:
    table = Table(
        title=f"mAP, {metrics['protocol']}, expected over ties", title_justify="left", box=box.SIMPLE, pad_edge=False
    )
    table.add_column("codes" if comparison else "figure", no_wrap=True)
    tasks = [task for task in TASKS if task in metrics["tasks"]]
    for task in tasks:
        table.add_column(task.replace("_to_", "\nto "), justify="right")
    figures = comparison or {
        name: {task: metrics["tasks"][task][name] for task in tasks}
        for name in ("mAP", "mAP_reranked", "mAP_asymmetric", "mAP_float", "recall_at_1", "recall_at_10")
        if all(name in metrics["tasks"][task] for task in tasks)
    }
    for name, values in figures.items():
        table.add_row(name, *(f"{values[task]:.3f}" if task in values else "-" for task in tasks))
    return table
