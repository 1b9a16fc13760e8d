from collections import Counter

import pytest
import torch

from facereel.data import Clip, FaceItems, FaceSet, PeopleBatchSampler, Row, Still, collate
from facereel.errors import UserError


@pytest.fixture
def faces():
    """Person p has p + 1 clips of 2 + p frames and 3 stills; a crop's pixels all hold its row's number."""
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


def test_batches_hold_p_people_with_c_clips_and_s_stills(faces):
    items = [*faces.clips, *faces.stills]
    sampler = PeopleBatchSampler(items, n_people=3, n_clips=2, n_stills=2, seed=0)
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
    sampler = PeopleBatchSampler(items, n_people, n_clips, 1, seed=1)
    batches = list(sampler)
    assert {i for batch in batches for i in batch if i < len(faces.clips)} == set(range(len(faces.clips)))
    assert len(batches) == len(sampler)


def test_seed_and_epoch_decide_the_batches(faces):
    items = [*faces.clips, *faces.stills]
    first, same, other = (PeopleBatchSampler(items, 3, 2, 2, seed) for seed in (0, 0, 1))
    assert list(first) == list(same) == list(first)
    assert list(first) != list(other)
    first.set_epoch(1)
    assert list(first) != list(same)


@pytest.mark.parametrize(
    ("numbers", "message"), [((6, 2, 2), "only 5 people have both"), ((1, 2, 2), "at least 2"), ((2, 0, 1), "at least")]
)
def test_more_people_than_there_are_is_refused(faces, numbers, message):
    with pytest.raises(UserError, match=message):
        PeopleBatchSampler([*faces.clips, *faces.stills], *numbers, seed=0)


def test_people_without_a_still_are_left_out(faces):
    sampler = PeopleBatchSampler([*faces.clips, *(s for s in faces.stills if s.person != 4)], 2, 1, 1, seed=0)
    assert sampler.people == [0, 1, 2, 3]


def test_collate_pads_clips_and_keeps_order(faces):
    data = FaceItems(faces, [faces.clips[0], faces.stills[0], faces.clips[-1], faces.stills[4]])
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


def test_training_takes_some_frames_in_time_order(faces):
    data = FaceItems(faces, [faces.clips[-1]], n_frames=3)
    drawn = {tuple(data[0][0][:, 0, 0, 0].tolist()) for _ in range(40)}
    assert len(drawn) > 5
    assert all(list(rows) == sorted(rows) and len(rows) == 3 for rows in drawn)


def test_the_transform_is_given_a_clip_at_once_and_may_drop_frames(faces):
    seen = []

    def every_other(frames):
        seen.append(frames)
        return frames[::2]

    data = FaceItems(faces, [faces.clips[-1], faces.stills[0], faces.clips[0]], transform=every_other)
    batch = collate([data[i] for i in range(3)])
    assert [tuple(frames.shape) for frames in seen] == [(6, 3, 4, 4), (1, 3, 4, 4), (2, 3, 4, 4)]
    assert batch.mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.clips[0, :, 0, 0, 0].tolist() == list(faces.clips[-1].rows[::2])


def test_collate_takes_pictures_of_any_size(faces):
    data = FaceItems(faces, [faces.clips[0], faces.stills[0]], transform=lambda frames: frames.repeat(1, 1, 2, 3))
    batch = collate([data[0], data[1]])
    assert batch.clips.shape == (1, 2, 3, 8, 12)
    assert batch.stills.shape == (1, 3, 8, 12)


@pytest.mark.parametrize(("n_people", "n_clips"), [(2, 2), (3, 2), (5, 5), (2, 5)])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_share_an_epoch(faces, world_size, n_people, n_clips):
    items = [*faces.clips, *faces.stills]
    every = list(PeopleBatchSampler(items, n_people, n_clips, 1, seed=1))
    samplers = [PeopleBatchSampler(items, n_people, n_clips, 1, 1, rank, world_size) for rank in range(world_size)]
    ranks = [list(sampler) for sampler in samplers]
    assert {len(rank) for rank in ranks} == {len(sampler) for sampler in samplers} == {-(-len(every) // world_size)}
    together = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert together == [every[i % len(every)] for i in range(len(together))]
    samplers[-1].set_epoch(1)
    assert list(samplers[-1]) != ranks[-1]


def test_some_number_of_batches_does_not_divide(faces):
    """So that the test above sees remainders of 1 and 2, and more ranks than batches."""
    items = [*faces.clips, *faces.stills]
    numbers = [len(PeopleBatchSampler(items, *numbers, 1, seed=1)) for numbers in [(2, 2), (3, 2), (5, 5), (2, 5)]]
    assert {number % 3 for number in numbers} == {0, 1, 2}
    assert min(numbers) < 2


def test_ranks_are_those_of_the_processes_joined_after_the_sampler_is_built(faces, monkeypatch):
    items = [*faces.clips, *faces.stills]
    sampler = PeopleBatchSampler(items, 3, 2, 2, seed=0)
    every = list(sampler)
    for name, value in {"is_initialized": True, "get_rank": 1, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert list(sampler) == [every[i % len(every)] for i in range(1, len(every) + 1, 2)]
    assert list(PeopleBatchSampler(items, 3, 2, 2, 0, rank=0, world_size=1)) == every


@pytest.mark.parametrize("place", [{"rank": 2, "world_size": 2}, {"rank": -1, "world_size": 2}, {"rank": 0}])
def test_a_rank_outside_of_the_world_is_refused(faces, place):
    with pytest.raises(ValueError, match="rank"):
        PeopleBatchSampler([*faces.clips, *faces.stills], 3, 2, 2, 0, **place)
