"""processing.sources.parquet: image columns of every form, in bounded memory, and files that are none."""

import io
import subprocess
import sys
from contextlib import suppress

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from processing.data import load_vqa_dataset
from processing.errors import UserError
from processing.images import MAX_IMAGE_BYTES
from tests.processing.conftest import rows_of
from tests.support.app_server import ROOT
from tests.support.hub_data_sets import as_parquet, binary_parquet, picture, shards

COUNT = 12


def write(folder, name, columns, **options):
    pq.write_table(pa.table(columns), folder / name, **options)
    return folder / name


def columns_with(image) -> dict:
    return {"image": image, "question": [f"What, {i}?" for i in range(COUNT)], "answer": ["lung"] * COUNT}


def pictures_of(dataset) -> list[bytes]:
    rows = sorted(rows_of(dataset), key=lambda row: int(row["question"][6:-1]))
    return [open(row["image"], "rb").read() for row in rows]


EXPECTED = [picture(i, "PNG") for i in range(COUNT)]
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
BYTES_FIRST = [{"bytes": data, "path": f"folder/{i}.png"} for i, data in enumerate(EXPECTED)]
FORMS = {
    "bytes": pa.array(EXPECTED),
    "large bytes": pa.array(EXPECTED, pa.large_binary()),
    "bytes and path": pa.array(BYTES_FIRST, STRUCT),
    "path first": pa.array(BYTES_FIRST, pa.struct({"path": pa.string(), "bytes": pa.binary()})),
    "bytes alone": pa.array([{"bytes": data} for data in EXPECTED], pa.struct({"bytes": pa.binary()})),
    "path": pa.array([f"pictures/{i}.png" for i in range(COUNT)]),
    "path alone in a struct": pa.array([{"bytes": None, "path": f"pictures/{i}.png"} for i in range(COUNT)], STRUCT),
    "some as bytes, some as paths": pa.array(
        [{"bytes": None, "path": f"pictures/{i}.png"} if i % 2 else row for i, row in enumerate(BYTES_FIRST)], STRUCT
    ),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i, data in enumerate(EXPECTED):
        (tmp_path / "pictures" / f"{i}.png").write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_images_of_every_form_of_column_come_out_the_first_time_and_the_second(folder, form):
    file = write(folder, "rows.parquet", columns_with(FORMS[form]))
    first = load_vqa_dataset(str(file))
    assert pictures_of(first) == EXPECTED
    second = load_vqa_dataset(str(file))
    assert rows_of(second) == rows_of(first)
    ids = {row["question"]: row["image_id"] for row in rows_of(first)}
    if form in ("bytes and path", "path first"):
        assert ids["What, 3?"] == "folder/3.png"
    elif "path" in form:
        assert ids["What, 3?"] == "pictures/3.png"


def test_row_groups_and_shards_keep_the_order_of_rows(folder):
    features = datasets.Features(
        image=datasets.Image(), question=datasets.Value("string"), answer=datasets.Value("string")
    )
    rows = [
        {"image": {"bytes": picture(i % 40), "path": None}, "question": f"What, {i}?", "answer": str(i)}
        for i in range(150)
    ]
    (folder / "data").mkdir()
    for name, content in shards("validation", rows, 4, features).items():
        (folder / name).write_bytes(content)
    (folder / "data" / "train-00000-of-00001.parquet").write_bytes(
        as_parquet([rows[0] | {"image": {"bytes": picture(99), "path": None}}], features, row_group_size=1)
    )
    dataset = load_vqa_dataset(str(folder))
    assert dataset["validation"]["answer"][:] == [str(i) for i in range(150)]
    assert len(dataset["train"]) == 1


def test_names_of_classes_and_numbers_become_answers(folder):
    features = datasets.Features(
        image=datasets.Image(),
        question=datasets.Value("string"),
        label=datasets.ClassLabel(names=["benign", "malignant"]),
    )
    rows = [
        {"image": {"bytes": data, "path": None}, "question": f"What, {i}?", "label": i % 2}
        for i, data in enumerate(EXPECTED)
    ]
    (folder / "train.parquet").write_bytes(as_parquet(rows, features))
    found = {row["question"]: row["answer"] for row in rows_of(load_vqa_dataset(str(folder)))}
    assert (found["What, 0?"], found["What, 5?"]) == ("benign", "malignant")


@pytest.mark.parametrize(
    "options",
    [
        pa.array([{"A": "lung", "B": "heart", "C": None}] * COUNT),
        pa.array([["A: lung", "B: heart"]] * COUNT),
        pa.array([{"B": "heart", "A": "lung"}] * COUNT),
    ],
    ids=lambda array: str(array.type),
)
def test_options_in_objects_and_lists_are_read(folder, options):
    columns = columns_with(FORMS["bytes"]) | {"options": options, "answer": ["B"] * COUNT}
    rows = rows_of(load_vqa_dataset(str(write(folder, "rows.parquet", columns))))
    assert len(rows) == COUNT
    assert {(tuple(row["choices"]), row["answer"], row["answer_label"]) for row in rows} == {
        (("lung", "heart"), "heart", "B")
    }


def test_what_is_no_image_costs_its_row_and_says_why(folder, caplog):
    images = [*EXPECTED]
    images[1], images[2], images[3] = None, b"", b"no image"
    images[4] = b"\x89PNG" + bytes(MAX_IMAGE_BYTES)
    file = write(folder, "rows.parquet", columns_with(pa.array(images)))
    for _ in range(2):
        caplog.clear()
        assert len(rows_of(load_vqa_dataset(str(file)))) == COUNT - 4
        assert "2 x missing image" in caplog.text
        assert "1 x undecodable image: rows.parquet row 4" in caplog.text
        assert f"1 x image above the limit of {MAX_IMAGE_BYTES:,} bytes: rows.parquet row 5" in caplog.text


def test_path_beside_the_bytes_never_leads_out_of_the_folder(folder, caplog):
    (folder.parent / "secret.png").write_bytes(picture(200))
    cells = [*BYTES_FIRST]
    cells[1] = {"bytes": None, "path": "../secret.png"}
    cells[2] = {"bytes": None, "path": str(folder.parent / "secret.png")}
    cells[3] = {"bytes": EXPECTED[3], "path": "../../../etc/evil.png"}
    cells[4] = {"bytes": None, "path": "nowhere\0.png"}
    file = write(folder, "rows.parquet", columns_with(pa.array(cells, STRUCT)))
    dataset = load_vqa_dataset(str(file))
    assert len(rows_of(dataset)) == COUNT - 3
    assert picture(200) not in pictures_of(dataset)
    assert str(folder) not in caplog.text.replace(str(file), "")


def test_columns_that_are_not_used_are_not_read(folder, monkeypatch):
    extra = {"reasoning": pa.array([{"deep": ["x" * 1000]}] * COUNT), "mask": pa.array(EXPECTED)}
    file = write(folder, "rows.parquet", columns_with(pa.array(EXPECTED)) | extra)
    read = []
    original = pq.ParquetFile.iter_batches

    def spy(self, *args, columns, **options):
        read.append(columns)
        return original(self, *args, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    load_vqa_dataset(str(file))
    load_vqa_dataset(str(file))
    assert read == [["question", "answer", "image"], ["question", "answer"]]


def test_a_column_of_another_kind_and_two_of_one_name_are_refused(folder):
    file = write(folder, "rows.parquet", columns_with(pa.array([[1, 2]] * COUNT)))
    with pytest.raises(UserError, match=r"the column 'image' holds no images \(list<.*>\); it must hold paths, bytes"):
        load_vqa_dataset(str(file))
    names = ["image", "question", "answer", "answer"]
    pq.write_table(pa.table([pa.array(["a"])] * 4, names=names), file)
    with pytest.raises(UserError, match="two columns are named 'answer'; keep one of them"):
        load_vqa_dataset(str(file))


GOOD = binary_parquet([(f"What, {i}?", "lung", data) for i, data in enumerate(EXPECTED)])
BROKEN = {
    "empty": b"",
    "text": b"image,question,answer\n",
    "cut off": GOOD[:-200],
    "no footer": GOOD[:-8] + bytes(8),
    "footer of noise": GOOD[:-600] + np.random.default_rng(0).bytes(592) + GOOD[-8:],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_file_is_one_sentence(folder, kind):
    (folder / "train.parquet").write_bytes(BROKEN[kind])
    with pytest.raises(UserError, match=r"train.parquet: not a Parquet file, or a damaged one .*download or write"):
        load_vqa_dataset(str(folder))


@pytest.mark.parametrize("seed", range(8))
def test_pages_of_noise_are_refused_or_cost_rows(folder, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(GOOD)
    for position in rng.integers(4, len(GOOD) - 700, 30):
        data[position] = rng.integers(256)
    (folder / "train.parquet").write_bytes(bytes(data))
    rows = []
    with suppress(UserError):
        rows = rows_of(load_vqa_dataset(str(folder)))
    assert len(rows) <= COUNT


def test_memory_does_not_grow_with_the_bytes_of_a_file(folder):
    """200 MB of images in one row group are read within the memory of a few of them."""
    columns = {name: [] for name in ("image", "question", "answer")}
    rng = np.random.default_rng(0)
    noise = rng.bytes(2**20)
    for i in range(200):
        columns["image"].append(picture(i) + i.to_bytes(4, "big") + noise)
        columns["question"].append(f"What, {i}?")
        columns["answer"].append("lung")
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=200, compression="none", use_dictionary=False)
    (folder / "rows.parquet").write_bytes(buffer.getvalue())
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from processing.image_paths import ImageFolder\nfrom processing.image_store import ImageStore\n"
        "from processing.sources.columns import ColumnFinder\nfrom processing.sources.data_files import Table\n"
        "from processing.sources.folder import local_folder\nfrom processing.sources.parquet import read_parquet\n"
        "folder = local_folder('', Path(sys.argv[1]))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "images = ImageFolder(folder.root)\n"
        "records = read_parquet(folder, Table('rows.parquet', None), ColumnFinder(()), images, ImageStore('t'))\n"
        "print(len(list(records)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, kilobytes = map(int, done.stdout.split())
    assert count == 200
    assert kilobytes < 130_000
