"""processing.sources.data_files: configurations, splits and layouts of folders as `datasets` knows them."""

import json
import logging
from pathlib import Path

import pytest

from processing.data import load_vqa_dataset
from processing.errors import UserError
from tests.processing.conftest import rows_of
from tests.support.hub_data_sets import as_csv, as_parquet, picture

COUNT = 6


def rows(start=0, count=COUNT, **more):
    return [
        {"file_name": f"{start + i}.jpg", "question": f"{start + i}?", "answer": "lung"} | more for i in range(count)
    ]


def write(folder, files) -> str:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def pictures(start=0, count=COUNT, folder="") -> dict[str, bytes]:
    return {f"{folder}{start + i}.jpg": picture(start + i) for i in range(count)}


def lines(records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def questions(dataset) -> dict[str, list[int]]:
    return {split: sorted(int(row["question"][:-1]) for row in part) for split, part in dataset.items()}


def every_question(dataset) -> list[int]:
    return sorted(number for numbers in questions(dataset).values() for number in numbers)


def yaml(text) -> str:
    return f"---\nlicense: mit\n{text}---\n# Rows\n"


TWO_CONFIGS = (
    "configs:\n- config_name: easy\n  data_files:\n  - split: train\n    path: easy/*.csv\n"
    "- config_name: hard\n  data_files:\n  - split: train\n    path: [hard/a.csv, hard/b.csv]\n"
    "  - split: test\n    path: hard/test-*\n"
)


@pytest.fixture
def two_configs() -> dict[str, bytes | str]:
    return {
        "README.md": yaml(TWO_CONFIGS),
        "easy/rows.csv": as_csv(rows()),
        **pictures(0, 24, "easy/"),
        "hard/a.csv": as_csv(rows(6)),
        "hard/b.csv": as_csv(rows(12)),
        "hard/test-1.csv": as_csv(rows(18)),
        **pictures(0, 24, "hard/"),
    }


def test_configuration_reads_its_own_files(tmp_path, two_configs, hub):
    folder = write(tmp_path, two_configs)
    hub.repos["datasets/user/two"] = {
        name: content if isinstance(content, bytes) else content.encode() for name, content in two_configs.items()
    }
    for name in (folder, "user/two"):
        found = questions(load_vqa_dataset(name, dataset_config="hard"))
        assert found["test"] == list(range(18, 24))
        assert sorted(found["train"] + found["validation"]) == list(range(6, 18))
    assert load_vqa_dataset("user/two", dataset_config="hard")["train"].info.config_name == "hard"
    assert not [request for request in hub.requests if "/resolve/" in request and "easy/" in request]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "it has several configurations; choose one by --dataset_config: easy, hard."),
        ("medium", "it has no configuration medium; choose one of easy, hard."),
    ],
)
def test_configuration_that_is_not_certain_names_those_there_are(tmp_path, two_configs, config, message):
    folder = write(tmp_path, two_configs)
    with pytest.raises(UserError) as error:
        load_vqa_dataset(folder, dataset_config=config)
    assert str(error.value) == f"--dataset {folder}: {message}"


@pytest.mark.parametrize(
    "text", ["- config_name: default\n  data_dir: easy\n", "- config_name: easy\n  default: true\n"]
)
def test_default_configuration_is_read_without_its_name(tmp_path, two_configs, text):
    two_configs["README.md"] = yaml(f"configs:\n{text}  data_files: '*.csv'\n- config_name: other\n")
    two_configs["rows.csv"] = two_configs["easy/rows.csv"]
    dataset = load_vqa_dataset(write(tmp_path, two_configs | pictures()))
    assert every_question(dataset) == list(range(6))


@pytest.mark.parametrize(
    "path",
    ["../outside/*.csv", "/etc/*.csv", "https://example.org/a.csv", "zip://a.csv::b.zip", "hf://datasets/a/b/c.csv"],
)
def test_configuration_that_leads_out_of_the_data_set_is_refused(tmp_path, path):
    write(tmp_path / "outside", {"rows.csv": as_csv(rows()), **pictures()})
    folder = write(tmp_path / "data", {"README.md": yaml(f"configs:\n- config_name: x\n  data_files: '{path}'\n")})
    with pytest.raises(UserError, match="its configuration x names '.*', which lies outside of the data set; refused"):
        load_vqa_dataset(folder)


def test_configuration_of_a_folder_without_any_is_refused(tmp_path):
    folder = write(tmp_path, {"train.csv": as_csv(rows()), **pictures()})
    with pytest.raises(UserError, match="--dataset_config x: it has no configurations; leave it out"):
        load_vqa_dataset(folder, dataset_config="x")
    with pytest.raises(UserError, match="--dataset_config: .*train.csv is one file, which has none; leave it out"):
        load_vqa_dataset(f"{folder}/train.csv", dataset_config="x")


@pytest.mark.parametrize(
    "text", ["---\nconfigs: [\n---\n", "---\nconfigs: 3\n---\n", "---\n- a\n---\n", "# plain", "\0"]
)
def test_card_that_cannot_be_read_says_nothing(tmp_path, text):
    folder = write(tmp_path, {"README.md": text, "train.csv": as_csv(rows()), **pictures()})
    assert len(rows_of(load_vqa_dataset(folder))) == COUNT


IMAGE_FOLDERS = {
    "CSV": {"metadata.csv": as_csv(rows()), **pictures()},
    "JSON Lines": {"metadata.jsonl": lines(rows()), **pictures()},
    "Parquet": {"metadata.parquet": as_parquet(rows()), **pictures()},
    "a folder below": {"metadata.csv": as_csv([row | {"file_name": f"a/{row['file_name']}"} for row in rows()])}
    | pictures(folder="a/"),
    "images elsewhere": {"data/rows.csv": as_csv(rows()), **pictures(folder="images/")},
}


@pytest.mark.parametrize("layout", IMAGE_FOLDERS)
@pytest.mark.parametrize("on_hub", [False, True])
def test_image_folder_with_metadata_is_split_by_image(tmp_path, hub, layout, on_hub):
    files = IMAGE_FOLDERS[layout]
    name = write(tmp_path, files)
    if on_hub:
        name = f"user/{layout.replace(' ', '-')}"
        hub.repos[f"datasets/{name}"] = {
            file: content if isinstance(content, bytes) else content.encode() for file, content in files.items()
        }
    dataset = load_vqa_dataset(name)
    assert every_question(dataset) == list(range(6))
    assert {row["question"]: Path(row["image"]).read_bytes() for row in rows_of(dataset)} == {
        f"{i}?": picture(i) for i in range(6)
    }
    start = {"a folder below": "a/", "images elsewhere": "images/"}.get(layout, "")
    assert {row["image_id"] for row in rows_of(dataset)} == {f"{start}{i}.jpg" for i in range(6)}


def test_image_folders_of_splits_keep_them(tmp_path):
    files = {}
    for split, start in (("train", 0), ("val", 6), ("test", 12)):
        files |= {f"{split}/metadata.csv": as_csv(rows(start)), **pictures(start, folder=f"{split}/")}
    dataset = load_vqa_dataset(write(tmp_path, files))
    assert questions(dataset) == {
        "train": list(range(6)),
        "validation": list(range(6, 12)),
        "test": list(range(12, 18)),
    }
    assert dataset["test"][0]["image_id"] == "test/12.jpg"


def test_one_split_of_any_name_is_split_by_image_and_one_to_evaluate_on_stays(tmp_path):
    for number, name in enumerate(("raw", "train", "everything")):
        folder = write(tmp_path / str(number), {f"data/{name}-00000-of-00001.csv": as_csv(rows()), **pictures()})
        assert {split: len(part) for split, part in load_vqa_dataset(folder).items()} == {
            "train": 4,
            "validation": 1,
            "test": 1,
        }
    folder = write(tmp_path / "test", {"data/test-00000-of-00001.csv": as_csv(rows()), **pictures()})
    assert questions(load_vqa_dataset(folder)) == {"test": list(range(6))}


def test_a_split_column_counts_where_files_name_no_split(tmp_path):
    records = [row | {"split": "test" if i > 3 else "train"} for i, row in enumerate(rows())]
    found = questions(load_vqa_dataset(write(tmp_path, {"metadata.csv": as_csv(records), **pictures()})))
    assert found["test"] == [4, 5]


def test_splits_of_unknown_names_are_left_out_or_refused(tmp_path, caplog):
    files = {
        f"data/{name}-00000-of-00001.csv": as_csv(rows(i * 6)) for i, name in enumerate(("train", "test", "extra"))
    }
    folder = write(tmp_path / "a", files | pictures(0, 18))
    assert every_question(load_vqa_dataset(folder)) == list(range(12))
    assert "the splits extra are left out" in caplog.text
    files = {f"data/{name}-00000-of-00001.csv": as_csv(rows()) for name in ("first", "second")}
    with pytest.raises(UserError, match="its splits are first, second, of which none is train, validation or test"):
        load_vqa_dataset(write(tmp_path / "b", files | pictures()))


def test_files_named_after_splits_win_over_others_beside_them_and_the_run_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    files = {"train.csv": as_csv(rows()), "train_2.csv": as_csv(rows(6)), "test.csv": as_csv(rows(12))}
    found = questions(load_vqa_dataset(write(tmp_path, files | pictures(0, 18))))
    assert sorted(found["train"] + found["validation"]) == list(range(6))
    assert found["test"] == list(range(12, 18))
    assert "read are train.csv, test.csv, and not train_2.csv." in caplog.text


def test_the_kind_of_most_tables_is_read(tmp_path):
    files = {f"data/train-0000{i}-of-00002.parquet": as_parquet(rows(6 * i)) for i in range(2)}
    files |= {"data/train-00000-of-00002.json": "[]", **pictures(0, 12)}
    assert len(rows_of(load_vqa_dataset(write(tmp_path, files)))) == 12


def test_boxes_beside_images_are_no_table(tmp_path):
    files = {f"images/{i}/source.jpg": picture(i) for i in range(COUNT)}
    files |= {f"images/{i}/detection.json": '[{"Liver": [0, 0, 4, 4]}]' for i in range(COUNT)}
    records = [{"image": f"images/{i}/source.jpg", "question": f"{i}?", "answer": "lung"} for i in range(COUNT)]
    dataset = load_vqa_dataset(write(tmp_path, files | {"rows.json": json.dumps(records)}))
    assert sorted(number for part in questions(dataset).values() for number in part) == list(range(COUNT))


def test_script_of_a_repo_is_never_fetched_or_run(hub):
    marker = "import pathlib; pathlib.Path('/tmp/ran-by-a-data-set').touch()"
    files = {"evil.py": marker.encode(), "train.csv": as_csv(rows()), **pictures()}
    hub.repos["datasets/user/evil"] = files
    assert len(rows_of(load_vqa_dataset("user/evil"))) == COUNT
    assert not [request for request in hub.requests if "evil.py" in request]
