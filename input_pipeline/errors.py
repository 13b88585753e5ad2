"""The exceptions of the input pipeline: for mistakes of the user, and for unreadable records."""


class UserError(Exception):
    """An error that the user can fix; commands print it as one paragraph without a traceback, and exit with status 2.

    The message names the flag or file, what was found against what was expected, and what to do.
    """


class UnreadableError(Exception):
    """A record or image is missing, truncated, invalid or a decompression bomb; the message gives the reason."""
