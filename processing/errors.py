"""The one exception for what a user can fix, and how a command line reports it."""

import errno
import logging
import lzma
import re
import signal
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from processing.console import pop_verbose, set_up_console

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What zipfile raises, beside OSError, for files that are damaged, encrypted or packed in a way it does not know.
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
CTRL_C_STATUS = 128 + signal.SIGINT  # as shells have it
QUOTED_LENGTH = 80  # characters of a field that a message may quote
TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{20,}")  # of the Hub
URL_USER = re.compile(r"([A-Za-z][\w+.-]*://)[^/?#\s]*@")  # name and password
URL_QUERY = re.compile(r"([A-Za-z][\w+.-]*://[^?#\s]*)[?#](?!\.\.\.)\S+")  # may be a signature


class UserError(ValueError):
    """Bad input from the user. Its message is one sentence: what is wrong, where, and the fix."""

    exit_status = 1


def shorten(text: str) -> str:
    """A text for a message: at most 80 characters, control characters and lone surrogates escaped."""
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: QUOTED_LENGTH + 1])
    return text if len(text) <= QUOTED_LENGTH else text[: QUOTED_LENGTH - 3] + "..."


def quoted(value: Any) -> str:
    """A value of a row for a message, as Python writes it and shortened."""
    return shorten(repr(value[: QUOTED_LENGTH + 1]) if isinstance(value, str) else repr(value))


def describe_error(error: Exception) -> str:
    """The kind of an error and the beginning of its text, as a part of a sentence."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {shorten(text)}" if text else name


def mask_tokens(text: str) -> str:
    """The text without anything that looks like a token of the Hub.

    A message may quote a line of a recipe that can't be read, and such a line may hold a token.
    """
    return TOKEN.sub(r"\1_***", text)


def mask_credentials(text: str) -> str:
    """The text without tokens of the Hub, and its URLs without name, password and what follows their path."""
    return mask_tokens(URL_QUERY.sub(r"\1?...", URL_USER.sub(r"\1", text)))


def _without_traceback(message: str) -> str:
    """The message without the traceback that torch puts before it where a worker of a DataLoader has raised it."""
    if "\nOriginal Traceback (most recent call last):\n" not in message:
        return message
    return message.rstrip().splitlines()[-1].partition(": ")[2]


def run_command(main: Callable[[list[str]], None], log_level: int = logging.INFO) -> None:
    """Runs a command line. Neither a `UserError` nor Ctrl-C ends it with a traceback.

    The exit status is that of the `UserError`, and 130 after Ctrl-C.

    Tokens are masked in log lines and messages. What libraries log and warn of is shown with `-v` or `--verbose`,
    which `main` does not get to see (`processing.console`).
    """
    verbose, argv = pop_verbose(sys.argv[1:])
    set_up_console(log_level, verbose, mask_tokens)
    try:
        main(argv)
    except UserError as error:
        print(mask_tokens(f"error: {_without_traceback(str(error))}"), file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}the disk is full; free some space and run the same command again.", file=sys.stderr)
        sys.exit(UserError.exit_status)
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        sys.exit(CTRL_C_STATUS)
