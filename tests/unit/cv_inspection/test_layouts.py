"""Layouts of labelled images: nothing is left out, taken for something else, or guessed."""

import numpy as np
import pytest
from PIL import Image

from services.cv_inspection.retraining.folders import read_folder
from services.cv_inspection.retraining.layouts import find_files
from tests.unit.cv_inspection.vision_fixtures import make_tiles, quiet


def save(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64), value, np.uint8)).save(path)


@pytest.fixture
def parts(tmp_path):
    for number in range(2):
        save(tmp_path / "good" / f"{number}.png", 100 + number)
        save(tmp_path / "cut" / f"{number}.png", 50 + number)
    save(tmp_path / "cut" / "0_mask.png", 255)
    return tmp_path


@pytest.fixture
def mvtec(tmp_path):
    save(tmp_path / "train" / "good" / "0.png", 100)
    save(tmp_path / "test" / "good" / "0.png", 101)
    for number in range(3):
        save(tmp_path / "test" / "cut" / f"{number}.png", 50 + number)
    save(tmp_path / "ground_truth" / "cut" / "0_mask.png", 255)
    return tmp_path


def write_groups(folder, text):
    (folder / "groups.csv").write_bytes(text if isinstance(text, bytes) else text.encode())


ALL = "path,group\n" + "".join(f"{c}/{n}.png,{c}{n}\n" for c in ("good", "cut") for n in (0, 1))


def test_a_class_column_in_the_groups_of_ones_own_folder_says_nothing(parts):
    rows = [f"{c}/{n}.png,OK,{n}" for c in ("good", "cut") for n in (0, 1)]
    write_groups(parts, "\n".join(["path,class,group", *rows]))
    files, grouped = find_files(parts)
    assert grouped
    assert {(file.path.parent.name, file.label) for file in files} == {
        ("good", "good"), ("cut", "cut"),
    }  # fmt: skip
    assert [file.path.name for file in files if file.mask] == ["0.png"]
    write_groups(parts, "\n".join(["path,class,group", *rows[1:]]))
    with pytest.raises(ValueError, match=r"good/0\.png: .*groups\.csv has no row for it"):
        find_files(parts)


def test_a_magnetic_tiles_class_is_read_as_a_folders_name_is(tmp_path):
    make_tiles(tmp_path, 2)
    table = (tmp_path / "groups.csv").read_text()
    write_groups(tmp_path, table.replace("MT_Free,", "OK,"))
    assert {file.label for file in find_files(tmp_path)[0]} == {"good", "blowhole"}
    write_groups(tmp_path, table.replace("MT_Free,", ",", 1))
    with pytest.raises(ValueError, match=r"groups\.csv: no class for \S*exp0_num_0\.jpg; add it"):
        find_files(tmp_path)


def test_a_magnetic_tile_without_a_row_is_named(tmp_path):
    make_tiles(tmp_path, 2)
    assert len(find_files(tmp_path)[0]) == 8
    save(tmp_path / "MT_Free" / "Imgs" / "new.jpg")
    with pytest.raises(ValueError, match=r"new\.jpg: .*groups\.csv has no row for it"):
        find_files(tmp_path)


def test_masks_of_a_test_set_lie_in_the_ground_truth_or_beside(mvtec):
    save(mvtec / "test" / "cut" / "1_mask.png", 255)
    save(mvtec / "test" / "cut" / "masks" / "2.png", 255)
    save(mvtec / "train" / "cut" / "0.png", 40)
    masks = {
        file.path.relative_to(mvtec).as_posix(): file.mask and file.mask.parent.name
        for file in find_files(mvtec)[0]
    }
    assert masks == {
        "train/good/0.png": None, "train/cut/0.png": None, "test/good/0.png": None,
        "test/cut/0.png": "cut", "test/cut/1.png": "cut", "test/cut/2.png": "masks",
    }  # fmt: skip
    save(mvtec / "ground_truth" / "cut" / "0.png", 255)
    with pytest.raises(ValueError, match="are masks of one image: remove one"):
        find_files(mvtec)


def test_masks_without_their_images_are_named(mvtec):
    save(mvtec / "ground_truth" / "dent" / "0_mask.png", 255)
    with pytest.raises(ValueError, match=r"dent: masks of images that are not in .*test/dent"):
        find_files(mvtec)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut/0.jpg", r"have one name: if one is the mask, call it 0_mask\.png"),
        ("masks/0.png", "masks lie beside the images of a class"),
        ("ground_truth/0.png", "the images lie in train/ and test/"),
        ("overview.png", r"overview\.png: in no class's folder"),
        ("cut/2.jfif", r"2\.jfif: a class folder has JPEG and PNG files"),
        ("good/2.pgm", r"2\.pgm: a class folder has JPEG and PNG files"),
    ],
)
def test_an_image_that_is_no_image_of_a_class_is_named(parts, name, message):
    path = parts / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((parts / "good" / "0.png").read_bytes())
    with pytest.raises(ValueError, match=message):
        find_files(parts)


def test_a_file_is_no_folder_and_a_broken_link_is_named(parts):
    with pytest.raises(ValueError, match=r"0\.png is no folder of images"):
        find_files(parts / "good" / "0.png")
    (parts / "cut" / "9.png").symlink_to(parts / "gone.png")
    with pytest.raises(ValueError, match=r"9\.png: No such file or directory; correct the link"):
        read_folder(parts, 32, quiet)


def test_groups_are_read_without_spaces_in_any_order_of_columns(parts):
    rows = [line.split(",") for line in ALL.splitlines()]
    text = "\r\n".join(f" {group} , {path}" for path, group in rows)
    write_groups(parts, "\ufeff" + text)
    assert {file.group for file in find_files(parts)[0]} == {"good0", "good1", "cut0", "cut1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,group\n", r"groups\.csv: no rows"),
        (ALL.replace("good1", " "), r"groups\.csv, line 3: no group"),
        (ALL + "cut/9.png\n", r"groups\.csv, line 6: no group"),
        (ALL + "cut/1.png,other\n", r"line 6: cut/1\.png has a row already"),
        ("path,group\nStraße,1\n".encode("cp1252"), r"groups\.csv: not UTF-8"),
    ],
)
def test_a_row_without_its_part_is_named(parts, text, message):
    write_groups(parts, text)
    with pytest.raises(ValueError, match=message):
        find_files(parts)


def test_a_pattern_whose_group_is_empty_is_refused(parts):
    with pytest.raises(ValueError, match=r"finds no group in 'cut/0\.png'"):
        find_files(parts, r"good/(\d+)|cut/(\d+)")
