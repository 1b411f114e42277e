"""Rows of any known data set as one `DatasetDict` with one schema, validated and free of leaks."""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from processing.errors import UserError, shorten
from processing.problems import describe_problems
from processing.sources import read_source
from processing.sources.rows import Row, Source
from processing.sources.slake import read_slake_boxes
from processing.sources.values import language_code, text_of
from processing.splits import hold_out_tuning_rows, refuse_leaks, split_by_image
from processing.storage import write_jsonl
from processing.validation import validate

logger = logging.getLogger(__name__)

# What a data set does not have is None, never invented.
SCHEMA = datasets.Features(
    {
        "row": datasets.Value("int64"),  # number of the row over all splits, the key of predictions
        "image": datasets.Value("string"),  # absolute path
        "image_id": datasets.Value("string"),
        "question": datasets.Value("string"),
        "answer": datasets.Value("string"),  # "" is SQuAD v2's "no answer"
        "answer_type": datasets.Value("string"),  # OPEN or CLOSED
        "content_type": datasets.Value("string"),
        "modality": datasets.Value("string"),
        "location": datasets.Value("string"),
        "language": datasets.Value("string"),  # en or zh
        "question_id": datasets.Value("string"),
        "boxes": datasets.List({"label": datasets.Value("string"), "bbox": datasets.List(datasets.Value("float32"))}),
    }
)

# Columns that a data set has only where its rows do: several gold answers, of which `answer` is the most frequent one;
# the options of a question with choices, of which `answer` is the right one, and its letter (`processing.choices`).
OPTIONAL = {
    "answers": datasets.List(datasets.Value("string")),
    "choices": datasets.List(datasets.Value("string")),
    "answer_label": datasets.Value("string"),
}


@dataclass
class SourceInfo(datasets.DatasetInfo):
    """What a model card says of the data: its name and home, its licence, who made it, and which commit was read.

    Attributes:
        revision: the commit of a Hub data set; its configuration is `config_name`.
    """

    revision: str | None = None


DATA_SETS = {
    "slake": SourceInfo(
        dataset_name="SLAKE",
        homepage="https://huggingface.co/datasets/BoKelvin/SLAKE",
        license="cc-by-4.0",
        citation='Liu et al., "SLAKE: A Semantically-Labeled Knowledge-Enhanced Dataset for Medical Visual Question '
        'Answering", ISBI 2021',
    ),
    "vqa_rad": SourceInfo(
        dataset_name="VQA-RAD",
        homepage="https://huggingface.co/datasets/flaviagiammarino/vqa-rad",
        license="cc0-1.0",
        citation='Lau et al., "A dataset of clinically generated visual questions and answers about radiology '
        'images", Scientific Data 2018',
    ),
    "phantom": SourceInfo(dataset_name="generated phantom images", license="apache-2.0"),
    "table": SourceInfo(dataset_name="own data"),  # its real name may be private
}
PMC_VQA = SourceInfo(
    dataset_name="PMC-VQA",
    license="cc-by-sa",  # its card names no version
    citation='Zhang et al., "PMC-VQA: Visual Instruction Tuning for Medical Visual Question Answering", 2023',
)
HUB_DATA_SETS = {  # those that are read as tables
    "flaviagiammarino/vqa-rad": DATA_SETS["vqa_rad"],
    "flaviagiammarino/path-vqa": SourceInfo(
        dataset_name="PathVQA",
        license="mit",
        citation='He et al., "PathVQA: 30000+ Questions for Medical Visual Question Answering", 2020',
    ),
    "mdwiratathya/SLAKE-vqa-english": SourceInfo(dataset_name="SLAKE (English)", citation=DATA_SETS["slake"].citation),
    "khanhduong/SLAKE_en": SourceInfo(dataset_name="SLAKE (English)", citation=DATA_SETS["slake"].citation),
    "SimulaMet-HOST/Kvasir-VQA": SourceInfo(
        dataset_name="Kvasir-VQA",
        license="cc-by-nc-4.0",
        citation='Gautam et al., "Kvasir-VQA: A Text-Image Pair GI Tract Dataset", 2024',
    ),
    "xmcmic/PMC-VQA": PMC_VQA,
    "RadGenome/PMC-VQA": PMC_VQA,
}

NAMED_LANGUAGES = 10  # that a message names

SLAKE_ID = "BoKelvin/SLAKE"
SLAKE_IMAGE = "a18a0f99b611c26e868430dcaa8942362a00e29644e6c7de1b07c41922de8a54"  # SHA-256 of its xmlab0/source.jpg


def load_vqa_dataset(
    dataset: str,
    *,
    language: str = "en",
    column_names: Iterable[str] = (),
    image_folder: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    on_bad_rows: str = "skip",
    drop_leaking_rows: bool = False,
    allow_no_answer: bool = False,
    split_seed: int = 0,
    tuning_split: bool = False,
    skipped_rows_file: str | Path | None = None,
) -> datasets.DatasetDict:
    """Loads, validates and splits a data set.

    Args:
        dataset: see `processing.sources.read_source`.
        language: `en`, `zh` or `all`; rows of a data set that names no language are always kept.
        column_names, image_folder: for tables, see `read_source`.
        dataset_config, dataset_revision: for data sets that have them, see `read_source`.
        on_bad_rows: `skip` warns and writes them to `skipped_rows_file`; `error` refuses the data set.
        drop_leaking_rows: see `processing.splits.refuse_leaks`.
        allow_no_answer: keeps rows with an empty answer.
        split_seed: seed of the split by image where the data set has none, and of `tuning_split`.
        tuning_split: see `processing.splits.hold_out_tuning_rows`.

    Returns:
        The splits `train`, `validation` and `test` as far as there are rows for them, with the features `SCHEMA` and,
        as `info`, which data set it is.

    Raises:
        UserError: the data set can't be used; the message says why and what to do.
    """
    source = read_source(dataset, column_names, image_folder, config=dataset_config, revision=dataset_revision)
    source.rows = _filter_language(source.rows, language)
    good, bad = validate(source, allow_no_answer=allow_no_answer)
    if bad:
        report = describe_problems(bad, len(source.rows))
        if on_bad_rows == "error":
            raise UserError(f"--dataset {dataset}: {report}\nFix them, or skip them with --on_bad_rows skip.")
        if not good:
            raise UserError(f"--dataset {dataset}: no rows left. {report}")
        if skipped_rows_file is not None:
            write_jsonl(skipped_rows_file, bad)
            report += f"\n  They are skipped, and listed in {skipped_rows_file}."
        logger.warning("%s", report)
    elif not good:
        raise UserError(f"--dataset {dataset}: it holds no rows at all.")
    if source.kind in ("slake", "phantom"):
        boxes = {image: read_slake_boxes(Path(image)) for image in {row["image"] for row in good}}
        good = [row | {"boxes": boxes[row["image"]]} for row in good]
    rows = refuse_leaks(split_by_image(good, split_seed), drop_leaking_rows=drop_leaking_rows)
    if tuning_split:
        rows = hold_out_tuning_rows(rows, split_seed)
    return _to_dataset_dict(rows, _describe(source, rows))


def _describe(source: Source, rows: list[Row]) -> SourceInfo:
    """Which data set it is."""
    kind, repo = source.kind, source.repo
    hub_id = repo.id if repo else None
    if kind == "slake" and hub_id != SLAKE_ID and all(row["checked"].digest != SLAKE_IMAGE for row in rows):
        kind = "table"  # somebody's own data in SLAKE's layout
    if repo is None:
        return DATA_SETS[kind]
    if kind == "table":
        info = HUB_DATA_SETS.get(repo.id) or SourceInfo(dataset_name=repo.id, license=repo.license or "")
        info = info.copy()
        info.homepage = f"https://huggingface.co/datasets/{repo.id}"
    else:
        info = DATA_SETS[kind].copy()
    info.revision, info.config_name = repo.commit, repo.config
    return info


def _filter_language(rows: list[Row], language: str) -> list[Row]:
    """The rows of a language and those that name none, with `en` and `zh` for all names of these languages."""
    for row in rows:
        row["language"] = language_code(row["language"])
    if language == "all":
        return rows
    kept = [row for row in rows if row["language"] in (None, language)]
    if len(kept) == len(rows):
        return rows
    counts = Counter(shorten(str(row["language"])) for row in rows if row["language"] not in (None, language))
    common = counts.most_common(NAMED_LANGUAGES)
    if not kept:
        found = ", ".join(f"{name} ({count:,} rows)" for name, count in common)
        raise UserError(
            f"--language {language}: no row is in that language; the data set has {found}; add --language all."
        )
    others = f" and {len(counts) - len(common):,} more" if len(counts) > len(common) else ""
    logger.warning(
        "--language %s leaves out %s of %s rows: %s%s.",
        language,
        f"{len(rows) - len(kept):,}",
        f"{len(rows):,}",
        ", ".join(f"{name} ({count:,})" for name, count in common),
        others,
    )
    return kept


def _to_dataset_dict(rows: list[Row], info: SourceInfo) -> datasets.DatasetDict:
    """The splits that have rows; numbers of rows count on from split to split."""
    splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        splits[row["split"]].append(row)
    features = SCHEMA.copy()
    features.update({name: kind for name, kind in OPTIONAL.items() if any(row.get(name) for row in rows)})
    if all(_is_int64(row["question_id"]) for row in rows):
        features["question_id"] = datasets.Value("int64")
    result, start = datasets.DatasetDict(), 0
    for split, members in splits.items():
        if members:
            split_info = info.copy()
            split_info.features = features
            result[split] = datasets.Dataset.from_dict(_columns(members, start, features), info=split_info)
            start += len(members)
    return result


def _is_int64(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _columns(rows: list[Row], start: int, features: datasets.Features) -> dict[str, list]:
    """The rows as columns in the types of `features`, numbered from `start`; empty texts become None."""
    columns = {field: [row.get(field) for row in rows] for field in features}
    columns["row"] = list(range(start, start + len(rows)))
    for field, feature in features.items():
        if feature == datasets.Value("string") and field not in ("image", "question", "answer"):
            columns[field] = [text_of(value) for value in columns[field]]
    columns["answer_type"] = [_answer_type(value) for value in columns["answer_type"]]
    return columns


def _answer_type(value: str | None) -> str | None:
    """OPEN or CLOSED in capitals, also for open-ended and the like; None for anything else."""
    match = re.match(r"(OPEN|CLOSED)\b", (value or "").upper())
    return match[1] if match else None
