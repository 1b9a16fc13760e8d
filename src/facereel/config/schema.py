"""Types, choices and ranges of the keys in configs/, declared once.

OmegaConf's own structured configs turn `7` into `true` and `"12"` into `12`; `find_mistake` refuses both.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from facereel.errors import UserError


@dataclass(frozen=True)
class Limit:
    """A range of numbers."""

    words: str
    holds: Callable[[float], bool]


def at_least(minimum: int) -> Limit:
    """Return the limit to numbers of at least a minimum."""
    return Limit(f"at least {minimum}", lambda value: value >= minimum)


def above(minimum: int) -> Limit:
    """Return the limit to numbers greater than a minimum."""
    return Limit(f"> {minimum}", lambda value: value > minimum)


Natural = Annotated[int, at_least(0)]
Count = Annotated[int, at_least(1)]
Positive = Annotated[float, above(0)]
Fraction = Annotated[float, Limit("at least 0 and below 1", lambda value: 0 <= value < 1)]


@dataclass
class Part:
    """An object to build from a class. The other keys are the arguments of the class, which declares their types."""

    _target_: str


@dataclass
class Head(Part):
    """The hash layer."""

    n_bits: Count


@dataclass
class Protocol(Part):
    """The rule that draws a split."""

    test_fraction: Fraction
    val_fraction: Fraction
    search: Literal["test", "val"]


@dataclass
class Augment:
    """Augmentation of images and features in training."""

    images: Part | None
    runs_on: Literal["workers", "device"]
    features: Part | None


@dataclass
class Batch:
    """Sizes of batches."""

    identities_per_batch: Annotated[int, at_least(2)]
    n_clips: Count
    n_stills: Count
    n_still_people: Natural
    n_frames: Count
    batch_size: Annotated[int, at_least(2)]


@dataclass
class Data:
    """A data set and its crop settings."""

    name: str
    root: str | None
    manifest: str | None
    crops: str | None
    stills_root: str | None
    reader: Part
    stills_reader: Part
    size: Count
    margin: Positive
    detector: str | None
    grayscale: bool
    max_frames: Count
    frames: Literal["even", "random", "pieces"]
    n_people: Count | None
    note: str


@dataclass
class Trainer:
    """Devices, precision and numerical safeguards. `facereel.parallel.distributed.devices_of` checks `devices`."""

    accelerator: str
    sync_batchnorm: bool
    gradient_clip_val: Positive | None
    accumulate_grad_batches: Count
    compile: str | None
    channels_last: bool
    deterministic: bool | Literal["warn"]
    nonfinite: Literal["stop", "skip"]
    max_gradient_ratio: Annotated[float, above(1)]
    check_val_every_n_epoch: Count
    num_workers: Natural


@dataclass
class Stage:
    """One stage of training."""

    train_hash: bool
    batches: Literal["people", "images"]
    freeze_encoder: bool
    init_proxies: bool
    augment_features: bool
    freeze_batch_norm: bool
    loss: Part
    epochs: Natural
    max_steps: Natural | None
    optimizer: Part
    lr: Positive
    head_lr_multiplier: Annotated[float, at_least(0)]
    schedule: Literal["constant", "one_cycle"]


@dataclass
class Common:
    """Keys shared by training and evaluation."""

    seed: Natural
    baselines: bool
    rerank_k: Count | None
    data: Data
    protocol: Protocol


@dataclass
class Evaluate(Common):
    """The keys of configs/evaluate.yaml."""

    out: str | None
    device: str


@dataclass
class Train(Common):
    """The keys of configs/train.yaml."""

    name: str
    out: str
    init_from: str | None
    preprocess: Part
    stages: dict[str, Stage | None]
    optimizer: Part
    encoder: Part
    pooling: Part
    head: Head
    loss: dict[str, Part]
    augment: Augment
    batch: Batch
    trainer: Trainer
    logger: dict[str, Part | None]


@dataclass
class Table:
    """A table of `facereel reproduce`; `facereel.tables.plan` checks its other keys."""

    compare_rows: bool


@dataclass
class Reproduce:
    """The keys of configs/reproduce.yaml."""

    scale: str
    out: str
    workers: Count | None
    seeds: list[Natural] | None
    rows: list[str] | None
    published: str | None
    links: bool
    sources: dict[str, dict[str, str | None]]
    table: Table


SCHEMAS: dict[str, type] = {"train": Train, "evaluate": Evaluate, "reproduce": Reproduce}

# The Python types accepted for a type of the schema, and their name in messages.
_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str, int, float), "text"),  # a name may be a number
    type(None): ((type(None),), "null"),
}


def check(config: DictConfig, schema: type) -> None:
    """Refuse a composed configuration with an invalid value.

    Args:
        config: the composed configuration; interpolations are not resolved.
        schema: one of the dataclasses of this module.

    Raises:
        UserError: for the first invalid value.
    """
    if mistake := find_mistake(OmegaConf.to_container(config), schema):
        raise UserError(mistake)


def find_mistake(value: Any, kind: Any, key: str = "") -> str | None:
    """Describe the first invalid value.

    Args:
        value: a configuration of plain dicts, lists and values.
        kind: one of the dataclasses of this module, or any type. Undeclared keys and types are not checked.
        key: key of the value, for the message.

    Returns:
        The key, the value and what it must be; None if all values are valid.

    Examples:
        >>> find_mistake({"n_clips": "two"}, Batch, "batch")
        'batch.n_clips=two: must be a whole number'
    """
    if isinstance(value, str) and (value == "???" or "${" in value):  # the keys it refers to are checked themselves
        return None
    arguments = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return _mistake_of_union(value, arguments, key)
    if get_origin(kind) is Annotated:
        limits = [limit for limit in arguments[1:] if isinstance(limit, Limit) and value is not None]
        broken = (f"{_shown(key, value)}: must be {limit.words}" for limit in limits if not limit.holds(value))
        return find_mistake(value, arguments[0], key) or next(broken, None)
    if get_origin(kind) is Literal:
        words = f"one of {', '.join(arguments)}" if len(arguments) > 1 else str(arguments[0])
        return None if value in arguments else f"{_shown(key, value)}: must be {words}"
    if is_dataclass(kind):
        return _mistake_of_keys(value, get_type_hints(kind, include_extras=True), key)
    if get_origin(kind) is dict:
        return _mistake_of_keys(value, dict.fromkeys(value, arguments[1]) if isinstance(value, dict) else {}, key)
    if get_origin(kind) is list:
        if not isinstance(value, list):
            return f"{_shown(key, value)}: must be a list"
        return next(filter(None, (find_mistake(item, arguments[0], key) for item in value)), None)
    accepted, words = _SCALARS.get(kind, ((object,), ""))
    fits = isinstance(value, accepted) and not (isinstance(value, bool) and kind in (int, float))
    return None if fits else f"{_shown(key, value)}: must be {words}"


def _mistake_of_union(value: Any, kinds: tuple[Any, ...], key: str) -> str | None:
    mistakes = [find_mistake(value, kind, key) for kind in kinds]
    if None in mistakes:
        return None
    if isinstance(value, dict | list):
        return mistakes[0]
    words = [str(mistake).partition(": must ")[2].removeprefix("be ") for mistake in mistakes]
    verb = "" if words[0].startswith("have ") else "be "
    return f"{_shown(key, value)}: must {verb}{', or '.join(words)}"


def _mistake_of_keys(value: Any, kinds: Mapping[str, Any], key: str) -> str | None:
    if not isinstance(value, dict):
        such_as = f", such as {key}.{next(iter(kinds))}" if kinds else ""
        return f"{_shown(key, value)}: must have keys of its own{such_as}"
    places = {name: f"{key}.{name}".lstrip(".") for name in value}
    found = (find_mistake(value[name], kind, places[name]) for name, kind in kinds.items() if name in value)
    return next(filter(None, found), None)


def _shown(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value) if value is None or isinstance(value, bool) else value}"
