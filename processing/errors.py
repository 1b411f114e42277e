"""The one exception for what a user can mend."""

import errno
import logging
import sys
from collections.abc import Callable

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}no room left to write; make some and run the same command again.", file=sys.stderr)
        sys.exit(UserError.exit_status)
