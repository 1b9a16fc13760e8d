"""What every reader must bear: links in circles, odd names, folders that cannot be read; and it writes nothing."""

import os

import pytest
from drawn_faces import (
    make_aligned_youtube_faces,
    make_folder,
    make_stills,
    make_umdfaces,
    make_umdfaces_videos,
    make_youtube_celebrities,
    make_youtube_faces,
)

from facereel.data import (
    Skipped,
    read_folder,
    read_stills,
    read_umdfaces,
    read_umdfaces_videos,
    read_youtube_celebrities,
    read_youtube_faces,
)
from facereel.data.readers.listing import entries, natural
from facereel.errors import UserError

# Reader, function that creates its tree, folder of people, and a folder of frames or stills, for the links.
READERS = {
    "youtube_faces": (read_youtube_faces, lambda root: make_youtube_faces(root, {"Ann": 2, "Zoë": 1}), "Ann/0"),
    "aligned": (read_youtube_faces, lambda root: make_aligned_youtube_faces(root, {"Ann": 2, "Zoë": 1}), "Ann/0"),
    "folder": (read_folder, make_folder, "p0/c0"),
    "stills": (read_stills, lambda root: make_stills(root, {"Ann": 2, "Zoë": 1}), "Ann"),
    "umdfaces": (read_umdfaces, lambda root: make_umdfaces(root, {"Ann": 2, "Zoë": 1}), "Ann"),
    "umdfaces_videos": (
        read_umdfaces_videos,
        lambda root: make_umdfaces_videos(root, {"Ann": 2, "Zoë": 1}),
        "Ann/video0",
    ),
    "youtube_celebrities": (
        read_youtube_celebrities,
        lambda root: [make_youtube_celebrities(root, {"ann": 1}), make_youtube_celebrities(root / "more", {"zoë": 1})],
        "more",
    ),
}
INSIDE = {
    "youtube_faces": "frame_images_DB",
    "aligned": "aligned_images_DB",
    "folder": "clips",
    "umdfaces": "umdfaces_batch1",
}


@pytest.fixture(params=READERS)
def tree(request, tmp_path):
    """A reader, its root, the folder of people's folders, and one of images."""
    reader, make, images = READERS[request.param]
    root = tmp_path / "root"
    make(root)
    people = root / INSIDE.get(request.param, "")
    return reader, root, people, people / images


def listing(root):
    return sorted((str(path), path.lstat().st_mtime_ns, path.lstat().st_size) for path in root.rglob("*"))


def test_readers_write_nothing_and_keys_are_unique(tree):
    reader, root, *_ = tree
    before = listing(root)
    skipped = Skipped()
    rows = list(reader(root, skipped))
    assert listing(root) == before
    assert not skipped.counts
    assert len({row.key for row in rows}) == len(rows) > 0
    assert all(row.box is None or row.person for row in rows)
    places = [(row.person, row.clip) for row in rows if row.clip]
    assert len({*places}) == sum(
        a != b for a, b in zip([None, *places], places, strict=False)
    )  # clips are in one piece
    assert any(row.person in ("Zoë", "zoë") for row in rows) or reader is read_folder


def test_circular_links_are_counted(tree):
    reader, root, people, images = tree
    rows = list(reader(root, Skipped()))
    (people / "self").symlink_to("self")
    (people / "up").symlink_to(people)
    (people / "above").symlink_to(root.parent)
    (images / "back").symlink_to("..")
    (images / "7.jpg").symlink_to("gone.jpg")
    skipped = Skipped()
    assert list(reader(root, skipped)) == rows
    assert skipped.counts == {"broken link": 2, "link to a parent folder": 3}


def test_link_to_the_parent_of_a_linked_root_is_counted(tmp_path):
    make_stills(tmp_path / "all" / "faces", {"Ann": 1})
    (tmp_path / "root").symlink_to(tmp_path / "all" / "faces")
    (tmp_path / "all" / "faces" / "above").symlink_to(tmp_path / "all")
    skipped = Skipped()
    assert [row.person for row in read_stills(tmp_path / "root", skipped)] == ["Ann"]
    assert skipped.counts == {"link to a parent folder": 1}


def test_mutual_links_between_people_terminate(tmp_path):
    make_umdfaces_videos(tmp_path, {"Ann": 1, "Bo": 1})
    rows = list(read_umdfaces_videos(tmp_path, Skipped()))
    (tmp_path / "Ann" / "bo").symlink_to(tmp_path / "Bo")
    (tmp_path / "Bo" / "ann").symlink_to(tmp_path / "Ann")
    skipped = Skipped()
    assert list(read_umdfaces_videos(tmp_path, skipped)) == rows
    assert skipped.counts == {"link to a parent folder": 2, "image without a row": 6}


def test_names_that_are_not_utf8_are_counted(tree):
    reader, root, people, images = tree
    rows = list(reader(root, Skipped()))
    os.mkdir(os.fsencode(people) + b"/Zo\xeb")
    for folder in (images, people):
        with open(os.fsencode(folder) + b"/fran\xe7ois.8.jpg", "wb"):
            pass
    skipped = Skipped()
    assert list(reader(root, skipped)) == rows
    assert skipped.counts == {"name that is not UTF-8": 3}
    "\n".join(skipped.lines()).encode()  # can be printed


def test_unreadable_folder_is_counted(tree, monkeypatch):
    reader, root, _, images = tree
    scandir = os.scandir

    def refuse(folder):
        if str(folder) == str(images):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    whole = list(reader(root, Skipped()))
    monkeypatch.setattr(os, "scandir", refuse)
    skipped = Skipped()
    assert 0 < len(list(reader(root, skipped))) < len(whole)
    assert skipped.counts["folder that cannot be read"] == 1


def test_links_to_people_elsewhere_are_read(tmp_path):
    make_stills(tmp_path / "elsewhere", {"Ann": 2})
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "Ann").symlink_to(tmp_path / "elsewhere" / "Ann")
    assert len(list(read_stills(tmp_path / "root", Skipped()))) == 2


@pytest.mark.parametrize("reader", dict.fromkeys(reader for reader, *_ in READERS.values()))
def test_error_names_a_missing_root(reader, tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*absent"):
        list(reader(tmp_path / "absent", Skipped()))


def test_names_with_equal_numbers_have_a_fixed_order(tmp_path, monkeypatch):
    """Not the file system's, which differs by machine."""
    for name in ("1", "01", "001", "10", "9", "a", "a9", "a10"):
        (tmp_path / name).touch()
    scandir = os.scandir

    class Turned:
        def __init__(self, folder):
            self.folder = folder

        def __enter__(self):
            return reversed(list(scandir(self.folder)))

        def __exit__(self, *_):
            pass

    expected = ["001", "01", "1", "9", "10", "a", "a9", "a10"]
    assert entries(tmp_path, Skipped())[1] == expected
    monkeypatch.setattr(os, "scandir", Turned)
    assert entries(tmp_path, Skipped())[1] == expected
    assert natural("") < natural("1") < natural("a1b")


def test_numbers_with_thousands_of_digits_are_sorted():
    assert sorted(["9" * 5000, "10", "9"], key=natural) == ["9", "10", "9" * 5000]


def test_recycle_bins_caches_and_system_files_are_counted(tree):
    """As a NAS or an operating system leaves them in every folder."""
    reader, root, people, images = tree
    rows = list(reader(root, Skipped()))
    inner = next(path for path in images.iterdir() if path.is_file())
    for folder in ("@eaDir", ".Trash-1000", "#recycle", "$RECYCLE.BIN"):
        for place in (people, images):
            (place / folder).mkdir()
            (place / folder / inner.name).write_bytes(inner.read_bytes())
    for place in (people, images):
        (place / f"._{inner.name}").write_bytes(b"x")
    skipped = Skipped()
    assert list(reader(root, skipped)) == rows
    assert skipped.counts == {"hidden or system folder": 8, "system file": 2}


def test_a_root_with_the_name_of_a_recycle_bin_is_read(tmp_path):
    make_stills(tmp_path / "#recycle", {"Ann": 2})
    assert len(list(read_stills(tmp_path / "#recycle", Skipped()))) == 2
