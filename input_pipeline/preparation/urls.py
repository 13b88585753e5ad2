"""Lists of urls and captions, downloaded by img2dataset, the field's own tool, to webdataset tars.

It runs in an environment of its own, since what it needs disagrees with what training needs; `make img2dataset` makes
that. It retries, goes on after a kill, and leaves out images whose server forbids their use for training.
"""

import contextlib
import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import tables
from ..errors import UserError
from ..preparation.pairs import Skip
from ..preparation.shards import Lost

_ENVIRONMENT = Path(".venv-img2dataset")
_LIST = "urls.csv"


def find_program() -> str:
    """img2dataset, in its own environment here or on the path.

    Raises:
      UserError: it is in neither.
    """
    own = _ENVIRONMENT / "bin" / "img2dataset"
    found = str(own) if own.is_file() else shutil.which("img2dataset")
    if not found:
        raise UserError("--source urls: img2dataset is not installed. Make its environment with: make img2dataset")
    return found


def write_list(path: Path, image_key: str, caption_key: str, delimiter: str, work: Path) -> dict[str, Any]:
    """Writes the list that img2dataset reads, with columns ``url`` and ``caption``; a summary of what is left out.

    A list without column names, as CC3M's and CC12M's are, is recognised by its first line, which has a url: the column
    that does is the urls', the other the captions'.
    """
    lost = Lost()
    with (work / _LIST).open("w", encoding="utf8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "caption"])
        for line, values in _rows(path, image_key, caption_key, delimiter):
            if isinstance(values, tables.BadRow):
                lost.add(Skip(values.reason, f"{path.name}, line {line}"))
                continue
            url, caption = (value.replace("\0", "").strip() for value in values)
            if not url.lower().startswith(("http://", "https://")):  # img2dataset would read file:// too
                lost.add(Skip("not a web address", f"{path.name}, line {line}"))
                continue
            try:
                f"{url}{caption}".encode()
            except UnicodeEncodeError:
                lost.add(Skip("row is not UTF-8", f"{path.name}, line {line}"))
            else:
                # One line a pair: a reader elsewhere need not agree on what quotes mean.
                writer.writerow([" ".join(url.split()), " ".join(caption.split())])
    return lost.summary()


def download(work: Path, *, shard_size: int, threads: int, processes: int, options: list[str]) -> Path:
    """Downloads the list in ``work`` to tars; goes on where it was, and returns the folder of tars.

    Args:
      work: the folder of the unfinished preparation.
      shard_size: urls of a tar.
      threads: downloads at once in each process.
      processes: how many.
      options: img2dataset's own, such as ``--distributor pyspark``; they come last, and win.

    Raises:
      UserError: img2dataset ended with an error.
    """
    folder = work / "download"
    with (work / _LIST).open(encoding="utf8") as file:
        expected = -(-(sum(1 for _ in file) - 1) // shard_size)
    if not expected:
        raise UserError("--input: no line of the list has a web address.")
    command = [
        find_program(), "--url_list", str(work / _LIST), "--input_format", "csv", "--url_col", "url",
        "--caption_col", "caption", "--output_folder", str(folder), "--output_format", "webdataset",
        "--number_sample_per_shard", str(shard_size), "--processes_count", str(processes),
        "--thread_count", str(threads), "--resize_mode", "no", "--disable_all_reencoding", "True",
        "--encode_format", "jpg", "--extract_exif", "False", "--retries", "2",
        "--incremental_mode", "incremental", "--enable_wandb", "False", *options,
    ]  # fmt: skip
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}  # that library asks the web for its newest version
    with (work / "downloading").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a download whose parent was killed goes on, and holds this until it ends
        for path in folder.glob("*_stats.json"):  # written last of a shard, but a kill may leave half of it
            if not _read_json(path):
                path.unlink()
        process = subprocess.Popen(command, env=environment, start_new_session=True, pass_fds=(lock.fileno(),))
        try:
            status = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # some of its helpers outlive it
    finished = len(list(folder.glob("*_stats.json")))
    if status or finished < expected:
        raise UserError(
            f"--source urls: img2dataset ended with status {status} after {finished} of {expected} shards, which are "
            "kept. Its last lines above say why. Give the same command again to go on."
        )
    return folder


def failures(folder: Path) -> dict[str, Any]:
    """A summary of the downloads that failed."""
    reasons = Counter[str]()
    for path in sorted(folder.glob("*_stats.json")):
        for status, count in _read_json(path).get("status_dict", {}).items():
            if status != "success":
                reasons[f"download failed: {status}"] += count
    return {"skipped": dict(reasons), "named": {}}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except ValueError:
        return {}


def _rows(
    path: Path, image_key: str, caption_key: str, delimiter: str
) -> Iterator[tuple[int, tuple[str, ...] | tables.BadRow]]:
    tables.check(path, "--input")
    delimiter = tables.delimiter_of(path, delimiter)
    # A list without names is not written with quotes, so its first line is split as it stands.
    first = tables.first_line(path).rstrip("\r\n").split(delimiter)
    is_url = [cell.strip().lower().startswith(("http://", "https://")) for cell in first]
    if any(is_url):
        if len(first) < 2:
            raise UserError(f"--input: {path}: one column when split at {delimiter!r}; expected urls and captions.")
        url = is_url.index(True)
        yield from tables.rows_without_names(path, (url, 1 if url == 0 else 0), delimiter)
    else:
        yield from tables.rows(path, (image_key, caption_key), delimiter, flag="--input")
