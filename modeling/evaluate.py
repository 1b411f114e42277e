"""`medical-vqa evaluate`: `train.py --do_train False` with a model of any family."""

import re
from pathlib import Path
from typing import NoReturn

from modeling.parts.kinds import find_family
from modeling.parts.model_files import open_model
from modeling.training.launch import launch
from modeling.training.parser import make_parser as make_family_parser
from processing.command_line import HELP, CommandParser
from processing.errors import UserError

PROG = "medical-vqa evaluate"
EXAMPLES = """The flags of `medical-vqa train` for data and evaluation work here too, such as
--per_device_eval_batch_size and --max_predict_samples.

examples:
  {prog} out --dataset path/to/SLAKE --do_predict
  {prog} user/name --dataset rows.csv --output_dir figures
"""


def make_parser(prog: str = PROG) -> CommandParser:
    """The parser of the command line; `prog` is what its help calls the program."""
    parser = CommandParser(
        prog,
        usage=f"{prog} MODEL --dataset DATA [--flag value ...]",
        allow_abbrev=False,
        description="Scores a trained model on a data set. The model stays as it is.",
        epilog=EXAMPLES.format(prog=prog),
    )
    parser.add_argument("model", help="folder or Hub id (user/name) of a trained model; comes first")
    parser.add_argument(
        "--dataset", required=True, metavar="DATA", help="folder, table, Hub id, or phantom (generated)"
    )
    parser.add_argument("--model_revision", metavar="NAME", help="branch, tag or commit of a Hub id")
    parser.add_argument("--do_predict", action="store_true", help="score the test rows too")
    parser.add_argument("--output_dir", metavar="FOLDER", help="where the figures go (default: evaluation/MODEL-DATA)")
    return parser


def main(argv: list[str], prog: str = PROG) -> NoReturn:
    """The command line. The exit status is that of `train.py`.

    Raises:
        UserError: as `train_words`.
    """
    if HELP.intersection(argv):
        make_parser(prog).parse(["--help"])
    launch(train_words(argv, prog))


def train_words(argv: list[str], prog: str = PROG) -> list[str]:
    """The command line of the same evaluation for `train.py`.

    Raises:
        UserError: model or data set are not named, a flag is unknown, or the model is of no family.
    """
    if not argv or argv[0].startswith("-"):
        raise UserError(f"The model is missing: {prog} MODEL --dataset DATA.")
    model, *words = argv
    chooser = CommandParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--model_revision", "--model-revision")
    family = find_family(open_model(model, chooser.parse_known_args(words)[0].model_revision))
    parser = make_family_parser(family, prog)
    parser.set_defaults(dataset=None, output_dir=None)
    options = parser.parse(words)
    if options.dataset is None:
        raise UserError(f"The data set is missing: {prog} {model} --dataset DATA.")
    if options.output_dir is None:
        words += ["--output_dir", str(Path("evaluation", f"{_file_name(model)}-{_file_name(options.dataset)}"))]
    return [*words, "--model_name_or_path", model, "--model_type", family, "--do_train", "False"]


def _file_name(name: str) -> str:
    """The last part of a path or a Hub id, with nothing that a file's name can't have."""
    path = Path(name)
    return re.sub(r"[^\w.-]+", "-", path.resolve().name if path.exists() else path.name)
