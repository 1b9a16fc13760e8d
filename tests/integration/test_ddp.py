"""Two processes over gloo train and evaluate as one does, in float64."""

import csv
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from commands import flat, run
from drawn_faces import make_folder
from fast_processes import start, start_command
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from facereel import VideoHasher
from facereel.data import Clip, FaceDataset, FaceSet, PKBatchSampler, Row, Still, collate, shard_batch
from facereel.losses import ClassificationLoss, CodeClassificationLoss, TripletLoss
from facereel.models import SphericalAugment
from facereel.parallel import distributed as processes
from facereel.training.hashing_module import HashingModule

CONFIG = {
    "preprocess": {"_target_": "facereel.models.Preprocess", "size": 16},
    "encoder": {"_target_": "facereel.models.CasiaEncoder"},
    "pooling": {"_target_": "facereel.models.LogCovariancePooling", "subtract_floor": True},
    "head": {"_target_": "facereel.models.SeparateHeads", "n_bits": 8, "dropout": 0.0},
}
N_PEOPLE = 4
MOVED: dict[str, Any] = {"warm_up": 0, "probability": 0.7}
# Three people's clips and stills are divided as two and one; what a loss or an augmentation sees is the whole.
CASES: dict[str, tuple[Callable[[], Any], Callable[..., SphericalAugment] | None]] = {
    "triplets": (partial(TripletLoss, 4.0), None),
    "triplets in order of the batch, moved": (
        partial(TripletLoss, 4.0, pairs="cross_modal", index_order=True),
        partial(SphericalAugment, **MOVED),
    ),
    "a loss with weights, gradients through moving means": (
        partial(CodeClassificationLoss, N_PEOPLE, 8),
        partial(SphericalAugment, **MOVED, mean_gradient=True, momentum=0.5),
    ),
    "pretraining, moved between its classes": (
        partial(ClassificationLoss, N_PEOPLE, 320),
        partial(SphericalAugment, **MOVED, means="proxies", mean_gradient=True),
    ),
}


def faces():
    """Two clips of 2 or 3 frames and two stills a person, of random pixels."""
    rows, clips, stills = [], [], []
    for person in range(N_PEOPLE):
        for c in range(2):
            members = tuple(range(len(rows), len(rows) + 2 + c))
            rows += [Row(str(person), str(c), str(c), f"{person}/{c}/{i}", "") for i in members]
            clips.append(Clip(person, f"{person}/{c}", f"{person}/{c}", members))
        for s in range(2):
            stills.append(Still(person, f"{person}/still{s}", f"{person}/still{s}", len(rows)))
            rows.append(Row(str(person), "", f"still{s}", f"{person}/still{s}", ""))
    generator = torch.Generator().manual_seed(3)
    crops = torch.randint(256, (len(rows), 3, 16, 16), generator=generator, dtype=torch.uint8)
    return FaceSet([str(person) for person in range(N_PEOPLE)], crops, rows, clips, stills)


class Step(nn.Module):
    """What Lightning's strategy makes of a module: its training step is the forward pass."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, batch, draws):
        return self.module.loss(self.module.outputs(batch, draws))


def train(case):
    """Two steps: losses, and of each step the gradients, and the weights and class means at the end."""
    torch.manual_seed(0)
    make_loss, make_augment = CASES[case]
    augment = make_augment(N_PEOPLE, 320) if make_augment else None
    loss = make_loss()
    codes = not isinstance(loss, ClassificationLoss)
    module = HashingModule(VideoHasher(CONFIG), loss, train_hash=codes, feature_augment=augment)
    step: nn.Module = Step(module.double())
    if dist.is_initialized():
        step = DistributedDataParallel(step, find_unused_parameters=not codes)
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    data, items = FaceDataset(faces(), [*faces().clips, *faces().stills]), [*faces().clips, *faces().stills]
    is_clip = [isinstance(item, Clip) for item in items]
    losses, gradients = [], []
    for i, batch in enumerate(PKBatchSampler(items, 3, 1, 1, seed=0)):
        own = collate([data[j] for j in shard_batch(batch, is_clip, processes.rank(), processes.world_size())])
        optimizer.zero_grad()
        value = step(
            own._replace(stills=own.stills.double(), clips=own.clips.double()), torch.Generator().manual_seed(i)
        )
        value.backward()
        losses.append(value.item())
        gradients.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
        optimizer.step()
        if i == 1:
            return losses, gradients, {name: tensor.clone() for name, tensor in module.state_dict().items()}
    raise AssertionError("the sampler has less than two batches")


class Naive(torch.autograd.Function):
    """torch.distributed.all_gather with one's own rows put back, as is often done: others' rows have no gradient."""

    @staticmethod
    def apply(tensor, lengths):
        with torch.no_grad():
            joined = REAL(tensor, lengths)
        start = sum(lengths[: dist.get_rank()])
        return torch.cat([joined[:start], tensor, joined[start + len(tensor) :]])


REAL = processes._Gather.apply


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {case: train(case) for case in CASES}
    with patch.object(processes, "_Gather", Naive):
        results["naive"] = train("triplets")
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def end_well(started):
    """Wait for processes, which must succeed; none is left."""
    try:
        for process in started:
            process.join(timeout=300)
        assert [process.exitcode for process in started] == [0] * len(started)
    finally:
        for process in started:
            process.kill()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """The results of both processes."""
    folder = tmp_path_factory.mktemp("two")
    end_well([start(work, rank, folder) for rank in range(2)])
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def difference(found, expected):
    assert found.keys() == expected.keys()
    return max((found[name] - expected[name]).abs().max().item() for name in expected)


@pytest.mark.parametrize("case", CASES)
def test_loss_gradient_and_weights_equal_one_process(case, of_two):
    losses, gradients, weights = train(case)
    assert all(any(g.abs().max() > 1e-4 for name, g in step.items() if "encoder" in name) for step in gradients)
    for results in of_two:
        found_losses, found_gradients, found_weights = results[case]
        assert found_losses == pytest.approx(losses, abs=1e-9)
        for found, expected in zip(found_gradients, gradients, strict=True):
            # Weights that are not used have none in one process, and may have zeros in two.
            assert all(not found[name].any() for name in found.keys() - expected.keys())
            assert difference({name: found[name] for name in expected}, expected) < 1e-9
        assert difference(found_weights, weights) < 1e-9


def test_gathering_without_gradient_would_be_wrong(of_two):
    """The loss is right all the same; codes get the gradient of one's own rows, halved when processes are averaged."""
    losses, gradients, _ = train("triplets")
    naive_losses, naive_gradients, _ = of_two[0]["naive"]
    assert naive_losses[0] == pytest.approx(losses[0], abs=1e-9)
    for name, gradient in gradients[0].items():
        assert torch.allclose(naive_gradients[0][name], gradient / 2, atol=1e-9), name
    assert difference(naive_gradients[0], gradients[0]) > 1e-4


# In float64 and without what each process draws for itself: dropout, frames of longer clips, augmentation of images.
COMPARABLE = [
    *("encoder=casia", "encoder.width=0.5", "head.n_bits=8", "head.dropout=0", "data.size=32", "data.detector=null"),
    *("augment=sft", "augment.images=null", "augment.features.warm_up=1", "trainer.precision=64-true"),
    *(
        "protocol.val_fraction=0.3",
        "batch.identities_per_batch=3",
        "batch.n_clips=1",
        "batch.n_stills=1",
        "batch.batch_size=7",
    ),
    *("stages.pretrain.max_steps=2", "stages.stage1.max_steps=6", "stages.stage2.max_steps=3"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("faces"), n_people=4)
    return ["data=folder", f"data.root={root}"]


def losses_of(folder):
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def test_command_trains_and_evaluates_as_with_one_process(data, tmp_path):
    for name in ("cpu", "ddp_cpu"):
        assert run("train", *data, *COMPARABLE, f"trainer={name}", f"out={tmp_path / name}") == 0
    one, two = tmp_path / "cpu", tmp_path / "ddp_cpu"
    for stage in ("pretrain", "stage1", "stage2"):
        assert losses_of(two / stage) == pytest.approx(losses_of(one / stage), abs=1e-6)
        marks = [json.loads((folder / stage / "done.json").read_text())["val/mAP"] for folder in (one, two)]
        assert marks[0] == pytest.approx(marks[1], abs=1e-6)
    assert difference(VideoHasher.load(two).state_dict(), VideoHasher.load(one).state_dict()) < 1e-6
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
    assert metrics[0]["tasks"]
    assert flat(metrics[1]["tasks"]) == pytest.approx(flat(metrics[0]["tasks"]), abs=1e-6)
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())


# What a job's script sees of SLURM, and what srun adds for each of two tasks.
JOB = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
STEP = {"SLURM_STEP_ID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}


def by_torchrun(*arguments):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*torchrun, "-m", "facereel", *arguments], check=True, timeout=300)


def by_srun(*arguments):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {**os.environ, **JOB, **STEP, "MASTER_PORT": str(port)}
    places = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    end_well([start_command({**environment, **place}, *arguments) for place in places])


# In the second step the loss of the second process alone is not finite; its gradient is.
UNEVEN = """
from facereel.losses import TripletLoss
from facereel.parallel.distributed import rank

class Loss(TripletLoss):
    n_calls = 0

    def forward(self, outputs):
        self.n_calls += 1
        return super().forward(outputs) + (float("nan") if rank() == 1 and self.n_calls == 2 else 0.0)
"""


def test_all_processes_skip_the_same_steps(data, tmp_path, monkeypatch):
    (tmp_path / "uneven.py").write_text(UNEVEN)
    monkeypatch.syspath_prepend(tmp_path)
    stages = ["stages.pretrain=null", "stages.stage2=null", "stages.stage1.max_steps=4"]
    options = ["loss.stage1._target_=uneven.Loss", "trainer=ddp_cpu", "trainer.nonfinite=skip"]
    by_srun("train", *data, *COMPARABLE, *stages, *options, f"out={tmp_path / 'run'}")
    checkpoint = torch.load(tmp_path / "run" / "stage1" / "last.ckpt")
    guard = checkpoint["callbacks"]["GradientGuard"]
    assert (guard["n_skipped"], len(guard["recent"])) == (1, 3)


# An encoder of one's own with a weight that gets no gradient, which processes would wait for.
OWN = """
from torch import nn
from facereel.models import CasiaEncoder

class Encoder(CasiaEncoder):
    def __init__(self, **options):
        super().__init__(**options)
        self.classifier = nn.Linear(2, 2)
"""
SHORT = [
    *("stages.pretrain=null", "stages.stage2=null", "stages.stage1.max_steps=3"),
    *("encoder._target_=own_faces.Encoder", "--trust=own_faces"),
]


@pytest.fixture(scope="module")
def of_a_script(data, tmp_path_factory):
    """A run without srun in a job of two tasks, where Lightning, left to itself, would look for the second."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "own_faces.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for name, value in JOB.items():
            patch.setenv(name, value)
        assert processes.launched_world_size() == 0
        assert run("train", *data, *COMPARABLE, *SHORT, f"out={folder / 'run'}") == 0
    return folder / "run"


@pytest.mark.parametrize("train_by", [by_torchrun, by_srun])
def test_processes_of_torchrun_or_srun_train_together(train_by, of_a_script, data, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(of_a_script.parent), prepend=os.pathsep)
    monkeypatch.syspath_prepend(of_a_script.parent)
    train_by("train", *data, *COMPARABLE, *SHORT, "trainer=ddp_cpu", f"out={tmp_path / 'run'}")
    assert losses_of(tmp_path / "run" / "stage1") == pytest.approx(losses_of(of_a_script / "stage1"), abs=1e-6)
    metrics = [json.loads((folder / "metrics.json").read_text())["tasks"] for folder in (of_a_script, tmp_path / "run")]
    assert metrics[0]
    assert flat(metrics[1]) == pytest.approx(flat(metrics[0]), abs=1e-6)
