"""The one exception for what a user can mend."""

import logging
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Bad input from the user. Its message is one sentence: what is wrong, where, and the mend."""

    exit_status = 1


def run_command(main: Callable[[list[str]], None], log_level: int = logging.INFO) -> None:
    """Runs a command line; what the user can mend ends it with its sentence and exit status, not with a traceback."""
    logging.basicConfig(level=log_level, format="%(message)s", stream=sys.stderr)
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
