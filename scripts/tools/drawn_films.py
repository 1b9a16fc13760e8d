"""Write five short films of drawn people and a photo of each person, for the first tutorial: no real face.

python scripts/tools/drawn_films.py [--out films] [--photos photos]
"""

import argparse
import importlib
import os
import sys
from datetime import datetime
from pathlib import Path

import cv2

REPOSITORY = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("films"), help="folder of the films")
    parser.add_argument("--photos", type=Path, default=Path("photos"), help="folder of the photos")
    arguments = parser.parse_args()
    # The tests' own drawings: not installed, and not typed.
    sys.path += [str(REPOSITORY / "tests" / "helpers"), str(REPOSITORY / "examples")]
    clips, films, people = (importlib.import_module(name) for name in ("drawn_archive", "films", "drawn_people"))
    for clip in clips.CLIPS:
        path = films.make_film(
            arguments.out / clip.file, *clip.people, seconds=5.0, appear_s=clip.appear_s, seed=len(clip.file)
        )
        date = datetime.fromisoformat(f"{clip.day}T12:00:00").timestamp()
        os.utime(path, (date, date))
        print(f"{path}: {' and '.join(clip.people)}")
    arguments.photos.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(people.PEOPLE):
        photo = arguments.photos / f"{name.lower()}.jpg"
        cv2.imwrite(str(photo), people.draw_image(name, width=480, height=480, seed=number, turn=0.2))
        print(photo)


if __name__ == "__main__":
    main()
