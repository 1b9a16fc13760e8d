"""The protocols of IJB-B and IJB-C: templates are verified in pairs, or searched in two galleries."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facereel.data import FaceSet
from facereel.data.readers.ijb import IjbFiles, find_ijb, read_templates
from facereel.errors import UserError
from facereel.evaluation.split import Part, Split
from facereel.evaluation.templates import TemplatePairs, TemplateSearches, template_of

# Notes that count excluded pairs and templates.
_PAIRS_ABSENT = "pairs excluded because their templates are not in the data set"
_TEMPLATES_ABSENT = "templates excluded because their images are not in the data set"


class _Ijb:
    """Base class of the protocols of IJB-B and IJB-C.

    There is no training part; test has the clips and stills of the listed templates.

    Args:
        root: folder of the data set, which contains the lists; None if there is no folder.
    """

    name = "ijb"

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = root

    def _files(self) -> IjbFiles:
        if self.root is None:
            raise UserError(
                f"protocol={self.name} needs protocol.root=DIR: there is no data.root in which to find the lists"
            )
        return find_ijb(self.root)

    def _templates(self, faces: FaceSet) -> NDArray[np.int64]:
        """Return the sorted template numbers of the data set.

        Raises:
            UserError: if the data set has parts of videos, or is not IJB.
        """
        if any("#" in clip.key.rpartition("/")[2] for clip in faces.clips):
            raise UserError(f"protocol={self.name} needs whole videos: data.frames must be even or random, not pieces")
        try:
            return np.unique([template_of(item) for items in (faces.clips, faces.stills) for item in items])
        except ValueError as error:
            raise UserError(f"protocol={self.name} needs data=ijb, in which sources are numbered templates") from error

    def _split(self, faces: FaceSet, seed: int, templates: TemplatePairs | TemplateSearches, absent: str) -> Split:
        """Return a split of these templates, with a note that counts missing ones."""
        wanted = set(templates.names.tolist())
        test = Part(
            [clip for clip in faces.clips if template_of(clip) in wanted],
            [still for still in faces.stills if template_of(still) in wanted],
        )
        split = Split(self.name, seed, searches_train=False, test=test, templates=templates)
        if templates.n_absent:
            split.notes[absent] = templates.n_absent
        split.check()
        return split


class IjbVerification(_Ijb):
    """Pairs of templates, the same person or not (1:1)."""

    name = "ijb_verification"

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Put the templates of all pairs into test.

        Args:
            faces: the data set.
            seed: only recorded: nothing is drawn.

        Returns:
            The split.

        Raises:
            UserError: if there are no lists, or the data set does not have the templates of pairs of both kinds.
        """
        files = self._files()
        known = self._templates(faces)
        pairs, same = files.read_pairs()
        kept = np.logical_and(*np.isin(pairs, known).T)
        n_absent = int((~kept).sum())
        pairs, same = pairs[kept], same[kept]
        if len(np.unique(same)) < 2:
            raise UserError(
                f"protocol={self.name}: the data set has the templates of {len(pairs)} of the {len(kept)} pairs in "
                f"{files.pairs_file}; pairs of one person and of two people are needed"
            )
        names = np.unique(pairs)
        places = np.searchsorted(names, pairs)
        task = TemplatePairs(names, places, same, files.pairs_file.name, n_absent)
        return self._split(faces, seed, task, _PAIRS_ABSENT)


class IjbIdentification(_Ijb):
    """Probes that search two galleries of different people (1:N)."""

    name = "ijb_identification"

    def split(self, faces: FaceSet, seed: int) -> Split:
        """Put the templates of both galleries and all probes into test.

        Args:
            faces: the data set.
            seed: only recorded: nothing is drawn.

        Returns:
            The split.

        Raises:
            UserError: if there are no lists, or no probe in the data set has its person in a gallery.
        """
        files = self._files()
        known = self._templates(faces)
        lists = {file.stem.rpartition("_")[2]: read_templates(file) for file in files.gallery_files}
        probes = read_templates(files.probe_file)
        for name, gallery in lists.items():
            if not {gallery[t] for t in gallery if t in known} & {probes[t] for t in probes if t in known}:
                raise UserError(f"protocol={self.name}: no probe in the data set has its person in gallery {name}")
        listed = np.unique([template for file in (*lists.values(), probes) for template in file])
        names = np.intersect1d(listed, known)
        n_absent = len(listed) - len(names)

        def places(templates: dict[int, str]) -> NDArray[np.int64]:
            return np.searchsorted(names, np.intersect1d(list(templates), names))

        galleries = {name: places(gallery) for name, gallery in lists.items()}
        task = TemplateSearches(names, galleries, places(probes), n_absent)
        return self._split(faces, seed, task, _TEMPLATES_ABSENT)
