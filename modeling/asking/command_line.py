"""The command line of `python -m modeling.predictor` and `medical-vqa ask`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import transformers

from modeling.asking.loading import DTYPES
from modeling.asking.predictor import Answer, Predictor
from modeling.asking.tables import answer_table
from processing.command_line import CommandParser

PROG = "python -m modeling.predictor"
EXAMPLES = """examples:
  {prog} out --image x.png --question "Is this a CT scan?"
  {prog} out --image brain.nii.gz#78 --question "What modality is it?"
  {prog} user/name --image x.dcm --question "Which organ is shown?" --choices liver heart lung
  {prog} out --csv questions.csv --out answers.csv
      the table has the columns image (path from the table, as x.png or x.dcm#12) and question
"""


def print_answer(answer: Answer) -> None:
    """Prints an answer and, indented, its alternatives and its evidence."""
    text = "(silent: too unsure)" if answer.silent else answer.answer or "(no answer)"
    print(f"{text}  (confidence {100 * answer.confidence:.0f} %)")
    for other in answer.alternatives:
        print(f"  {other.answer or '(no answer)'}  ({100 * other.confidence:.0f} %)")
    if answer.unlike_training:
        print("  the model was trained on few or no questions like this one; its answer may be wrong")
    if answer.evidence and answer.evidence.contradicts:
        print("  what the model sees in the image speaks against this answer")
    for found in answer.evidence.boxes if answer.evidence else ():
        left, top, width, height = (f"{100 * share:.0f}" for share in found.box)
        place = f"{left} % from the left, {top} % from the top, {width} % wide, {height} % high"
        print(f"  seen: {found.label} ({100 * found.probability:.0f} %), {place}")


def make_parser(prog: str = PROG) -> CommandParser:
    """The parser of the command line; `prog` is what its help calls the program."""
    parser = CommandParser(
        prog, description="Asks a trained model about medical images.", epilog=EXAMPLES.format(prog=prog)
    )
    parser.add_argument("model", help="folder or Hub id (user/name) of a trained model")
    parser.add_argument("--image", metavar="FILE", help="an image file; x.dcm#12 is its twelfth slice")
    parser.add_argument("--question", action="append", default=[], metavar="TEXT", help="may be given several times")
    parser.add_argument("--choices", nargs="+", metavar="TEXT", help="answer with one of these")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--top_k", type=int, default=5, metavar="N", help="answers to print per question")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="table of questions")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the table with its answers goes")
    parser.add_argument(
        "--column_names", nargs="+", default=[], metavar="FIELD=COLUMN", help="names of the table's columns"
    )
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a Hub id")
    parser.add_argument("--device", metavar="NAME", help="such as cpu or cuda:1 (default: the GPU, if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="precision (default: depends on the device)")
    return parser


def main(argv: Sequence[str], prog: str = PROG) -> None:
    """The command line; `--help` explains it.

    Raises:
        UserError: what was asked can't be done.
    """
    parser = make_parser(prog)
    args = parser.parse(argv)
    about_image, about_table = (args.image, args.question), (args.csv, args.out)
    if not (all(about_image) and not any(about_table)) and not (all(about_table) and not any(about_image)):
        parser.error("give --image and --question, or --csv and --out")
    if args.choices and args.csv:
        parser.error("--choices is for --question; a --csv has its options in columns")
    if args.column_names and not args.csv:
        parser.error("--column_names is for a --csv")
    transformers.utils.logging.disable_progress_bar()
    predictor = Predictor.from_pretrained(args.model, revision=args.revision, device=args.device, dtype=args.dtype)
    if args.csv:
        failed = answer_table(predictor, args.csv, args.out, args.column_names)
        print(f"Answers are in {args.out}" + (f"; {failed} rows have an error there." if failed else "."))
        return
    choices = [args.choices] * len(args.question) if args.choices else None
    answers = predictor.answer_batch(args.image, args.question, args.top_k, choices)
    if args.json:
        pairs = zip(args.question, answers, strict=True)
        print(json.dumps([{"question": question, **asdict(answer)} for question, answer in pairs], indent=2))
        return
    for question, answer in zip(args.question, answers, strict=True):
        if len(answers) > 1:
            print(question)
        print_answer(answer)
