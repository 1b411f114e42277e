"""Phantom patients of several slices, and processing.neighbours against the truth that they are."""

import json
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.images import open_image
from processing.neighbours import clusters, has_neighbour, thumbnail
from processing.phantom.__main__ import main
from processing.phantom.anatomy import KINDS, draw_patient, draw_scene
from processing.phantom.files import SPLITS, write_phantoms
from tests.support.phantom_answers import DISEASES, check_answers, read_boxes

PATIENTS, SLICES = 60, 4  # of the fixture `patients`
PATIENT = np.arange(PATIENTS * SLICES) // SLICES
XRAY = PATIENT % len(KINDS) == 3


@pytest.fixture(scope="module")
def rows(patients) -> dict[str, list[dict]]:
    return {split: json.loads((patients / f"{split}.json").read_text()) for split in SPLITS}


@pytest.fixture(scope="module")
def thumbnails(patients) -> list[bytes]:
    return [thumbnail(open_image(patients / f"imgs/xmlab{i}/source.jpg")) for i in range(PATIENTS * SLICES)]


def test_rows_name_their_patient_and_splits_cut_none(rows):
    patients = {split: {row["img_id"] // SLICES for row in rows[split]} for split in rows}
    assert {split: len(found) for split, found in patients.items()} == {"train": 44, "validate": 8, "test": 8}
    assert set.union(*patients.values()) == set(range(PATIENTS))
    for split, part in rows.items():
        assert all(list(row)[-1] == "group" for row in part)
        assert all(row["group"] == f"patient{row['img_id'] // SLICES}" for row in part)
        assert {number % len(KINDS) for number in patients[split]} == set(range(len(KINDS)))
        assert len({row["img_id"] for row in part}) == SLICES * len(patients[split])


def test_answers_are_what_each_slice_shows(patients, rows):
    every_row = [row for part in rows.values() for row in part]
    checked = check_answers(every_row, read_boxes(patients))
    assert len(checked) == 12, checked
    assert min(checked.values()) > 20, checked


def test_the_middle_slice_is_the_body_of_the_image_with_the_patients_number():
    for number in range(12):
        body, _ = draw_scene(number, seed=2, size=96)
        middle, _ = list(draw_patient(number, seed=2, size=96, slices=3))[1]
        assert middle.kind == body.kind
        assert (middle.x == body.x).all()
        assert (middle.y == body.y).all()
        assert middle.organs.keys() == body.organs.keys()
        assert all((middle.organs[label] == mask).all() for label, mask in body.organs.items())


def test_slices_share_the_outline_and_organs_change_smoothly():
    overlap = defaultdict(list)
    for number in range(12):
        slices = [scene for scene, _ in draw_patient(number, seed=0, size=160, slices=4)]
        for distance in (1, 3):
            for one, other in zip(slices, slices[distance:], strict=False):
                assert (one.x == other.x).all()
                assert (one.y == other.y).all()
                assert one.organs.keys() == other.organs.keys()
                for label, mask in one.organs.items():
                    both, either = mask & other.organs[label], mask | other.organs[label]
                    # The cord runs along the scan, and of the brain the outline is the head.
                    if label not in ("Spinal Cord", "Brain"):
                        overlap[distance].append(both.sum() / either.sum())
    assert min(overlap[1]) > 0.8
    assert max(overlap[1]) < 1
    assert np.median(overlap[1]) > 0.94 > np.median(overlap[3]) > 0.8


def test_a_lesion_may_be_in_some_slices_only_and_is_then_in_slices_beside_each_other(patients):
    labels = {
        number: Counter(label for label, _ in items if label in DISEASES)
        for number, items in read_boxes(patients).items()
    }
    partly = Counter()
    for patient in range(PATIENTS):
        counts = [labels[SLICES * patient + number] for number in range(SLICES)]
        if patient % len(KINDS) == 3:
            assert all(count == counts[0] for count in counts)  # X-rays show the whole depth
        for disease in set().union(*counts):
            shown = "".join("01"[disease in count] for count in counts)
            assert "1" in shown
            assert "0" not in shown.strip("0"), (patient, disease, shown)
            partly[disease] += "0" in shown
    assert partly["Liver Cancer"] == 3
    assert partly["Brain Tumor"] == 4
    assert partly["Nodule"] == partly["Brain Edema"] == 0
    counts = [[labels[SLICES * patient + number]["Nodule"] for number in range(SLICES)] for patient in (24, 40)]
    assert counts == [[1, 2, 2, 1], [2, 2, 1, 1]]


def test_noise_and_questions_are_each_slices_own(rows, thumbnails):
    asked = defaultdict(set)
    for row in (row for part in rows.values() for row in part):
        asked[row["img_id"]].add(row["question"])
    assert all(asked[i] != asked[i + 1] for i in range(PATIENTS * SLICES - 1))
    assert len(set(thumbnails)) == len(thumbnails)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("phantom:50x4", "num_images is 50, which patients of 4 slices can't share evenly: give 48 or 52."),
        ("phantom:44x4", "num_images is 44, too few for every kind of image in every split: give 48 or more."),
        ("phantom:60x1", "slices is 1: give each patient 2 to 8."),
        ("phantom:600x9", "slices is 9: give each patient 2 to 8."),
    ],
)
def test_impossible_patients_are_refused_with_the_mend(name, message, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDICAL_VQA_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        load_vqa_dataset(name)
    assert str(error.value) == message
    assert not list(tmp_path.rglob("*.json"))


def test_phantoms_of_several_slices_are_loaded_by_name_with_their_group():
    dataset = load_vqa_dataset("phantom:24x2")
    seen = {Path(row["image"]).parent.name: row["group"] for part in dataset.values() for row in part}
    assert seen == {f"xmlab{i}": f"patient{i // 2}" for i in range(24)}
    groups = [set(part["group"]) for part in dataset.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 12


def test_another_number_of_slices_is_another_set(tmp_path, capsys):
    main([str(tmp_path / "set"), "--num_images", "72", "--slices", "3", "--image_size", "96"])
    assert str(tmp_path / "set") in capsys.readouterr().out
    files = [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    again = write_phantoms(tmp_path / "again", 72, image_size=96, slices=3)
    assert all(path.read_bytes() == (again / path.relative_to(tmp_path / "set")).read_bytes() for path in files)
    assert write_phantoms(again, 72, image_size=96, slices=3) == again
    for slices in (2, None):
        with pytest.raises(UserError, match="is not the phantom set of num_images=72, seed=0, image_size=96"):
            write_phantoms(again, 72, image_size=96, slices=slices)


def test_near_neighbours_find_slices_beside_each_other_and_few_others(thumbnails):
    """The figures of docs/neighbours.md: 390 pairs, of which 87.7 % are of one patient."""
    near = np.stack([has_neighbour(thumbnails, [one]) for one in thumbnails])
    assert (near == near.T).all()
    same = PATIENT[:, None] == PATIENT
    of_slices = near.reshape(PATIENTS, SLICES, PATIENTS, SLICES)[range(PATIENTS), :, range(PATIENTS)]
    recall = [np.mean([of_slices[:, i, i + d] for i in range(SLICES - d)]) for d in range(1, SLICES)]
    assert recall[0] > 0.99
    assert 0.93 < recall[1] < 0.99
    assert 0.7 < recall[2] < 0.85
    found = np.triu(near, 1)
    assert 370 < found.sum() < 410
    assert 0.85 < found[same].sum() / found.sum() < 0.9
    assert same[found & ~XRAY].all()  # bodies that are confused are X-rays, all of one view


def test_clusters_keep_the_slices_of_a_patient_together_and_patients_apart(thumbnails):
    found = clusters(thumbnails)
    of_patient = found.reshape(PATIENTS, SLICES)
    assert (of_patient == of_patient[:, :1]).all()
    firsts, xray = of_patient[:, 0], XRAY[::SLICES]
    assert len(set(firsts[~xray])) == 45
    assert not set(firsts[~xray]) & set(firsts[xray])
    assert 9 <= len(set(firsts[xray])) <= 13


def test_splits_by_image_leak_as_the_rows_then_say_and_splits_by_neighbours_do_not(patients, rows, tmp_path):
    """As SLAKE splits its images: slices of a patient in all splits, and no word of patients."""
    folder = tmp_path / "cut"
    shutil.copytree(patients, folder)
    places = {"train": (0, 2), "validate": (1,), "test": (3,)}
    for split, slices in places.items():
        part = [row for found in rows.values() for row in found if row["img_id"] % SLICES in slices]
        part = [{name: value for name, value in row.items() if name != "group"} for row in part]
        (folder / f"{split}.json").write_text(json.dumps(part))

    cut = load_vqa_dataset(str(folder))
    assert set(cut["train"]["overlap"]) == {None}
    assert set(cut["validation"]["overlap"]) == set(cut["test"]["overlap"]) == {"near"}

    mended = load_vqa_dataset(str(folder), split_by="neighbours")
    assert set(mended["validation"]["overlap"]) == set(mended["test"]["overlap"]) == {"none"}
    seen = Counter()
    for part in mended.values():
        seen.update({int(Path(image).parent.name.removeprefix("xmlab")) // SLICES for image in part["image"]})
    assert seen == dict.fromkeys(range(PATIENTS), 1)  # each in one split


def test_the_sets_own_splits_leak_nothing_but_x_rays_that_look_alike(patients):
    dataset = load_vqa_dataset(str(patients))
    for split in ("validation", "test"):
        near = [row for row in dataset[split] if row["overlap"] == "near"]
        assert {row["modality"] for row in near} == {"X-Ray"}
        assert len({row["image"] for row in near}) == 3
        assert set(dataset[split]["overlap"]) == {"near", "none"}
