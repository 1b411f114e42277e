"""The end of a program in the middle of its work."""


class Killed(BaseException):
    """Raised where a test lets a program die, as nothing catches it.

    Unlike a KeyboardInterrupt, one that a test does not expect fails that test and does not end the whole suite.
    """
