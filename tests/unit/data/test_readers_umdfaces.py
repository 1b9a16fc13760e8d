"""Both readers of UMDFaces: stills in batches, and frames of videos."""

import csv

import cv2
import numpy as np
import pytest
from drawn_faces import UMDFACES_COLUMNS, draw_face, make_umdfaces, make_umdfaces_videos, write

from facereel.data import Skipped, load_faces, read_umdfaces, read_umdfaces_videos
from facereel.errors import UserError
from facereel.video.align import TEMPLATE

NEEDED = ["FILE", *(f"FACE_{name}" for name in ("X", "Y", "WIDTH", "HEIGHT"))]
NEEDED += [f"P{point}{axis}" for point in (8, 11, 15, 18, 20) for axis in "XY"]
VIDEOS = "umdfaces_videos_ultraface.csv"


@pytest.fixture
def stills(tmp_path):
    make_umdfaces(tmp_path, {"Ann_Lee": 3})
    return tmp_path


@pytest.fixture
def table(stills):
    return stills / "umdfaces_batch1" / "umdfaces_batch1_ultraface.csv"


def change(table, edit):
    """Rewrite the CSV file with the rows of cells, including the header, that `edit` returns."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(edit(rows))


def set_cells(table, line, **cells):
    def edit(rows):
        for column, value in cells.items():
            rows[line][UMDFACES_COLUMNS.index(column)] = value
        return rows

    change(table, edit)


def read(root, skipped=None):
    return list(read_umdfaces(root, skipped or Skipped()))


def read_videos(root, skipped=None):
    return list(read_umdfaces_videos(root, skipped or Skipped()))


def test_generated_csv_has_the_original_columns():
    assert len(UMDFACES_COLUMNS) >= 76
    assert set(NEEDED) < set(UMDFACES_COLUMNS)


def test_people_are_identified_by_folder_across_batches(tmp_path):
    """SUBJECT_ID 1 is Cy in the first batch and Ann_Lee in the second; Bo is in both."""
    truth = make_umdfaces(tmp_path, {"Cy": 1, "Bo": 2}, {"Ann_Lee": 1, "Bo": 1})
    skipped = Skipped()
    rows = read(tmp_path, skipped)
    assert [(row.person, row.key) for row in rows] == [
        ("Ann_Lee", "umdfaces_batch2/Ann_Lee/Ann_Lee_8.jpg"),
        ("Bo", "umdfaces_batch1/Bo/Bo_8.jpg"),
        ("Bo", "umdfaces_batch1/Bo/Bo_9.jpg"),
        ("Bo", "umdfaces_batch2/Bo/Bo_8.jpg"),
        ("Cy", "umdfaces_batch1/Cy/Cy_8.jpg"),
    ]
    assert {row.key: (row.box, row.landmarks) for row in rows} == truth
    assert all(row.clip == "" and row.source == row.key and row.position == -1 for row in rows)
    assert not skipped.counts


def test_stills_are_in_natural_order(stills):
    assert [row.key[-6:] for row in read(stills)] == ["_8.jpg", "_9.jpg", "10.jpg"]


def test_a_single_batch_folder_is_read(tmp_path):
    make_umdfaces(tmp_path, {"Cy": 1}, {"Bo": 1})
    assert read(tmp_path / "umdfaces_batch2") == read(tmp_path)[:1]
    (tmp_path / "umdfaces_batch1" / "umdfaces_batch1_ultraface.csv").unlink()
    skipped = Skipped()
    assert len(read(tmp_path, skipped)) == 1
    assert skipped.counts == {"batch without its CSV file": 1}


def test_crop_shows_the_face(stills):
    """A box read as a center would crop the drawn face, which is right and up of the center."""
    faces = load_faces((row._replace(landmarks=None) for row in read(stills)), Skipped(), size=64)
    image = cv2.imread(faces.rows[0].file)
    assert np.array_equal(faces.images([0])[0].numpy(), image[10:74, 30:94, ::-1].transpose(2, 0, 1))


def test_faces_are_aligned_on_the_given_landmarks(stills):
    """The drawn eyes are dark and the nose is white: both come to stand where the template has them."""
    faces = load_faces(read(stills), Skipped(), size=112, margin=1.2)
    assert faces.outcomes == {"aligned on the data set's landmarks": len(faces.stills)}
    for still in faces.stills:
        crop = faces.images([still.row])[0].float().mean(dim=0)
        skin = crop[60:66, 35:40].median()
        for x, y in TEMPLATE[:2]:
            assert crop[round(y) - 8 : round(y) + 9, round(x) - 8 : round(x) + 9].min() < skin - 25
        x, y = TEMPLATE[2]
        assert crop[round(y) - 8 : round(y) + 9, round(x) - 8 : round(x) + 9].max() > skin + 25


def test_landmarks_match_the_drawn_features(stills):
    for row in read(stills):
        image = cv2.imread(row.file).astype(int)
        points = np.array(row.landmarks, dtype=int).reshape(5, 2)
        eye, other, nose = (image[y, x] for x, y in points[:3])
        mouth = image[points[3:, 1].mean().astype(int), points[3:, 0].mean().astype(int)]
        assert eye.max() < 60
        assert other.max() < 60
        assert nose.min() > 180
        assert mouth[2] > 2 * mouth[:2].max()  # red
        assert (points[[0, 3], 0] < points[[1, 4], 0]).all()


@pytest.mark.parametrize("value", ["nan", "inf", "", "x"])
def test_nonfinite_landmarks_are_none(value, stills, table):
    set_cells(table, 1, P18Y=value)
    rows = read(stills)
    assert [row.landmarks is None for row in rows] == [True, False, False]


def test_columns_are_found_by_name(stills, table):
    expected = read(stills)
    change(table, lambda rows: [["new", *reversed(row)] for row in rows])
    assert read(stills) == expected


@pytest.mark.parametrize("column", NEEDED)
def test_error_names_a_missing_column(column, stills, table):
    place = UMDFACES_COLUMNS.index(column)
    change(table, lambda rows: [row[:place] + row[place + 1 :] for row in rows])
    with pytest.raises(UserError, match=rf"umdfaces_batch1_ultraface.csv: .* no column {column}$"):
        read(stills)


def test_empty_table_raises(stills, table):
    table.write_text("")
    with pytest.raises(UserError, match=r"no column FILE, FACE_X, .*P20Y"):
        read(stills)


def test_tables_from_windows_with_quotes(stills, table):
    """A byte order mark before a wanted column, carriage returns, quoted cells, backslashes, a blank line."""
    expected = read(stills)
    change(table, lambda rows: [row[1:] for row in rows])  # FILE is now the first
    lines = [
        [f'"{cell.strip()}"' for cell in line.split(",")]
        for line in table.read_text().replace("Ann_Lee/", "Ann_Lee\\").splitlines()
    ]
    text = "\r\n".join(", ".join(line) for line in lines) + "\r\n\r\n"
    table.write_bytes(b"\xef\xbb\xbf" + text.encode())
    skipped = Skipped()
    assert read(stills, skipped) == expected
    assert not skipped.counts


def test_skipped_stills_are_counted(tmp_path):
    make_umdfaces(tmp_path, {"Ann_Lee": 4, "Gone": 3, "Zoë": 1})
    batch = tmp_path / "umdfaces_batch1"
    table = batch / "umdfaces_batch1_ultraface.csv"
    (batch / "Gone").rename(batch / "Unlisted")
    (batch / "Ann_Lee" / "Ann_Lee_9.jpg").unlink()
    write(batch / "Zoë" / "more.jpg", draw_face(0, np.random.default_rng(0)))
    set_cells(table, 1, FACE_WIDTH="wide")
    for stray in (batch / "notes.txt", batch / "Zoë" / "notes.txt"):
        stray.write_text("x")
    with table.open("a", encoding="utf-8") as file:
        line = table.read_text(encoding="utf-8").splitlines()[-1]
        file.write(f"{line}\n1\n1,Zoë/more.jpg\n" + line.replace("Zoë/", "", 1) + "\n" + '5,"Zoë/more\n')
    skipped = Skipped()
    rows = read(tmp_path, skipped)
    assert [row.key for row in rows] == [f"umdfaces_batch1/{name}.jpg" for name in KEPT]
    assert skipped.counts == {
        "row that cannot be read": 1 + 3,
        "row without its image": 1,
        "duplicate row": 1,
        "person in the CSV file without a folder": 1 + 1,
        "image without a row": 3 + 1,
        "file outside a person's folder": 1,
        "file that is not an image": 1,
    }
    assert skipped.examples["person in the CSV file without a folder"][0] == "umdfaces_batch1/Gone"


KEPT = ["Ann_Lee/Ann_Lee_10", "Ann_Lee/Ann_Lee_11", "Zoë/Zoë_8"]


@pytest.mark.parametrize("column", ["FACE_WIDTH", "FACE_HEIGHT"])
@pytest.mark.parametrize("value", ["nan", "inf", "0", "-3", "", "30000"])
def test_invalid_boxes_are_counted(column, value, stills, table):
    set_cells(table, 1, **{column: value})
    skipped = Skipped()
    assert len(read(stills, skipped)) == 2
    assert skipped.counts == {"row that cannot be read": 1}


def test_frames_of_a_video_are_consecutive_and_in_time_order(tmp_path):
    make_umdfaces_videos(tmp_path, {"Bo": 2, "Ann_Lee": 11})
    skipped = Skipped()
    rows = read_videos(tmp_path, skipped)
    videos = [("Ann_Lee", f"video{i}") for i in range(11)] + [("Bo", "video0"), ("Bo", "video1")]
    assert [row.key for row in rows] == [f"{person}/{video}/{i}.jpg" for person, video in videos for i in (8, 9, 10)]
    assert all(row.source == row.clip == row.key.split("/")[1] for row in rows)
    assert rows[0].box == (30, 11, 64, 62)
    assert len(rows[0].landmarks) == 10
    assert not skipped.counts
    faces = load_faces(rows, skipped, size=64)
    assert faces.outcomes == {"aligned on the data set's landmarks": len(rows)}


def test_videos_one_folder_below_are_found(tmp_path):
    make_umdfaces_videos(tmp_path / "umdfaces_videos", {"Bo": 1})
    assert [row[:4] for row in read_videos(tmp_path)] == [row[:4] for row in read_videos(tmp_path / "umdfaces_videos")]


def test_video_is_the_parent_folder_of_the_frame(tmp_path):
    make_umdfaces_videos(tmp_path, {"Bo": 1})
    (tmp_path / "Bo" / "from").mkdir()
    (tmp_path / "Bo" / "video0").rename(tmp_path / "Bo" / "from" / "video0")
    table = tmp_path / VIDEOS
    table.write_text(table.read_text().replace("Bo/", "Bo/from/"))
    assert {(row.person, row.clip, row.source) for row in read_videos(tmp_path)} == {("Bo", "video0", "video0")}


def test_skipped_video_frames_are_counted(tmp_path):
    make_umdfaces_videos(tmp_path, {"Ann_Lee": 2, "Gone": 2})
    (tmp_path / "Gone").rename(tmp_path / "Unlisted")
    (tmp_path / "Ann_Lee" / "video0" / "9.jpg").unlink()
    table = tmp_path / VIDEOS
    lines = table.read_text().splitlines()
    own = next(line for line in lines if "Ann_Lee/video1/8.jpg" in line)
    table.write_text("\n".join([*lines, own, own.replace("/video1/", "/")]))
    skipped = Skipped()
    assert len(read_videos(tmp_path, skipped)) == 5
    assert skipped.counts == {
        "person in the CSV file without a folder": 1,
        "image without a row": 6,
        "row without its image": 1,
        "duplicate row": 1,
        "row that cannot be read": 1,
    }


def test_root_without_a_table_raises(tmp_path):
    with pytest.raises(UserError, match=r"there is no umdfaces_batchN/"):
        read(tmp_path)
    with pytest.raises(UserError, match=rf"there is no {VIDEOS} in"):
        read_videos(tmp_path)
