"""Lists of URLs and captions, downloaded by img2dataset to webdataset tars.

img2dataset runs in its own virtual environment, since its dependencies conflict with those of training;
`make img2dataset` creates it. It retries, resumes after a kill, and skips images whose server forbids training on them.
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
    """Returns the path of img2dataset, in its own environment here or on the PATH.

    Raises:
      UserError: img2dataset is not installed.
    """
    local_program = _ENVIRONMENT / "bin" / "img2dataset"
    program = str(local_program) if local_program.is_file() else shutil.which("img2dataset")
    if not program:
        raise UserError("--source urls: img2dataset is not installed. Run: make img2dataset")
    return program


def write_list(path: Path, image_key: str, caption_key: str, delimiter: str, work: Path) -> dict[str, Any]:
    """Writes the list for img2dataset, with columns ``url`` and ``caption``; returns a summary of skipped lines.

    A list without column names, such as CC3M and CC12M, is recognized by a URL in its first line: that column has the
    URLs, the other one the captions.
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
                # One line per pair, so that readers with other quoting rules agree.
                writer.writerow([" ".join(url.split()), " ".join(caption.split())])
    return lost.summary()


def download(work: Path, *, shard_size: int, threads: int, processes: int, options: list[str]) -> Path:
    """Downloads the list in ``work`` to tars, resuming an interrupted download; returns the folder of tars.

    Args:
      work: the folder of the unfinished preparation.
      shard_size: number of URLs per tar.
      threads: parallel downloads per process.
      processes: number of processes.
      options: options of img2dataset, such as ``--distributor pyspark``; they override the defaults.

    Raises:
      UserError: img2dataset failed.
    """
    folder = work / "download"
    with (work / _LIST).open(encoding="utf8") as file:
        expected = -(-(sum(1 for _ in file) - 1) // shard_size)
    if not expected:
        raise UserError("--input: expected rows with a URL (http:// or https://); found none. Check the column names.")
    command = [
        find_program(), "--url_list", str(work / _LIST), "--input_format", "csv", "--url_col", "url",
        "--caption_col", "caption", "--output_folder", str(folder), "--output_format", "webdataset",
        "--number_sample_per_shard", str(shard_size), "--processes_count", str(processes),
        "--thread_count", str(threads), "--resize_mode", "no", "--disable_all_reencoding", "True",
        "--encode_format", "jpg", "--extract_exif", "False", "--retries", "2",
        "--incremental_mode", "incremental", "--enable_wandb", "False", *options,
    ]  # fmt: skip
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}  # otherwise that library checks for updates online
    with (work / "downloading").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a download with a killed parent continues, and holds this lock until it ends
        for path in folder.glob("*_stats.json"):  # written last for a shard, but a kill may truncate it
            if not _read_json(path):
                path.unlink()
        process = subprocess.Popen(command, env=environment, start_new_session=True, pass_fds=(lock.fileno(),))
        try:
            status = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # some of its helper processes outlive it
    finished = len(list(folder.glob("*_stats.json")))
    if status or finished < expected:
        raise UserError(
            f"--source urls: img2dataset exited with status {status} after {finished} of {expected} shards, which are "
            "kept. See its last lines above for the reason. Run the same command again to resume."
        )
    return folder


def failures(folder: Path) -> dict[str, Any]:
    """Returns a summary of the failed downloads."""
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
    # A list without column names has no quotes, so its first line is split at every delimiter.
    first = tables.first_line(path).rstrip("\r\n").split(delimiter)
    is_url = [cell.strip().lower().startswith(("http://", "https://")) for cell in first]
    if any(is_url):
        if len(first) < 2:
            raise UserError(
                f"--input: {path}: expected columns of URLs and captions; found one column when split at {delimiter!r}."
                " Use --delimiter."
            )
        url = is_url.index(True)
        yield from tables.rows_without_names(path, (url, 1 if url == 0 else 0), delimiter)
    else:
        yield from tables.rows(path, (image_key, caption_key), delimiter, flag="--input")
