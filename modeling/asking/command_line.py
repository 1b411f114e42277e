"""The command line of `python -m modeling.predictor`."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import transformers

from modeling.asking.loading import DTYPES
from modeling.asking.predictor import Answer, Predictor
from modeling.asking.tables import answer_table


def print_answer(answer: Answer) -> None:
    """Prints an answer and, indented, its alternatives."""
    text = "(silent: too unsure)" if answer.silent else answer.answer or "(no answer)"
    print(f"{text}  (confidence {100 * answer.confidence:.0f} %)")
    for other in answer.alternatives:
        print(f"  {other.answer or '(no answer)'}  ({100 * other.confidence:.0f} %)")


def main(argv: Sequence[str]) -> None:
    """The command line; `--help` explains it.

    Raises:
        UserError: what was asked can't be done.
    """
    parser = argparse.ArgumentParser("python -m modeling.predictor", description="Ask a trained model about images.")
    parser.add_argument("model", help="Folder, or Hub id (user/name), of a ViLT, a starter or a BLIP-2.")
    parser.add_argument("--image", help="PNG, JPEG, WebP, TIFF, BMP, GIF or DICOM file to ask about.")
    parser.add_argument("--question", action="append", default=[], help="May be given several times.")
    parser.add_argument(
        "--choices", nargs="+", metavar="OPTION", help="Two or more answers, one of which is given to each --question."
    )
    parser.add_argument("--json", action="store_true", help="Print a JSON list, an object for each question.")
    parser.add_argument("--top_k", type=int, default=5, help="Answers to print for each --question. Default: 5.")
    parser.add_argument(
        "--csv",
        type=Path,
        help="Table of many questions, with the columns image (path from the table) and question; options, too.",
    )
    parser.add_argument("--out", type=Path, help="Where --csv goes with its answers.")
    parser.add_argument("--revision", help="Branch, tag or commit of a Hub id. Default: main.")
    parser.add_argument("--device", help="Such as cpu or cuda:1. Default: the GPU, where there is one.")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="Precision. Default: float16 on a GPU, bfloat16 on a CPU that is fast at it, else float32.",
    )
    args = parser.parse_args(argv)
    about_image, about_table = (args.image, args.question), (args.csv, args.out)
    if not (all(about_image) and not any(about_table)) and not (all(about_table) and not any(about_image)):
        parser.error("give --image and --question, or --csv and --out")
    if args.choices and args.csv:
        parser.error("--choices is for --question; a --csv has its options in columns")
    transformers.utils.logging.disable_progress_bar()
    predictor = Predictor.from_pretrained(args.model, revision=args.revision, device=args.device, dtype=args.dtype)
    if args.csv:
        failed = answer_table(predictor, args.csv, args.out)
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
