import json
import pickle
import subprocess
import sys

import pytest
import torch

from facereel import VideoHasher
from facereel.errors import UntrustedModuleError, UserError
from facereel.models.hasher import CONFIG_FILE, WEIGHTS_FILE

SMALL = {
    "preprocess": {"_target_": "facereel.models.Preprocess", "size": 32, "grayscale": True},
    "encoder": {"_target_": "facereel.models.CasiaEncoder", "batch_norm": True, "width": 0.125},
    "pooling": {"_target_": "facereel.models.LogCovariancePooling"},
    "head": {"_target_": "facereel.models.SeparateHeads", "n_bits": 12},
}


def with_part(key, **part):
    return {**SMALL, key: {"_target_": f"facereel.models.{part.pop('name')}", **part}}


@pytest.fixture
def model():
    return VideoHasher(SMALL)


@pytest.mark.parametrize("head", ["SeparateHeads", "SharedHead"])
@pytest.mark.parametrize("pooling", ["LogCovariancePooling", "MeanPooling", "MaxPooling"])
def test_codes_are_scores_above_one_half(head, pooling):
    model = VideoHasher(
        {**with_part("head", name=head, n_bits=20), "pooling": {"_target_": f"facereel.models.{pooling}"}}
    )
    clips = torch.rand(3, 4, 3, 40, 36)
    for codes, scores in (model.encode_clips(clips, return_scores=True), model.encode_stills(clips[:, 0], True)):
        assert codes.shape == scores.shape == (3, 20)
        assert codes.dtype == torch.bool
        assert torch.equal(codes, scores > 0.5)
        assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("pooling", ["LogCovariancePooling", "MeanPooling", "MaxPooling"])
def test_padding_frames_does_not_change_codes(pooling):
    model = VideoHasher({**SMALL, "pooling": {"_target_": f"facereel.models.{pooling}"}})
    clip = torch.rand(1, 3, 3, 32, 32)
    padded = torch.cat([clip, torch.rand(1, 2, 3, 32, 32)], dim=1)
    mask = torch.tensor([[True] * 3 + [False] * 2])
    _, expected = model.encode_clips(clip, return_scores=True)
    _, scores = model.encode_clips(padded, mask, return_scores=True)
    assert torch.allclose(scores, expected, atol=1e-6)


def test_shared_head_treats_a_still_as_a_clip_of_one_frame():
    model = VideoHasher(with_part("head", name="SharedHead", n_bits=16))
    images = torch.rand(4, 3, 32, 32)
    _, stills = model.encode_stills(images, return_scores=True)
    _, clips = model.encode_clips(images[:, None], return_scores=True)
    assert torch.allclose(stills, clips, atol=1e-6)


def test_grayscale_models_ignore_color(model):
    image = torch.rand(1, 3, 32, 32)
    luma = (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True).expand_as(image)
    _, color = model.encode_stills(image, return_scores=True)
    _, grayscale = model.encode_stills(luma, return_scores=True)
    assert torch.allclose(color, grayscale, atol=1e-5)


def test_loaded_model_gives_the_same_codes(model, tmp_path):
    folder = tmp_path / "a folder=ä"
    model.save(folder)
    loaded = VideoHasher.load(folder)
    images = torch.rand(5, 3, 32, 32)
    assert torch.equal(loaded.encode_stills(images, True)[1], model.encode_stills(images, True)[1])
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    assert not loaded.training


def test_encoding_does_not_change_the_mode(model):
    model.train()
    before = model.encoder.layers[1].running_mean.clone()
    model.encode_stills(torch.rand(2, 3, 32, 32))
    assert model.training
    assert torch.equal(model.encoder.layers[1].running_mean, before)


def test_untrained_has_the_same_architecture_with_other_weights(model):
    other = model.untrained()
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in other.named_parameters()}
    assert not torch.equal(model.head.still[1].weight, other.head.still[1].weight)


@pytest.mark.slow
def test_works_without_lightning_hydra_and_faiss(model, tmp_path):
    model.save(tmp_path)
    code = (
        "import sys, torch\n"
        "for name in ('pytorch_lightning', 'hydra', 'omegaconf', 'faiss', 'wandb'): sys.modules[name] = None\n"
        "from facereel import VideoHasher\n"
        f"print(VideoHasher.load({str(tmp_path)!r}).encode_stills(torch.rand(2, 3, 32, 32)).shape)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "torch.Size([2, 12])", result.stderr


def test_torchvision_backbones_are_built_by_name():
    model = VideoHasher(
        with_part("encoder", name="TorchvisionEncoder")
        | {
            "encoder": {"_target_": "facereel.models.TorchvisionEncoder", "name": "mobilenet_v3_small"},
            "pooling": {"_target_": "facereel.models.MeanPooling"},
        }
    )
    assert model.encoder.dim == 1024
    codes, _ = model.encode_stills(torch.rand(2, 3, 32, 32), return_scores=True)
    assert codes.shape == (2, 12)


def test_torchvision_weights_from_a_local_file(tmp_path):
    import torchvision

    from facereel.models import TorchvisionEncoder

    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    encoder = TorchvisionEncoder("resnet18", str(tmp_path / "weights.pt"))
    assert torch.equal(encoder.network.conv1.weight, network.conv1.weight)
    with pytest.raises(UserError, match="not a state dict for"):
        TorchvisionEncoder("resnet34", str(tmp_path / "weights.pt"))
    with pytest.raises(UserError, match="cannot read the weights"):
        TorchvisionEncoder("resnet18", str(tmp_path / "absent.pt"))


def test_casia_encoder_matches_the_released_network():
    from facereel.models import CasiaEncoder

    encoder = CasiaEncoder()
    convolutions = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [32, 64, 64, 128, 96, 192, 128, 256, 160, 320]
    assert sum(isinstance(m, torch.nn.ReLU) for m in encoder.modules()) == 9
    assert sum(isinstance(m, torch.nn.MaxPool2d) for m in encoder.modules()) == 4
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in encoder.modules())
    features = encoder(torch.randn(2, 3, 64, 64))
    assert features.shape == (2, 320)
    assert (features < 0).any()  # no ReLU behind the last convolution


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode_stills(torch.zeros(2, 32, 32)), "images must be floating point"),
        (lambda m: m.encode_stills(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)), "images must be floating point"),
        (lambda m: m.encode_clips(torch.zeros(1, 3, 32, 32)), "clips must be"),
        (lambda m: m.encode_clips(torch.zeros(1, 2, 3, 32, 32), torch.ones(1, 2)), "mask must be bool"),
        (
            lambda m: m.encode_clips(torch.zeros(1, 2, 3, 32, 32), torch.zeros(1, 2, dtype=torch.bool)),
            "at least one real",
        ),
    ],
)
def test_wrong_input_raises(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "has no preprocess"),
        (with_part("head", name="SeparateHeads", n_bits=0), "n_bits=0: must be at least 1"),
        (with_part("encoder", name="NoSuchEncoder"), "cannot build encoder"),
        (with_part("encoder", name="CasiaEncoder", depth=3), "cannot build encoder"),
        ({**SMALL, "encoder": {"_target_": "os.system"}}, "not trusted"),
        ({**SMALL, "encoder": {"_target_": "facereel.models.hasher.save_file"}}, "is not a torch module"),
        (with_part("head", name="SeparateHeads", n_bits=8, dropout=2), "cannot build head"),
        ({**SMALL, "encoder": {"_target_": "facereel.models_evil.X"}}, "not trusted"),
        (
            {**SMALL, "encoder": {"_target_": "facereel.models.TorchvisionEncoder", "name": "resnet999"}},
            "no such model",
        ),
    ],
)
def test_bad_configurations_raise(config, message):
    with pytest.raises(UserError, match=message):
        VideoHasher(config)


def test_untrusted_module_error_can_be_pickled():
    with pytest.raises(UntrustedModuleError) as caught:
        VideoHasher({**SMALL, "preprocess": {"_target_": "evil.Preprocess"}})
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.module, str(copy)) == ("evil", str(caught.value))
    assert str(copy).endswith("trust the module evil")


def test_invalid_checkpoints_raise(model, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        VideoHasher.load(tmp_path / "absent")
    with pytest.raises(UserError, match=r"has no model\.json"):
        VideoHasher.load(tmp_path)
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(UserError, match="not a facereel checkpoint"):
        VideoHasher.load(tmp_path / "text.ckpt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not a facereel checkpoint"):
        VideoHasher.load(tmp_path / "other.ckpt")
    torch.save({"state_dict": {}, "hasher_config": {"encoder": 3}}, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match="does not describe a model"):
        VideoHasher.load(tmp_path / "odd.ckpt")
    model.save(tmp_path / "model")
    weights = tmp_path / "model" / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        VideoHasher.load(tmp_path / "model")
    model.save(tmp_path / "model")
    config = tmp_path / "model" / CONFIG_FILE
    config.write_text(json.dumps(with_part("head", name="SeparateHeads", n_bits=13)))
    with pytest.raises(UserError, match="do not fit"):
        VideoHasher.load(tmp_path / "model")


def test_a_checkpoint_is_never_unpickled(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"state_dict": {}, "hasher_config": Attack()}, tmp_path / "attack.ckpt")
    with pytest.raises(UserError, match="not a facereel checkpoint"):
        VideoHasher.load(tmp_path / "attack.ckpt")
    assert not (tmp_path / "executed").exists()


def test_model_larger_than_its_weights_raises_before_allocating_memory(model, tmp_path):
    """Of 10^12 bits: 2 PB of weights."""
    model.save(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(with_part("head", name="SeparateHeads", n_bits=10**12)))
    with pytest.raises(UserError, match="do not fit"):
        VideoHasher.load(tmp_path)


@pytest.mark.parametrize("part", [{"size": 0}, {"size": 10**9}, {"margin": float("nan")}, {"std": [1, 0, 1]}])
def test_preprocessing_out_of_range_raises(part):
    with pytest.raises(UserError, match=f"cannot build preprocess .* {next(iter(part))}="):
        VideoHasher(with_part("preprocess", name="Preprocess", **part))


def test_model_that_cannot_encode_raises(model, tmp_path):
    """Images of a pixel are smaller than its network needs."""
    model.save(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(with_part("preprocess", name="Preprocess", size=1, grayscale=True)))
    with pytest.raises(UserError, match="cannot encode an image"):
        VideoHasher.load(tmp_path)
