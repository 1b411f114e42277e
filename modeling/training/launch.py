"""`medical-vqa train`: starts `train.py` as `accelerate launch` does, and ends as the run ends."""

import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from processing.command_line import HELP, CommandParser

TRAIN = Path(__file__).resolve().parents[2] / "train.py"


def make_parser() -> CommandParser:
    """The recipe, and the flags of all families. `train.py` itself has a parser for each family."""
    from modeling.training.arguments import TRAINING_ARGUMENTS  # what only starts a run need not wait for these
    from modeling.training.parser import make_parser as make_family_parser

    parser = CommandParser()
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--model_type", choices=sorted(TRAINING_ARGUMENTS), help="family of the model")
    for model_type in TRAINING_ARGUMENTS:
        for action in make_family_parser(model_type)._actions:
            if not parser._option_string_actions.keys() & action.option_strings:
                parser._add_action(action)
    return parser


def main(argv: list[str], prog: str) -> NoReturn:
    """The command line. The exit status is that of the run."""
    if HELP.intersection(argv):
        from modeling.training.parser import parse_arguments

        parse_arguments(argv, prog)
    launch(argv)


def launch(argv: Sequence[str]) -> NoReturn:
    """Runs `train.py` with the words of a command line, in as many processes as `accelerate launch` would.

    Ctrl-C reaches the run by itself, and SIGTERM is passed on to it. Either way this program waits for its end.
    """
    import psutil
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    def pass_on(number: int, _: Any) -> None:
        for child in psutil.Process().children():
            child.send_signal(number)

    logging.getLogger("accelerate.commands.launch").setLevel(logging.ERROR)  # hides the list of its own defaults
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, pass_on)
    status = 0
    try:
        launch_command(launch_command_parser().parse_args([str(TRAIN), *argv]))
    except subprocess.CalledProcessError as error:
        status = error.returncode
    except ChildFailedError as error:  # one of several processes
        status = error.get_first_failure()[1].exitcode
    except SignalException as error:
        status = -error.sigval
    sys.exit(status if status >= 0 else 128 - status)
