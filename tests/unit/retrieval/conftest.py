import pytest
import torch
from mean_hasher import CONFIG

from facereel.models import VideoHasher


@pytest.fixture(scope="module")
def model() -> VideoHasher:
    """A hasher with random weights, of 48 bits."""
    torch.manual_seed(1)
    return VideoHasher(CONFIG).eval()
