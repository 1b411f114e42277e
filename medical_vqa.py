"""The command `medical-vqa`: train a model, score it, ask it, publish it, show it.

Most of its commands are also a `python -m ...`, and `medical-vqa train` is `accelerate launch train.py`.
Only the code of the command that is called is imported.
"""

import importlib
import importlib.metadata
import logging
import sys
from pathlib import Path
from typing import NamedTuple

from processing.command_line import CommandParser, did_you_mean
from processing.errors import UserError, run_command

PROG = "medical-vqa"
DESCRIPTION = "Models that answer questions about medical images: train one, score it, ask it, publish it, show it."


class Command(NamedTuple):
    """A command.

    Attributes:
        module: has its `make_parser(prog)` and `main(argv, prog)`.
        summary: what it does, for the list of commands.
        log_level: the least level of the log lines that are shown.
    """

    module: str
    summary: str
    log_level: int = logging.INFO


COMMANDS = {
    "train": Command("modeling.training.launch", "train a model, score it, and save it in a folder"),
    "evaluate": Command("modeling.evaluate", "score a trained model on a data set"),
    "ask": Command("modeling.asking.command_line", "ask a model about an image, or many questions", logging.WARNING),
    "app": Command("spaces_app.command_line", "ask a model in the browser", logging.WARNING),
    "probe": Command("modeling.probe", "find out whether a model looks at the image"),
    "audit": Command("metrics.audit.__main__", "find out what is wrong with a data set"),
    "protocols": Command("metrics.protocols.__main__", "score predictions as different papers do"),
    "compare": Command("metrics.compare", "find out whether one run is better than another"),
    "spread": Command("metrics.spread", "print mean and standard deviation over runs"),
    "publish": Command("modeling.publish", "put a model on the Hugging Face Hub"),
    "completion": Command(__name__, "print a shell script for completion with Tab"),
}

TABLE = "\n".join(f"  {name:12}{command.summary}" for name, command in COMMANDS.items())
EPILOG = f"""commands:
{TABLE}

`{PROG} COMMAND --help` explains a command.

examples:
  {PROG} train --model_name_or_path starter --output_dir out
  {PROG} ask out --image x.png --question "Is this a CT scan?"
  {PROG} app out

To complete commands and flags with the Tab key in new shells:
  bash  mkdir -p ~/.local/share/bash-completion/completions
        {PROG} completion bash > ~/.local/share/bash-completion/completions/{PROG}
  zsh   mkdir -p ~/.zfunc
        {PROG} completion zsh > ~/.zfunc/_{PROG}
        and in ~/.zshrc, before compinit: fpath+=~/.zfunc
  fish  {PROG} completion fish > ~/.config/fish/completions/{PROG}.fish
"""


def run() -> None:
    """What `medical-vqa` starts."""
    command = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    run_command(start, command.log_level if command else logging.INFO)


def start(argv: list[str]) -> None:
    """Runs the command that a command line names.

    Raises:
        UserError: there is no such command, or what the command raises.
    """
    name, *words = argv or ["--help"]
    if name in COMMANDS:
        importlib.import_module(COMMANDS[name].module).main(words, f"{PROG} {name}")
    elif name.startswith("-"):
        _parser().parse([name])
    else:
        raise UserError(f"There is no command {name}{did_you_mean(name, COMMANDS)}")


def _parser() -> CommandParser:
    parser = CommandParser(PROG, description=DESCRIPTION, epilog=EPILOG, usage=f"{PROG} COMMAND ...")
    parser.add_argument("--version", action="version", version=f"{PROG} {importlib.metadata.version(PROG)}")
    return parser


def make_parser(prog: str = f"{PROG} completion") -> CommandParser:
    """The parser of `medical-vqa completion`; `prog` is what its help calls the program."""
    parser = CommandParser(
        prog, description=f"Prints a shell script that completes {PROG} commands; {PROG} --help says where to put it."
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def main(argv: list[str], prog: str) -> None:
    """`medical-vqa completion`."""
    shell = make_parser(prog).parse(argv).shell
    import shtab

    whole = _parser()
    commands = whole.add_subparsers()
    for name, command in COMMANDS.items():
        own = importlib.import_module(command.module).make_parser()
        parser = commands.add_parser(name, help=command.summary, parents=[own], add_help=False)
        for action in parser._actions:
            if action.nargs != 0 and not action.choices and action.type in (None, str, Path):
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # what shtab reads
    print(shtab.complete(whole, shell))


if __name__ == "__main__":
    run()
