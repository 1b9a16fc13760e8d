"""XMP sidecars with the people of a video, which photo and video programs show and search.

A sidecar describes a whole video, in which a face has no single box. So there are no regions of the Metadata Working
Group.
"""

import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from facereel.errors import UserError
from facereel.export.timeline.folders import files_of_videos
from facereel.export.timeline.tables import one_line
from facereel.retrieval.intervals import Interval
from facereel.storage.files import atomic_write

_NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
# The names of keywords and of people in XMP.
_LISTS = (("dc", "subject"), ("Iptc4xmpExt", "PersonInImage"))
_TOOLKIT = "facereel"


def write_sidecars(folder: str | Path, intervals: Iterable[Interval]) -> list[Path]:
    """Write an XMP sidecar per video, with the names of its people as `Iptc4xmpExt:PersonInImage` and as keywords.

    Args:
        folder: folder for the files, created if it does not exist; in it they are as the videos are below the folder
            that all videos share, and `.xmp` is added to their names.
        intervals: the intervals.

    Returns:
        The files.

    Raises:
        UserError: if a sidecar exists that another program wrote. Nothing is written then.
        OSError: if a file cannot be written.
    """
    people: dict[str, set[str]] = defaultdict(set)
    for interval in intervals:
        people[interval.video].update(one_line(person) for person in interval.people)
    files = files_of_videos(Path(folder), people, ".xmp")
    for path in files.values():
        if path.exists() and f'xmptk="{_TOOLKIT}"'.encode() not in path.read_bytes():
            raise UserError(f"{path} was written by another program: choose another folder, or move it away")
    for video, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as unfinished:
            unfinished.write_text(to_xmp(sorted(people[video])), encoding="utf-8")
    return list(files.values())


def to_xmp(people: Iterable[str]) -> str:
    """Return XMP with the names of people.

    Args:
        people: the names.

    Returns:
        The content of a sidecar.
    """
    for prefix, uri in _NAMESPACES.items():
        ET.register_namespace(prefix, uri)
    people = list(people)
    root = ET.Element(_tag("x", "xmpmeta"), {_tag("x", "xmptk"): _TOOLKIT})
    described = ET.SubElement(
        ET.SubElement(root, _tag("rdf", "RDF")), _tag("rdf", "Description"), {_tag("rdf", "about"): ""}
    )
    for prefix, name in _LISTS:
        bag = ET.SubElement(ET.SubElement(described, _tag(prefix, name)), _tag("rdf", "Bag"))
        for person in people:
            ET.SubElement(bag, _tag("rdf", "li")).text = person
    ET.indent(root)
    return f"{ET.tostring(root, encoding='unicode')}\n"


def _tag(prefix: str, name: str) -> str:
    return f"{{{_NAMESPACES[prefix]}}}{name}"
