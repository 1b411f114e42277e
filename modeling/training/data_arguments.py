"""The arguments that say which rows a run trains and evaluates on."""

from dataclasses import dataclass, field
from pathlib import Path

from modeling.training.ranges import check_values, option_text
from processing.errors import UserError


@dataclass
class DataArguments:
    """The rows to train and evaluate on."""

    dataset: str = field(
        default="phantom",
        metadata={
            "help": "A SLAKE or VQA-RAD folder, a folder of tables, one Parquet, JSON, JSONL or CSV file, or the "
            "Hub id (user/name) of a data set. Or generated images: phantom (60), phantom:N (N of them), phantom:NxS "
            "(N of patients with S slices each)."
        },
    )
    dataset_config: str | None = field(
        default=None,
        metadata={"help": "Configuration of the data set, if its README.md has several."},
    )
    dataset_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of a Hub data set; main by default."},
    )
    language: str = field(
        default="en",
        metadata={"help": "Language of the rows to keep.", "choices": ["en", "zh", "all"]},
    )
    column_names: list[str] = field(
        default_factory=list,
        metadata={"help": "field=column pairs for tables whose columns have other names, as in image=file_name."},
    )
    image_folder: str | None = field(
        default=None,
        metadata={"help": "Folder that a table's image paths are relative to; by default the table's own folder."},
    )
    on_bad_rows: str = field(
        default="skip",
        metadata={
            "help": "What to do with rows that can't be used: skip them with a warning, or stop with an error.",
            "choices": ["skip", "error"],
        },
    )
    leaks: str = field(
        default="refuse",
        metadata={
            "help": "What to do if an image or a group (patient) is in two splits: refuse the data set, drop its "
            "training rows, or keep all rows and give every figure with and without them.",
            "choices": ["refuse", "drop", "keep"],
        },
    )
    drop_leaking_rows: bool = field(default=False, metadata={"help": "The same as --leaks drop."})
    allow_no_answer: bool = field(
        default=False,
        metadata={"help": "Keep rows with an empty answer, which SQuAD v2 reads as 'no answer'."},
    )
    split_by: str | None = field(
        default=None,
        metadata={
            "help": "Make new 80/10/10 splits by image, or by groups of near-identical images (neighbours); by "
            "default a data set keeps its own splits, or is split by image if it has none.",
            "choices": ["image", "neighbours"],
        },
    )
    split_seed: int = field(default=0, metadata={"help": "Seed for splits, if they are made here."})
    tuning_split: bool = field(
        default=False,
        metadata={
            "help": "For choosing a recipe: evaluate on a tenth of the training images, in whole groups of "
            "near-identical ones, and leave the validation and test splits out."
        },
    )
    eval_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Another data set, given like --dataset. Its test split (else its validation split, else all its "
            "rows) is evaluated in place of the data set's own, as with --do_predict True."
        },
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only the first N training rows."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use only the first N validation rows."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Use only the first N test rows."})

    def __post_init__(self) -> None:
        check_values(self)
        if self.drop_leaking_rows and self.leaks == "keep":
            raise UserError("--leaks keep and --drop_leaking_rows contradict each other; leave one of them out.")
        if self.drop_leaking_rows:
            self.leaks = "drop"
        for pair in self.column_names:
            if not all(pair.partition("=")):
                raise UserError(f"--column_names {option_text(pair)}: expected field=column, as in image=file_name.")
        if self.image_folder is not None and not Path(self.image_folder).is_dir():
            raise UserError(f"--image_folder {option_text(self.image_folder)}: there is no such folder.")
