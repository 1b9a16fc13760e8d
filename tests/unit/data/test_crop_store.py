import pickle

import pytest
import torch
from safetensors.torch import save_file

from facereel.data.crop_store import CropStore, open_block
from facereel.errors import UserError


@pytest.fixture
def blocks(tmp_path):
    """Two blocks in files; rows alternate between them."""
    tensors = [torch.randint(255, (4, 3, 5, 5), dtype=torch.uint8) for _ in range(2)]
    for b, tensor in enumerate(tensors):
        save_file({"crops": tensor}, tmp_path / f"{b}.safetensors")
    files = [tmp_path / f"{b}.safetensors" for b in range(2)]
    rows = torch.stack([tensors[i % 2][i // 2] for i in range(8)])
    return CropStore(files, torch.arange(8) % 2, torch.arange(8) // 2, 5), rows


@pytest.mark.parametrize("rows", [[0], [0, 2, 6], [5, 0, 3, 3, 6], list(range(8)), []])
def test_rows_are_found_across_blocks(blocks, rows):
    store, expected = blocks
    assert torch.equal(store[torch.tensor(rows, dtype=torch.int64)], expected[rows])


def test_stores_can_be_joined_subset_and_pickled(blocks):
    store, expected = blocks
    other = torch.randint(255, (3, 3, 5, 5), dtype=torch.uint8)
    joined = store + CropStore.of(other)
    assert len(joined) == 11
    assert torch.equal(joined[torch.tensor([8, 1, 10])], torch.stack([other[0], expected[1], other[2]]))
    assert torch.equal(joined.take(torch.tensor([9, 3]))[torch.tensor([1, 0])], torch.stack([expected[3], other[1]]))
    sent = pickle.dumps(store)
    assert len(sent) < len(pickle.dumps(CropStore.of(expected.repeat(20, 1, 1, 1))))  # files go by their names
    assert torch.equal(pickle.loads(sent)[torch.arange(8)], expected)


def test_crops_are_memory_mapped(blocks, tmp_path):
    """What is written into the file after it was opened is seen: there is no copy."""
    store, expected = blocks
    first = store[torch.tensor([0])]
    with (tmp_path / "0.safetensors").open("rb+") as file:
        file.seek(-4 * 75, 2)
        file.write(bytes(255 - value for value in expected[0].flatten().tolist()))
    assert torch.equal(store[torch.tensor([0])], 255 - first)


def test_error_names_the_damaged_block(tmp_path):
    with pytest.raises(UserError, match=r"x\.safetensors is missing or damaged"):
        open_block(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="run facereel prepare again"):
        open_block(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"other": torch.zeros(4)}, "has no crops of 5 pixels"),
        ({"crops": torch.zeros(4, 3, 6, 6, dtype=torch.uint8)}, "has no crops of 5 pixels"),
        ({"crops": torch.zeros(3, 3, 5, 5, dtype=torch.uint8)}, "has fewer crops than the manifest lists"),
    ],
)
def test_error_names_a_block_with_other_crops(tensors, message, blocks, tmp_path):
    save_file(tensors, tmp_path / "1.safetensors")
    with pytest.raises(UserError, match=rf"1\.safetensors {message}: delete it"):
        blocks[0][torch.tensor([1])]
