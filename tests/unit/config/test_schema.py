"""Types, choices and ranges of configuration keys."""

from typing import Any, Literal

import pytest
from omegaconf import OmegaConf
from repository import REPOSITORY

from facereel.config.compose import compose_config
from facereel.config.schema import Batch, Count, Stage, Train, Trainer, find_mistake

GROUPS = ("data", "protocol", "encoder", "pooling", "head", "loss", "augment", "batch", "trainer", "logger")


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (1.5, int, "must be a whole number"),
        (True, int, "must be a whole number"),
        ("12", int, "must be a whole number"),
        (True, float, "must be a number"),
        (1, bool, "must be true or false"),
        ("yes", bool, "must be true or false"),
        (None, str, "must be text"),
        ([1], str, "must be text"),
        (0, Count, "must be at least 1"),
        (None, Count, "must be a whole number"),
        (0, Count | None, "must be at least 1, or null"),
        ("few", Count | None, "must be a whole number, or null"),
        ("c", Literal["a", "b"], "must be one of a, b"),
        ("maybe", bool | Literal["warn"], "must be true or false, or warn"),
        (3, list[int], "must be a list"),
        ([0, "a"], list[int], "must be a whole number"),
        (3, dict[str, int], "must have keys of its own"),
        ("word", Batch, "must have keys of its own, such as key.identities_per_batch"),
        ("word", Stage | None, "must have keys of its own, such as key.train_hash, or null"),
    ],
)
def test_invalid_values_are_described(value, kind, words):
    mistake = find_mistake(value, kind, "key")
    assert mistake is not None
    assert mistake.startswith("key=")
    assert mistake.endswith(f": {words}")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, float),
        (3, str),
        (None, Count | None),
        ("???", int),
        ("${seed}", int),
        ("anything", object),
        ({"max_steps": 2}, Stage | None),
        ({"not_declared": object()}, Batch),
        ({"deterministic": "warn", "max_gradient_ratio": 1e6}, Trainer),
    ],
)
def test_valid_values_pass(value, kind):
    assert find_mistake(value, kind, "key") is None


def test_a_nested_mistake_names_its_whole_key():
    stages = {"stages": {"stage1": {"lr": 0.1}, "stage2": {"lr": -1}}}
    assert find_mistake(stages, Train) == "stages.stage2.lr=-1: must be > 0"


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_shipped_option_is_valid(group):
    for file in (REPOSITORY / "configs" / group).glob("[a-z]*.yaml"):
        compose_config("train", [f"{group}={file.stem}"])


def test_every_schema_key_is_in_the_config_files():
    """A key that is renamed in one place only would not be checked any more."""
    config: Any = OmegaConf.to_container(compose_config("train", []))
    for name, schema in (("batch", Batch), ("trainer", Trainer), ("stages", Stage)):
        node = config[name]["stage1"] if name == "stages" else config[name]
        assert set(schema.__annotations__) <= set(node), name
    assert set(Train.__annotations__) <= set(config)
