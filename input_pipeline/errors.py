"""The exceptions that a person, or the loader, is meant to catch."""


class UserError(Exception):
    """Something the user can fix: printed as one paragraph, without a traceback, with exit status 2.

    The text names the file or flag at fault, what was found, what was expected and what to do next.
    """


class UnreadableError(Exception):
    """A record or image is missing, truncated, not what it should be, or a decompression bomb; the text says which."""
