"""Each device gives the results of the CPU in float64. The tests run on the CPU, and on a CUDA GPU if there is one.

`make test-gpu` runs them on the GPU. They were not run on one yet, so their tolerances there may have to change.
"""

import copy
import signal
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from commands import run
from drawn_faces import make_folder
from films import encode_film, frames, make_film
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from mean_hasher import CONFIG
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from facereel import VideoHasher, functional, losses, models
from facereel.config.compose import config_dir
from facereel.data import Batch, augment_batch
from facereel.functional import hamming_distance, hamming_histograms, log_covariance, pack_codes
from facereel.losses import Outputs, TripletLoss
from facereel.parallel import distributed
from facereel.retrieval.backends.code_part import CodePart
from facereel.retrieval.code_index import CodeIndex
from facereel.retrieval.track_index import TrackIndex
from facereel.system.optional import import_faiss
from facereel.training.hashing_module import HashingModule
from facereel.video.decode import Video

DIM, N_FRAMES, N_PEOPLE, N_BITS = 32, 9, 4, 24
MASK = torch.arange(N_FRAMES) < torch.tensor([9, 5, 2, 1])[:, None]
RANDOM = torch.Generator().manual_seed(5)
FRAMES = torch.randn(4, N_FRAMES, DIM, generator=RANDOM)
QUERIES, GALLERY = (torch.rand(n, N_BITS, generator=RANDOM) for n in (5, 40))
OWNERS = torch.arange(5) % N_PEOPLE, torch.arange(40) % N_PEOPLE
HISTOGRAMS = hamming_histograms(QUERIES > 0.5, GALLERY > 0.5, *OWNERS)
MATRICES = FRAMES.mT @ FRAMES
MEANS = torch.randn(2, DIM, generator=RANDOM)


def projection(x, labels):
    """The subspace: the sign of a discriminant is undetermined."""
    found = functional.linear_discriminants(x, labels, 3, shrinkage=0.1)
    return x @ found @ found.mT


# By name in `functional`: the arguments, and a function in place of the operator itself.
OPERATORS = {
    "asymmetric_distance": ((QUERIES, GALLERY > 0.5), None),
    "average_precision": (HISTOGRAMS, None),
    "distance_histograms": (((QUERIES * 8).round(), QUERIES > 0.5), None),
    "expected_recall_at_k": (HISTOGRAMS, partial(functional.expected_recall_at_k, k=3)),
    "half_unvectorize": ((GALLERY[:, :10],), None),
    "half_vectorize": ((MATRICES,), None),
    "hamming_distance": ((pack_codes(QUERIES > 0.5), pack_codes(GALLERY > 0.5)), None),
    "hamming_histograms": ((QUERIES > 0.5, GALLERY > 0.5, *OWNERS), None),
    "linear_discriminants": ((FRAMES.flatten(0, 1), torch.arange(4 * N_FRAMES) % N_PEOPLE), projection),
    "log_covariance": ((FRAMES, MASK), None),
    "mean_average_precision": ((QUERIES > 0.5, GALLERY > 0.5, *OWNERS), None),
    "pack_codes": ((GALLERY > 0.5,), None),
    "spherical_congruence": ((MATRICES, *MEANS), None),
    "spherical_transform": ((FRAMES, *MEANS), None),
    "sqrt_covariance": ((FRAMES, MASK), None),
    "translation_transform": ((FRAMES, *MEANS), None),
    "unpack_codes": ((pack_codes(GALLERY > 0.5),), partial(functional.unpack_codes, n_bits=N_BITS)),
}
POOLINGS = {
    **{
        name: partial(getattr(models, name), DIM)
        for name in models.__all__
        if name.endswith("Pooling") and name != "ProjectedPooling"
    },
    # Its projection is fitted, and the identity until then.
    "ProjectedPooling": partial(models.ProjectedPooling, DIM, models.MeanPooling),
}
LOSSES = {
    "ClassificationLoss": (N_PEOPLE, DIM),
    "CodeClassificationLoss": (N_PEOPLE, N_BITS),
    "HashCenterLoss": (N_PEOPLE, N_BITS),
    "MultiSimilarityLoss": (),
    "OrthoHashLoss": (N_PEOPLE, N_BITS),
    "TripletLoss": (2.0,),
}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return torch.device(request.param)


def on(device, values):
    return tree_map_only(Tensor, lambda x: x.detach().to(device, copy=True), values)


def doubled(values):
    return tree_map_only(Tensor, lambda x: x.double() if x.is_floating_point() else x, values)


def with_gradient(function, arguments):
    """The results, and the gradient of a weighted sum of them in each argument that is floating point."""
    floating = [x.requires_grad_() for x in arguments if isinstance(x, Tensor) and x.is_floating_point()]
    found = function(*arguments)
    results = [*found] if isinstance(found, tuple) else [torch.as_tensor(found)]
    if floating and all(result.requires_grad for result in results):
        weights = [torch.linspace(-1, 1, x.numel()).to(x).view_as(x) for x in results]
        results += torch.autograd.grad(results, floating, weights)
    return results


def assert_same(found, expected, tolerance=1e-3):
    """Equal numbers, and floating ones within a part of the largest."""
    assert len(found) == len(expected)
    for a, b in zip(on("cpu", found), on("cpu", expected), strict=True):
        if a.is_floating_point():
            assert torch.allclose(a.double(), b.double(), rtol=0, atol=tolerance * max(1.0, b.abs().max().item()))
        else:
            assert torch.equal(a, b)


def test_no_operator_pooling_or_loss_is_absent_here():
    assert set(OPERATORS) == set(functional.__all__)
    assert {"MetricLearningLoss", "Outputs", *LOSSES} == set(losses.__all__)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name, device):
    arguments, function = OPERATORS[name]
    function = function or getattr(functional, name)
    found = with_gradient(function, on(device, arguments))
    assert_same(found, with_gradient(function, doubled(on("cpu", arguments))))
    assert name == "mean_average_precision" or all(x.device.type == device.type for x in found)


@pytest.mark.parametrize("n_frames", [N_FRAMES, 40])
@pytest.mark.parametrize("method", ["gram", "eigh", "polynomial", "supplement"])
def test_gradient_of_each_form_of_log_covariance(method, n_frames, device):
    if method == "supplement" and n_frames > DIM:
        pytest.skip("the supplement's form needs at most as many frames as features")
    options: dict[str, Any] = {}
    if method == "polynomial":
        options = {"eps": 0.1, "normalize": True, "unit_frames": True}
    frames = torch.randn(3, n_frames, DIM)
    found = with_gradient(partial(log_covariance, method=method, **options), on(device, (frames,)))
    assert len(found) == 2
    assert_same(found, with_gradient(partial(log_covariance, **options), (frames.double(),)))


@pytest.mark.parametrize("name", POOLINGS)
def test_poolings(name, device):
    pooling = POOLINGS[name]()
    found = with_gradient(copy.deepcopy(pooling).to(device), on(device, (FRAMES, MASK)))
    assert_same(found, with_gradient(pooling.double(), doubled(on("cpu", (FRAMES, MASK)))))


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, device):
    loss = getattr(losses, name)(*LOSSES[name])
    labels = torch.arange(36) % N_PEOPLE
    arguments = FRAMES.flatten(0, 1), labels, GALLERY[:36], labels, torch.arange(36) < 20

    def value(module):
        return lambda *fields: module(Outputs(*fields)) + 0 * (fields[0].sum() + fields[2].sum())

    found = with_gradient(value(copy.deepcopy(loss).to(device)), on(device, arguments))
    assert any(gradient.any() for gradient in found[1:])
    assert_same(found, with_gradient(value(loss.double()), doubled(on("cpu", arguments))))


def test_scores(device):
    model = VideoHasher(CONFIG).eval()
    clips = torch.rand(3, 4, 3, 112, 112)
    _, found = copy.deepcopy(model).to(device).encode_clips(clips.to(device), return_scores=True)
    _, expected = model.double().encode_clips(clips.double(), return_scores=True)
    assert_same([found], [expected], 1e-2)


def test_augmentation(device):
    """The draws are the CPU's on every device, and rounding changes a value by little; JPEG runs on the CPU."""
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        images = compose("train", ["augment=strong", "data.size=32"]).augment.images
    for transform in ("grayscale", "blur", "jpeg"):
        images.photometric[transform].p = 1.0
    images.drop_frames = 0.5
    stills, clips = (torch.randint(256, (*shape, 3, 40, 40), dtype=torch.uint8) for shape in ((3,), (2, 6)))
    mask = torch.arange(6) < torch.tensor([6, 4])[:, None]
    batch = Batch(stills, torch.arange(3), clips, mask, torch.arange(2))
    results = []
    for place in (device, torch.device("cpu")):
        torch.manual_seed(2)
        results.append(augment_batch(Batch(*on(place, tuple(batch))), instantiate(images)))
    assert {x.device.type for x in results[0]} == {device.type}
    found, expected = (on("cpu", tuple(result)) for result in results)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert (a.int() - b.int()).abs().max() <= 8
    assert not torch.equal(found[0], stills)


def test_flat_index(device):
    if device.type == "cuda" and not getattr(import_faiss(), "get_num_gpus", int)():
        pytest.skip("needs faiss-gpu")
    random = torch.Generator().manual_seed(0)
    codes, queries = (torch.rand(n, 64, generator=random) > 0.5 for n in (5000, 20))
    index = CodeIndex.of_parts(64, [CodePart(torch.arange(5000).numpy(), pack_codes(codes).numpy())])
    distances, ids = index.search(queries, 10)
    # Of equal distances, the lower number is first.
    order = hamming_distance(pack_codes(queries), pack_codes(codes)).sort(dim=1, stable=True)
    assert torch.equal(ids, order.indices[:, :10])
    assert torch.equal(distances.long(), order.values[:, :10].long())


class Step(nn.Module):
    """The training step as the forward pass, as Lightning's strategy has it."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, batch):
        return self.module.loss(self.module.outputs(batch))


def gradients(device, is_distributed):
    torch.manual_seed(0)
    config = {**CONFIG, "head": {"_target_": "facereel.models.SharedHead", "n_bits": 8, "dropout": 0.0}}
    step: nn.Module = Step(HashingModule(VideoHasher(config), TripletLoss(4.0)).to(device))
    if is_distributed:
        step = DistributedDataParallel(step)
    labels = torch.tensor([0, 0, 1, 1])
    stills, clips = (torch.randint(256, shape, dtype=torch.uint8) for shape in ((4, 3, 112, 112), (4, 2, 3, 112, 112)))
    batch = Batch(stills, labels, clips, torch.ones(4, 2, dtype=torch.bool), labels)
    step(Batch(*on(device, tuple(batch)))).backward()
    return [p.grad.cpu() for p in step.parameters()]


def distribute(rank, folder, device):
    """One process, since NCCL has one for each GPU: what it gathers is its own, by the collectives of many."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(f"cpu:gloo,cuda:{backend}", f"file://{folder}/meeting", rank=rank, world_size=1)
    rows = torch.randn(3, 2, device=device, requires_grad=True)
    lengths = distributed._lengths(rows)
    joined = distributed._Gather.apply(rows, lengths)
    (gradient,) = torch.autograd.grad((joined * 2).sum(), rows)
    of_cpu = distributed._Gather.apply(torch.arange(3), lengths)  # scores of an evaluation are on the CPU
    torch.save((gradients(device, True), lengths, torch.equal(joined, rows), gradient, of_cpu), folder / "out.pt")
    dist.destroy_process_group()


def test_distributed_step(device, tmp_path):
    start_processes(distribute, (tmp_path, device), nprocs=1, start_method="spawn")
    found, lengths, is_same, gradient, of_cpu = torch.load(tmp_path / "out.pt", map_location="cpu")
    assert (lengths, is_same, of_cpu.tolist()) == ([3], True, [0, 1, 2])
    assert gradient.eq(2).all()
    expected = gradients(device, False)
    assert any(x.abs().max() > 1e-4 for x in expected)
    assert_same(found, expected, 1e-4)


def test_bf16_encoder(device):
    """Rounding changes which pixel a maximum pooling takes, so the gradient differs more than the features."""
    encoder, images = models.CasiaEncoder(width=0.125), torch.rand(4, 3, 64, 64)
    results = []
    for model, dtype in ((copy.deepcopy(encoder).double(), torch.float64), (encoder.to(device), torch.float32)):
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.float32):
            features = model(images.to(next(model.parameters())))
        weights = torch.linspace(-1, 1, features.numel()).to(features).view_as(features)
        gradient = torch.autograd.grad(features, list(model.parameters()), weights)
        results.append(on("cpu", (features, torch.cat([x.flatten() for x in gradient]))))
    for expected, found, most in zip(*results, (0.01, 0.2), strict=True):
        error = (found.double() - expected).norm() / expected.norm()
        assert 1e-4 < error < most  # in float32 it is about 1e-6


def test_compiled_encoder(device):
    """As trainer.compile has it; on the CPU with the backend that needs no C++ compiler."""
    encoder = models.CasiaEncoder(width=0.125).to(device)
    arguments = [torch.rand(4, 3, 64, 64, device=device)]
    expected = with_gradient(encoder, arguments)
    encoder.compile(backend="inductor" if device.type == "cuda" else "aot_eager")
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    found = with_gradient(encoder, arguments)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    assert len(found) == 2
    assert_same(found, expected)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "mpeg4"), ("a.avi", "mjpeg")])
def test_decoded_frames(name, codec, device, tmp_path):
    images = list(frames("Anna", "Cleo", seconds=2, fps=25))
    found = list(Video(encode_film(tmp_path / name, codec, images, 25), device).sample(5))
    assert [frame.seconds for frame in found] == pytest.approx(np.arange(10) / 5)
    for one, drawn in zip(found, images[::5], strict=True):
        assert np.abs(one.image.astype(int) - drawn).mean() < 6


def test_codes_of_an_index(device, tmp_path):
    make_film(tmp_path / "films" / "a.mp4", "Anna", "Cleo", seconds=1)
    codes = []
    for place in ("cpu", device.type):
        out = tmp_path / f"{len(codes)}"
        assert run("index", tmp_path / "films", "--out", out, "--device", place) == 0
        index = TrackIndex(out)
        codes.append(torch.stack([index.vectors.code(track.id) for track in index.tracks()]))
    assert len(codes[0]) == 2
    assert codes[0].eq(codes[1]).float().mean() >= 0.99


SMALL = [
    *("encoder.width=0.125", "head.n_bits=16", "data.size=32", "data.detector=null", "batch.identities_per_batch=3"),
    *("batch.n_frames=4", "augment.runs_on=device", "stages.pretrain=null", "stages.stage2=null", "head.dropout=0"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ["data=folder", f"data.root={make_folder(tmp_path_factory.mktemp('faces'), n_people=4)}", *SMALL]


def weights(folder):
    return [*on("cpu", tuple(VideoHasher.load(folder).state_dict().values()))]


def test_bf16_steps_give_the_scores_of_float32(data, device, tmp_path):
    """After more steps, runs that round differently have different weights, as runs with other seeds have."""
    clips, scores = torch.rand(20, 3, 3, 32, 32), []
    for precision in ("32-true", "bf16-mixed"):
        out = tmp_path / precision
        options = [f"trainer.accelerator={device.type}", f"trainer.precision={precision}", "stages.stage1.max_steps=4"]
        assert run("train", *data, *options, f"out={out}") == 0
        scores.append(VideoHasher.load(out).eval().encode_clips(clips, return_scores=True)[1])
    assert 0 < (scores[0] - scores[1]).abs().max() < 0.05


def test_checkpoint_of_the_device_is_resumed_on_the_cpu(data, device, tmp_path, monkeypatch):
    real, stops = HashingModule.training_step, [1]

    def step(self, batch, batch_idx):
        if self.global_step in stops:
            stops.clear()
            signal.raise_signal(signal.SIGTERM)
        return real(self, batch, batch_idx)

    monkeypatch.setattr(HashingModule, "training_step", step)
    stage = "stages.stage1.max_steps=4"
    assert run("train", *data, stage, f"trainer.accelerator={device.type}", f"out={tmp_path / 'run'}") == 143
    assert run("train", f"resume={tmp_path / 'run'}", "trainer.accelerator=cpu") == 0
    saved = torch.load(tmp_path / "run" / "stage1" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    assert run("train", *data, stage, "trainer.accelerator=cpu", f"out={tmp_path / 'whole'}") == 0
    assert_same(weights(tmp_path / "run"), weights(tmp_path / "whole"), 1e-2)
