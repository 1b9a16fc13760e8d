"""Drawn faces in the layouts of IJB-B and IJB-C, as NIST and as InsightFace released them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from drawn_faces import draw_face_with_points, write

GALLERIES = {"ijbc": ("G1", "G2"), "ijbb": ("S1", "S2")}
# The columns of IJB-C; IJB-B has three points in place of what comes after the box.
COLUMNS = (
    *("TEMPLATE_ID", "SUBJECT_ID", "FILENAME", "SIGHTING_ID", "FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT"),
    *("FRAME_NUM", "FACIAL_HAIR", "AGE", "INDOOR_OUTDOOR", "SKINTONE", "GENDER", "YAW", "ROLL"),
    *(f"OCC{i}" for i in range(1, 19)),
)
BOX = (30.0, 11.0, 64.0, 62.0)


class Drawn(NamedTuple):
    """An image of a template."""

    subject: int
    template: int
    medium: int
    file: str
    """As NIST names it."""


class Tree(NamedTuple):
    """What was drawn: images by list, in the order of the lists, and pairs of templates."""

    galleries: list[list[Drawn]]
    probes: list[Drawn]
    pairs: list[tuple[int, int, bool]]


def plan(n_subjects: int = 6, n_probes: int = 2) -> Tree:
    """A gallery template of two stills for each subject; probes of a video of three frames and a still."""
    galleries: list[list[Drawn]] = [[], []]
    probes = []
    medium, image = 69_000, 0

    def next_image(kind: str, subject: int, template: int) -> Drawn:
        nonlocal image
        image += 1
        return Drawn(100 + subject, template, medium, f"{kind}/{image}.jpg")

    for subject in range(n_subjects):
        for _ in range(2):
            medium += 1
            galleries[subject * 2 // n_subjects].append(next_image("img", subject, 1 + subject))
    for probe in range(n_subjects * n_probes):
        subject, template = probe % n_subjects, 11_001 + probe
        medium += 1
        probes += [next_image("frames", subject, template) for _ in range(3)]
        medium += 1
        probes.append(next_image("img", subject, template))
    subjects = {drawn.template: drawn.subject for drawn in (*galleries[0], *galleries[1], *probes)}
    enrolled, asked = ([t for t in subjects if (t < 11_000) == side] for side in (True, False))
    return Tree(galleries, probes, [(a, b, subjects[a] == subjects[b]) for a in enrolled for b in asked])


def make_insightface(root: Path, name: str = "ijbc", tree: Tree | None = None, with_lists: bool = True) -> Tree:
    """ROOT/meta and ROOT/loose_crop: each image of a template is a file N.jpg of its own, N its line."""
    tree = tree or plan()
    random = np.random.default_rng(7)
    images = [*tree.galleries[0], *tree.galleries[1], *tree.probes]
    points, media = [], []
    for number, drawn in enumerate(images, start=1):
        image = np.zeros((90, 100, 3), np.uint8)
        image[10:74, 30:94], found = draw_face_with_points(drawn.subject, random)
        write(root / "loose_crop" / f"{number}.jpg", image)
        moved = [value + (30, 10)[i % 2] for i, value in enumerate(found)]
        points.append(" ".join([f"{number}.jpg", *(f"{value:.3f}" for value in moved), "0.999"]))
        media.append(f"{number}.jpg {drawn.template} {drawn.medium}")
    pairs = [f"{a} {b} {int(same)}" for a, b, same in tree.pairs]
    for ending, lines in (("name_5pts_score", points), ("face_tid_mid", media), ("template_pair_label", pairs)):
        write_lines(root / "meta" / f"{name}_{ending}.txt", lines)
    if with_lists:
        _write_lists(root / "meta", name, tree)
    return tree


def make_nist(root: Path, name: str = "ijbc", tree: Tree | None = None) -> Tree:
    """ROOT/protocols and ROOT/images of IJB-C, or ROOT/protocol, ROOT/img and ROOT/frames of IJB-B."""
    tree = tree or plan()
    random = np.random.default_rng(8)
    for drawn in (*tree.galleries[0], *tree.galleries[1], *tree.probes):
        image = np.zeros((90, 100, 3), np.uint8)
        image[10:74, 30:94] = draw_face_with_points(drawn.subject, random)[0]
        write(root / ("images" if name == "ijbc" else "") / drawn.file, image)
    folder = root / ("protocols" if name == "ijbc" else "protocol")
    _write_lists(folder, name, tree)
    lines = [f"{a},{b}" for a, b, _ in tree.pairs]
    write_lines(folder / f"{name}_11_{'_'.join(GALLERIES[name])}_matches.csv", lines)
    return tree


def _write_lists(folder: Path, name: str, tree: Tree) -> None:
    names = [f"1N_gallery_{gallery}" for gallery in GALLERIES[name]]
    for list_, images in zip([*names, "1N_probe_mixed"], [*tree.galleries, tree.probes], strict=True):
        lines = [",".join(COLUMNS)]
        for drawn in images:
            cells = dict.fromkeys(COLUMNS, "nan")
            cells |= {"TEMPLATE_ID": str(drawn.template), "SUBJECT_ID": str(drawn.subject), "FILENAME": drawn.file}
            cells |= {"SIGHTING_ID": str(drawn.medium)}
            cells |= dict(zip(COLUMNS[4:8], map(str, BOX), strict=True))
            lines.append(",".join(cells.values()))
        write_lines(folder / f"{name}_{list_}.csv", lines)


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
