"""`SeveralIndexes`: search several indexes as one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from facereel.errors import UserError
from facereel.retrieval.encode import have_same_features
from facereel.retrieval.face_search import MIN_FACE, FaceSearch, Query, SearchResult, combine
from facereel.retrieval.track_index import Match, Within


class SeveralIndexes:
    """Search several indexes by face, and merge their answers. Its methods are thread-safe.

    Each index answers with its nearest tracks, so the merged answer has the nearest of all. The indexes may have fitted
    their own codes: with features, distances do not depend on codes.

    Args:
        folders: folders of the indexes, at least one.

    Raises:
        UserError: if an index cannot be opened, or if distances in two indexes cannot be compared.
    """

    def __init__(self, folders: Sequence[str | Path]) -> None:
        self.searches = [FaceSearch(folder) for folder in folders]
        # An index may change to another model later: its `search` then raises an error.
        self._encodings = [search.encoding for search in self.searches]
        first = self.searches[0]
        for other in self.searches[1:]:
            if not _is_comparable(first, other):
                raise UserError(
                    f"{first.index.folder} and {other.index.folder} were made by different models, so their distances "
                    "cannot be compared: search them one by one, or give one the model of the other with facereel "
                    "convert"
                )

    def __len__(self) -> int:
        return sum(len(search.index) for search in self.searches)

    @property
    def threshold(self) -> float | None:
        """See `FaceSearch.threshold`: that of the first index's calibration, with the tracks of all indexes.

        None if an index is not calibrated.
        """
        calibrations = [search.index.calibration for search in self.searches]
        if None in calibrations or calibrations[0] is None or not len(self):
            return None
        return calibrations[0].threshold(len(self))

    def queries(self, path: str | Path, min_face: float = MIN_FACE) -> list[Query]:
        """Find the faces in an image or video file; see `FaceSearch.queries`.

        Args:
            path: the file.
            min_face: longer side of the smallest face in pixels.

        Returns:
            The faces.
        """
        return self.searches[0].queries(path, min_face)

    def search(
        self, query: Query | Sequence[Query], top: int = 10, *, per_video: bool = True, within: Within | None = None
    ) -> list[SearchResult]:
        """Find the tracks nearest to a face in all indexes; see `FaceSearch.search`.

        Args:
            query: a face from `queries`; several are faces of one person.
            top: maximum number of results.
            per_video: return one result per video, ranked by its nearest track; else one per track.
            within: videos to search in; None searches all.

        Returns:
            The results, nearest first; at equal distances in the order of the indexes. Probabilities take the tracks of
            all indexes into account.

        Raises:
            ValueError: if there is no query.
            UserError: if an index was encoded by another model since it was opened.
        """
        if not isinstance(query, Query):
            query = combine(query)
        videos: dict[str, list[Match]] = {}
        for number, (search, encoding) in enumerate(zip(self.searches, self._encodings, strict=True)):
            its = query if number == 0 else replace(query, encoding=encoding)
            for result in search.search(its, top, per_video=per_video, within=within):
                matches = [self._judged(match, search) for match in (result.best, *result.others)]
                # Without `per_video`, each track is a result.
                key = result.video if per_video else f"{number} {result.best.track.id}"
                videos.setdefault(key, []).extend(matches)
        found = [sorted(matches, key=lambda match: match.distance) for matches in videos.values()]
        found.sort(key=lambda matches: matches[0].distance)
        return [SearchResult(matches[0], matches[1:]) for matches in found[:top]]

    def _judged(self, match: Match, search: FaceSearch) -> Match:
        """Give a match of one index its probability among the tracks of all."""
        calibration = search.index.calibration
        if match.probability is None or calibration is None:
            return match
        return match._replace(probability=calibration.probability(match.distance, len(self)))


def _is_comparable(first: FaceSearch, other: FaceSearch) -> bool:
    """Return whether distances in two indexes can be compared: by features, or by codes of one model."""
    if first.index.has_features and other.index.has_features:
        return have_same_features(first.model, other.model)
    return (
        first.index.has_features == other.index.has_features
        and first.index.about["model"] == other.index.about["model"]
    )
