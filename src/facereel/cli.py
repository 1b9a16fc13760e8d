"""The `facereel` command."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from facereel import __version__
from facereel.console import printable
from facereel.errors import Terminated, UserError
from facereel.trust import trust_modules

# What shells call a program that Ctrl-C ended, and one that SIGTERM did.
_INTERRUPTED = 130
_TERMINATED = 143
_GOES_ON = "train goes on with resume=RUN_DIR, the others with the same command"

_DAY = ["%Y-%m-%d"]

app = typer.Typer(
    name="facereel",
    help="Face videos and face pictures as short binary codes in one Hamming space.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Of every command that reads models or runs, which may be a stranger's.
Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="MODULE",
        callback=trust_modules,
        help="Let what is read name classes of this module of yours, which then is imported; may be repeated.",
    ),
]

# Of the commands that do a video by itself.
EngineName = Annotated[
    str, typer.Option(help="What does the work: local, or ray (the extra ray), on many processes or machines.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT of a Ray cluster, or auto; without it and RAY_ADDRESS, Ray is started here for this run."
    ),
]

# Hydra's own options (-m, --cfg job, ...) and overrides pass through.
_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a `UserError` becomes one line on stderr and exit code 2."""
    try:
        with _terminable():
            code = app(arguments if arguments is not None else sys.argv[1:], standalone_mode=False)
        if code == _INTERRUPTED:  # how Typer answers Ctrl-C
            raise KeyboardInterrupt
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror}: {error.filename}" if error.filename else str(error))
    except UnicodeEncodeError as error:
        if error.encoding != "utf-8":
            raise
        name = error.object.encode(errors="backslashreplace").decode()
        _fail(f"{name}: not UTF-8, as names must be here: rename it")
    except KeyboardInterrupt:
        _stop("interrupted", _GOES_ON, _INTERRUPTED)
    except Terminated as stop:
        _stop("ended by SIGTERM", str(stop) or _GOES_ON, _TERMINATED)
    except Exception as error:
        # Typer's usage errors; it may bring its own copy of Click, so they are known by what they can do.
        if not hasattr(error, "format_message"):
            raise
        _fail(f"{error.format_message() or 'a command is needed'}; facereel --help lists what there is")


def _stop(what: str, then: str, code: int) -> NoReturn:
    print(f"facereel: {what}; {then}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end what is done here as Ctrl-C does: files half written are removed, child processes told."""
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        if _imports(frame):  # from within C++, as PyTorch has it, an exception would abort: ask again
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM and a parent may both send it: what cleans up goes on
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _fail(message: str) -> NoReturn:
    print(f"facereel: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(2)


@app.command(context_settings=_OVERRIDES)
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the run and its report.")] = Path("demo"),
) -> None:
    """Train on real faces (ORL) on the CPU, evaluate, and write a report.

    Takes overrides like train. Example: facereel demo --out demo
    """
    from facereel.hydra_app import quoted, train_with

    train_with(["experiment=demo", f"out={quoted(str(out))}", *context.args])


@app.command(context_settings=_OVERRIDES)
def train(context: typer.Context, trust: Trust = None) -> None:
    """Train a model as configured by overrides, and evaluate it.

    Example: facereel train experiment=dhh data=youtube_faces data.root=DIR data.stills_root=DIR head.n_bits=48

    A sweep: facereel train -m experiment=dhh head.n_bits=12,24,48 seed=0,1

    Continue a run: facereel train resume=RUN_DIR. All options: facereel train --cfg job

    A run that names classes of your own is continued with --trust MODULE.
    """
    from facereel.hydra_app import train_with

    train_with(context.args)


@app.command(context_settings=_OVERRIDES)
def evaluate(context: typer.Context, trust: Trust = None) -> None:
    """Evaluate a checkpoint; data and protocol are those of its run unless given.

    Example: facereel evaluate checkpoint=RUN_DIR data=youtube_faces data.root=DIR protocol=leave_one_out
    """
    from facereel.hydra_app import evaluate_with

    evaluate_with(context.args)


@app.command(context_settings=_OVERRIDES)
def reproduce(context: typer.Context) -> None:
    """Train and evaluate all that a table holds, and write it as Markdown, CSV, LaTeX and a picture.

    Can be stopped and called again: it goes on, and does no run twice.

    Example: facereel reproduce table=pooling scale=smoke out=tables

    Its options: facereel reproduce --cfg job. Other keys go to every run, as trainer=cpu.
    """
    from facereel.hydra_app import reproduce_with

    reproduce_with(context.args)


@app.command("prepare")
def prepare_command(
    source: Annotated[
        str,
        typer.Argument(
            help="youtube_faces, umdfaces (stills), umdfaces_videos, youtube_celebrities, folder, stills "
            "(PERSON/PICTURE), or the dotted name of a reader of your own."
        ),
    ],
    root: Annotated[Path, typer.Argument(help="Where the data set lies; nothing is written there.")],
    out: Annotated[Path, typer.Argument(help="Folder for the manifest and the crops.")],
    stills: Annotated[
        Path | None,
        typer.Option(help="Stills of the same people, in place of ROOT's own; joined by their folders' names."),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of a crop in pixels; 64 if not given.")] = None,
    margin: Annotated[
        float | None, typer.Option(help="A crop's side over the face box's; 1.2 is the usual alignment.")
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help="Finds landmarks: mtcnn, the path of a YuNet ONNX file, or none.")
    ] = None,
    people: Annotated[int | None, typer.Option(help="Only the so many people with the most source videos.")] = None,
    max_frames: Annotated[
        int | None,
        typer.Option(help="Of a longer clip only so many frames, evenly spaced; of a video file all are kept."),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="Draws the manifest's column split: closed_set, identity_disjoint or leave_one_out.")
    ] = "closed_set",
    seed: Annotated[int, typer.Option(help="Of that draw.", min=0)] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; one a processor if not given.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if anything in the data is at fault.")] = False,
) -> None:
    """Read a data set once: find, align and cut its faces into a cache that training maps into memory.

    Can be stopped and called again: it goes on, and does nothing where nothing changed.

    Example: facereel prepare youtube_faces /data/YTF /data/prepared/ytf --stills /data/LFW
    """
    from facereel.prepare_app import run_prepare

    run_prepare(
        source,
        root,
        out,
        stills=stills,
        size=size,
        margin=margin,
        detector=detector,
        n_people=people,
        max_frames=max_frames,
        protocol=protocol,
        seed=seed,
        workers=workers,
        strict=strict,
    )


@app.command("inspect")
def inspect_command(
    path: Annotated[Path, typer.Argument(metavar="MANIFEST_OR_ROOT", help="What prepare wrote, or a data set.")],
    source: Annotated[
        str | None, typer.Option(help="Of a data set: its kind, as in prepare, if it is not seen.")
    ] = None,
    sheet: Annotated[Path, typer.Option(help="Where the contact sheet goes.")] = Path("contact_sheet.jpg"),
) -> None:
    """Count people, clips, frames, stills, splits and missing files, and draw a contact sheet of the faces.

    Example: facereel inspect /data/prepared/ytf --sheet sheet.jpg
    """
    from facereel.prepare_app import run_inspect

    run_inspect(path, source, sheet)


@app.command("ingest")
def ingest_command(
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO_OR_DIR...", help="Files, and folders of any depth, linked ones too.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the tracks, a file a video; may be added to.")],
    rate: Annotated[float, typer.Option(help="Frames a second that are searched for faces.")] = 5.0,
    detector: Annotated[str, typer.Option(help="mtcnn, or the path of a YuNet ONNX file.")] = "mtcnn",
    size: Annotated[int, typer.Option(help="Side of a crop in pixels.")] = 200,
    margin: Annotated[
        float, typer.Option(help="A crop's side over the face box's; 1.4 is enough for every encoder of ours.")
    ] = 1.4,
    crops: Annotated[int, typer.Option(help="Of a track so many crops are kept, the best all over it.")] = 10,
    min_seen: Annotated[int, typer.Option(help="A face seen in fewer frames is taken for a slip.")] = 3,
    min_face: Annotated[
        int | None,
        typer.Option(help="Side of the smallest face in pixels; a thirteenth of the frame's longer side if not given."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads, or Ray's workers; one a processor if not given.", min=1)
    ] = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
) -> None:
    """Find the faces in videos, follow each through its shot, and keep its best crops.

    Can be stopped and called again: it goes on, and does no video twice that has not changed, or was only moved.

    Example: facereel ingest /media/films --out tracks
    """
    from facereel.engine import make_engine
    from facereel.ingest_app import run_ingest
    from facereel.video import TrackSettings

    if detector != "mtcnn":
        detector = str(Path(detector).expanduser().absolute())  # queries need it from other folders
    settings = TrackSettings(rate, size, margin, crops, min_seen, detector, min_face)
    run_ingest(videos, out, settings, workers, make_engine(engine, ray_address, workers))


@app.command("index")
def index_command(
    out: Annotated[Path, typer.Option(help="Folder of the index; may be added to.")],
    source: Annotated[
        Path | None,
        typer.Argument(metavar="TRACKS_OR_MANIFEST", help="What ingest wrote, or what prepare wrote."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A run, or a model of it; without one, dlib's network and a fixed rotation to 256 bits."),
    ] = None,
    remove_video: Annotated[
        list[str] | None, typer.Option(help="Erase a video's tracks, by its path; may be repeated.")
    ] = None,
    remove_person: Annotated[
        list[str] | None, typer.Option(help="Erase a person's tracks, by name; may be repeated.")
    ] = None,
    remove_absent: Annotated[
        bool,
        typer.Option(
            "--remove-absent",
            help="Erase the videos whose files are gone, unless their folder is gone or empty too: its drive may not "
            "be connected.",
        ),
    ] = False,
    remove_absent_in: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Erase all videos that were below this folder and are gone, even if the folder is; may be repeated.",
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="Who searches the codes: faiss, in memory, or milvus, a server; as before if not given."),
    ] = None,
    uri: Annotated[
        str | None, typer.Option(help="Of Milvus: http://localhost:19530, or a file ending in .db for milvus-lite.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Of FAISS: flat looks at all codes; ivf, hash and hnsw at a part. See docs/large_archives.md."
        ),
    ] = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    workers: Annotated[int | None, typer.Option(help="Ray's; one a processor if not given.", min=1)] = None,
    trust: Trust = None,
) -> None:
    """Encode tracks into an index that can be searched by face; erase from it; or choose how it is searched.

    Can be stopped and called again: it goes on, and encodes no video twice that has not changed.

    Example: facereel index tracks --out index

    A video that was moved or renamed keeps its tracks and names: ingest it where it is now, and index again.

    Erase one person: facereel index --out index --remove-person "Ada Lovelace"

    Move the codes: facereel index --out index --backend milvus --uri http://localhost:19530
    """
    from facereel.engine import make_engine
    from facereel.retrieval.moved_videos import Absent
    from facereel.search_app import run_index

    if workers and engine == "local":
        raise UserError("--workers: index needs --engine ray for it")
    workplace = make_engine(engine, ray_address, workers)
    absent = Absent(remove_absent, remove_absent_in or []) if remove_absent or remove_absent_in else None
    run_index(source, out, checkpoint, remove_video or [], remove_person or [], backend, uri, kind, workplace, absent)


@app.command("search")
def search_command(
    query: Annotated[Path, typer.Argument(metavar="IMAGE_OR_VIDEO", help="Whose face is searched for.")],
    index: Annotated[Path, typer.Option(help="What index wrote.")],
    top: Annotated[int, typer.Option(help="How many are listed.", min=1)] = 10,
    face: Annotated[
        str, typer.Option(help="Which face: 1 is the largest, or of a video the one seen longest; or all.")
    ] = "1",
    tracks: Annotated[bool, typer.Option("--tracks", help="List every track, not every video.")] = False,
    folder: Annotated[str | None, typer.Option(help="Only videos below this folder.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only videos from this day on.", formats=_DAY)] = None,
    until: Annotated[datetime | None, typer.Option(help="Only videos up to this day.", formats=_DAY)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    min_face: Annotated[int, typer.Option(help="Side of the smallest face of an image that is found, in pixels.")] = 40,
    trust: Trust = None,
) -> None:
    """List the videos that a person is in, nearest first, with the times and a thumbnail.

    Example: facereel search someone.jpg --index index --top 5
    """
    from facereel.search_app import run_search

    run_search(
        query,
        index,
        top=top,
        face=face,
        every_track=tracks,
        below=folder,
        since=since,
        until=until,
        json=json,
        min_face=min_face,
    )


@app.command("cluster")
def cluster_command(
    index: Annotated[Path, typer.Option(help="What index wrote.")],
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Groups farther apart are not joined: the share of bits, 0..1; by their number if not given."
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help='Name the tracks of a group: 3="Ada Lovelace"; 3= takes the name away. May be repeated.'),
    ] = None,
    merge: Annotated[
        list[str] | None, typer.Option(help="Make one group of several: 3,7. Before names are given; may be repeated.")
    ] = None,
    min_tracks: Annotated[int, typer.Option(help="Leave out smaller groups.", min=1)] = 1,
    sheet: Annotated[Path | None, typer.Option(help="Draw the groups' thumbnails, a line a group: a .jpg.")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the people that have names as a folder to train on, a clip a track.")
    ] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="Export groups without a name too, as group_0003 and so on.")
    ] = False,
) -> None:
    """Group an index's tracks into people over all videos, and give them names.

    Two faces seen at the same time in one video are two people, and so are two names.

    With --name, --merge or --export the groups are those of the last run; else they are made anew.

    Example: facereel cluster --index index --sheet people.jpg

    Then: facereel cluster --index index --name 1="Ada Lovelace" --name 3="Alan Turing" --export people
    """
    from facereel.cluster_app import run_cluster

    run_cluster(
        index,
        threshold=threshold,
        names=name or [],
        merges=merge or [],
        min_tracks=min_tracks,
        sheet=sheet,
        export=export,
        everyone=everyone,
    )


@app.command()
def serve(
    index: Annotated[Path, typer.Option(help="Folder of the index.")],
    host: Annotated[str, typer.Option(help="Where to listen; the default is reached from this machine alone.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Number; 0 takes a free one.", min=0, max=65535)] = 7860,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="FACEREEL_TOKEN",
            help="What every request needs; made, where none is given, if --host is not loopback.",
        ),
    ] = None,
    trust: Trust = None,
) -> None:
    """Serve a page on which a picture finds the videos a person is in.

    Example: facereel serve --index index
    """
    from facereel.web.serve import run_serve

    run_serve(index, host, port, token)


@app.command("export")
def export_command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run, or a model or checkpoint of it.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    license: Annotated[
        str | None, typer.Option(help="Of the weights, for the card: an identifier of Hugging Face's, as cc-by-nc-4.0.")
    ] = None,
    faces: Annotated[
        Path | None, typer.Option(help="What prepare wrote: its faces are compared on, not those of ORL.")
    ] = None,
    onnx: Annotated[bool, typer.Option(help="Write ONNX files, compared with PyTorch on real faces.")] = True,
    trust: Trust = None,
) -> None:
    """Write a model for others: safetensors, JSON, ONNX of its parts, and a card with what is known of it.

    Example: facereel export runs/dhh48 --out dhh48 --license cc-by-nc-4.0
    """
    from facereel.export.command import run_export

    run_export(checkpoint, out, licence=license, faces=faces, onnx=onnx)


@app.command()
def doctor() -> None:
    """Tell what this installation has: versions, devices, FAISS, video codecs, demo faces.

    Example: facereel doctor
    """
    from facereel.doctor import report

    found = list(report())
    width = max(len(name) for name, _ in found)
    for name, value in found:
        typer.echo(f"{name:<{width}}  {value}")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    # Hydra prints its own long messages unless errors reach us as exceptions.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
