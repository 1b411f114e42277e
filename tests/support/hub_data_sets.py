"""Small imitations of data sets of the Hub: the files, columns and formats of the real repos, other content.

Their pictures are generated. `docs/hub.md` says which of the real layouts were read up and which are assumed.
"""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WORDS = ("liver", "left lung", "no", "Yes", "2", "MRI")
IMAGE_FEATURES = datasets.Features(
    image=datasets.Image(), question=datasets.Value("string"), answer=datasets.Value("string")
)


class Imitation(NamedTuple):
    """A repo's files, and the rows that must come out of them.

    Attributes:
        files: by their names.
        rows: for each split, `(question, answer, bytes of the image)`; under None where the repo has no split.
    """

    files: dict[str, bytes]
    rows: dict[str | None, list[tuple[str, str, bytes]]]


def picture(number: int, kind: str = "JPEG") -> bytes:
    """The bytes of a picture that no other number has."""
    image = Image.new("RGB", (32, 24), (40 + number * 7 % 200, number * 31 % 256, number * 53 % 256))
    image.paste((255 - number % 256, 20, 90), (number % 24, number % 16, number % 24 + 8, number % 16 + 8))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def as_parquet(
    rows: Sequence[Mapping[str, Any]], features: datasets.Features | None = None, row_group_size: int = 100
) -> bytes:
    """A Parquet file as `push_to_hub` of `datasets` writes it, with its note of the features."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    table = datasets.Dataset.from_dict(columns, features=features).with_format("arrow")[:]
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=row_group_size)
    return buffer.getvalue()


def as_zip(files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A CSV file with a header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def shards(split: str, rows: Sequence[Mapping[str, Any]], count: int, features: datasets.Features) -> dict[str, bytes]:
    """The shards of a split under the names of `push_to_hub`."""
    size = -(-len(rows) // count)
    return {
        f"data/{split}-{number:05}-of-{count:05}.parquet": as_parquet(
            rows[number * size : (number + 1) * size], features
        )
        for number in range(count)
    }


def card(licence: str | None = None, splits: Sequence[str] = ()) -> bytes:
    """A `README.md` with the YAML that `push_to_hub` writes."""
    lines = ["---", *([f"license: {licence}"] if licence else []), "task_categories:", "- visual-question-answering"]
    if splits:
        lines += ["configs:", "- config_name: default", "  data_files:"]
        lines += [line for split in splits for line in (f"  - split: {split}", f"    path: data/{split}-*")]
    return "\n".join([*lines, "---", "# A data set", ""]).encode()


def _triplets(start: int, count: int, per_image: int = 1, kind: str = "JPEG") -> list[tuple[str, str, bytes]]:
    """Rows over pictures of these numbers; each question of an image is another one."""
    return [
        (f"What is shown, {i}?", WORDS[i % len(WORDS)], picture(start + i // per_image, kind)) for i in range(count)
    ]


def _records(rows: Sequence[tuple[str, str, bytes]]) -> list[dict[str, Any]]:
    return [
        {"image": {"bytes": image, "path": None}, "question": question, "answer": answer}
        for question, answer, image in rows
    ]


def vqa_rad() -> Imitation:
    """`flaviagiammarino/vqa-rad`: two splits, a shard each, whose names end in a hash as those of 2023 do."""
    rows = {"train": _triplets(0, 24, 2), "test": _triplets(100, 6, 2)}
    files = {
        f"data/{split}-00000-of-00001-eb8844602202be60.parquet": as_parquet(_records(members), IMAGE_FEATURES)
        for split, members in rows.items()
    }
    return Imitation({"README.md": card("cc0-1.0"), ".gitattributes": b"", **files}, dict(rows))


def path_vqa() -> Imitation:
    """`flaviagiammarino/path-vqa`: three splits in shards."""
    rows = {"train": _triplets(0, 20), "validation": _triplets(100, 7), "test": _triplets(200, 5)}
    files: dict[str, bytes] = {"README.md": card("mit")}
    for split, count in (("train", 3), ("validation", 2), ("test", 1)):
        files |= shards(split, _records(rows[split]), count, IMAGE_FEATURES)
    return Imitation(files, dict(rows))


def slake_english() -> Imitation:
    """`mdwiratathya/SLAKE-vqa-english` and `khanhduong/SLAKE_en`: three splits that the card names."""
    rows = {"train": _triplets(0, 18, 3), "validation": _triplets(100, 6, 3), "test": _triplets(200, 6, 3)}
    files = {"README.md": card(splits=list(rows))}
    for split, members in rows.items():
        files |= shards(split, _records(members), 1, IMAGE_FEATURES)
    return Imitation(files, dict(rows))


def kvasir_vqa() -> Imitation:
    """`SimulaMet-HOST/Kvasir-VQA`: one split `raw`, an image in each of its rows."""
    rows = _triplets(0, 60, 5)
    features = datasets.Features(
        image=datasets.Image(),
        **{name: datasets.Value("string") for name in ("source", "question", "answer", "img_id")},
    )
    records = [
        row | {"source": "HyperKvasir", "img_id": f"cl8k2u1pm1dw7083203g1b{i // 5}"}
        for i, row in enumerate(_records(rows))
    ]
    files = {"README.md": card("cc-by-nc-4.0", ["raw"]), **shards("raw", records, 4, features)}
    return Imitation(files, {None: rows})


def pmc_vqa() -> Imitation:
    """`xmcmic/PMC-VQA`: CSV files of both versions, and a zip file of images for each."""
    rows = {"train": _triplets(0, 16, 2), "test": _triplets(100, 4)}

    def record(number: int, row: tuple[str, str, bytes]) -> dict[str, Any]:
        question, answer, image = row
        choices = [f"other {number} {letter}" for letter in "ABCD"]
        choices[number % 4] = answer
        choices[(number + 1) % 4] = WORDS[(WORDS.index(answer) + 1) % len(WORDS)]
        options = {f"Choice {letter}": f" {letter}:{text} " for letter, text in zip("ABCD", choices, strict=True)}
        names = {"Figure_path": name_of(image), "Question": f" {question}", "Answer": answer}
        return names | options | {"Answer_label": "ABCD"[number % 4]}

    def name_of(image: bytes) -> str:
        return f"PMC{1_000_000 + images.index(image)}_F1.jpg"

    images = list(dict.fromkeys(image for members in rows.values() for _, _, image in members))
    tables = {split: [record(i, row) for i, row in enumerate(members)] for split, members in rows.items()}
    archive = {"images/": b""} | {f"images/{name_of(image)}": image for image in images}
    archive |= {"images/PMC9_F9.jpg": picture(250), "__MACOSX/images/._PMC1000000_F1.jpg": b"x"}
    other = [row | {"Figure_path": "PMC9_F9.jpg", "index": i} for i, row in enumerate(tables["train"][:2])]
    files = {
        "README.md": b"# PMC-VQA Dataset\n",
        "train.csv": as_csv(tables["train"]),
        "test.csv": as_csv(tables["test"]),
        "test_clean.csv": as_csv(tables["test"][:2]),
        "train_2.csv": as_csv(other),
        "test_2.csv": as_csv(other),
        "images.zip": as_zip(archive),
        "images_2.zip": as_zip({"figures/PMC9_F9.jpg": picture(250)}),
    }
    return Imitation(files, dict(rows))


def omni_med_vqa() -> dict[str, bytes]:
    """OmniMedVQA (Hu et al. 2024) as it is unpacked: a JSON file for each of its parts, images in folders beside it.

    Questions have two or four options; those of the first kind have no other columns.
    """
    options = [("Fundus photography", "CT", "MRI", "Ultrasound"), ("Yes", "No")]
    rows, files = [], {}
    for i in range(40):
        own = options[i % 2]
        image = f"Images/ACRIMA/Im{i // 2:03}_ACRIMA.png"
        files[image] = picture(i // 2, "PNG")
        row = {
            "dataset": "ACRIMA",
            "question_id": f"ACRIMA_{i:04}",
            "question_type": "Modality Recognition",
            "question": ("What imaging technique was used?", "Is there evidence of glaucoma?")[i % 2],
            "gt_answer": own[i // 2 % len(own)],
            "image_path": image,
        }
        rows.append(row | {f"option_{letter}": text for letter, text in zip("ABCD", own, strict=False)})
    return {"ACRIMA.json": json.dumps(rows).encode(), **files}


IMITATIONS: dict[str, Callable[[], Imitation]] = {
    "flaviagiammarino/vqa-rad": vqa_rad,
    "flaviagiammarino/path-vqa": path_vqa,
    "mdwiratathya/SLAKE-vqa-english": slake_english,
    "khanhduong/SLAKE_en": slake_english,
    "SimulaMet-HOST/Kvasir-VQA": kvasir_vqa,
    "xmcmic/PMC-VQA": pmc_vqa,
}


def binary_parquet(rows: Sequence[tuple[str, str, bytes | None]]) -> bytes:
    """A Parquet file whose image column is plain bytes, as other programs write it."""
    columns = [
        pa.array([row[i] for row in rows], kind) for i, kind in enumerate((pa.string(), pa.string(), pa.binary()))
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, ["prompt", "answer", "image"]), buffer)
    return buffer.getvalue()
