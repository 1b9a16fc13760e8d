"""Checks that a stage can continue from a checkpoint."""

from typing import TYPE_CHECKING, Any

from facereel.config.saved_run import first_difference

if TYPE_CHECKING:
    from facereel.training.hashing_module import HashingModule


def resume_record(module: "HashingModule") -> dict[str, Any]:
    """Return the entries of a checkpoint that `resume_mismatch` compares; `VideoHasher.load` needs the first one."""
    return {
        "hasher_config": module.hasher.config,
        "n_people": len(module.data.faces.people),
        "optimizer": type(module.build_optimizer()).__name__,
    }


def resume_mismatch(checkpoint: dict[str, Any], module: "HashingModule") -> str | None:
    """Describe why a module cannot continue from a checkpoint.

    Args:
        checkpoint: its content as Lightning loads it, with a `resume_record`.
        module: the module as it is configured now, attached to its trainer.

    Returns:
        The reason, or None if the module can continue.
    """
    now = resume_record(module)
    then = {**now, **{key: checkpoint[key] for key in now if key in checkpoint}}
    if then["optimizer"] != now["optimizer"]:
        return f"it was trained with {then['optimizer']}, not {now['optimizer']}"
    there, here = (
        {key: " x ".join(map(str, tensor.shape)) or "a number" for key, tensor in state.items()}
        for state in (checkpoint["state_dict"], module.state_dict())
    )
    if there == here:
        return None
    if then["n_people"] != now["n_people"]:
        return f"it was trained with {then['n_people']} people, but the data now has {now['n_people']}"
    if changed := first_difference(then["hasher_config"], now["hasher_config"]):
        return f"it was trained with {changed}"
    key = next(key for key in [*here, *there] if there.get(key) != here.get(key))
    return f"its {key} is {there.get(key, 'absent')}, not {here.get(key, 'absent')}; the model or the loss differs"
