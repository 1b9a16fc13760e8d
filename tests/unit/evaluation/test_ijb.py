from typing import Any

import numpy as np
import pytest
from drawn_faces import make_folder
from drawn_ijb import GALLERIES, make_insightface, make_nist, plan, write_lines

from facereel.data import Skipped, load_faces, read_folder, read_ijb
from facereel.errors import UserError
from facereel.evaluation import IjbIdentification, IjbVerification
from facereel.evaluation.templates import template_of

MAKE = {"insightface": make_insightface, "nist": make_nist}


def load(root, **options):
    return load_faces(read_ijb(root, Skipped()), Skipped(), size=8, **options)


@pytest.mark.parametrize("name", GALLERIES)
@pytest.mark.parametrize("layout", MAKE)
def test_verification_uses_all_pairs(layout, name, tmp_path):
    tree = MAKE[layout](tmp_path, name)
    split = IjbVerification(tmp_path).split(load(tmp_path), 0)
    task: Any = split.templates
    pairs = [(*pair, same) for pair, same in zip(task.names[task.pairs].tolist(), task.same.tolist(), strict=True)]
    assert pairs == tree.pairs
    assert not split.notes
    assert task.n_absent == 0
    assert {template_of(item) for item in split.test.items} == set(task.names.tolist())
    assert (len(split.test.clips), len(split.test.stills)) == (12, 24)
    assert not split.train.items


@pytest.mark.parametrize("name", GALLERIES)
@pytest.mark.parametrize("layout", MAKE)
def test_identification_uses_both_galleries_and_all_probes(layout, name, tmp_path):
    tree = MAKE[layout](tmp_path, name)
    split = IjbIdentification(tmp_path).split(load(tmp_path), 0)
    task: Any = split.templates
    for gallery, images in zip(GALLERIES[name], tree.galleries, strict=True):
        assert task.names[task.galleries[gallery]].tolist() == sorted({image.template for image in images})
    assert task.names[task.probes].tolist() == sorted({image.template for image in tree.probes})
    assert (split.notes, task.n_absent) == ({}, 0)


def test_templates_without_images_are_counted(tmp_path):
    tree = make_insightface(tmp_path)
    for number, image in enumerate([*tree.galleries[0], *tree.galleries[1], *tree.probes], start=1):
        if image.template in (2, 11_003):
            (tmp_path / "loose_crop" / f"{number}.jpg").unlink()
    faces = load(tmp_path)
    split = IjbVerification(tmp_path).split(faces, 0)
    n_absent = sum(bool({2, 11_003} & {a, b}) for a, b, _ in tree.pairs)
    assert split.notes == {"pairs excluded because their templates are not in the data set": n_absent}
    task: Any = split.templates
    assert len(task.pairs) == len(tree.pairs) - n_absent
    split = IjbIdentification(tmp_path).split(faces, 0)
    task = split.templates
    assert split.notes == {"templates excluded because their images are not in the data set": 2}
    assert [len(gallery) for gallery in task.galleries.values()] == [2, 3]
    assert len(task.probes) == 11


def test_hash_depends_on_the_content(tmp_path):
    make_insightface(tmp_path)
    faces = load(tmp_path)
    first = IjbVerification(tmp_path).split(faces, 0)
    assert first.sha256 == IjbVerification(tmp_path).split(faces, 0).sha256
    file = tmp_path / "meta" / "ijbc_template_pair_label.txt"
    write_lines(file, file.read_text().splitlines()[:-1])
    assert first.sha256 != IjbVerification(tmp_path).split(faces, 0).sha256
    assert first.as_dict()["templates"] == first.templates.sha256


def test_many_pairs_take_little_time_and_memory(tmp_path):
    """Arrays, no Python objects: a million pairs are a few megabytes."""
    make_insightface(tmp_path)
    faces = load(tmp_path)
    random = np.random.default_rng(0)
    a, b = random.integers(1, 7, 10**6), random.integers(11_001, 11_013, 10**6)
    np.savetxt(tmp_path / "meta" / "ijbc_template_pair_label.txt", np.stack([a, b, (b - 11_001) % 6 == a - 1], 1), "%d")
    task: Any = IjbVerification(tmp_path).split(faces, 0).templates
    assert task.pairs.shape == (10**6, 2)
    assert isinstance(task.pairs, np.ndarray)


def test_mistakes_raise_user_errors(tmp_path):
    make_insightface(tmp_path / "ijb")
    faces = load(tmp_path / "ijb")
    for protocol in (IjbVerification, IjbIdentification):
        name = protocol.name
        with pytest.raises(UserError, match=rf"protocol={name} needs protocol.root=DIR: there is no data.root"):
            protocol().split(faces, 0)
        with pytest.raises(UserError, match=r"there is no folder .*absent"):
            protocol(tmp_path / "absent").split(faces, 0)
        with pytest.raises(UserError, match=rf"protocol={name} needs whole videos: data.frames must be even or random"):
            protocol(tmp_path / "ijb").split(load(tmp_path / "ijb", frames="pieces", max_frames=2), 0)
        others = load_faces(read_folder(make_folder(tmp_path / "others"), Skipped()), Skipped(), size=8)
        with pytest.raises(
            UserError, match=rf"protocol={name} needs data=ijb, in which sources are numbered templates"
        ):
            protocol(tmp_path / "ijb").split(others, 0)
    lists = tmp_path / "ijb" / "meta"
    write_lines(lists / "ijbc_template_pair_label.txt", ["1 11002 0", "1 11003 0", "1 99999 1"])
    with pytest.raises(UserError, match=r"the data set has the templates of 2 of the 3 pairs in .*label.txt; pairs of"):
        IjbVerification(tmp_path / "ijb").split(faces, 0)
    write_lines(lists / "ijbc_1N_gallery_G2.csv", ["TEMPLATE_ID,SUBJECT_ID", "4,999"])
    with pytest.raises(UserError, match=r"no probe in the data set has its person in gallery G2"):
        IjbIdentification(tmp_path / "ijb").split(faces, 0)


def test_both_layouts_give_the_same_task(tmp_path):
    tree = plan(n_subjects=4)
    tasks: list[Any] = []
    for layout, make in MAKE.items():
        make(tmp_path / layout, "ijbc", tree)
        tasks.append(IjbVerification(tmp_path / layout).split(load(tmp_path / layout), 0).templates)
    assert tasks[0].sha256 == tasks[1].sha256
