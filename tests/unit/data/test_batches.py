from collections import Counter

import pytest
import torch
from torchvision.transforms import v2

from facereel.data import (
    Clip,
    FaceDataset,
    FaceSet,
    ImageAugment,
    PKBatchSampler,
    Row,
    Still,
    augment_batch,
    collate,
    shard_batch,
)
from facereel.errors import UserError


@pytest.fixture
def faces():
    """Person p has p + 1 clips of 2 + p frames and 3 stills; all pixels of a crop have its row's number as value."""
    rows, clips, stills = [], [], []
    for person in range(5):
        for c in range(person + 1):
            members = tuple(range(len(rows), len(rows) + 2 + person))
            rows += [Row(str(person), str(c), str(c), f"{person}/{c}/{i}", "") for i in members]
            clips.append(Clip(person, f"{person}/{c}", f"{person}/{c}", members))
        for s in range(3):
            stills.append(Still(person, f"{person}/still{s}", f"{person}/still{s}", len(rows)))
            rows.append(Row(str(person), "", f"still{s}", f"{person}/still{s}", ""))
    crops = torch.arange(len(rows), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
    return FaceSet([str(p) for p in range(5)], crops, rows, clips, stills)


def test_batches_have_p_people_with_c_clips_and_s_stills(faces):
    items = [*faces.clips, *faces.stills]
    sampler = PKBatchSampler(items, identities_per_batch=3, n_clips=2, n_stills=2, seed=0)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    for batch in batches:
        clips = Counter(items[i].person for i in batch if isinstance(items[i], Clip))
        stills = Counter(items[i].person for i in batch if isinstance(items[i], Still))
        assert list(clips.values()) == [2, 2, 2]
        assert clips == stills
        for person in clips:
            drawn = [i for i in batch if isinstance(items[i], Still) and items[i].person == person]
            assert len(set(drawn)) == 2


@pytest.mark.parametrize(("n_people", "n_clips"), [(2, 1), (3, 2), (5, 3), (2, 5)])
def test_an_epoch_shows_every_clip(faces, n_people, n_clips):
    items = [*faces.clips, *faces.stills]
    sampler = PKBatchSampler(items, n_people, n_clips, 1, seed=1)
    batches = list(sampler)
    assert {i for batch in batches for i in batch if i < len(faces.clips)} == set(range(len(faces.clips)))
    assert len(batches) == len(sampler)


def test_seed_and_epoch_determine_the_batches(faces):
    items = [*faces.clips, *faces.stills]
    first, same, other = (PKBatchSampler(items, 3, 2, 2, seed) for seed in (0, 0, 1))
    assert list(first) == list(same) == list(first)
    assert list(first) != list(other)
    first.set_epoch(1)
    assert list(first) != list(same)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((6, 2, 2), "only 5 people have both"), ((1, 2, 2), "at least 2"), ((2, 0, 1), "at least")],
)
def test_too_many_people_per_batch_raises(faces, numbers: tuple[int, int, int], message):
    with pytest.raises(UserError, match=message):
        PKBatchSampler([*faces.clips, *faces.stills], *numbers, seed=0)


def test_people_without_a_still_are_skipped(faces):
    sampler = PKBatchSampler([*faces.clips, *(s for s in faces.stills if s.person != 4)], 2, 1, 1, seed=0)
    assert sampler.people == [0, 1, 2, 3]


def test_people_with_only_stills_are_added_to_every_batch(faces):
    """Person 0 has three stills and no clip; person 4 has one still and no clip, so no pair."""
    items = [*(c for c in faces.clips if c.person not in (0, 4)), *(s for s in faces.stills if s.key != "4/still0")]
    items = [item for item in items if item.person != 4 or item.key == "4/still1"]
    batches = list(PKBatchSampler(items, 2, 1, 1, seed=0, n_still_people=1))
    for batch in batches:
        added = [items[i] for i in batch if items[i].person not in (1, 2, 3)]
        assert [item.person for item in added] == [0, 0]
        assert added[0] != added[1]
    without = PKBatchSampler(items, 2, 1, 1, seed=0)
    assert len(without) == len(batches)
    with pytest.raises(UserError, match="n_still_people=2: only 1 people have two stills or more and no clip"):
        PKBatchSampler(items, 2, 1, 1, seed=0, n_still_people=2)


def test_collate_pads_clips_and_keeps_order(faces):
    data = FaceDataset(faces, [faces.clips[0], faces.stills[0], faces.clips[-1], faces.stills[4]])
    batch = collate([data[i] for i in range(4)])
    assert batch.stills[:, 0, 0, 0].tolist() == [faces.stills[0].row, faces.stills[4].row]
    assert batch.still_labels.tolist() == [0, 1]
    assert batch.clips.shape == (2, 6, 3, 4, 4)
    assert batch.mask.sum(dim=1).tolist() == [2, 6]
    assert batch.clips[0, :2, 0, 0, 0].tolist() == list(faces.clips[0].rows)
    assert batch.clips[1, :, 0, 0, 0].tolist() == list(faces.clips[-1].rows)
    assert batch.clip_labels.tolist() == [0, 4]
    stills_only = collate([data[1]])
    assert stills_only.clips.shape[0] == 0


def test_training_samples_frames_in_time_order(faces):
    data = FaceDataset(faces, [faces.clips[-1]], n_frames=3)
    drawn = {tuple(data[0][0][:, 0, 0, 0].tolist()) for _ in range(40)}
    assert len(drawn) > 5
    assert all(list(rows) == sorted(rows) and len(rows) == 3 for rows in drawn)


def test_transform_receives_a_whole_clip_and_may_drop_frames(faces):
    seen = []

    def every_other(frames):
        seen.append(frames)
        return frames[::2]

    data = FaceDataset(faces, [faces.clips[-1], faces.stills[0], faces.clips[0]], transform=every_other)
    batch = collate([data[i] for i in range(3)])
    assert [tuple(frames.shape) for frames in seen] == [(6, 3, 4, 4), (1, 3, 4, 4), (2, 3, 4, 4)]
    assert batch.mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.clips[0, :, 0, 0, 0].tolist() == list(faces.clips[-1].rows[::2])


def test_batch_is_augmented_as_its_clips_and_stills_would_be(faces):
    """One call for each, so the distribution is the same: with the same draws in the same order, the images are."""
    transform = ImageAugment(
        {"crop": v2.RandomResizedCrop(6)}, {"light": v2.ColorJitter(0.5)}, same_photometry=False, drop_frames=0.3
    )
    items = [*faces.stills[:3], faces.clips[-1], faces.clips[0]]
    plain, augmented = FaceDataset(faces, items), FaceDataset(faces, items, transform=transform)
    torch.manual_seed(1)
    expected = collate([augmented[i] for i in range(len(items))])
    torch.manual_seed(1)
    found = augment_batch(collate([plain[i] for i in range(len(items))]), transform)
    assert found.mask.shape[1] < 6  # frames were dropped
    assert found.stills.dtype == found.clips.dtype == torch.uint8
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["clips", "stills"])
def test_batch_of_clips_or_stills_alone_is_augmented(faces, kind):
    data = FaceDataset(faces, getattr(faces, kind)[:2])
    batch = collate([data[0], data[1]])
    found = augment_batch(batch, lambda frames: frames + 1)
    assert torch.equal(found.stills, batch.stills + 1)
    assert torch.equal(found.clips[batch.mask], batch.clips[batch.mask] + 1)
    assert torch.equal(found.mask, batch.mask)


def test_collate_accepts_images_of_any_size(faces):
    data = FaceDataset(faces, [faces.clips[0], faces.stills[0]], transform=lambda frames: frames.repeat(1, 1, 2, 3))
    batch = collate([data[0], data[1]])
    assert batch.clips.shape == (1, 2, 3, 8, 12)
    assert batch.stills.shape == (1, 3, 8, 12)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize(("n_people", "n_clips", "n_stills"), [(2, 2, 2), (3, 1, 2), (5, 1, 1), (2, 5, 3)])
def test_shards_of_a_batch_are_disjoint_and_complete(faces, world_size, n_people, n_clips, n_stills):
    """Joined, the shards have the clips and the stills in their original order."""
    items = [*faces.clips, *faces.stills]
    is_clip = [isinstance(item, Clip) for item in items]
    for batch in PKBatchSampler(items, n_people, n_clips, n_stills, seed=1):
        shards = [shard_batch(batch, is_clip, rank, world_size) for rank in range(world_size)]
        for kind in (True, False):
            parts = [[i for i in part if is_clip[i] == kind] for part in shards]
            assert [i for part in parts for i in part] == [i for i in batch if is_clip[i] == kind]
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert all(part == [i for i in batch if i in part] for part in shards if len(set(batch)) == len(batch))
        assert world_size > 1 or shards[0] == batch


def test_shards_are_empty_with_more_processes_than_items(faces):
    assert [shard_batch([0, 1], [True, True], rank, 3) for rank in range(3)] == [[0], [1], []]
