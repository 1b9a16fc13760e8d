import subprocess
import sys

import pytest
import torch

from facereel.errors import UserError
from facereel.retrieval import CodeIndex


@pytest.fixture
def codes():
    return torch.rand(60, 12) > 0.5


@pytest.fixture
def index(codes):
    index = CodeIndex(12)
    index.add(codes, torch.arange(60) * 3)
    return index


def brute_force(queries, codes, ids, k):
    """By (distance, id), one at a time."""
    found = []
    for query in queries:
        distances = [(int((query != code).sum()), int(i)) for code, i in zip(codes, ids, strict=True)]
        found.append(sorted(distances)[:k])
    return [[d for d, _ in row] for row in found], [[i for _, i in row] for row in found]


@pytest.mark.parametrize("k", [1, 5, 60, 100])
def test_search_is_exact_with_ties_by_id(index, codes, k):
    queries = torch.rand(9, 12) > 0.5
    distances, ids = index.search(queries, k)
    assert (distances.tolist(), ids.tolist()) == brute_force(queries, codes, torch.arange(60) * 3, k)


def test_within_a_radius_is_inclusive(index, codes):
    for radius in (0, 3, 12):
        ((distances, ids),) = index.within(codes[:1], radius)
        expected, expected_ids = brute_force(codes[:1], codes, torch.arange(60) * 3, 60)
        count = sum(d <= radius for d in expected[0])
        assert distances.tolist() == expected[0][:count]
        assert ids.tolist() == expected_ids[0][:count]


def test_removed_codes_are_gone_and_may_come_back(index, codes):
    assert index.remove(torch.tensor([0, 9, 1])) == 2  # 1 is not held
    assert len(index) == 58
    _, ids = index.search(codes[:1], 58)
    assert not {0, 9} & set(ids[0].tolist())
    index.add(codes[:1], torch.tensor([0]))
    assert index.search(codes[:1], 1)[0].item() == 0


def test_where_limits_the_search(index, codes):
    allowed = torch.tensor([3, 30, 33, 171, 5])
    queries = torch.rand(4, 12) > 0.5
    distances, ids = index.search(queries, 10, where=allowed)
    expected = brute_force(queries, codes[[1, 10, 11, 57]], torch.tensor([3, 30, 33, 171]), 10)
    assert (distances.tolist(), ids.tolist()) == expected


def test_scores_rank_by_the_asymmetric_distance(index, codes):
    scores = torch.rand(3, 12)
    distances, ids = index.search(scores > 0.5, 7, scores=scores)
    expected = ((scores[:, None] - codes[None].float()) ** 2).sum(dim=2)
    assert torch.allclose(distances, expected.sort(dim=1).values[:, :7], atol=1e-4)
    assert torch.allclose(expected.gather(1, ids // 3), distances, atol=1e-4)


def test_saved_and_loaded_it_finds_the_same(index, codes, tmp_path):
    folder = tmp_path / "an index=ö"
    index.save(folder)
    index.save(folder)
    loaded = CodeIndex.load(folder)
    assert torch.equal(loaded.search(codes, 5)[1], index.search(codes, 5)[1])
    assert sorted(path.name for path in folder.iterdir()) == ["codes.faiss", "index.json"]
    loaded.remove(torch.tensor([0]))
    assert len(loaded) == 59


def test_damaged_indexes_are_refused(index, tmp_path):
    with pytest.raises(UserError, match="holds no index"):
        CodeIndex.load(tmp_path)
    index.save(tmp_path)
    file = tmp_path / "codes.faiss"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match="damaged"):
        CodeIndex.load(tmp_path)
    index.save(tmp_path)
    for meta in ("{}", "[]", '{"n_bits": 12}', '{"n_bits": 12, "n_codes": 61}', '{"n_bits": 20, "n_codes": 60}'):
        (tmp_path / "index.json").write_text(meta)
        with pytest.raises(UserError, match="damaged"):
            CodeIndex.load(tmp_path)


def test_an_empty_index_finds_nothing():
    distances, ids = CodeIndex(12).search(torch.zeros(2, 12, dtype=torch.bool), 3)
    assert distances.shape == ids.shape == (2, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: i.add(torch.zeros(1, 12, dtype=torch.bool), torch.tensor([0])), "held already"),
        (lambda i: i.add(torch.zeros(2, 12, dtype=torch.bool), torch.tensor([500, 500])), "given twice"),
        (lambda i: i.add(torch.zeros(1, 12, dtype=torch.bool), torch.tensor([-1])), "not negative"),
        (lambda i: i.add(torch.zeros(1, 13, dtype=torch.bool), torch.tensor([500])), r"codes must be bool \(N, 12\)"),
        (lambda i: i.search(torch.zeros(1, 12, dtype=torch.bool), 0), "k must be at least 1"),
    ],
)
def test_wrong_input_is_refused(index, call, message):
    with pytest.raises(ValueError, match=message):
        call(index)


def test_without_faiss_one_line_names_the_extra():
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "from facereel.cli import app\n"
        "from facereel.errors import UserError\n"
        "from facereel.retrieval import CodeIndex\n"
        "try: CodeIndex(8)\n"
        "except UserError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "FAISS is not installed: pip install 'facereel[cpu]' (or 'facereel[gpu]')\n", result.stderr
