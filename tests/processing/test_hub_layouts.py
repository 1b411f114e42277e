"""Data sets of the Hub in their own layouts: imitations on loopback, loaded by the real client, then without it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from processing.data import load_vqa_dataset
from processing.storage import cache_dir
from tests.support.app_server import ROOT
from tests.support.hub_data_sets import IMITATIONS, Imitation


def publish(hub, name: str) -> Imitation:
    imitation = IMITATIONS[name]()
    hub.repos[f"datasets/{name}"] = dict(imitation.files)
    return imitation


def triplets(rows) -> list[tuple[str, str, bytes]]:
    return [(row["question"], row["answer"], Path(row["image"]).read_bytes()) for row in rows]


def check_rows(dataset, imitation: Imitation) -> None:
    """Every row of the repo came out once, in its split where the repo has splits, in its order."""
    expected = dict(imitation.rows)
    assert set(dataset) == {"train", "validation", "test"}
    if "validation" not in expected:  # it is made of training images, and without any split the test split is too
        rows, made = (
            (expected.pop("train"), ["train", "validation"])
            if "train" in expected
            else (expected.pop(None), [*dataset])
        )
        found = {split: triplets(dataset[split]) for split in made}
        assert sorted(triplet for members in found.values() for triplet in members) == sorted(rows)
        assert all(members == [row for row in rows if row in members] for members in found.values())
        images = [set(dataset[split]["image"]) for split in made]
        assert sum(len(names) for names in images) == len(set.union(*images))
    for split, rows in expected.items():
        assert triplets(dataset[split]) == rows


@pytest.mark.parametrize("name", IMITATIONS)
def test_rows_and_images_of_a_layout_come_out_online_and_then_offline(hub, name, monkeypatch):
    imitation = publish(hub, name)
    online = load_vqa_dataset(name)
    check_rows(online, imitation)
    assert online["train"].info.revision == hub.commit_of(f"datasets/{name}")
    assert online["train"].info.homepage == f"https://huggingface.co/datasets/{name}"
    hub.repos.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    offline = load_vqa_dataset(name)
    assert {split: rows.to_list() for split, rows in offline.items()} == {
        split: rows.to_list() for split, rows in online.items()
    }
    assert offline["train"].info.revision == online["train"].info.revision
    assert len(hub.requests) == before


def test_a_process_of_its_own_with_the_hub_switched_off_reads_what_another_fetched(hub):
    for name in IMITATIONS:
        publish(hub, name)
        load_vqa_dataset(name)
    code = (
        "import json, sys\nfrom processing.data import load_vqa_dataset\n"
        "for name in sys.argv[1:]:\n"
        "    dataset = load_vqa_dataset(name)\n"
        "    print(json.dumps({split: [rows['question'][:], rows['image'][:]] for split, rows in dataset.items()}))\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code, *IMITATIONS], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name, line in zip(IMITATIONS, done.stdout.splitlines(), strict=True):
        here = {split: [rows["question"][:], rows["image"][:]] for split, rows in load_vqa_dataset(name).items()}
        assert json.loads(line) == here


def test_a_second_load_downloads_reads_and_writes_no_image(hub, monkeypatch):
    for name in ("SimulaMet-HOST/Kvasir-VQA", "xmcmic/PMC-VQA"):
        publish(hub, name)
        first = load_vqa_dataset(name)
        before = len(hub.requests)
        stamps = {file: file.stat().st_mtime_ns for file in (cache_dir() / "images").rglob("*.*")}
        with monkeypatch.context() as patch:
            patch.setattr("processing.image_store.ImageStore.add", lambda *_: pytest.fail("an image was read again"))
            second = load_vqa_dataset(name)
        assert not [request for request in hub.requests[before:] if "/resolve/" in request]
        assert {file: file.stat().st_mtime_ns for file in (cache_dir() / "images").rglob("*.*")} == stamps
        assert second["test"].to_list() == first["test"].to_list()


def test_an_image_of_many_rows_is_one_file_and_keeps_the_id_of_its_data_set(hub):
    publish(hub, "SimulaMet-HOST/Kvasir-VQA")
    dataset = load_vqa_dataset("SimulaMet-HOST/Kvasir-VQA")
    rows = [row for split in dataset.values() for row in split]
    assert len(rows) == 60
    assert len({row["image"] for row in rows}) == 12
    assert {row["image_id"] for row in rows} == {f"cl8k2u1pm1dw7083203g1b{i}" for i in range(12)}
    assert {split: len(set(part["image"])) for split, part in dataset.items()} == {
        "train": 10,
        "validation": 1,
        "test": 1,
    }


def test_pmc_vqa_fetches_the_one_archive_that_its_rows_need_and_keeps_their_options(hub):
    publish(hub, "xmcmic/PMC-VQA")
    dataset = load_vqa_dataset("xmcmic/PMC-VQA")
    assert not [request for request in hub.requests if "images_2.zip" in request]
    row = dataset["test"][1]
    assert (row["question"], row["answer"]) == ("What is shown, 1?", "left lung")
    assert row["image_id"] == "PMC1000009_F1.jpg"
    assert row["choices"] == ["other 1 A", "left lung", "no", "other 1 D"]
    assert row["answer_label"] == "B"
    assert dataset["train"].info.license == "cc-by-sa"
    assert "answers" not in dataset["train"].features


@pytest.mark.parametrize(
    ("name", "title", "licence"),
    [
        ("flaviagiammarino/vqa-rad", "VQA-RAD", "cc0-1.0"),
        ("flaviagiammarino/path-vqa", "PathVQA", "mit"),
        ("mdwiratathya/SLAKE-vqa-english", "SLAKE (English)", ""),
        ("SimulaMet-HOST/Kvasir-VQA", "Kvasir-VQA", "cc-by-nc-4.0"),
    ],
)
def test_a_known_data_set_is_named_with_its_licence(hub, name, title, licence):
    publish(hub, name)
    info = load_vqa_dataset(name)["train"].info
    assert (info.dataset_name, info.license) == (title, licence)


def test_an_unknown_data_set_has_its_id_and_the_licence_of_its_card(hub):
    hub.repos["datasets/user/mine"] = dict(IMITATIONS["flaviagiammarino/path-vqa"]().files)
    info = load_vqa_dataset("user/mine")["train"].info
    assert (info.dataset_name, info.license) == ("user/mine", "mit")


def test_the_same_files_in_a_folder_give_the_same_rows(hub, tmp_path):
    for number, name in enumerate(IMITATIONS):
        imitation = publish(hub, name)
        folder = tmp_path / str(number)
        for file, content in imitation.files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        local, remote = load_vqa_dataset(str(folder)), load_vqa_dataset(name)
        for split in remote:
            assert triplets(local[split]) == triplets(remote[split])
            assert local[split].remove_columns("image").to_list() == remote[split].remove_columns("image").to_list()
        assert local["train"].info.dataset_name == "own data"
