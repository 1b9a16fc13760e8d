import pickle
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from repository import REPOSITORY
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from facereel.config.compose import config_dir
from facereel.data import Clip, FaceDataset, FaceSet, ImageAugment, Row
from facereel.errors import UserError

OPTIONS = sorted(path.stem for path in (REPOSITORY / "configs" / "augment").glob("*.yaml"))
KINDS: dict[str, tuple[str, Any]] = {
    "geometric": ("same_geometry", {"flip": v2.RandomHorizontalFlip()}),
    "photometric": ("same_photometry", {"light": v2.ColorJitter(brightness=0.5)}),
}


def configured(*overrides):
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        return compose("train", list(overrides)).augment.images


def augment(options: dict[str, Any]) -> ImageAugment:
    return ImageAugment(**options)


def numbered(n_frames):
    """Frames in which all pixels have the frame's number as value."""
    return torch.arange(n_frames, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


def differing(augment, clip, n=40):
    """Augment n clips of equal frames: return the numbers of clips with differing frames and of distinct changes."""
    clips = [augment(clip) for _ in range(n)]
    ways = {frames[0].numpy().tobytes() for frames in clips}
    return sum(not (frames == frames[0]).all() for frames in clips), len(ways)


@pytest.mark.parametrize("kind", KINDS)
def test_all_frames_of_a_clip_get_the_same_change(kind):
    option, transforms = KINDS[kind]
    clip = torch.randint(256, (3, 8, 8), dtype=torch.uint8).expand(5, -1, -1, -1)
    n_differing, n_ways = differing(augment({kind: transforms, option: True}), clip)
    assert n_differing == 0
    assert n_ways > 1
    n_differing, _ = differing(augment({kind: transforms, option: False}), clip)
    assert n_differing > 30  # of 5 flips all are equal once in 16


def test_geometric_transforms_run_first_in_the_given_order():
    add = {"double": lambda x: x * 2, "one": lambda x: x + 1}
    augment = ImageAugment({"three": lambda x: x + 3}, add, same_geometry=False)
    assert augment(numbered(3))[:, 0, 0, 0].tolist() == [7, 9, 11]


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.9, 1.0])
def test_frames_are_dropped_at_the_given_rate_and_one_is_kept(probability):
    augment = ImageAugment(drop_frames=probability)
    kept = [augment(numbered(4))[:, 0, 0, 0].tolist() for _ in range(2000)]
    assert all(frames == sorted(set(frames)) and frames for frames in kept)
    # The expected number of kept frames of four, with one frame instead of none.
    expected = 4 * (1 - probability) + probability**4
    assert sum(map(len, kept)) / 2000 == pytest.approx(expected, abs=0.08)
    for frame in range(4):
        assert sum(frame in frames for frames in kept) / 2000 == pytest.approx(expected / 4, abs=0.05)


def test_a_still_is_never_dropped():
    still = numbered(2)[1:]
    assert all(torch.equal(ImageAugment(drop_frames=0.9)(still), still) for _ in range(50))


def test_frames_are_unchanged_without_transforms():
    clip = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(ImageAugment()(clip), clip)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("size", [64, 112, 80])
def test_a_crop_of_a_larger_image_has_the_size_of_the_data(size, same):
    augment = instantiate(configured("data.size=64"), same_geometry=same)
    for n_frames in (1, 5):
        result = augment(torch.randint(256, (n_frames, 3, size, size), dtype=torch.uint8))
        assert result.shape == (n_frames, 3, 64, 64)
        assert result.dtype == torch.uint8


@pytest.mark.parametrize("same", [True, False])
def test_seed_determines_the_augmentation(same):
    augment = instantiate(configured("augment=strong"), same_geometry=same, same_photometry=same)
    clip = torch.randint(256, (6, 3, 64, 64), dtype=torch.uint8)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append([augment(clip) for _ in range(5)])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))


def test_workers_augment_differently():
    crops = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    clip = Clip(0, "0/0", "0/0", (0, 0, 0))
    faces = FaceSet(["0"], crops, [Row("0", "0", "0", "0/0/0", "")], [clip], [])
    data = FaceDataset(faces, [clip] * 2, transform=instantiate(configured()))
    first, second = (frames for frames, _, _ in DataLoader(data, batch_size=None, num_workers=2))
    assert not torch.equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_configured_transform_runs(option, channels):
    images = configured(f"augment={option}", "data.size=32")
    if option == "none":
        assert images is None
        return
    clip = torch.randint(256, (3, channels, 40, 40), dtype=torch.uint8).expand(-1, 3, -1, -1)
    for kind in ("geometric", "photometric"):
        for name, transform in images[kind].items():
            if "p" in transform:
                transform.p = 1.0
            alone = augment({kind: {name: instantiate(transform)}})
            result = alone(clip)
            assert result.dtype == torch.uint8, name
            assert result.shape == (clip.shape if name != "crop" else (3, 3, 32, 32)), name
            assert result.shape != clip.shape or name == "grayscale" or not torch.equal(result, clip), name
    whole = pickle.loads(pickle.dumps(instantiate(images)))  # as for a worker that is not forked
    assert 1 <= len(whole(clip)) <= 3


def test_default_transforms_are_flip_crop_and_light():
    """The augmentation with which the results in the README were measured."""
    augment = instantiate(configured("data.size=32"))
    clip = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(3)
    result = augment(clip)
    # Transforms with a probability of 0 draw after these three.
    torch.manual_seed(3)
    expected = clip
    for transform in (
        v2.RandomHorizontalFlip(),
        v2.RandomResizedCrop(32, scale=(0.75, 1.0), ratio=(0.9, 1.1)),
        v2.ColorJitter(brightness=0.2, contrast=0.2),
    ):
        expected = transform(expected)
    assert torch.equal(result, expected)
    assert len(augment(clip)) == 4


def test_config_changes_single_transforms():
    solarize = "{_target_: torchvision.transforms.v2.RandomSolarize, threshold: 192, p: 0.1}"
    images = configured(
        "augment=sft",
        "augment.images.photometric.blur.p=0.2",
        "~augment.images.geometric.flip",
        "augment.images.photometric.grayscale=null",
        f"+augment.images.photometric.solarize={solarize}",
    )
    augment = instantiate(images)
    assert list(augment.geometric) == ["crop"]
    assert list(augment.photometric) == ["light", "blur", "jpeg", "solarize"]
    assert augment.photometric["blur"].p == 0.2


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_probability_outside_0_to_1_raises(probability):
    with pytest.raises(UserError, match="drop_frames"):
        ImageAugment(drop_frames=probability)


def test_transform_that_does_not_return_uint8_raises():
    with pytest.raises(UserError, match=r"torch\.float32 images, not uint8"):
        ImageAugment(photometric={"scale": v2.ToDtype(torch.float32, scale=True)})(numbered(2))
