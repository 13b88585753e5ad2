"""Files of JSON Lines as anybody may have left them."""

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
    """The objects in a file, a line each, without what is none, as a line cut in half; none where there is no file.

    Raises:
      OSError: it is not a regular file, or cannot be read.
      UserError: it is larger than any log.
    """
    try:
        opened = open_regular(path)
    except FileNotFoundError:
        return
    with io.BufferedReader(cast(io.RawIOBase, opened)) as file:  # an object's own reads lines of any length
        if not is_remote(path) and os.fstat(opened.fileno()).st_size > _LARGEST_FILE:
            raise UserError(f"{printable(path)}: expected at most {_LARGEST_FILE:,} bytes. Move it elsewhere.")
        while line := file.readline(_LONGEST_LINE):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict) and not is_deep(found):
                yield found
