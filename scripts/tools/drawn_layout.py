"""Write a small data set of drawn faces for the tutorials: no real face.

python scripts/tools/drawn_layout.py [--out faces] [--layout own|folder]
"""

import argparse
import csv
import importlib
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

REPOSITORY = Path(__file__).parents[2]
PEOPLE = ("ann", "bo", "cy", "di")
SHOTS = ("a", "b", "c")
N_FRAMES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("faces"), help="folder of the images")
    parser.add_argument(
        "--layout", choices=("own", "folder"), default="own", help="a made-up one, or that of data=folder"
    )
    arguments = parser.parse_args()
    # The tests' own drawings: not installed, and not typed.
    sys.path += [str(REPOSITORY / "tests" / "helpers"), str(REPOSITORY / "examples")]
    drawn = importlib.import_module("drawn_faces")
    if arguments.layout == "folder":
        print(drawn.make_folder(arguments.out, n_people=len(PEOPLE)))
    else:
        write_own_layout(arguments.out, drawn)


def write_own_layout(out: Path, drawn: Any) -> None:
    """Write PERSON-SHOT-NUMBER.jpg and boxes.csv."""
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    boxes = []
    for number, person in enumerate(PEOPLE):
        for name in [f"{person}-{shot}-{frame}.jpg" for shot in SHOTS for frame in range(1, N_FRAMES + 1)]:
            image = np.zeros((90, 100, 3), np.uint8)
            image[10:74, 30:94] = drawn.draw_face(number, random)
            cv2.imwrite(str(out / name), image)
            boxes.append((name, 30, 10, 64, 64))
    cv2.imwrite(str(out / "cover.jpg"), np.zeros((90, 100, 3), np.uint8))
    with (out / "boxes.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows(boxes)
    print(f"{out}: {len(boxes)} images of {len(PEOPLE)} people, and a cover")


if __name__ == "__main__":
    main()
