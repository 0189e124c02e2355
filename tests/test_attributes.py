"""RAF-DB's gender, race and age beside its images, and errors by group."""

import numpy as np
import pytest

from sto_lite import people
from sto_lite.errors import DataError
from sto_lite.intake import attributes
from tests import packing

LANDMARKS = "30.5\t41.2\n70\t41\n50\t60\n35\t80\n66\t81\n"


def files(change=lambda name, text: text):
    """One for each image: its number decides the three values."""
    made = {}
    for split, number, *_ in packing.ENTRIES:
        name = f"{split}_{number:05d}_manu_attri.txt"
        made[name] = change(name, f"{LANDMARKS}{number % 3}\n{number % 3}\n{number % 5}\n")
    return {name: text.encode() for name, text in made.items() if text is not None}


def test_attributes_stand_beside_the_images_and_change_no_pixel(tmp_path):
    below = {f"Annotation/manual/{name}": data for name, data in files().items()}
    said = []
    where = packing.written(tmp_path / "set", packing.WHOLE_RAF | below)
    found = packing.prepared("rafdb", where, tmp_path, report=said.append)
    packing.same({key: value for key, value in found.items() if "attributes" not in key}, packing.RAF)
    assert "of 16 of 16 images" in "".join(said)
    ages = attributes.read("test", "age", tmp_path)
    assert ages.tolist() == [attributes.ATTRIBUTES["age"][n % 5] for n in packing.NUMBERS["test"]]
    labels = packing.RAF["test_labels"]
    found = people.errors_by_group(np.zeros_like(labels), labels, attributes.read("test", "gender", tmp_path))
    assert sum(group.images for group in found.values()) == len(labels)


def test_a_zip_of_them_is_read_and_a_missing_one_is_not_known(tmp_path):
    packed = packing.zip_bytes(files(lambda name, text: None if name.startswith("test_00005") else text))
    where = packing.written(tmp_path / "set", packing.WHOLE_RAF | {"Annotation/manual.zip": packed})
    packing.prepared("rafdb", where, tmp_path)
    races = attributes.read("test", "race", tmp_path)
    assert races[packing.NUMBERS["test"].index(5)] == "not known" and (races == "not known").sum() == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{LANDMARKS}7\n0\n0\n", "gender is '7', not a number from 0 to 2"),
        (f"{LANDMARKS}0\n0\n", "is not five lines of landmarks"),
        ("", "is not five lines of landmarks"),
        (f"{LANDMARKS}0\n0\n4\n1\n", "is not five lines of landmarks"),
    ],
)
def test_a_file_of_another_form_is_told_with_its_name(text, said, tmp_path):
    name = "train_00002_manu_attri.txt"
    below = {f"Annotation/manual/{n}": d for n, d in (files() | {name: text.encode()}).items()}
    where = packing.written(tmp_path / "set", packing.WHOLE_RAF | below)
    packing.refused("rafdb", where, tmp_path, name, said)


def test_what_is_not_there_is_told(tmp_path):
    packing.prepared("rafdb", packing.written(tmp_path / "set", packing.WHOLE_RAF), tmp_path)
    with pytest.raises(DataError, match="holds no attributes; prepare rafdb from the folder"):
        attributes.read("test", "age", tmp_path)
    with pytest.raises(DataError, match="no 'height' of a split 'test'; there are splits train, test"):
        attributes.read("test", "height", tmp_path)
