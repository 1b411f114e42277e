"""Publishes a trained model on the Hub, with its card.

    python -m modeling.publish OUTPUT_DIR --repo_id user/name [--private] [--create_pr] [--revision BRANCH]

Exit status 1: something must be mended before the push; 3: the push failed, and the folder is as it was.
"""

import logging
import shlex
from collections.abc import Iterator
from pathlib import Path

from modeling.hub.card import model_card
from modeling.hub.client import PUSH_ERRORS, Destination, PublishError, check_access, find_model, push_files
from modeling.hub.retries import reason
from modeling.training.arguments import AnyTrainingArguments, WritingTrainingArguments
from modeling.training.record import RECIPE_FILE, RECORD_FILE, base_model_of, model_folder, read_record
from processing.command_line import CommandParser
from processing.errors import UserError, run_command
from processing.storage import write_atomically

logger = logging.getLogger(__name__)

# Only what these lists name is ever pushed.
MODEL_FILES = (  # of model, adapter and processor
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "answering.json",
    "question_words.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "chat_template.jinja",
)
RUN_FILES = (
    "README.md",
    RECIPE_FILE,
    RECORD_FILE,
    "all_results.json",
    "loss.png",
    "metrics.png",
    # the rest of the report shows images of the data, which may not be ours to publish
    "report/report.md",
    "report/report.json",
    "report/reliability_*.png",
    "report/risk_*.png",
)
PREDICTION_FILES = ("predictions_*.jsonl",)
PROG = "python -m modeling.publish"
EXAMPLES = """Log in first with `hf auth login`, or set HF_TOKEN to a token with write access.

examples:
  {prog} out --repo_id user/name --private
  {prog} out --repo_id user/name --create_pr
"""
MESSAGE = "Upload a model trained with Medical-VQA"


def pop_destination(args: AnyTrainingArguments) -> Destination | None:
    """Takes the destination of `--push_to_hub` and any token out of the arguments; None where no push is asked for.

    The Trainer would push more than should leave this machine. It saves its arguments beside the model and in each
    checkpoint, so it must not see a token, also where nothing is pushed.

    Raises:
        UserError: the model that is to be trained can't be published.
    """
    token, args.hub_token = args.hub_token, None
    if not args.push_to_hub or args.hub_model_id is None:
        return None
    args.push_to_hub = False
    trains_adapter = isinstance(args, WritingTrainingArguments) and not args.merge_adapter
    if trains_adapter and base_model_of(args.model_name_or_path) is None:
        raise UserError(
            f"--model_name_or_path {args.model_name_or_path}: an adapter over a folder can't be published, because "
            "nobody else has its base; add --merge_adapter True to publish the whole model, or start from a Hub id."
        )
    return Destination(args.hub_model_id, bool(args.hub_private_repo), revision=args.hub_revision, token=token)


def preflight(destination: Destination, base_model: str | None) -> str | None:
    """Checks all that a push needs. Nothing is changed.

    Args:
        destination: where the model is to go.
        base_model: as `modeling.training.record.base_model_of` names it.

    Returns:
        The licence of a base model on the Hub, as the Hub names it. None where the base is not on the Hub or states
        no licence.

    Raises:
        UserError: the token, the permission, the repo's name or the base model's id is wrong.
    """
    check_access(destination)
    if base_model is None or "/" not in base_model:
        return None
    card = find_model(destination, "--model_name_or_path", base_model).card_data
    return card.license if card is not None else None


def publish(
    folder: str | Path, destination: Destination, base_license: str | None = None, predictions: bool = False
) -> str:
    """Writes the card of a run's folder and pushes what others need of the folder, in one commit.

    Args:
        folder: the run's `--output_dir`.
        destination: where it goes, checked by `preflight`.
        base_license: what `preflight` returned.
        predictions: push questions, answers and predictions too.

    Returns:
        The address of the commit or of the pull request.

    Raises:
        UserError: the folder holds no finished run, or an adapter that nobody else could use.
        PublishError: the push failed; nothing of it is on the Hub, and the folder is whole.
    """
    folder = Path(folder)
    card = model_card(folder, destination.repo_id, base_license)
    write_atomically(folder / "README.md", str(card))
    files = dict(_files(folder, predictions))
    size = sum(file.stat().st_size for file in files.values())
    logger.info("Pushing %d files (%.1f MB) to %s.", len(files), size / 1e6, destination.repo_id)
    try:
        address = push_files(files, destination, MESSAGE, MODEL_FILES)
    except PUSH_ERRORS as error:
        raise PublishError(
            f"{destination.repo_id}: the push failed ({reason(error)}), but the model in {folder} is complete; push "
            f"it again with `{_command(folder, destination, predictions)}`."
        ) from error
    logger.info("Published: %s", address)
    return address


def _files(folder: Path, predictions: bool) -> Iterator[tuple[str, Path]]:
    """What is pushed: name in the repo and file."""
    model = model_folder(folder)
    if (model / "adapter_config.json").is_file() and base_model_of(str(model)) is None:
        raise UserError(
            f"{model}: the base of this adapter is a folder, which nobody else has; train with --merge_adapter True "
            "to publish the whole model, or start from a Hub id."
        )
    run_files = RUN_FILES + PREDICTION_FILES if predictions else RUN_FILES
    for place, patterns in ((model, MODEL_FILES), (folder, run_files)):
        for file in sorted({file for pattern in patterns for file in place.glob(pattern) if file.is_file()}):
            yield file.relative_to(place).as_posix(), file


def _command(folder: Path, destination: Destination, predictions: bool) -> str:
    """The command line that pushes the same."""
    command = shlex.join(["python", "-m", "modeling.publish", str(folder)]) + f" {destination.flags}"
    return f"{command} --predictions" if predictions else command


def make_parser(prog: str = PROG) -> CommandParser:
    """The parser of the command line; `prog` is what its help calls the program."""
    parser = CommandParser(
        prog,
        description="Puts a trained model on the Hugging Face Hub, with its card and figures, without images.",
        epilog=EXAMPLES.format(prog=prog),
    )
    parser.add_argument("output_dir", help="folder of a finished training run")
    parser.add_argument("--repo_id", required=True, metavar="USER/NAME", help="repo on the Hub, created if it is new")
    parser.add_argument("--private", action="store_true", help="make a new repo private")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead of a commit")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to commit to, created if it is new")
    parser.add_argument("--predictions", action="store_true", help="also push questions, answers and predictions")
    return parser


def main(argv: list[str], prog: str = PROG) -> None:
    """The command line."""
    options = make_parser(prog).parse(argv)
    destination = Destination(options.repo_id, options.private, options.create_pr, options.revision)
    base_license = preflight(destination, read_record(options.output_dir)["base_model"])
    publish(options.output_dir, destination, base_license, options.predictions)


if __name__ == "__main__":
    run_command(main)
