"""A tolerant reader of JSON Lines files, which may be incomplete or damaged."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import is_deep, open_regular, printable
from rankclip_jax.input_pipeline.object_stores import is_remote

_LARGEST_FILE = 1 << 32  # bytes
_LONGEST_LINE = 1 << 20


def read_objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects in a file, one per line, and skips invalid lines; yields nothing for a missing file.

    Raises:
      OSError: the file is not a regular file, or cannot be read.
      UserError: the file is too large.
    """
    try:
        opened = open_regular(path)
    except FileNotFoundError:
        return
    with io.BufferedReader(cast(io.RawIOBase, opened)) as file:  # the reader of objects has no line limit of its own
        if not is_remote(path) and os.fstat(opened.fileno()).st_size > _LARGEST_FILE:
            raise UserError(
                f"{printable(path)}: expected at most {_LARGEST_FILE:,} bytes; found "
                f"{os.fstat(opened.fileno()).st_size:,}. Move the file elsewhere."
            )
        while line := file.readline(_LONGEST_LINE):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict) and not is_deep(value):
                yield value
