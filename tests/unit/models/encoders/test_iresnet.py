"""The reference here is written from the papers and from the names of the public state dicts, with plain functions."""

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn.functional import batch_norm, conv2d, interpolate, linear, max_pool2d, prelu

from facereel import VideoHasher
from facereel.config.compose import config_dir
from facereel.errors import UserError
from facereel.models import IResNet

DEPTHS = {"r18": (2, 2, 2, 2), "r34": (3, 4, 6, 3), "r50": (3, 4, 14, 3), "r100": (3, 13, 30, 3)}
WIDTHS = (64, 128, 256, 512)


def norm_shapes(name, n, affine=True):
    parts = ("weight", "bias", "running_mean", "running_var") if affine else ("running_mean", "running_var")
    return {f"{name}.{part}": (n,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def arcface_shapes(depth):
    """Of the files that arcface_torch writes."""
    shapes = {"conv1.weight": (64, 3, 3, 3), "prelu.weight": (64,), **norm_shapes("bn1", 64)}
    n_in = 64
    for layer, (n_blocks, n) in enumerate(zip(DEPTHS[depth], WIDTHS, strict=True), start=1):
        for i in range(n_blocks):
            at = f"layer{layer}.{i}"
            shapes |= {f"{at}.conv1.weight": (n, n_in, 3, 3), f"{at}.conv2.weight": (n, n, 3, 3)}
            shapes |= {f"{at}.prelu.weight": (n,)}
            shapes |= norm_shapes(f"{at}.bn1", n_in) | norm_shapes(f"{at}.bn2", n) | norm_shapes(f"{at}.bn3", n)
            if i == 0:
                shapes |= {f"{at}.downsample.0.weight": (n, n_in, 1, 1)} | norm_shapes(f"{at}.downsample.1", n)
            n_in = n
    shapes |= norm_shapes("bn2", 512) | {"fc.weight": (512, 25088), "fc.bias": (512,)}
    return shapes | norm_shapes("features", 512)


def adaface_shapes(depth):
    """Of the state_dict in AdaFace's checkpoints, without its classifier."""
    shapes = {"input_layer.0.weight": (64, 3, 3, 3), "input_layer.2.weight": (64,), **norm_shapes("input_layer.1", 64)}
    n_in, number = 64, 0
    for n_blocks, n in zip(DEPTHS[depth], WIDTHS, strict=True):
        for _ in range(n_blocks):
            at = f"body.{number}"
            shapes |= {f"{at}.res_layer.1.weight": (n, n_in, 3, 3), f"{at}.res_layer.4.weight": (n, n, 3, 3)}
            shapes |= {f"{at}.res_layer.3.weight": (n,), **norm_shapes(f"{at}.res_layer.0", n_in)}
            shapes |= norm_shapes(f"{at}.res_layer.2", n) | norm_shapes(f"{at}.res_layer.5", n)
            if n_in != n:
                shapes |= {f"{at}.shortcut_layer.0.weight": (n, n_in, 1, 1), **norm_shapes(f"{at}.shortcut_layer.1", n)}
            n_in, number = n, number + 1
    shapes |= norm_shapes("output_layer.0", 512)
    shapes |= {"output_layer.3.weight": (512, 25088), "output_layer.3.bias": (512,)}
    shapes |= norm_shapes("output_layer.4", 512, affine=False)
    return {f"model.{name}": shape for name, shape in shapes.items()}


def random_state(shapes):
    """Every value at work, and small enough that 50 blocks do not overflow."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Any] = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) > 1:
            fan_in = torch.Size(shape[1:]).numel()
            state[name] = torch.randn(shape, generator=generator) / fan_in**0.5
        elif name.endswith("running_var"):
            state[name] = 1 + torch.rand(shape, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            state[name] = 0.1 * torch.randn(shape, generator=generator)
        else:
            state[name] = 0.7 + 0.2 * torch.randn(shape, generator=generator)
    return state


def reference_arcface(state, x):
    def norm(name, x):
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return batch_norm(x, *parts)

    x = prelu(norm("bn1", conv2d(x, state["conv1.weight"], padding=1)), state["prelu.weight"])
    for layer in range(1, 5):
        i = 0
        while f"layer{layer}.{i}.conv1.weight" in state:
            at, stride = f"layer{layer}.{i}", 2 if i == 0 else 1
            y = conv2d(norm(f"{at}.bn1", x), state[f"{at}.conv1.weight"], padding=1)
            y = prelu(norm(f"{at}.bn2", y), state[f"{at}.prelu.weight"])
            y = norm(f"{at}.bn3", conv2d(y, state[f"{at}.conv2.weight"], stride=stride, padding=1))
            if i == 0:
                x = norm(f"{at}.downsample.1", conv2d(x, state[f"{at}.downsample.0.weight"], stride=2))
            x, i = x + y, i + 1
    x = linear(norm("bn2", x).flatten(1), state["fc.weight"], state["fc.bias"])
    return norm("features", x)


def reference_adaface(state, bgr):
    state = {name.removeprefix("model."): value for name, value in state.items()}

    def norm(name, x):
        means = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return batch_norm(x, *means, state.get(f"{name}.weight"), state.get(f"{name}.bias"))

    x = conv2d(bgr, state["input_layer.0.weight"], padding=1)
    x = prelu(norm("input_layer.1", x), state["input_layer.2.weight"])
    number = 0
    while f"body.{number}.res_layer.1.weight" in state:
        at = f"body.{number}"
        projects = f"{at}.shortcut_layer.0.weight" in state
        stride = 2 if projects or number == 0 else 1
        y = conv2d(norm(f"{at}.res_layer.0", x), state[f"{at}.res_layer.1.weight"], padding=1)
        y = prelu(norm(f"{at}.res_layer.2", y), state[f"{at}.res_layer.3.weight"])
        y = norm(f"{at}.res_layer.5", conv2d(y, state[f"{at}.res_layer.4.weight"], stride=stride, padding=1))
        if projects:
            x = norm(f"{at}.shortcut_layer.1", conv2d(x, state[f"{at}.shortcut_layer.0.weight"], stride=2))
        else:
            x = max_pool2d(x, 1, stride)
        x, number = x + y, number + 1
    x = linear(norm("output_layer.0", x).flatten(1), state["output_layer.3.weight"], state["output_layer.3.bias"])
    return norm("output_layer.4", x)


def images(n=2):
    """(N, 3, 112, 112) RGB in 0..1."""
    # Coarse, and of other brightness: all fine noise looks alike to such a network.
    grids = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return interpolate(grids, (112, 112), mode="bilinear") * torch.linspace(0.3, 1, n)[:, None, None, None]


def hasher(**encoder):
    """As configs/encoder/iresnet.yaml has it."""
    parts: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / "encoder" / "iresnet.yaml"))
    size = {"size": parts["data"]["size"]}  # train.yaml lets it follow
    return VideoHasher(
        {
            "preprocess": {"_target_": "facereel.models.Preprocess", **size, **parts["preprocess"]},
            "encoder": {**parts["encoder"], **encoder},
            "pooling": {"_target_": "facereel.models.MeanPooling"},
            "head": {"_target_": "facereel.models.LshHead", "n_bits": 16},
        }
    ).eval()


def largest_difference(found, expected):
    """Relative to the largest expected value."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", ["r18", pytest.param("r50", marks=pytest.mark.slow)])
def test_agrees_with_the_reference_on_arcface_weights(name, tmp_path):
    state = random_state(arcface_shapes(name))
    torch.save(state, tmp_path / "backbone.pth")
    with torch.inference_mode():
        expected = reference_arcface(state, (images() * 255 - 127.5) / 127.5)
        found = hasher(name=name, weights=str(tmp_path / "backbone.pth")).features(images())
    assert (expected[0] - expected[1]).abs().max() > 0.01 * expected.abs().max()
    assert largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize("whole", [True, False])
def test_agrees_with_the_reference_on_adaface_weights_which_read_bgr(whole, tmp_path):
    state = random_state(adaface_shapes("r18"))
    classifier = {"head.kernel": torch.zeros(512, 3)}
    content = {"epoch": 1, "state_dict": {**state, **classifier}} if whole else state
    torch.save(content, tmp_path / "adaface.ckpt")
    with torch.inference_mode():
        expected = reference_adaface(state, (images().flip(1) * 255 - 127.5) / 127.5)
        model = hasher(name="r18", layout="adaface", weights=str(tmp_path / "adaface.ckpt"))
        found = model.features(images())
    assert (expected[0] - expected[1]).abs().max() > 0.01 * expected.abs().max()
    assert largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize("name", DEPTHS)
def test_the_parameters_have_the_public_names_and_shapes(name):
    with torch.device("meta"):
        network = IResNet(name)
        adaface = IResNet(name, layout="adaface")
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    assert shapes == arcface_shapes(name)
    missing = {key for key in shapes if key.startswith("layer1.0.downsample.")}
    assert {key: tuple(tensor.shape) for key, tensor in adaface.state_dict().items()} == {
        key: shape for key, shape in shapes.items() if key not in missing
    }


def test_random_weights():
    torch.manual_seed(0)
    with torch.inference_mode():
        features = IResNet("r34").eval()(images() * 2 - 1)
    assert features.isfinite().all()
    assert features.abs().max() < 100
    assert not torch.allclose(features[0], features[1], rtol=0.01)


def test_every_parameter_learns():
    network = IResNet("r18")
    (network(torch.randn(2, 3, 112, 112)) * torch.randn(network.dim)).square().sum().backward()
    for name, parameter in network.named_parameters():
        if name == "features.weight":
            assert not parameter.requires_grad
            continue
        assert parameter.grad is not None, name
        # The one bias before a batch norm has no effect in training.
        assert parameter.grad.abs().sum() > 0 or name == "fc.bias", name


def test_own_weights_of_both_layouts_are_read(tmp_path):
    for layout in ("arcface", "adaface"):
        network = IResNet("r18", layout)
        torch.save(network.state_dict(), tmp_path / "own.pt")
        read = IResNet("r18", layout, str(tmp_path / "own.pt"))
        assert torch.equal(read.conv1.weight, network.conv1.weight)


def test_a_saved_model_needs_no_weight_file(tmp_path):
    torch.save(random_state(adaface_shapes("r18")), tmp_path / "adaface.pt")
    model = hasher(name="r18", layout="adaface", weights=str(tmp_path / "adaface.pt"))
    model.save(tmp_path / "model")
    (tmp_path / "adaface.pt").unlink()
    loaded = VideoHasher.load(tmp_path / "model")
    assert loaded.fingerprint() == model.fingerprint()
    assert torch.equal(loaded.encode_stills(images(), True)[1], model.encode_stills(images(), True)[1])


@pytest.mark.parametrize("size", [(112, 111), (224, 224)])
def test_other_image_size_raises(size):
    with pytest.raises(UserError, match=rf"needs images of 112 x 112 pixels, not {size[0]} x {size[1]}; resize them"):
        IResNet("r18").eval()(torch.rand(1, 3, *size))


def test_wrong_arguments_and_files_give_a_one_line_error(tmp_path):
    with pytest.raises(UserError, match=r"^name=r152: must be one of r18, r34, r50, r100$"):
        IResNet("r152")
    with pytest.raises(UserError, match=r"^layout=other: must be one of arcface, adaface$"):
        IResNet("r18", layout="other")
    adaface = random_state(adaface_shapes("r18"))
    torch.save(random_state(arcface_shapes("r34")), tmp_path / "deeper.pth")
    torch.save(adaface, tmp_path / "adaface.pth")
    torch.save({**adaface, "model.body.9.res_layer.1.weight": torch.zeros(1)}, tmp_path / "longer.pth")
    torch.save({"input_layer.0.weight": torch.zeros(1), "other": torch.zeros(1)}, tmp_path / "names.pth")
    torch.save([1], tmp_path / "list.pth")
    torch.save({"state_dict": 1}, tmp_path / "number.pth")
    for name in ("deeper", "adaface", "longer", "names", "list", "number", "absent"):
        with pytest.raises(UserError, match=f"{name}.pth") as caught:
            IResNet("r18", weights=str(tmp_path / f"{name}.pth"))
        assert "\n" not in str(caught.value)
