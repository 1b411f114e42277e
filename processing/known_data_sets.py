"""What is known of data sets beside their rows: names, homes, licences and whom to cite."""

from collections.abc import Iterable
from dataclasses import dataclass

import datasets

from processing.image_checks import CheckedImage
from processing.sources.rows import Source


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

SLAKE_ID = "BoKelvin/SLAKE"
SLAKE_IMAGE = "a18a0f99b611c26e868430dcaa8942362a00e29644e6c7de1b07c41922de8a54"  # SHA-256 of its xmlab0/source.jpg


def describe_source(source: Source, images: Iterable[CheckedImage]) -> SourceInfo:
    """Which data set it is.

    Args:
        source: of its rows.
        images: of its rows.
    """
    kind, repo = source.kind, source.repo
    hub_id = repo.id if repo else None
    if kind == "slake" and hub_id != SLAKE_ID and all(image.digest != SLAKE_IMAGE for image in images):
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
