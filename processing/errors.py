"""The one exception for what a user can mend."""

import sys
from typing import NoReturn


class UserError(ValueError):
    """Bad input from the user. Its message is one sentence: what is wrong, where, and the mend."""

    exit_status = 1


def exit_with(error: UserError) -> NoReturn:
    """Ends a command line with the message instead of a traceback."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_status)
