"""Recognize videos, images and system files by name."""

from pathlib import Path, PurePath

# Lower case. FFmpeg reads all of them, in PyAV's wheels too.
VIDEO_ENDINGS = (
    *(".264", ".265", ".3g2", ".3gp", ".3gpp", ".asf", ".av1", ".avi", ".dav", ".divx", ".dv", ".dvr-ms"),
    *(".evo", ".f4v", ".flv", ".gxf", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v"),
    *(".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf"),
    *(".nsv", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod", ".tp", ".trp", ".ts", ".vob", ".webm", ".wmv"),
    *(".wtv", ".xvid", ".y4m"),
)

# Lower case. OpenCV or Pillow reads them; .heic, .heif and .hif need pi-heif.
IMAGE_ENDINGS = (
    *(".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)

# Video extensions that source code has too: TypeScript, Go modules.
_ENDINGS_OF_TEXT = (".mod", ".mts", ".ts")

# Recycle bins, thumbnail caches, snapshots, in lower case. Names that start with a dot are hidden too.
_SYSTEM_FOLDERS = frozenset(
    (
        *("$recycle.bin", "recycled", "recycler", "$winreagent", "system volume information", "found.000"),
        *("@eadir", "@recently-snapshot", "@recycle", "@sharesnap", "@tmp", "#recycle", "#snapshot"),
        *("__macosx", "network trash folder", "temporary items", "lost+found", "lost.dir"),
    )
)
# macOS's resource forks, and Android's deleted and unfinished files: never videos, whatever the extension.
_SYSTEM_PREFIXES = ("._", ".trashed-", ".pending-")

# A longer extension is part of a title, as in "Dr. Strange meets Ada".
_LONGEST_ENDING = 8
# Bytes of a file that distinguish text from a video.
_HEAD_BYTES = 4096


def ending_of(name: str) -> str:
    """Return the extension of a file name in lower case with its dot, or an empty string.

    Examples:
        >>> ending_of("FILM.MTS"), ending_of("Dr. Strange meets Ada"), ending_of("notes")
        ('.mts', '', '')
    """
    ending = PurePath(name).suffix.lower()
    return ending if len(ending) <= _LONGEST_ENDING and not any(map(str.isspace, ending)) else ""


def is_video(name: str) -> bool:
    """Return whether a file name has a video extension."""
    return ending_of(name) in VIDEO_ENDINGS


def is_image(name: str) -> bool:
    """Return whether a file name has an image extension."""
    return ending_of(name) in IMAGE_ENDINGS


def is_system_folder(name: str) -> bool:
    """Return whether a folder is hidden or a system folder, such as a recycle bin or a thumbnail cache.

    Examples:
        >>> [is_system_folder(name) for name in ("@eaDir", ".Trash-1000", "$RECYCLE.BIN", "films")]
        [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def is_system_file(name: str) -> bool:
    """Return whether a file is a system file, judged by the start of its name; hidden files are not.

    Examples:
        >>> [is_system_file(name) for name in ("._film.mp4", ".trashed-1700000000-film.mp4", ".film.mp4")]
        [True, True, False]
    """
    return name.lower().startswith(_SYSTEM_PREFIXES)


def is_text(path: PurePath | str) -> bool:
    """Return whether a file named like a video is text, such as TypeScript's .ts or Go's .mod.

    Args:
        path: the file; files with other extensions are not read.

    Raises:
        OSError: if the file cannot be read.
    """
    if ending_of(str(path)) not in _ENDINGS_OF_TEXT:
        return False
    with Path(path).open("rb") as file:
        head = file.read(_HEAD_BYTES)
    # The first bytes may end inside a character.
    text = head.decode(errors="replace").rstrip("\N{REPLACEMENT CHARACTER}")
    return bool(text) and not any((char < " " and char not in "\t\n\r\f") or char == "\ufffd" for char in text)
