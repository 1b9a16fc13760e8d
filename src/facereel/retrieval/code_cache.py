"""`CodeCache`: the codes of an index in the search backend, kept up to date with the database."""

import shutil
import threading
import uuid
from contextlib import suppress
from pathlib import Path

from facereel.errors import UserError
from facereel.retrieval.backends import CodeBackend
from facereel.retrieval.backends.faiss import KINDS
from facereel.retrieval.backends.milvus import MilvusIndex, checked_uri, is_own_place
from facereel.retrieval.code_index import META_FILE, CodeIndex
from facereel.retrieval.code_segments import CodeSegments
from facereel.retrieval.milvus_queue import START, STOP, push, refill
from facereel.retrieval.track_database import SEGMENTS, TrackDatabase, damaged, run_script
from facereel.storage.untrusted import resolve_inside

# Number of added codes after which they are saved.
_MOST_UNSAVED = 20_000


class CodeCache:
    """The codes of the database's current generation, from `CodeSegments`, an inverted file or Milvus.

    Args:
        database: database of the index.
    """

    def __init__(self, database: TrackDatabase) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._loaded: tuple[int, CodeBackend] | None = None
        self._segments = CodeSegments(database)
        self._n_unsaved = 0

    @property
    def _n_bits(self) -> int:
        return int(self._database.about()["n_bits"])

    @property
    def backend(self) -> dict[str, str]:
        """The search backend: {"kind": kind of `CodeIndex`}, or a `MilvusIndex.place`.

        Raises:
            UserError: if the index is damaged.
        """
        backend = self._database.about().get("codes", {"kind": "flat"})
        if not (
            isinstance(backend, dict)
            and all(isinstance(value, str) for value in backend.values())
            and (backend.get("kind") in KINDS or set(backend) == {"uri", "collection", "seal"})
        ):
            raise damaged(self._database.folder, "the location of its codes is missing or invalid")
        return backend

    def set_backend(self, kind: str | None, uri: str | None) -> None:
        """Change the search backend; see `TrackIndex.set_backend`.

        Args:
            kind: kind of `CodeIndex`.
            uri: address of Milvus.
        """
        before = self.backend
        is_own = is_own_place(before)
        if uri is None:
            backend = {"kind": kind or before.get("kind", "flat")}
            is_same = backend == before
        else:
            is_same = is_own and before["uri"] == checked_uri(uri)
        if is_same:
            return
        if uri is not None:
            backend = MilvusIndex(self._n_bits, uri, f"facereel_{uuid.uuid4().hex}").place
        with self._database.write() as connection:
            if is_own:
                MilvusIndex.at(self._n_bits, before).collection.drop()
            if "uri" in before:
                run_script(connection, STOP)
            if uri is not None:
                run_script(connection, START)
            self._database.set_about(connection, {"codes": backend, SEGMENTS: []})

    def current(self) -> tuple[int, CodeBackend]:
        """Return the generation of the database, and its codes."""
        with self._lock:
            generation = int(self._database.about()["generation"])
            if self._loaded is None or self._loaded[0] != generation:
                self._loaded = self._load()
            return self._loaded

    def added(self, n_codes: int) -> None:
        """Note that codes were added to the database: with many unsaved ones, other processes load for long.

        Args:
            n_codes: number of added codes.
        """
        self._n_unsaved += n_codes
        if self._n_unsaved > _MOST_UNSAVED and self.backend.get("kind") == "flat":
            self.save()

    def save(self) -> None:
        """Write codes that are not in a file, and delete files that are no longer used; see `TrackIndex.save_codes`.

        Raises:
            UserError: if the codes cannot be written.
        """
        try:
            if self.backend.get("kind") == "flat":
                self._segments.save()
                self._n_unsaved = 0
                self._loaded = None  # the next search maps the files
                generation = int(self._database.about()["generation"])
            else:
                self._segments.clear()
                generation, codes = self.current()  # sends them to Milvus
                folder = self._folder(generation)
                if isinstance(codes, CodeIndex) and (codes.build() or not (folder / META_FILE).is_file()):
                    codes.save(resolve_inside(self._database.folder, folder))
        except (OSError, RuntimeError) as error:  # FAISS raises the latter
            reason = getattr(error, "strerror", None) or error
            folder = self._database.folder
            raise UserError(f"{reason}: {folder}; the index is complete without the files of its codes") from error
        for old in self._database.folder.glob("codes-*"):
            number = old.name.removeprefix("codes-")
            if number.isdecimal() and int(number) < generation:  # another process may have saved a later one
                shutil.rmtree(old, ignore_errors=True)

    def _folder(self, generation: int) -> Path:
        return self._database.folder / f"codes-{generation}"

    def _load(self) -> tuple[int, CodeBackend]:
        about = self._database.about()
        generation, backend = int(about["generation"]), self.backend
        if "uri" in backend:
            milvus = MilvusIndex.at(self._n_bits, backend)
            push(self._database, milvus.collection)
            if self._loaded is None:  # once per process
                refill(self._database, milvus.collection)
            return generation, milvus
        if backend["kind"] == "flat":
            return self._segments.load()
        with suppress(UserError):  # missing or incomplete: it is created from the database
            return generation, CodeIndex.load(self._folder(generation), mapped=True)
        generation, packed, ids = self._database.codes()
        codes = CodeIndex(self._n_bits, backend["kind"])
        codes.add_packed(packed, ids)
        return generation, codes
