"""The one exception for what a user can mend."""


class UserError(ValueError):
    """Bad input from the user. Its message is one sentence: what is wrong, where, and the mend.

    Command lines print the message without a traceback and exit with status 2.
    """
