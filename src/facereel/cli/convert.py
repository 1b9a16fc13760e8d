"""The convert command: change the index type or backend of an index."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from facereel.cli.options import BackendName, IndexFolder, IndexType, MilvusUri
from facereel.errors import UserError

if TYPE_CHECKING:
    from facereel.retrieval.track_index import TrackIndex


def convert_command(
    folder: IndexFolder, index_type: IndexType = None, backend: BackendName = None, uri: MilvusUri = None
) -> None:
    """Change the index type or backend of an index. Tracks, names and groups are kept.

    Example: facereel convert --index index --index-type ivf

    Move the codes to Milvus: facereel convert --index index --backend milvus --uri http://localhost:19530
    """
    from facereel.retrieval.track_index import TrackIndex
    from facereel.system.console import console
    from facereel.system.optional import import_faiss

    change = backend_change(backend, uri, index_type)
    if change is None:
        raise UserError("nothing to convert: give --index-type or --backend")
    if uri is None:
        import_faiss()
    index = TrackIndex(folder)
    change(index)
    index.save_codes()
    place = index.backend
    how = f"in Milvus at {place['uri']}" if "uri" in place else f"with FAISS, {place['kind']}"
    console.print(f"{folder}: {len(index)} tracks, searched {how}")


def backend_change(backend: str | None, uri: str | None, index_type: str | None) -> Callable[[TrackIndex], None] | None:
    """Check the backend options, and build the function that applies them.

    Args:
        backend: "faiss" or "milvus"; None keeps the backend.
        uri: address of Milvus, or None.
        index_type: FAISS index type; None keeps it.

    Returns:
        A function that applies the options to an index; None if no option is given.

    Raises:
        UserError: if options are invalid or contradict each other, or a package is not installed.
    """
    from facereel.retrieval.backends.faiss import KINDS
    from facereel.retrieval.backends.milvus import checked_uri
    from facereel.retrieval.track_index import TrackIndex
    from facereel.system.optional import import_pymilvus

    if backend not in (None, "faiss", "milvus"):
        raise UserError(f"--backend {backend}: must be faiss or milvus")
    if index_type not in (None, *KINDS):
        raise UserError(f"--index-type {index_type}: must be one of {', '.join(KINDS)}")
    if backend == "milvus":
        if uri is None:
            raise UserError("--backend milvus needs --uri: http://localhost:19530, or a file ending in .db")
        if index_type not in (None, "flat"):
            raise UserError(f"--index-type {index_type} is for FAISS only: omit it, Milvus compares all codes")
        import_pymilvus()
        return partial(TrackIndex.set_backend, uri=checked_uri(uri))
    if uri is not None:
        raise UserError("--uri is for Milvus only: add --backend milvus")
    return None if backend is None and index_type is None else partial(TrackIndex.set_backend, kind=index_type)
