"""`FaceSearch`: find the tracks in an index that show the person in an image or a video."""

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from facereel.data.select import evenly_spaced
from facereel.errors import UserError
from facereel.models import VideoHasher
from facereel.retrieval.encode import check_margin, encode_clip, encode_still, hash_feature, is_too_poor
from facereel.retrieval.index_settings import read_settings
from facereel.retrieval.query import OTHER_MODEL, Query, combine
from facereel.retrieval.track_database import damaged
from facereel.retrieval.track_index import Match, TrackIndex, Within
from facereel.video.align import align_face
from facereel.video.decode import Video
from facereel.video.detector import Image, check_min_face, make_detector
from facereel.video.find_faces import find_faces_of_photo
from facereel.video.find_tracks import find_tracks
from facereel.video.image_file import Unreadable, decode_image, explain, read_frames, read_image

__all__ = ["MIN_FACE", "TOO_POOR", "FaceSearch", "Query", "SearchResult", "combine", "deciding_digits"]

# The longer side in pixels of the smallest face to search for in photos. With 149 people of LFW, one still of each as
# query and another one in the gallery, dlib's network finds a fraction of 0.83 at 40 pixels, 0.89 at 60, 0.76 at 32 and
# 0.53 at 24.
MIN_FACE = 40

# Number of tracks of a named person that are searched for together.
_NAMED = 50

# A search for videos starts with this number of tracks per video, and increases it if necessary.
_TRACKS_A_VIDEO = 4.0
TOO_POOR = "too poor to tell who it is: use a sharper, larger or brighter photo"

# A search for all tracks of a person starts with this number.
_FIRST_TRACKS = 100


class SearchResult(NamedTuple):
    """A video that shows the face, or a single track if every track is a result."""

    best: Match
    """The nearest track."""
    others: list[Match]
    """Other matching tracks of the video, nearest first."""

    @property
    def distance(self) -> float:
        """The distance of the nearest track, 0..1."""
        return self.best.distance

    @property
    def probability(self) -> float | None:
        """The probability of the nearest track, in 0..1; see `Match.probability`."""
        return self.best.probability

    @property
    def video(self) -> str:
        """The path of the video."""
        return self.best.track.video

    @property
    def start_s(self) -> float | None:
        """The start of the nearest track in seconds."""
        return self.best.track.start_s

    @property
    def end_s(self) -> float | None:
        """The end of the nearest track in seconds."""
        return self.best.track.end_s

    @property
    def person(self) -> str | None:
        """The name of the person, if one was given."""
        return self.best.track.person


class FaceSearch:
    """Search an index by face. Its methods are thread-safe.

    Args:
        folder: folder of an index, written by `facereel index`.

    Raises:
        UserError: if the index, its model or its detector is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.index = TrackIndex(folder)
        self._model = self._load()
        self._settings = read_settings(self.index)
        self.size, self.margin = self._settings.size, float(self._settings.margin)
        check_margin(self.model, self.margin)
        self._detector = make_detector(self._settings.detector)
        self._lock = threading.Lock()  # detectors are not thread-safe

    @property
    def model(self) -> VideoHasher:
        """The current model of the index, which changes when its codes are fitted."""
        return self._current()[0]

    @property
    def encoding(self) -> int:
        """The current `Query.encoding` of the index."""
        return self._current()[1]

    def _current(self) -> tuple[VideoHasher, int]:
        """Return the current model, and the current `Query.encoding`."""
        if self.index.about["model"] != self._model[0]:
            self._model = self._load()
        return self._model[1:]

    def _load(self) -> tuple[str, VideoHasher, int]:
        while True:
            about = self.index.about
            try:
                model = self.index.model()
            except UserError:
                if self.index.about["model"] == about["model"]:
                    raise
            else:
                if self.index.about["model"] == about["model"]:
                    return about["model"], model, about.get("encoding", 0)

    def queries(self, path: str | Path, min_face: float = MIN_FACE) -> list[Query]:
        """Find the faces in an image or video file.

        Args:
            path: the file; in an animation, the first frame that shows a face is used.
            min_face: longer side of the smallest face in pixels, for images; see `faces`.

        Returns:
            The faces of an image, the largest first, or the tracks of a video, the longest first.

        Raises:
            UserError: if the file is neither an image nor a video, or shows no face.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
        found = self.faces_of_file(path, min_face)
        if isinstance(found, Unreadable):
            why = explain(path, found)
            if why is not None:
                raise UserError(f"{path}: {why}")
            found = self.tracks(path)
        if not found:
            raise UserError(f"{path}: no face found")
        return found

    def faces_of_file(self, path: str | Path, min_face: float = MIN_FACE) -> list[Query] | Unreadable:
        """Find the faces in an image file.

        Args:
            path: the file; in an animation, the first frame that shows a face is used.
            min_face: longer side of the smallest face in pixels; see `faces`.

        Returns:
            The faces, the largest first, or why the file cannot be read.
        """
        image = read_image(path)
        if isinstance(image, Unreadable):
            return image
        found = self.faces(image, min_face)
        frames = read_frames(path)
        while not found and (frame := next(frames, None)) is not None:
            found = self.faces(frame, min_face)
        return found

    def faces(self, image: Image | str | Path, min_face: float = MIN_FACE) -> list[Query]:
        """Find the faces in an image, which may be rotated by a multiple of 90 degrees.

        Args:
            image: (H, W, 3) BGR uint8, as OpenCV reads it, or the path of an image file.
            min_face: longer side of the smallest face in pixels, at least 1/200 of the image's longer side.

        Returns:
            The faces, the largest first, with boxes in pixels of the given image and upright crops.

        Raises:
            UserError: if `min_face` is too small, or the file cannot be read as an image.
        """
        if isinstance(image, str | Path):
            found = self.faces_of_file(image, min_face)
            if isinstance(found, Unreadable):
                raise UserError(f"{image}: {explain(Path(image), found) or 'a video, not an image'}")
            return found
        check_min_face(min_face)
        with self._lock:
            faces = find_faces_of_photo(self._detector, image, min_face)
        queries = []
        for face in sorted(faces, key=lambda face: -face.box[2] * face.box[3]):
            crop = align_face(image, face.landmarks, self.size, self.margin)
            if crop is not None:
                queries.append(replace(self._encoded(crop), box=face.box))
        return queries

    def tracks(self, video: Path) -> list[Query]:
        """Find the tracks in a video.

        Args:
            video: the video file.

        Returns:
            The tracks, the longest first.

        Raises:
            UserError: if the video cannot be read, or no face is found because most of it cannot be read.
        """
        queries = []
        opened = Video(video)
        for track in find_tracks(opened, self._settings):
            model, encoding = self._current()
            made = encode_clip([crop.image for crop in track.crops], self.margin, model)
            query = Query(None, track.best.image, made.code, made.scores, feature=made.feature, encoding=encoding)
            queries.append(replace(query, start_s=track.start_s, end_s=track.end_s))
        if not queries and opened.faults:
            raise UserError(f"{video}: no face found: {', '.join(opened.faults)}")
        return sorted(queries, key=lambda query: -((query.end_s or 0) - (query.start_s or 0)))

    def like(self, track: int) -> Query:
        """Use a track of the index as a query, by its feature, or without features by its code alone.

        Args:
            track: id of the track.

        Returns:
            The query, without scores.

        Raises:
            UserError: if the index has no track with this id.
        """
        _, encoding = self._current()
        code = self.index.vectors.code(track)
        found = self.index.tracks([track])
        path = self.index.thumbnails.find(track)
        if code is None or not found:
            raise UserError(f"track {track} is not in the index")
        thumbnail = Unreadable.UNREADABLE if path is None else read_image(path)
        crop = np.zeros((1, 1, 3), np.uint8) if isinstance(thumbnail, Unreadable) else thumbnail
        feature = torch.from_numpy(self.index.vectors.features([track])[0]).float() if self.index.has_features else None
        return Query(None, crop, code, None, found[0].start_s, found[0].end_s, feature, encoding=encoding)

    def named(self, person: str) -> list[Query]:
        """Use what is known of a person as queries: photos, and at most 50 named tracks, evenly spaced.

        Args:
            person: the name.

        Returns:
            A query for each photo and track. Tracks that were rejected for the person will not be results.

        Raises:
            UserError: if there is no track or photo of this name, or a photo is damaged.
        """
        ids = self.index.ids_of_person(person)
        queries = [self._photo(photo) for photo in self.index.people.photos(person)]
        queries += [self.like(id_) for id_ in evenly_spaced(ids, _NAMED)]
        if not queries:
            raise UserError(f"no track is named {person}: facereel people list shows the names")
        rejected = frozenset(track for track, _ in self.index.people.rejected(person))
        return [replace(query, rejected=rejected) for query in queries]

    def _photo(self, photo: bytes) -> Query:
        """Encode a photo from `People.photos`."""
        crop = decode_image(photo)
        if isinstance(crop, Unreadable) or crop.shape != (self.size, self.size, 3):
            raise damaged(self.index.folder, "the photo of a person cannot be read")
        return self._encoded(crop)

    def _encoded(self, crop: Image) -> Query:
        model, encoding = self._current()
        made = encode_still(crop, self.margin, model)
        query = Query(None, crop, made.code, made.scores, feature=made.feature, is_too_poor=made.is_too_poor)
        return replace(query, encoding=encoding)

    def search(
        self, query: Query | Sequence[Query], top: int = 10, *, per_video: bool = True, within: Within | None = None
    ) -> list[SearchResult]:
        """Find the tracks nearest to a face.

        Args:
            query: a face from `queries`, `faces`, `tracks` or `like`; several are faces of one person.
            top: maximum number of results.
            per_video: return one result per video, ranked by its nearest track; else one per track.
            within: videos to search in; None searches all.

        Returns:
            The results, nearest first.

        Raises:
            ValueError: if there is no query.
            UserError: if the query was encoded by an earlier model of the index.
        """
        if not isinstance(query, Query):
            query = combine(query)
        while True:
            model, encoding = self._current()
            if query.encoding != encoding:
                raise UserError(OTHER_MODEL)
            before = self._model[0]
            try:
                found = self._search(query, top, per_video, within, model)
            except (UserError, ValueError):
                if self.index.about["model"] == before:
                    raise
            else:
                if self.index.about["model"] == before:
                    return found  # else the codes changed in the meantime

    def _search(
        self, query: Query, top: int, per_video: bool, within: Within | None, model: VideoHasher
    ) -> list[SearchResult]:
        """See `search`."""
        if self.index.has_features and query.feature is not None:
            encoded = hash_feature(query.feature, model)
            find = partial(self.index.search, encoded.code, feature=encoded.feature, within=within)
        else:
            find = partial(self.index.search, query.code, scores=query.scores, within=within)
        if not per_video:
            matches = self._judged(query, find(top + len(query.rejected)), model)
            return [SearchResult(match, []) for match in matches][:top]
        codes = self.index.codes()
        held = len(codes) if codes.max_k is None else max(top, min(codes.max_k, len(codes)))
        k = min(math.ceil(_TRACKS_A_VIDEO * top) + len(query.rejected), max(held, 1))
        while True:
            matches = self._judged(query, find(k), model)
            videos: dict[str, list[Match]] = {}
            for match in matches:
                videos.setdefault(match.track.video, []).append(match)
            # The tracks beyond the k-th are missing, but the nearest of each video is found.
            if len(videos) >= top or k >= held:
                return [SearchResult(found[0], found[1:]) for found in list(videos.values())[:top]]
            k = min(4 * k, held)

    def probable(self, query: Query | Sequence[Query], within: Within | None = None) -> list[Match]:
        """Find all tracks that show the person with a probability of at least 1/2, however many they are.

        Tracks with the verdict likely, and brief tracks, which are at most maybe. With Milvus, at most as many as it
        returns from one search.

        Args:
            query: a face from `queries`, `faces`, `tracks` or `like`; several are faces of one person.
            within: videos to search in; None searches all.

        Returns:
            The tracks, nearest first.

        Raises:
            ValueError: if there is no query.
            UserError: if the index has no calibration, or the query is too poor to tell who it is.
        """
        query = query if isinstance(query, Query) else combine(query)
        if self.index.calibration is None:
            folder = self.index.folder
            raise UserError(
                f"{folder} has no calibration, so it is unknown which tracks are likely the person: calibrate it on "
                f"known people: facereel convert --index {folder} --calibrate PREPARED"
            )
        if query.is_too_poor:
            raise UserError(f"the face is {TOO_POOR}")
        codes = self.index.codes()
        most = max(1, len(codes) if codes.max_k is None else min(codes.max_k, len(codes)))
        k = min(_FIRST_TRACKS, most)
        while True:
            found = [one.best for one in self.search(query, k, per_video=False, within=within)]
            probable = [match for match in found if (match.probability or 0.0) >= 0.5]
            if len(probable) < k or k == most:
                return probable
            k = min(4 * k, most)

    @property
    def threshold(self) -> float | None:
        """The distance up to which a track probably shows the same person; None if the model was not calibrated.

        There the probability is 1/2, see `Calibration`. Error rates were measured on one data set: see
        docs/results/search_accuracy.md.
        """
        n_tracks, calibration = len(self.index), self.index.calibration
        return None if calibration is None or not n_tracks else calibration.threshold(n_tracks)

    def _judged(self, query: Query, matches: list[Match], model: VideoHasher) -> list[Match]:
        """Drop rejected tracks, and give the others their probabilities, unless the query is too poor."""
        matches = [match for match in matches if match.track.id not in query.rejected]
        calibration = self.index.calibration
        if calibration is None or query.is_too_poor:
            return matches
        n_tracks, probability = len(self.index), calibration.probability
        has_features = self.index.has_features
        features = self.index.vectors.find_features([match.track.id for match in matches]) if has_features else {}
        poor = dict(zip(features, is_too_poor(list(features.values()), model), strict=True))
        return [
            match._replace(
                probability=probability(match.distance, n_tracks), is_too_poor=poor.get(match.track.id, False)
            )
            for match in matches
        ]


def deciding_digits(distances: Iterable[float], threshold: float | None, least: int) -> int:
    """Return the number of decimals that shows each distance on the correct side of the threshold.

    Args:
        distances: distances of matches.
        threshold: a `FaceSearch.threshold`.
        least: minimum number of decimals.

    Examples:
        >>> deciding_digits([0.1, 0.4], 0.21, 2), deciding_digits([0.1, 0.2132], 0.2134, 2)
        (2, 4)
    """
    if threshold is None:
        return least
    others = {distance for distance in distances if distance != threshold}
    for digits in range(least, 17):
        if all(f"{distance:.{digits}f}" != f"{threshold:.{digits}f}" for distance in others):
            return digits
    return 17
