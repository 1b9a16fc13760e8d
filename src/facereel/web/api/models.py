"""What the HTTP API answers, and the bodies that it takes."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from facereel.data.person_names import LONGEST_NAME
from facereel.retrieval.face_search import SearchResult
from facereel.retrieval.track_index import Track
from facereel.retrieval.track_listing import GroupEntry, PersonEntry, VideoEntry
from facereel.web.guard import API

_Id = Annotated[int, Field(description="Id of the track.", examples=[1])]
_Video = Annotated[
    str,
    Field(description="Path of the video, or name of a source in a data set.", examples=["/videos/holiday/lake.mp4"]),
]
_Start = Annotated[float | None, Field(description="Start of the track in seconds, if it has times.", examples=[12.4])]
_End = Annotated[float | None, Field(description="End of the track in seconds, if it has times.", examples=[15.0])]
_Person = Annotated[str | None, Field(description="Name of the person, if it has one.", examples=["Ada Lovelace"])]
_Thumbnail = Annotated[str, Field(description="Address of the JPEG image.", examples=[f"{API}/tracks/1/thumbnail"])]
_NTracks = Annotated[int, Field(description="Number of tracks.", examples=[12])]
_NVideos = Annotated[int, Field(description="Number of videos.", examples=[3])]


def thumbnail_address(track: int) -> str:
    """Return the address of a track's image."""
    return f"{API}/tracks/{track}/thumbnail"


class StatusAnswer(BaseModel):
    """The server and its index."""

    version: str = Field(description="Version of facereel.", examples=["0.1.0"])
    n_tracks: _NTracks
    n_videos: _NVideos
    n_bits: int = Field(description="Length of a code in bits.", examples=[256])
    is_calibrated: bool = Field(description="Whether searches state probabilities.")
    threshold: float | None = Field(
        description="Distance up to which a result is likely; null if the index is not calibrated.", examples=[0.31]
    )
    read_only: bool = Field(description="Whether changes are refused.")


class VideoAnswer(BaseModel):
    """A video."""

    video: _Video
    date: float | None = Field(description="Time of the last change of the file, in seconds since 1970.")
    n_tracks: _NTracks
    is_absent: bool = Field(description="Whether the file is missing, or on a drive that is not connected.")

    @classmethod
    def of(cls, entry: VideoEntry) -> "VideoAnswer":
        """Describe a video."""
        return cls(video=entry.path, date=entry.date, n_tracks=entry.n_tracks, is_absent=entry.is_absent)


class VideosPage(BaseModel):
    """A page of videos, in the order of their paths."""

    videos: list[VideoAnswer]
    next: str | None = Field(description="The `after` of the next page; null at the end.")


class TrackAnswer(BaseModel):
    """A track: one face in one video, from one second to another."""

    track: _Id
    video: _Video
    number: int = Field(description="Number of the track in its video, from 0.")
    start_s: _Start
    end_s: _End
    person: _Person
    group: int | None = Field(description="Number of the group, if the index has groups.")
    thumbnail: _Thumbnail

    @classmethod
    def of(cls, track: Track) -> "TrackAnswer":
        """Describe a track."""
        return cls(
            track=track.id,
            video=track.video,
            number=track.number,
            start_s=track.start_s,
            end_s=track.end_s,
            person=track.person,
            group=track.cluster,
            thumbnail=thumbnail_address(track.id),
        )


class TracksPage(BaseModel):
    """A page of tracks, in the order of their ids."""

    tracks: list[TrackAnswer]
    next: int | None = Field(description="The `after` of the next page; null at the end.")


class CropsAnswer(BaseModel):
    """The crops from which a track was encoded, in time order."""

    crops: list[str] = Field(
        description="Addresses of the JPEG images.", examples=[[f"{API}/tracks/1/crops/{n}" for n in (1, 2)]]
    )


class FaceAnswer(BaseModel):
    """A face in a photo, or a track of an uploaded video."""

    photo: int = Field(description="Number of the file in the request, from 1.", examples=[1])
    face: int = Field(description="Number in the file, from 1: the largest, or longest seen, first.", examples=[1])
    box: tuple[float, float, float, float] | None = Field(
        description="Left, top, width and height in pixels; null for a video.", examples=[(212.0, 88.0, 143.0, 180.0)]
    )
    start_s: float | None = Field(description="Start of the track in an uploaded video, in seconds.")
    end_s: float | None = Field(description="End of the track in an uploaded video, in seconds.")
    is_too_poor: bool = Field(description="Whether the photo does not show who it is, so that results are chance.")
    is_used: bool = Field(description="Whether this face was searched for.")


class ResultAnswer(BaseModel):
    """A video that may show the person, with its nearest track."""

    video: _Video
    track: _Id
    start_s: _Start
    end_s: _End
    distance: float = Field(description="Distance of the faces: 0 is the same, 1 the greatest.", examples=[0.21])
    probability: float | None = Field(
        description="Probability that it is the same person; null if the index is not calibrated or the face too poor.",
        examples=[0.97],
    )
    verdict: str | None = Field(
        description="likely, maybe or unlikely, from the probability and the length of the track.", examples=["likely"]
    )
    person: _Person
    thumbnail: _Thumbnail

    @classmethod
    def of(cls, result: SearchResult) -> "ResultAnswer":
        """Describe a result."""
        best = result.best
        return cls(
            video=result.video,
            track=best.track.id,
            start_s=result.start_s,
            end_s=result.end_s,
            distance=best.distance,
            probability=best.probability,
            verdict=best.verdict,
            person=result.person,
            thumbnail=thumbnail_address(best.track.id),
        )


_Results = Annotated[list[ResultAnswer], Field(description="One result per video, the nearest first.")]
_Threshold = Annotated[
    float | None,
    Field(description="Distance up to which a result is likely; null if the index is not calibrated.", examples=[0.31]),
]


class SearchAnswer(BaseModel):
    """The faces in the photos, and the nearest videos."""

    faces: list[FaceAnswer] = Field(description="All faces of all photos.")
    results: _Results
    threshold: _Threshold


class SimilarAnswer(BaseModel):
    """The nearest videos."""

    results: _Results
    threshold: _Threshold


class PersonAnswer(BaseModel):
    """A person with a name."""

    name: str = Field(description="The name.", examples=["Ada Lovelace"])
    n_tracks: _NTracks
    n_videos: _NVideos

    @classmethod
    def of(cls, entry: PersonEntry) -> "PersonAnswer":
        """Describe a person."""
        return cls(name=entry.name, n_tracks=entry.n_tracks, n_videos=entry.n_videos)


class PeoplePage(BaseModel):
    """A page of people, in the order of their names."""

    people: list[PersonAnswer]
    next: str | None = Field(description="The `after` of the next page; null at the end.")


class GroupAnswer(BaseModel):
    """A group: tracks that probably show the same person."""

    group: int = Field(description="Number of the group.", examples=[3])
    n_tracks: _NTracks
    n_videos: _NVideos
    seconds: float = Field(description="Total duration of the tracks in seconds.", examples=[48.2])
    names: list[str] = Field(description="Names of the tracks, the most frequent first.", examples=[["Ada Lovelace"]])
    n_unnamed: int = Field(description="Number of tracks without a name.", examples=[0])
    thumbnail: str = Field(description="Address of the image of the longest track.")

    @classmethod
    def of(cls, entry: GroupEntry) -> "GroupAnswer":
        """Describe a group."""
        return cls(
            group=entry.number,
            n_tracks=entry.n_tracks,
            n_videos=entry.n_videos,
            seconds=entry.seconds,
            names=entry.names,
            n_unnamed=entry.n_unnamed,
            thumbnail=thumbnail_address(entry.longest),
        )


class GroupsPage(BaseModel):
    """A page of groups, in the order of their numbers."""

    groups: list[GroupAnswer]
    next: int | None = Field(description="The `after` of the next page; null at the end.")


class NameBody(BaseModel):
    """A name to give."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str | None = Field(
        description=f"At most {LONGEST_NAME} characters, all printable. Null, or only spaces, removes the name.",
        max_length=LONGEST_NAME,
        examples=["Ada Lovelace"],
    )


def _to_integer(value: object) -> object:
    """Convert 3.0, which is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class MergeBody(BaseModel):
    """Groups to merge."""

    model_config = ConfigDict(strict=True, extra="forbid")

    groups: list[Annotated[int, Field(ge=1, le=2**53 - 1), BeforeValidator(_to_integer)]] = Field(
        description="Numbers of at least two different groups.",
        min_length=2,
        max_length=1000,
        examples=[[3, 7]],
        json_schema_extra={"uniqueItems": True},
    )
