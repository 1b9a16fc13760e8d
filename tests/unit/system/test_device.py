"""One rule for the device of training, evaluation and search."""

from types import SimpleNamespace

import pytest
import torch

from facereel.errors import UserError
from facereel.parallel.distributed import on_gpu
from facereel.system.device import choose_device, device_type, has_fast_bfloat16


@pytest.mark.parametrize(("has_cuda", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_or_cpu_and_never_mps(monkeypatch, has_cuda, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_type("auto") == expected
    assert on_gpu(SimpleNamespace(accelerator="auto")) is has_cuda


@pytest.mark.parametrize(("name", "on"), [("gpu", True), ("cuda", True), ("cpu", False), ("mps", False)])
def test_training_uses_gpus_if_requested(name, on):
    assert on_gpu(SimpleNamespace(accelerator=name)) is on


def test_the_cpu_works_everywhere():
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "mps:7", "", None, 3.5])
def test_a_missing_device_is_an_error(name):
    with pytest.raises(UserError, match=r"device=.*must be auto, cpu"):
        choose_device(name)


@pytest.mark.parametrize("supported", [True, False])
def test_bfloat16_is_fast_with_instructions_or_on_a_gpu(monkeypatch, supported):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    assert has_fast_bfloat16(torch.device("cpu")) == supported
    assert has_fast_bfloat16(torch.device("cuda"))
