import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs onnx: pip install 'facereel[export]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'facereel[export]'")

import onnx
from encoders import (
    assert_saved_model_needs_no_file,
    configured_hasher,
    find_or_skip,
    one_line_error,
    relative_difference,
)
from onnx import helper
from onnx_faces import onnx_network, reference_features

from facereel import VideoHasher
from facereel.errors import UserError
from facereel.export.to_onnx import ENCODER, obstacle
from facereel.models import OnnxEncoder, SFaceEncoder
from facereel.models.encoders import sface_weights


def write(model, folder, name="network.onnx"):
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return str(path)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(onnx_network(), tmp_path_factory.mktemp("onnx"))


def hasher(weights, **options):
    return configured_hasher("onnx", weights=weights, **options)


def images(n=3, side=112):
    """(N, 3, side, side) RGB in 0..1."""
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_sface_agrees_with_the_pytorch_encoder():
    encoder = OnnxEncoder(str(find_or_skip(sface_weights)))
    assert (encoder.dim, encoder.session.graph.normalizes, encoder.session.graph.any_batch) == (128, True, False)
    with torch.inference_mode():
        expected = SFaceEncoder("pretrained").eval()((images(2) * 255 - 127.5) / 128)
        assert relative_difference(encoder(images(2)), expected) < 1e-4


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_a_network_of_plain_convolutions_is_normalized_by_the_usual_numbers(file, color):
    pixels = images() if color == "rgb" else images().flip(1)
    expected = reference_features(onnx.load(file), ((pixels * 255 - 127.5) / 127.5).numpy())
    assert relative_difference(OnnxEncoder(file, color=color)(images()), expected) < 1e-4
    assert relative_difference(hasher(file, color=color).features(images()), expected) < 1e-4


@pytest.mark.parametrize("before", [(("Sub", 127.5), ("Mul", 1 / 128)), (("Div", 255.0),)])
def test_a_graph_that_normalizes_gets_0_to_255(before, tmp_path):
    model = onnx_network(before=before)
    values = (images() * 255).numpy()
    for operation, number in before:
        values = {"Sub": values - number, "Mul": values * number, "Div": values / number}[operation]
    assert relative_difference(OnnxEncoder(write(model, tmp_path))(images()), reference_features(model, values)) < 1e-4


def test_normalization_can_be_chosen(file):
    means, stds = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    values = ((images() * 255).numpy() - means[:, None, None]) / stds[:, None, None]
    found = OnnxEncoder(file, mean=means.tolist(), std=stds.tolist())(images())
    assert relative_difference(found, reference_features(onnx.load(file), values)) < 1e-4
    values = (images() * 255).numpy() / 255
    assert (
        relative_difference(OnnxEncoder(file, mean=0, std=255)(images()), reference_features(onnx.load(file), values))
        < 1e-4
    )


@pytest.mark.parametrize("shape", [(1, 3, 112, 112), (1, 112, 112, 3), ("n", 3, "h", "w"), ("n", 112, 112, 3)])
def test_shapes_of_the_input(shape, tmp_path):
    model = onnx_network(shape)
    expected = reference_features(model, ((images() * 255 - 127.5) / 127.5).numpy())
    assert relative_difference(OnnxEncoder(write(model, tmp_path))(images()), expected) < 1e-4


def test_half_precision_and_weights_named_as_inputs(tmp_path):
    half = OnnxEncoder(write(onnx_network(kind=onnx.TensorProto.FLOAT16), tmp_path, "half.onnx"))
    named = OnnxEncoder(write(onnx_network(name_weights_as_inputs=True), tmp_path, "named.onnx"))
    plain = OnnxEncoder(write(onnx_network(), tmp_path))
    assert (half(images()) - plain(images())).abs().max() < 0.02 * plain(images()).abs().max()
    assert torch.equal(named(images()), plain(images()))
    assert [value.name for value in onnx.load_model_from_string(named.content.numpy().tobytes()).graph.input] == [
        "faces"
    ]


def test_a_graph_that_only_claims_to_take_several_images_gets_one_at_a_time(tmp_path):
    model = onnx_network()
    model.graph.node[3].op_type = "Reshape"
    model.graph.node[3].input.append("shape")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 8]), "shape"))
    encoder = OnnxEncoder(write(model, tmp_path))
    assert encoder(images()).shape == (3, 16)
    assert torch.allclose(encoder(images())[1:2], encoder(images()[1:2]))


def test_the_side_of_a_free_network_can_be_chosen(tmp_path):
    path = write(onnx_network(("n", 3, "h", "w")), tmp_path)
    assert OnnxEncoder(path, size=160)(images(1, 160)).shape == (1, 16)
    with pytest.raises(UserError, match=r"needs images of 112 x 112 pixels, not 160 x 160: set data\.size and"):
        OnnxEncoder(path)(images(1, 160))


def test_no_images_give_no_features(file):
    assert OnnxEncoder(file)(images(0)).shape == (0, 16)


def test_a_saved_model_contains_the_network(tmp_path):
    path = Path(write(onnx_network(), tmp_path))
    model = hasher(path)
    loaded = assert_saved_model_needs_no_file(model, path, tmp_path / "model")
    assert loaded.config["encoder"]["dim"] == 16
    assert str(tmp_path) not in (tmp_path / "model" / "model.safetensors").read_bytes().decode("latin-1")


def test_the_fingerprint_depends_on_the_network(file, tmp_path):
    doubled, tripled = (
        hasher(write(onnx_network(before=(("Mul", number),)), tmp_path, f"{number}.onnx")) for number in (2.0, 3.0)
    )
    # Of one length: the content matters.
    assert doubled.encoder.content.shape == tripled.encoder.content.shape
    assert len({hasher(file).fingerprint(), doubled.fingerprint(), tripled.fingerprint()}) == 3


def test_a_model_of_other_sizes_is_not_loaded(file, tmp_path):
    model = hasher(file)
    for key, value in (("n_bytes", 10**12), ("n_bytes", -1), ("dim", 10**12), ("dim", 17), ("dim", "16")):
        model.config["encoder"] = {**hasher(file).config["encoder"], key: value}
        model.save(tmp_path / "model")
        with one_line_error(r"cannot (load the model|build)"):
            VideoHasher.load(tmp_path / "model")


def test_copies_and_pickles_run(file):
    model = hasher(file)
    model.features(images(1))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.features(images()), model.features(images()))


def test_loading_other_weights_replaces_the_network(file, tmp_path):
    first, second = OnnxEncoder(file), OnnxEncoder(write(onnx_network(before=(("Mul", 0.5),)), tmp_path))
    third = OnnxEncoder(n_bytes=len(second.content), dim=16)
    third.load_state_dict(second.state_dict())
    assert torch.equal(third(images()), second(images()))
    assert not torch.allclose(third(images()), first(images()))


def test_an_untrained_baseline_keeps_the_network(file):
    model = hasher(file)
    assert torch.equal(model.untrained().eval().features(images()), model.features(images()))


def test_autocast_and_half_precision_do_not_change_the_features(file):
    model = hasher(file)
    expected = model.features(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.features(images()), expected)
    encoder = OnnxEncoder(file).to(torch.bfloat16)
    assert encoder(images()).dtype == torch.float32
    assert model.device == torch.device("cpu")


def test_it_has_no_parameters_and_cannot_be_exported(file):
    model = hasher(file)
    assert not list(model.encoder.parameters())
    assert "is an ONNX file already" in obstacle(model, ENCODER)


def external(model):
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def external_constant(model):
    tensor = onnx.TensorProto(name="c", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))


def loop(model):
    model.graph.node.append(helper.make_node("Loop", ["", "yes"], ["never"], body=helper.make_graph([], "b", [], [])))


def two_inputs(model):
    model.graph.input.add().CopyFrom(helper.make_tensor_value_info("other", 1, [1]))
    model.graph.node.append(helper.make_node("Identity", ["other"], ["not used"]))


def gray(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1


def not_square(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 96


def enormous(model):
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 2**30


def batches_of_eight(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8


def whole_numbers(model):
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32


def unknown_operation(model):
    model.graph.node[0].op_type = "Unknown"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, "its weights are in another file"),
        (external_constant, "its weights are in another file"),
        (loop, "it contains the operation 'Loop', a loop or a branch"),
        (two_inputs, "it has 2 inputs and 1 outputs"),
        (gray, r"its input has the shape \(any, 1, 112, 112\), not"),
        (not_square, r"its images have \(96, 112\) pixels, not a square"),
        (enormous, "pixels, not a square of at most 1024"),
        (batches_of_eight, r"its input has the shape \(8, 3, 112, 112\), not"),
        (whole_numbers, "its input is not float32 or float16"),
        (unknown_operation, "onnxruntime cannot run it: "),
    ],
)
def test_unsafe_and_other_networks_give_a_one_line_error(change, message, tmp_path, file):
    model = onnx_network()
    change(model)
    path = write(model, tmp_path, "other.onnx")
    with one_line_error(rf"other\.onnx: .*{message}"):
        OnnxEncoder(path)
    # The same from a saved model, which may come from anyone.
    saved = hasher(file)
    content = torch.from_numpy(np.frombuffer(model.SerializeToString(), np.uint8).copy())
    saved.encoder.register_buffer("content", content)
    saved.config["encoder"]["n_bytes"] = len(content)
    saved.save(tmp_path / "model")
    with pytest.raises(UserError, match=rf"cannot encode an image: .*{message}"):
        VideoHasher.load(tmp_path / "model")


@pytest.mark.parametrize("fraction", [0, 0.01, 0.5, 0.999])
def test_truncated_file_gives_a_one_line_error(file, tmp_path, fraction):
    with open(file, "rb") as opened:
        content = opened.read()
    (tmp_path / "cut.onnx").write_bytes(content[: int(len(content) * fraction)])
    with one_line_error(r"cut\.onnx: (it is not an ONNX network|onnxruntime cannot run it)"):
        OnnxEncoder(str(tmp_path / "cut.onnx"))


def test_wrong_arguments_give_a_one_line_error(file, tmp_path):
    for arguments, message in (
        ({}, "weights=null: OnnxEncoder needs the path of an ONNX file, it has no random weights"),
        ({"weights": file, "color": "gray"}, "color=gray: must be one of rgb, bgr"),
        ({"weights": file, "mean": [1, 2]}, "mean=[1, 2]: must be a number, or one for each of three channels"),
        ({"weights": file, "std": 0}, "std must not contain 0"),
        (
            {"weights": str(tmp_path / "absent.onnx")},
            f"cannot read the weights {tmp_path}/absent.onnx: No such",
        ),
    ):
        with pytest.raises(UserError) as caught:
            OnnxEncoder(**arguments)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_package_is_named(file, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as caught:
        OnnxEncoder(file)
    needed = "running an ONNX file needs the packages onnx and onnxruntime: pip install 'facereel[export]'"
    assert str(caught.value) == f"{file}: {needed}"
