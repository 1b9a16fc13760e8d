import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from facereel import VideoHasher
from facereel.models import CasiaEncoder, DlibResNet, FaceNet, IResNet, MobileFaceNet, SFaceEncoder
from facereel.models.encoders.dlib_resnet import Affine
from facereel.models.folding import fold_batch_norms

NORMS = nn.BatchNorm1d | nn.BatchNorm2d | Affine


def at_work(network):
    """The network in evaluation mode, with every norm at work."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, NORMS):
                for tensor in module.state_dict().values():
                    if tensor.is_floating_point():
                        tensor.mul_(1 + 0.3 * torch.rand_like(tensor)).add_(0.1 * torch.rand_like(tensor))
    return network.eval()


def remaining(network):
    return sum(isinstance(module, NORMS) for module in network.modules())


@pytest.mark.parametrize(
    ("make", "side", "n_left"),
    [
        (lambda: CasiaEncoder(batch_norm=True, width=0.1), 32, 0),
        (lambda: DlibResNet(), 103, 0),
        (lambda: MobileFaceNet(), 112, 1),  # the one after the flattened output of a convolution
        (lambda: SFaceEncoder(), 112, 1),  # the one before the linear layer
        (
            lambda: IResNet("r18"),
            112,
            9,
        ),  # before the first convolution of each of 8 blocks, and before the linear layer
        (lambda: FaceNet(), 80, 0),
    ],
    ids=["casia", "dlib", "mobilefacenet", "sface", "iresnet", "facenet"],
)
def test_features_are_the_same_and_the_encoder_is_not_changed(make, side, n_left):
    encoder = at_work(make())
    state = copy.deepcopy(encoder.state_dict())
    images = torch.randn(2, 3, side, side)
    folded = fold_batch_norms(encoder, images)
    with torch.no_grad():
        expected = encoder(images)
        assert (folded(images) - expected).abs().max() < 1e-4 * expected.abs().max()
    assert folded is not encoder
    assert remaining(folded) == n_left
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items())


class Twice(nn.Sequential):
    def forward(self, x):
        return super().forward(super().forward(x))


class Shared(nn.Module):
    """The output of the convolution has a second use, which folding would change."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return (self.bn(y) + y).mean(dim=(2, 3))


class InPlace(Shared):
    def forward(self, x):
        return self.bn(relu(self.conv(x), inplace=True)).mean(dim=(2, 3))


def without_statistics():
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten())


@pytest.mark.parametrize(
    "make", [lambda: Twice(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), Shared, InPlace, without_statistics, nn.Flatten]
)
def test_what_cannot_be_folded_stays(make):
    encoder = at_work(make())
    assert fold_batch_norms(encoder, torch.randn(2, 3, 8, 8)) is encoder


def hasher():
    torch.manual_seed(0)
    model = VideoHasher(
        {
            "preprocess": {"_target_": "facereel.models.Preprocess", "size": 32},
            "encoder": {"_target_": "facereel.models.CasiaEncoder", "batch_norm": True, "width": 0.1},
            "pooling": {"_target_": "facereel.models.MeanPooling"},
            "head": {"_target_": "facereel.models.LshHead", "n_bits": 16},
        }
    )
    at_work(model.encoder)
    return model.eval()


def runs(model, images):
    """Whether the folded copy encodes: a hook on the encoder is not called."""
    called = []
    handle = model.encoder.register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        features = model.features(images)
    handle.remove()
    return features, not called


@pytest.mark.parametrize("inference", [True, False])
def test_a_prepared_model_encodes_with_the_copy(inference):
    images, model = torch.rand(2, 3, 32, 32), hasher()
    before, folded = runs(model, images)
    assert not folded
    fingerprint = model.fingerprint()
    with torch.inference_mode(inference):
        assert model.prepare_inference() is model
    features, folded = runs(model, images)
    assert folded
    assert (features - before).abs().max() < 1e-4 * before.abs().max()
    assert model.fingerprint() == fingerprint
    assert model.state_dict().keys() == hasher().state_dict().keys()
    copied = model._folded._copy
    model.prepare_inference()
    assert model._folded._copy is copied


def test_a_changed_weight_is_noticed():
    images, model = torch.rand(2, 3, 32, 32), hasher().prepare_inference()
    with torch.no_grad():
        model.encoder.layers[0].weight.mul_(2)
    features, folded = runs(model, images)
    assert not folded
    again, folded = runs(model.prepare_inference(), images)
    assert folded
    assert (again - features).abs().max() < 1e-4 * features.abs().max()
    model.load_state_dict(hasher().state_dict())
    assert not runs(model, images)[1]
    assert not runs(hasher().prepare_inference().double(), images.double())[1]


def test_training_uses_the_encoder():
    images, model = torch.rand(2, 3, 32, 32), hasher().prepare_inference()
    assert model.features(images).requires_grad
    model.train()
    assert not runs(model, images)[1]
    assert not runs(model.prepare_inference(), images)[1]


def test_copies_and_pickles_are_prepared_again():
    images, model = torch.rand(2, 3, 32, 32), hasher().prepare_inference()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not runs(other, images)[1]
        assert runs(other.prepare_inference(), images)[1]


def test_many_images_are_encoded_in_parts():
    images, model = torch.rand(4 * torch.get_num_threads() * 2 + 1, 3, 32, 32), hasher().prepare_inference()
    sizes = []
    model._folded._copy.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    features, _ = runs(model, images)
    assert sum(sizes) == len(images)
    assert max(sizes) == 4 * torch.get_num_threads()
    alone = torch.cat([runs(model, image[None])[0] for image in images])
    assert (features - alone).abs().max() < 1e-4 * alone.abs().max()


def test_a_layer_with_a_name_in_a_sequence():
    network = at_work(nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3, groups=1), bn=nn.BatchNorm2d(4, affine=False))))
    network.append(nn.Flatten())
    assert remaining(fold_batch_norms(network, torch.randn(2, 3, 8, 8))) == 0
