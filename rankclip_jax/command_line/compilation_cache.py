"""Compiled programs are kept for the next start, in a folder that is this user's alone."""

import logging
import os
import stat
from pathlib import Path

_LOGGER = logging.getLogger(__name__)


def keep_programs() -> None:
    """Names the folder to JAX, which must not be imported yet, unless the environment names one.

    Whoever can write there can run code as the user, so a folder that others own or can write is left alone.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rankclip_jax" / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    except OSError as error:
        _LOGGER.info("programs are not kept: %s", error)
        return
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _LOGGER.warning("%s belongs to others, so compiled programs are not kept there. Mend: chmod 700 it", folder)
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
