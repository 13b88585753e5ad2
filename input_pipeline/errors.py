"""The one exception that a person is meant to read."""


class UserError(Exception):
    """Something the user can mend: printed as one paragraph, without a traceback, with exit status 2.

    The text names the file or flag at fault, what was found, what was expected and what to do next.
    """
