"""The reference here is written from the papers and from the names of the public state dicts, with plain functions."""

import pytest
import torch
from encoders import (
    assert_every_parameter_learns,
    assert_images_differ,
    assert_saved_model_needs_no_file,
    coarse_images,
    configured_hasher,
    norm_shapes,
    one_line_error,
    random_state,
    relative_difference,
)
from torch.nn.functional import batch_norm, conv2d, linear, max_pool2d, prelu

from facereel.errors import UserError
from facereel.models import IResNet

DEPTHS = {"r18": (2, 2, 2, 2), "r34": (3, 4, 6, 3), "r50": (3, 4, 14, 3), "r100": (3, 13, 30, 3)}
WIDTHS = (64, 128, 256, 512)
IMAGES = coarse_images(112)


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


@pytest.mark.parametrize("name", ["r18", pytest.param("r50", marks=pytest.mark.slow)])
def test_agrees_with_the_reference_on_arcface_weights(name, tmp_path):
    state = random_state(arcface_shapes(name))
    torch.save(state, tmp_path / "backbone.pth")
    with torch.inference_mode():
        expected = reference_arcface(state, (IMAGES * 255 - 127.5) / 127.5)
        found = configured_hasher("iresnet", name=name, weights=tmp_path / "backbone.pth").features(IMAGES)
    assert_images_differ(expected)
    assert relative_difference(found, expected) < 1e-5


@pytest.mark.parametrize("whole", [True, False])
def test_agrees_with_the_reference_on_adaface_weights_which_read_bgr(whole, tmp_path):
    state = random_state(adaface_shapes("r18"))
    classifier = {"head.kernel": torch.zeros(512, 3)}
    content = {"epoch": 1, "state_dict": {**state, **classifier}} if whole else state
    torch.save(content, tmp_path / "adaface.ckpt")
    with torch.inference_mode():
        expected = reference_adaface(state, (IMAGES.flip(1) * 255 - 127.5) / 127.5)
        model = configured_hasher("iresnet", name="r18", layout="adaface", weights=tmp_path / "adaface.ckpt")
        found = model.features(IMAGES)
    assert_images_differ(expected)
    assert relative_difference(found, expected) < 1e-5


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
        features = IResNet("r34").eval()(IMAGES * 2 - 1)
    assert features.isfinite().all()
    assert features.abs().max() < 100
    assert not torch.allclose(features[0], features[1], rtol=0.01)


def test_every_parameter_learns():
    network = IResNet("r18")
    # The one bias before a batch norm has no effect in training.
    assert_every_parameter_learns(network, torch.randn(2, 3, 112, 112), without_effect=["fc.bias"])
    assert [name for name, parameter in network.named_parameters() if not parameter.requires_grad] == [
        "features.weight"
    ]


def test_own_weights_of_both_layouts_are_read(tmp_path):
    for layout in ("arcface", "adaface"):
        network = IResNet("r18", layout)
        torch.save(network.state_dict(), tmp_path / "own.pt")
        read = IResNet("r18", layout, str(tmp_path / "own.pt"))
        assert torch.equal(read.conv1.weight, network.conv1.weight)


def test_a_saved_model_needs_no_weight_file(tmp_path):
    torch.save(random_state(adaface_shapes("r18")), tmp_path / "adaface.pt")
    model = configured_hasher("iresnet", name="r18", layout="adaface", weights=tmp_path / "adaface.pt")
    assert_saved_model_needs_no_file(model, tmp_path / "adaface.pt", tmp_path / "model")


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
        with one_line_error(f"{name}.pth"):
            IResNet("r18", weights=str(tmp_path / f"{name}.pth"))
