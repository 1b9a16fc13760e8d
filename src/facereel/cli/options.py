"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from facereel.storage.trust import trust_modules

Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="MODULE",
        callback=trust_modules,
        help="Allow models and runs to name classes of your own module, which is then imported; may be repeated.",
    ),
]
IndexFolder = Annotated[Path, typer.Option("--index", help="Folder of the index.")]
MinTracks = Annotated[int, typer.Option(help="Skip groups with fewer tracks.", min=1)]
ContactSheet = Annotated[
    Path | None, typer.Option(help="Draw the groups' thumbnails into this .jpg file, a line for each group.")
]
EngineName = Annotated[
    str, typer.Option(help="What runs the work: local, or ray (extra ray) on many processes or machines.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT of a Ray cluster, or auto. Without it and RAY_ADDRESS, Ray is started here for this run."
    ),
]
BackendName = Annotated[
    str | None,
    typer.Option(help="What searches the codes: faiss, in memory, or milvus, a server; unchanged if not given."),
]
MilvusUri = Annotated[
    str | None, typer.Option(help="Address of Milvus: http://localhost:19530, or a file ending in .db for milvus-lite.")
]
IndexType = Annotated[
    str | None,
    typer.Option(help="FAISS index type: flat compares all codes, ivf a part of them. See docs/large_archives.md."),
]
