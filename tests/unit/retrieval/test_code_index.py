import itertools
import json
import shutil
import subprocess
import sys

import pytest
import torch

from facereel.errors import UserError
from facereel.functional.asymmetric import look_up
from facereel.retrieval import CodeIndex
from facereel.retrieval import code_index as index_module
from facereel.retrieval.backends import ranking
from facereel.retrieval.backends.code_part import CodePart


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


def test_range_search_radius_is_inclusive(index, codes):
    for radius in (0, 3, 12):
        ((distances, ids),) = index.range_search(codes[:1], radius)
        expected, expected_ids = brute_force(codes[:1], codes, torch.arange(60) * 3, 60)
        count = sum(d <= radius for d in expected[0])
        assert distances.tolist() == expected[0][:count]
        assert ids.tolist() == expected_ids[0][:count]


def test_removed_codes_can_be_added_again(index, codes):
    assert index.remove(torch.tensor([0, 9, 1])) == 2  # 1 is not held
    assert len(index) == 58
    _, ids = index.search(codes[:1], 58)
    assert not {0, 9} & set(ids[0].tolist())
    index.add(codes[:1], torch.tensor([0]))
    assert index.search(codes[:1], 1)[0].item() == 0


def test_subset_ids_limit_the_search(index, codes):
    allowed = torch.tensor([3, 30, 33, 171, 5])
    queries = torch.rand(4, 12) > 0.5
    distances, ids = index.search(queries, 10, subset_ids=allowed)
    expected = brute_force(queries, codes[[1, 10, 11, 57]], torch.tensor([3, 30, 33, 171]), 10)
    assert (distances.tolist(), ids.tolist()) == expected


def asymmetric(scores, code):
    """In float64, bit by bit."""
    return sum((s - float(c)) ** 2 for s, c in zip(scores.tolist(), code.tolist(), strict=True))


def reranked(scores, codes, ids, k, rerank_k=None):
    """Rank for one query by (asymmetric distance, id), within the radius of `rerank_k` codes, or all."""
    radius = codes.shape[1]
    hamming = [int(((scores > 0.5) != code).sum()) for code in codes]
    if rerank_k is not None:
        radius = sorted(hamming)[min(max(rerank_k, k), len(codes)) - 1]
    members = [n for n in range(len(codes)) if hamming[n] <= radius]
    return sorted((asymmetric(scores, codes[n]), int(ids[n])) for n in members)[:k]


@pytest.fixture(params=[12, 24, 48, 64, 128])
def mixed(request):
    """Codes with duplicates under unordered ids, some removed; and scores in eighths, so that sums are exact."""
    codes = torch.rand(30, request.param) > 0.5
    codes = codes[torch.randint(30, (90,))]
    ids = torch.randperm(500)[:90]
    index = CodeIndex(request.param)
    index.add(codes, ids)
    assert index.remove(ids[20:40]) == 20
    kept = torch.cat([torch.arange(20), torch.arange(40, 90)])
    return index, codes[kept], ids[kept], torch.randint(9, (20, request.param)) / 8


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize(("k", "rerank_k"), [(7, None), (70, None), (100, None), (3, 1), (3, 15), (20, 5), (5, 999)])
def test_scores_rank_by_the_asymmetric_distance(mixed, k, rerank_k, limited, monkeypatch):
    monkeypatch.setattr(ranking, "_CODES_AT_ONCE", 16)
    index, codes, ids, scores = mixed
    where = None
    if limited:
        where = torch.cat([ids[::3], torch.tensor([1000])])
        codes, ids = codes[::3], ids[::3]
    distances, found = index.search(scores > 0.5, k, scores=scores, subset_ids=where, rerank_k=rerank_k)
    assert (distances.dtype, found.dtype) == (torch.float32, torch.int64)
    for q in range(len(scores)):
        expected = reranked(scores[q], codes, ids, k, rerank_k)
        assert list(zip(distances[q].tolist(), found[q].tolist(), strict=True)) == expected


@pytest.mark.parametrize("rerank_k", [None, 10, 70])
def test_asymmetric_distances_are_accurate_to_1e_5(mixed, rerank_k):
    index, codes, ids, scores = mixed
    scores = torch.rand_like(scores)
    distances, found = index.search(scores > 0.5, 9, scores=scores, rerank_k=rerank_k)
    for q in range(len(scores)):
        expected = reranked(scores[q].double(), codes, ids, 9, rerank_k)
        assert distances[q].tolist() == pytest.approx([d for d, _ in expected], abs=1e-5)
        assert found[q].tolist() == [i for _, i in expected]  # random scores: only equal codes tie


def test_rerank_k_of_all_codes_equals_exact_search(mixed):
    index, _, _, scores = mixed
    full = index.search(scores > 0.5, 70, scores=scores)
    listed = index.search(scores > 0.5, 70, scores=scores, rerank_k=70)
    assert torch.equal(full[0], listed[0])
    assert torch.equal(full[1], listed[1])


def test_only_rerank_k_codes_are_ranked_by_scores(monkeypatch):
    """Only `rerank_k` codes and their ties are looked up; no query sees all codes."""
    codes = torch.eye(64, dtype=torch.bool).cumsum(dim=1).bool()  # at distances 0..63 of the first
    index = CodeIndex(64)
    index.add(codes, torch.arange(64))
    lengths = []
    monkeypatch.setattr(ranking, "look_up", lambda t, p: lengths.append(len(p)) or look_up(t, p))
    scores = codes[:1].float()
    assert index.search(codes[:1], 2, scores=scores, rerank_k=5)[1].tolist() == [[0, 1]]
    assert lengths == [5]


def test_loaded_index_finds_the_same(index, codes, tmp_path):
    folder = tmp_path / "an index=ö"
    index.save(folder)
    index.save(folder)
    loaded = CodeIndex.load(folder)
    assert torch.equal(loaded.search(codes, 5)[1], index.search(codes, 5)[1])
    assert sorted(path.name for path in folder.iterdir()) == ["codes.bin", "index.json"]
    loaded.remove(torch.tensor([0]))
    assert len(loaded) == 59


def test_damaged_indexes_raise(index, tmp_path):
    with pytest.raises(UserError, match="has no index"):
        CodeIndex.load(tmp_path)
    index.save(tmp_path)
    file = tmp_path / "codes.bin"
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
    codes = torch.zeros(2, 12, dtype=torch.bool)
    for rerank_k in (None, 4):
        distances, ids = CodeIndex(12).search(codes, 3, scores=codes.float(), rerank_k=rerank_k)
        assert distances.shape == ids.shape == (2, 0)


def test_empty_queries_and_unknown_subset_ids_find_nothing(index):
    codes = torch.zeros(0, 12, dtype=torch.bool)
    for scores, rerank_k in ((None, None), (codes.float(), None), (codes.float(), 4)):
        assert index.search(codes, 3, scores=scores, rerank_k=rerank_k)[1].shape == (0, 3)
    codes = torch.zeros(2, 12, dtype=torch.bool)
    for scores, rerank_k in ((None, None), (codes.float(), None), (codes.float(), 4)):
        found = index.search(codes, 3, scores=scores, rerank_k=rerank_k, subset_ids=torch.tensor([1]))
        assert found[1].shape == (2, 0)


def search_by(index, scores, **options):
    return index.search(torch.zeros(1, 12, dtype=torch.bool), 1, scores=scores, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: i.add(torch.zeros(1, 12, dtype=torch.bool), torch.tensor([0])), "already stored"),
        (lambda i: i.add(torch.zeros(2, 12, dtype=torch.bool), torch.tensor([500, 500])), "ids must be unique"),
        (lambda i: i.add(torch.zeros(1, 12, dtype=torch.bool), torch.tensor([-1])), "non-negative"),
        (lambda i: i.add(torch.zeros(1, 13, dtype=torch.bool), torch.tensor([500])), r"codes must be bool \(N, 12\)"),
        (lambda i: i.search(torch.zeros(1, 12, dtype=torch.bool), 0), "k must be at least 1"),
        (lambda i: i.search(torch.zeros(1, 12, dtype=torch.bool), 1, rerank_k=5), "requires scores"),
        (lambda i: search_by(i, torch.zeros(1, 12), rerank_k=0), "rerank_k=0: must be at least 1"),
        (
            lambda i: search_by(i, torch.zeros(2, 12)),
            r"scores must be finite and have the shape of the codes, \(1, 12\)",
        ),
        (lambda i: search_by(i, torch.full((1, 12), torch.nan)), "scores must be finite"),
    ],
)
def test_invalid_input_raises(index, call, message):
    with pytest.raises(ValueError, match=message):
        call(index)


@pytest.mark.slow
def test_missing_faiss_names_the_extra():
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "from facereel.cli.main import app\n"
        "from facereel.errors import UserError\n"
        "from facereel.retrieval import CodeIndex\n"
        "try: CodeIndex(8)\n"
        "except UserError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "FAISS is not installed: pip install 'facereel[cpu]' (or 'facereel[gpu]')\n", result.stderr


def test_too_long_codes_raise(index, tmp_path):
    index.save(tmp_path)
    (tmp_path / "index.json").write_text('{"n_bits": 1e15, "n_codes": 60}')
    with pytest.raises(UserError, match="damaged"):
        CodeIndex.load(tmp_path)


@pytest.fixture
def clustered(monkeypatch):
    """Codes of 64 bits, 20 a person within a few bits, under ids in no order; and queries near some."""
    monkeypatch.setattr(index_module, "FEWEST", 500)
    generator = torch.Generator().manual_seed(0)
    people = torch.rand(100, 64, generator=generator) > 0.5
    codes = people[torch.arange(2000) % 100] ^ (torch.rand(2000, 64, generator=generator) > 0.95)
    queries = people[:40] ^ (torch.rand(40, 64, generator=generator) > 0.95)
    return codes, torch.randperm(5000, generator=generator)[:2000], queries


def filled(kind, codes, ids):
    index = CodeIndex(codes.shape[1], kind)
    index.add(codes, ids)
    return index


def test_inverted_file_has_high_recall(clustered, tmp_path):
    codes, ids, queries = clustered
    flat, index = filled("flat", codes, ids), filled("ivf", codes, ids)
    expected = flat.search(queries, 10)
    assert torch.equal(index.search(queries, 10)[1], expected[1])  # not built yet: all codes are looked at
    index.save(tmp_path)
    for built in (index, CodeIndex.load(tmp_path), CodeIndex.load(tmp_path, mapped=True)):
        assert built._near is not None
        distances, found = built.search(queries, 10)
        shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), expected[1].tolist(), strict=True)]
        assert sum(shared) >= 0.9 * 400
        by_id = dict(zip(ids.tolist(), codes, strict=True))
        for query, row, its_ids in zip(queries, distances.tolist(), found.tolist(), strict=True):
            assert row == [int((query != by_id[i]).sum()) for i in its_ids]
            pairs = list(zip(row, its_ids, strict=True))
            assert pairs == sorted(pairs)
        # Exact with both kinds.
        for options in ({"subset_ids": ids[:50]}, {"scores": queries.float()}):
            assert torch.equal(built.search(queries, 5, **options)[1], flat.search(queries, 5, **options)[1])
        assert torch.equal(built.range_search(queries, 9)[3][1], flat.range_search(queries, 9)[3][1])
        # As many as are asked for, though the cells may have fewer.
        assert torch.equal(built.search(queries[:2], 2000)[0], flat.search(queries[:2], 2000)[0])


def test_search_is_exact_after_a_change(clustered):
    codes, ids, _ = clustered
    index = filled("ivf", codes[:1900], ids[:1900])
    index.build()
    index.remove(ids[:600])
    index.add(codes[1900:], ids[1900:])
    left = filled("flat", codes[600:], ids[600:])
    for _ in range(2):
        assert torch.equal(index.search(codes[:40], 1)[0], left.search(codes[:40], 1)[0])
        index.build()
        assert index._near.ntotal == len(index) == 1400


def test_few_codes_are_searched_exactly_and_unknown_kinds_raise(codes, tmp_path):
    index = filled("ivf", codes, torch.arange(60))
    index.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes.bin", "index.json"]
    assert CodeIndex.load(tmp_path).kind == "ivf"
    with pytest.raises(ValueError, match="must be one of flat, ivf, not pq"):
        CodeIndex(12, "pq")


def test_inverted_file_of_another_user_is_not_read(clustered, tmp_path, monkeypatch):
    """FAISS ends the process over some: all codes are looked at instead."""
    codes, ids, queries = clustered
    index = filled("ivf", codes, ids)
    index.save(tmp_path)
    expected = filled("flat", codes, ids).search(queries, 10)
    file = tmp_path / "near.faiss"
    content = file.read_bytes()
    read = []
    faiss = pytest.importorskip("faiss")
    read_index_binary = faiss.read_index_binary
    monkeypatch.setattr(faiss, "read_index_binary", lambda path, *flags: read.append(path) or read_index_binary(path))

    def assert_left():
        read.clear()
        loaded = CodeIndex.load(tmp_path)
        assert torch.equal(loaded.search(queries, 10)[1], expected[1])
        assert read == []

    CodeIndex.load(tmp_path)
    assert str(file) in read
    for place in (0, 4, 12, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert_left()
    file.write_bytes(content[:100])
    assert_left()
    file.unlink()
    assert_left()
    file.write_bytes(content)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "of somebody else"))
    assert_left()
    assert CodeIndex.load(tmp_path).build()  # it can be made again


def test_inverted_file_of_other_codes_raises(clustered, tmp_path):
    codes, ids, _ = clustered
    filled("ivf", codes, ids).save(tmp_path / "a")
    filled("ivf", codes[:999], ids[:999]).save(tmp_path / "b")
    made = json.loads((tmp_path / "a" / "index.json").read_text())
    (tmp_path / "b" / "index.json").write_text(json.dumps({**made, "n_codes": 999}))
    shutil.copy(tmp_path / "a" / "near.faiss", tmp_path / "b")
    with pytest.raises(UserError, match="damaged"):
        CodeIndex.load(tmp_path / "b")


def test_memory_mapped_index_is_copied_on_change(index, codes, tmp_path):
    index.save(tmp_path)
    before = (tmp_path / "codes.bin").read_bytes()
    mapped = CodeIndex.load(tmp_path, mapped=True)
    assert not mapped._parts[0].codes.flags.owndata
    assert torch.equal(mapped.search(codes, 5)[1], index.search(codes, 5)[1])
    assert torch.equal(
        mapped.search(codes, 5, scores=codes.float())[1], index.search(codes, 5, scores=codes.float())[1]
    )
    assert (mapped.packed.tolist(), mapped.ids.tolist()) == (index.packed.tolist(), index.ids.tolist())
    shutil.rmtree(tmp_path)  # as when another process saves a later one
    assert torch.equal(mapped.search(codes, 5)[1], index.search(codes, 5)[1])
    for changed in (index, mapped):
        changed.remove(torch.tensor([0, 3]))
        changed.add(codes[:1], torch.tensor([1000]))
    assert torch.equal(mapped.search(codes, 5)[1], index.search(codes, 5)[1])
    mapped.save(tmp_path)
    assert (tmp_path / "codes.bin").read_bytes() != before
    assert len(CodeIndex.load(tmp_path, mapped=True)) == 59


@pytest.mark.parametrize("mapped", [False, True])
def test_files_of_another_size_are_rejected(index, tmp_path, mapped):
    index.save(tmp_path)
    file = tmp_path / "codes.bin"
    content = file.read_bytes()
    for harmed in (*(content[:size] for size in range(0, len(content), 7)), content + b"\0"):
        file.write_bytes(harmed)
        with pytest.raises(UserError, match="damaged"):
            CodeIndex.load(tmp_path, mapped=mapped)
    file.write_bytes(content)
    assert len(CodeIndex.load(tmp_path, mapped=mapped)) == 60
    CodeIndex(12).save(tmp_path)
    assert len(CodeIndex.load(tmp_path, mapped=mapped)) == 0


@pytest.mark.parametrize("mapped", [False, True])
def test_damaged_ids_give_wrong_results_but_no_crash(index, codes, tmp_path, mapped):
    index.save(tmp_path)
    file = tmp_path / "codes.bin"
    content = file.read_bytes()
    file.write_bytes(b"\xff" * 8 * 60 + content[8 * 60 :])
    loaded = CodeIndex.load(tmp_path, mapped=mapped)
    assert set(loaded.search(codes, 5)[1].unique().tolist()) == {-1}
    assert loaded.search(codes, 5, subset_ids=torch.arange(60))[1].shape == (60, 0)


def test_gpu_is_used_if_faiss_has_one(codes, monkeypatch):
    """A stand-in for faiss-gpu, which answers as FAISS on the CPU does and counts; no GPU is here."""
    faiss = pytest.importorskip("faiss")
    copied, asked = [], []

    class OnGpu:
        def __init__(self, flat):
            self.flat = faiss.clone_binary_index(flat)

        def search(self, packed, k):
            assert k <= 2048  # GpuIndexBinaryFlat's limit
            asked.append(k)
            return self.flat.search(packed, k)

    def to_gpu(resources, device, flat):
        assert (resources, device) == ("resources", 0)
        copied.append(flat.ntotal)
        return OnGpu(flat)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "index_binary_cpu_to_gpu", to_gpu, raising=False)
    index = filled("flat", codes.repeat(50, 1), torch.arange(3000))
    queries = torch.rand(5, 12) > 0.5
    for k in (3, 3, 991, 1500):  # the last asks for 3,000
        expected = brute_force(queries, codes.repeat(50, 1), torch.arange(3000), k)
        distances, ids = index.search(queries, k)
        assert (distances.tolist(), ids.tolist()) == expected
    assert (copied, asked) == ([3000], [70, 70, 2046])
    index.search(queries, 3, subset_ids=torch.arange(100))
    index.range_search(queries, 2)
    assert len(asked) == 3
    index.remove(torch.tensor([0]))
    assert 0 not in index.search(codes[:1], 3)[1]
    assert copied == [3000, 2999]


@pytest.fixture
def in_parts(monkeypatch):
    """The same codes in one part and in several, with ties everywhere and some removed, and queries."""
    monkeypatch.setattr("facereel.retrieval.backends.faiss._FEWEST_A_THREAD", 64)
    monkeypatch.setattr("facereel.retrieval.backends.code_part._IDS_AT_ONCE", 50)
    codes = torch.rand(700, 16) > 0.5
    ids = torch.randperm(2000)[:700].sort().values
    bounds = [0, 5, 305, 306, 700]
    parts = [
        CodePart.of(ids[a:b].numpy(), ranking.pack(codes[a:b], 16)).without(ids[a:b:3].numpy())
        for a, b in itertools.pairwise(bounds)
    ]
    kept = torch.cat([torch.arange(a, b)[torch.arange(b - a) % 3 > 0] for a, b in itertools.pairwise(bounds)])
    whole = CodeIndex(16)
    whole.add(codes[kept], ids[kept])
    return whole, CodeIndex.of_parts(16, parts), torch.rand(7, 16) > 0.5


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("k", [1, 20, 463, 900])
def test_codes_in_parts_are_searched_as_one(in_parts, k, n_threads):
    faiss = pytest.importorskip("faiss")
    whole, parts, queries = in_parts
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n_threads)
    try:
        scores = queries.float() * 0.9 + 0.05
        subset = torch.arange(0, 2000, 2)
        for options in ({}, {"scores": scores}, {"scores": scores, "rerank_k": 30}):
            for limited in ({}, {"subset_ids": subset}):
                expected = whole.search(queries, k, **options, **limited)
                found = parts.search(queries, k, **options, **limited)
                assert torch.equal(found[0], expected[0])
                assert torch.equal(found[1], expected[1])
        for near, its in zip(parts.range_search(queries, 4), whole.range_search(queries, 4), strict=True):
            assert torch.equal(near[1], its[1])
    finally:
        faiss.omp_set_num_threads(before)
    assert (len(parts), sorted(parts.ids)) == (len(whole), sorted(whole.ids))


def test_many_removed_codes_near_the_query_do_not_hide_the_others():
    codes = torch.zeros(5000, 32, dtype=torch.bool)
    codes[4990:] = torch.eye(32, dtype=torch.bool)[:10]
    index = CodeIndex(32)
    index.add(codes, torch.arange(5000))
    index.remove(torch.arange(4990))
    assert index.search(codes[:1], 3)[1].tolist() == [[4990, 4991, 4992]]


def test_removed_codes_are_not_written(index, tmp_path):
    index.remove(torch.arange(0, 180, 6))
    index.save(tmp_path)
    assert (tmp_path / "codes.bin").stat().st_size == 30 * (8 + 2)
    assert (CodeIndex.load(tmp_path).ids % 2 == 1).all()
