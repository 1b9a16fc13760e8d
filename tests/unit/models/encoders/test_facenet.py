"""The reference here is written from the names and shapes of the public state dicts, with plain functions."""

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
from torch.nn.functional import batch_norm, conv2d, linear, max_pool2d, relu

from facereel.errors import UserError
from facereel.models import FaceNet

IMAGES = coarse_images(160)

# Output channels, input channels, rows and columns of each convolution with a batch norm, in facenet-pytorch's files.
STEM = {
    "conv2d_1a": (32, 3, 3, 3),
    "conv2d_2a": (32, 32, 3, 3),
    "conv2d_2b": (64, 32, 3, 3),
    "conv2d_3b": (80, 64, 1, 1),
    "conv2d_4a": (192, 80, 3, 3),
    "conv2d_4b": (256, 192, 3, 3),
}
REDUCTIONS = {
    "mixed_6a.branch0": (384, 256, 3, 3),
    "mixed_6a.branch1.0": (192, 256, 1, 1),
    "mixed_6a.branch1.1": (192, 192, 3, 3),
    "mixed_6a.branch1.2": (256, 192, 3, 3),
    "mixed_7a.branch0.0": (256, 896, 1, 1),
    "mixed_7a.branch0.1": (384, 256, 3, 3),
    "mixed_7a.branch1.0": (256, 896, 1, 1),
    "mixed_7a.branch1.1": (256, 256, 3, 3),
    "mixed_7a.branch2.0": (256, 896, 1, 1),
    "mixed_7a.branch2.1": (256, 256, 3, 3),
    "mixed_7a.branch2.2": (256, 256, 3, 3),
}
BLOCK_35 = {
    "branch0": (32, 256, 1, 1),
    "branch1.0": (32, 256, 1, 1),
    "branch1.1": (32, 32, 3, 3),
    "branch2.0": (32, 256, 1, 1),
    "branch2.1": (32, 32, 3, 3),
    "branch2.2": (32, 32, 3, 3),
}
BLOCK_17 = {
    "branch0": (128, 896, 1, 1),
    "branch1.0": (128, 896, 1, 1),
    "branch1.1": (128, 128, 1, 7),
    "branch1.2": (128, 128, 7, 1),
}
BLOCK_8 = {
    "branch0": (192, 1792, 1, 1),
    "branch1.0": (192, 1792, 1, 1),
    "branch1.1": (192, 192, 1, 3),
    "branch1.2": (192, 192, 3, 1),
}
BLOCKS = [
    *((f"repeat_1.{i}", BLOCK_35, (256, 96, 1, 1)) for i in range(5)),
    *((f"repeat_2.{i}", BLOCK_17, (896, 256, 1, 1)) for i in range(10)),
    *((f"repeat_3.{i}", BLOCK_8, (1792, 384, 1, 1)) for i in range(5)),
    ("block8", BLOCK_8, (1792, 384, 1, 1)),
]


def public_shapes():
    convolutions = STEM | REDUCTIONS
    shapes: dict[str, tuple[int, ...]] = {}
    for at, branches, joined in BLOCKS:
        convolutions = convolutions | {f"{at}.{name}": shape for name, shape in branches.items()}
        shapes |= {f"{at}.conv2d.weight": joined, f"{at}.conv2d.bias": joined[:1]}
    for name, shape in convolutions.items():
        shapes |= {f"{name}.conv.weight": shape, **norm_shapes(f"{name}.bn", shape[0])}
    return shapes | {"last_linear.weight": (512, 1792), **norm_shapes("last_bn", 512)}


@pytest.fixture(scope="module")
def state():
    return random_state(public_shapes(), gain=2)


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    """With the classifier that the public files have."""
    path = tmp_path_factory.mktemp("facenet") / "vggface2.pt"
    torch.save({**state, "logits.weight": torch.zeros(3, 512), "logits.bias": torch.zeros(3)}, path)
    return path


def reference(state, x):
    """The TensorFlow network: "valid" convolutions but inside blocks, and epsilon 0.001."""

    def norm(name, x):
        mean, variance, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    def conv(name, x, stride=1, same=False):
        weight = state[f"{name}.conv.weight"]
        padding = [side // 2 for side in weight.shape[2:]] if same else 0
        return relu(norm(f"{name}.bn", conv2d(x, weight, stride=stride, padding=padding)))

    def chain(at, x, names):
        for name in names:
            x = conv(f"{at}.{name}", x, same=True)
        return x

    def block(at, x, branches, scale, activates=True):
        made = [chain(at, x, branch) for branch in branches]
        y = conv2d(torch.cat(made, dim=1), state[f"{at}.conv2d.weight"], state[f"{at}.conv2d.bias"]) * scale + x
        return relu(y) if activates else y

    x = conv("conv2d_2b", conv("conv2d_2a", conv("conv2d_1a", x, 2)), same=True)
    x = max_pool2d(x, 3, 2)
    x = conv("conv2d_4b", conv("conv2d_4a", conv("conv2d_3b", x)), 2)
    three = [["branch0"], ["branch1.0", "branch1.1"], ["branch2.0", "branch2.1", "branch2.2"]]
    for i in range(5):
        x = block(f"repeat_1.{i}", x, three, 0.17)
    wide = conv("mixed_6a.branch1.2", chain("mixed_6a", x, ["branch1.0", "branch1.1"]), 2)
    x = torch.cat([conv("mixed_6a.branch0", x, 2), wide, max_pool2d(x, 3, 2)], dim=1)
    two = [["branch0"], ["branch1.0", "branch1.1", "branch1.2"]]
    for i in range(10):
        x = block(f"repeat_2.{i}", x, two, 0.1)
    firsts = [chain("mixed_7a", x, names) for names in (["branch0.0"], ["branch1.0"], ["branch2.0", "branch2.1"])]
    lasts = ("mixed_7a.branch0.1", "mixed_7a.branch1.1", "mixed_7a.branch2.2")
    made = [conv(name, first, 2) for name, first in zip(lasts, firsts, strict=True)]
    x = torch.cat([*made, max_pool2d(x, 3, 2)], dim=1)
    for i in range(5):
        x = block(f"repeat_3.{i}", x, two, 0.2)
    x = block("block8", x, two, 1.0, activates=False).mean(dim=(2, 3))
    return norm("last_bn", linear(x, state["last_linear.weight"]))


def test_agrees_with_the_reference(state, file):
    with torch.inference_mode():
        expected = reference(state, (IMAGES * 255 - 127.5) / 128)
        found = configured_hasher("facenet", weights=file).features(IMAGES)
    assert expected.shape == (2, 512)
    assert_images_differ(expected)
    assert relative_difference(found, expected) < 1e-4


def test_the_parameters_have_the_public_names_and_shapes():
    with torch.device("meta"):
        network = FaceNet()
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == public_shapes()


def test_random_weights():
    torch.manual_seed(0)
    with torch.inference_mode():
        features = FaceNet().eval()(IMAGES * 2 - 1)
    assert features.isfinite().all()
    assert not torch.allclose(features[0], features[1], rtol=0.01)


def test_every_parameter_learns():
    assert_every_parameter_learns(FaceNet(dropout=0.0), torch.randn(4, 3, 80, 80))


def test_a_saved_model_needs_no_weight_file(file, tmp_path):
    copy = tmp_path / "copy.pt"
    copy.write_bytes(file.read_bytes())
    assert_saved_model_needs_no_file(configured_hasher("facenet", weights=copy), copy, tmp_path / "model")


def test_smallest_size():
    with torch.inference_mode():
        assert FaceNet().eval()(torch.rand(1, 3, 75, 75)).shape == (1, 512)
    with pytest.raises(
        UserError, match=r"^FaceNet needs images of at least 75 pixels a side, not 74; resize them to 160"
    ):
        FaceNet().eval()(torch.rand(1, 3, 160, 74))


def test_wrong_files_give_a_one_line_error(state, tmp_path):
    torch.save({**state, "last_bn.bias": torch.zeros(5)}, tmp_path / "shape.pt")
    torch.save({**state, "other": torch.zeros(5)}, tmp_path / "name.pt")
    torch.save([1], tmp_path / "list.pt")
    for name in ("shape", "name", "list", "absent"):
        with one_line_error(f"{name}.pt"):
            FaceNet(str(tmp_path / f"{name}.pt"))
