"""The parser of every command line: errors of one sentence with the nearest flag, and a help that reads well."""

import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from processing.console import VERBOSE_FLAGS
from processing.errors import UserError, shorten

HELP = {"-h", "--help"}


def did_you_mean(name: str, known: Collection[str], prefix: str = "") -> str:
    """The end of a sentence about a name that is not known: the nearest one that is, or where to look.

    Args:
        name: as the user gave it, without `prefix`.
        known: the names there are, without `prefix`.
        prefix: what stands before a name on the command line.
    """
    match = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {prefix}{match[0]}?" if match else "; see --help."


def show_one_name(action: argparse.Action) -> None:
    """Has help and messages name a flag with underscores alone. Its name with hyphens works as before."""
    action.option_strings = [name for name in action.option_strings if name == "-h" or "-" not in name[2:]]


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of examples, and shows a default where there is one to show."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.nargs == 0 or action.default in (None, []):
            return action.help
        return super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that refuses a wrong command line with a `UserError` of one sentence."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **({"formatter_class": HelpFormatter} | options))
        if self.add_help:  # `run_command` takes the flag before a parser sees it
            text = "also show what libraries log and warn about"
            self.add_argument(*VERBOSE_FLAGS, action="store_true", default=argparse.SUPPRESS, help=text)

    def error(self, message: str) -> NoReturn:
        """Refuses the command line.

        Raises:
            UserError: always.
        """
        quoted = re.sub(r"(?<=: ')([^']{79})[^']+(?=')", r"\1…", message)
        raise UserError(f"{quoted[0].upper()}{quoted[1:].rstrip('.')}; see --help.")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses a command line. An unknown flag is named before anything that is missing.

        Raises:
            UserError: an unknown flag, a wrong value, or something is missing.
        """
        if not HELP.intersection(argv):
            for word in argv:
                if word == "--":
                    break
                flag = word.partition("=")[0]
                if flag.startswith("--") and " " not in flag and not self._knows(flag):
                    self._refuse(flag)
        options, rest = self.parse_known_args(argv)
        for word in rest:
            if word.startswith("-"):
                self._refuse(word.partition("=")[0])
            raise UserError(f"Argument {shorten(word)} belongs to no flag; quote a value that holds spaces.")
        return options

    def instead_of(self, name: str) -> str:
        """What to use for a flag that is not known, as the end of a sentence.

        Args:
            name: the flag without its hyphens.
        """
        flags = [flag.removeprefix("--") for flag in self._option_string_actions if flag.startswith("--")]
        return did_you_mean(name, flags, "--")

    def _knows(self, flag: str) -> bool:
        if self.allow_abbrev:
            return any(known.startswith(flag) for known in self._option_string_actions)
        return flag in self._option_string_actions

    def _refuse(self, flag: str) -> NoReturn:
        raise UserError(f"Unknown argument {shorten(flag)}{self.instead_of(flag.lstrip('-').replace('-', '_'))}")
