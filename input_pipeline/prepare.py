"""Prepares a dataset: converts any source to sharded ArrayRecord files for training.

python -m rankclip_jax.input_pipeline.prepare --source SOURCE --input PATH --split train --output DIR

SOURCE is csv, tsv, webdataset, folder, tfds, urls or iconify.

A second command can add a split. An interrupted command resumes when you run it again.
"""

import argparse
import dataclasses
import errno
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import images, tables
from .errors import UserError
from .explained import ExitOnUserError, Parser, log_to_stderr
from .files import check_writable, printable, write_atomically
from .object_stores import disk_path_of
from .preparation import iconify, manifest, runners, shards, urls
from .preparation.folder import Folder
from .preparation.iconify import IconSets
from .preparation.lock import locked
from .preparation.pairs import PairSource, describe_file
from .preparation.shards import Job, Options
from .preparation.table import Table
from .preparation.tfds_dataset import TfdsDataset
from .preparation.webdataset import WebDataset

SOURCES = ("csv", "tsv", "webdataset", "folder", "tfds", "urls", "iconify")
_DEFAULT_KEYS = {
    "csv": ("filepath", "title"),
    "tsv": ("filepath", "title"),
    "urls": ("url", "caption"),
    "webdataset": ("image", ""),  # the text file next to the image, or else a field of the JSON
}
_ICON_OPTIONS = {
    "size": 48, "color": "black", "background": "white", "licenses": ",".join(iconify.LICENSES),
    "new_style": ",".join(iconify.NEW_STYLE),
}  # fmt: skip
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}  # write errors, also those that name no file
# Settings that change how or where the work is done, but never the output.
_ELSEWHERE = {"output", "workers", "beam", "download_threads", "img2dataset", "own_splits"}


def main(argv: list[str] | None = None) -> None:
    """Runs the command; a UserError prints one paragraph and exits with status 2."""
    log_to_stderr()
    with ExitOnUserError(
        "rankclip_jax.input_pipeline.prepare", "Finished work is kept; run the same command again to resume."
    ):
        prepare(parse(argv))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses and checks the command line, and fills in defaults."""
    parser = Parser(prog="python -m rankclip_jax.input_pipeline.prepare", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--source", required=True, choices=SOURCES, help="type of --input")
    add("--input", required=True, type=disk_path_of, help="file or folder to read")
    add("--output", required=True, type=disk_path_of, help="folder to write")
    add("--split", default="train", help="split to write; for tfds, also the split to read")
    add("--image_key", help="column or feature with the images or URLs")
    add("--caption_key", help="column, feature or JSON field with the captions; separate several by commas")
    add("--delimiter", help=r"column delimiter (\t: a tab); default: by the suffix of --input, .csv or .tsv")
    options = {field.name: field for field in dataclasses.fields(Options)}
    add(
        "--shrink",
        type=int,
        default=options["shrink"].default,
        help="resize larger images to this short side in pixels; 0: keep their bytes (default %(default)s)",
    )
    add(
        "--quality",
        type=int,
        default=options["quality"].default,
        help="JPEG quality of resized images (default %(default)s)",
    )
    add("--drop_duplicates", action="store_true", help="keep only the first of images with equal bytes")
    add(
        "--max_pixels",
        type=int,
        default=options["max_pixels"].default,
        help="skip images with more pixels, before decoding; WebP and AVIF count twice (default %(default)s)",
    )
    add("--min_side", type=int, default=0, help="skip images with a shorter side, in pixels")
    add(
        "--max_aspect",
        type=float,
        default=0.0,
        help="skip images with a larger ratio of long to short side; 0: no limit",
    )
    add("--min_caption", type=int, default=1, help="skip captions with fewer characters")
    add("--max_caption", type=int, default=0, help="skip captions with more characters; 0: no limit")
    add("--validation_share", type=float, default=0.0, help="fraction of the pairs for a split 'validation'")
    add(
        "--shard_size",
        type=int,
        default=10_000,
        help="pairs to read per shard; each tar is one shard (default %(default)s)",
    )
    add("--workers", type=int, default=os.cpu_count(), help="number of processes (default: all cores)")
    add("--beam", help="run as an Apache Beam pipeline with these options, such as --beam='--runner=FlinkRunner'")
    add("--download_threads", type=int, default=64, help="urls: parallel downloads per process")
    add("--img2dataset", default="", help="urls: extra options of img2dataset, such as '--timeout 5'")  # fmt: skip
    add("--size", type=int, help="iconify: side of the rendered images in pixels (default 48)")
    add("--color", help="iconify: color of drawings that have none of their own (default black)")
    add("--background", help="iconify: color behind a drawing (default white)")
    add("--licenses", help=f"iconify: licenses of the sets to use (default {','.join(iconify.LICENSES)})")
    add("--new_style", help=f"iconify: sets for the split new_style (default {','.join(iconify.NEW_STYLE)})")
    arguments = parser.parse_args(argv)
    image_key, caption_key = _DEFAULT_KEYS.get(arguments.source, ("image", "caption"))
    arguments.image_key = arguments.image_key or image_key
    arguments.caption_key = arguments.caption_key or caption_key
    if arguments.source == "iconify":
        for name, default in _ICON_OPTIONS.items():
            setattr(arguments, name, getattr(arguments, name) or default)
    arguments.own_splits = iconify.SPLITS if arguments.source == "iconify" else ()
    _check(arguments)
    if arguments.source in ("csv", "tsv", "urls"):
        tables.check(arguments.input, "--input")
        given = arguments.delimiter or ("\t" if arguments.source == "tsv" else "")
        arguments.delimiter = tables.delimiter_of(arguments.input, given)
    return arguments


def prepare(arguments: argparse.Namespace) -> None:
    """Prepares a split, or resumes an interrupted preparation.

    Raises:
      UserError: the input or the output cannot be used.
    """
    with locked(arguments.output, arguments.split):
        _prepare(arguments)


def _prepare(arguments: argparse.Namespace) -> None:
    output = arguments.output
    options = Options(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Options)})
    work = output / f".prepare-{options.split}"
    command = _command(arguments)
    present = manifest.read(output)
    done = present["splits"].get(options.split)
    if done and done["command"] == command:
        shutil.rmtree(work, ignore_errors=True)
        print(f"{printable(output)}: the split {options.split!r} is already prepared: {done['pairs']:,} pairs.")
        return
    if taken := [split for split in options.splits if split in present["splits"]]:
        raise UserError(
            f"--split: {output} already has a split {taken[0]!r}, from: {present['splits'][taken[0]]['command']}. "
            "Use another --split or --output, or remove that folder first."
        )
    is_new = not work.exists()
    try:
        source, summaries, skipped = _do_jobs(arguments, options, work, command)
        beside = {"truth": source.truth(), "sets": source.credits()} if isinstance(source, IconSets) else {}
        _finish(output, work, summaries, skipped, options, command, beside)
    except (UserError, OSError) as error:
        kept = len(list(work.glob("[0-9]*.json")))
        if is_new and not any(path.suffix != ".partial" for path in work.glob("[0-9]*")):
            _remove(work)
        if isinstance(error, OSError) and (error.errno in _DISK_ERRORS or _is_below(error.filename, output)):
            raise UserError(
                f"--output: {error.filename or output} cannot be written ({error.strerror}). The {kept:,} finished "
                "shards are kept. Free some space or fix the error, and run the same command again to resume."
            ) from error
        raise


def _is_below(name: Any, folder: Path) -> bool:
    return isinstance(name, str) and Path(name).absolute().is_relative_to(folder.absolute())


def _do_jobs(
    arguments: argparse.Namespace, options: Options, work: Path, command: str
) -> tuple[PairSource, list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Does the remaining jobs; returns the source, the summaries of all jobs, and everything that was skipped."""
    before: list[dict[str, Any]] = []  # summaries of skipped lines of a list and failed downloads
    if arguments.source == "urls":
        urls.find_program()
        _begin(work, {"command": command, "input": describe_file(arguments.input)})
        source, before = _download(arguments, work)
    else:
        source = _open_source(arguments)
        _begin(work, {"command": command, "input": source.describe()})
    _run(shards.write, source, options, work, arguments)
    summaries = [json.loads(job.summary.read_text()) for job in _jobs(source, options, work)]
    return source, summaries, manifest.skipped([*before, *summaries])


def _remove(work: Path) -> None:
    """Removes the work folder, unless it has downloads."""
    if not (work / "download").exists():
        shutil.rmtree(work, ignore_errors=True)


def _run(work_on: Callable[[Job], None], source: PairSource, options: Options, work: Path, arguments: Any) -> None:
    """Does all unfinished jobs; dropping duplicates takes two passes."""
    if options.drop_duplicates and work_on is shards.write:
        _run(shards.write_digests, source, options, work, arguments)
        digests = [job.digests for job in _jobs(source, options, work)]
        shards.mark_first_of_equals(digests)

    def is_done(job: Job) -> bool:
        return (job.summary if work_on is shards.write else job.digests).exists()

    remaining = (job for job in _jobs(source, options, work) if not is_done(job))
    if arguments.beam is not None:
        runners.run_with_beam(work_on, remaining, arguments.beam.split())
        return
    total = source.job_count()
    done = len(list(work.glob("[0-9]*.json" if work_on is shards.write else "[0-9]*.digests.npy")))
    label = options.split if work_on is shards.write else "duplicates"
    runners.run_locally(work_on, remaining, workers=arguments.workers, label=label, total=total, done=done)


def _jobs(source: PairSource, options: Options, work: Path) -> Iterator[Job]:
    for number, content in enumerate(source.jobs()):
        yield Job(number, content, source, options, work)


def _begin(work: Path, plan: dict[str, Any]) -> None:
    """Creates the work folder, or checks that an existing one is of this command and input."""
    path = work / "plan.json"
    something_is_done = any(work.glob("[0-9]*")) or (work / "download").exists()
    if path.is_file() and something_is_done:
        stored = json.loads(path.read_text(encoding="utf8"))
        if stored != json.loads(json.dumps(plan)):
            same = stored["command"] == plan["command"]
            what = "of an input that has since changed" if same else f"of another command: {stored['command']}"
            raise UserError(
                f"--output: {work} has an unfinished preparation {what}. Finish it, or remove it: rm -r {work}"
            )
    work.mkdir(parents=True, exist_ok=True)
    for partial in work.glob("*.partial"):
        partial.unlink(missing_ok=True)
    write_atomically(path, json.dumps(plan).encode())


def _finish(
    output: Path,
    work: Path,
    summaries: list[dict[str, Any]],
    skipped: dict[str, dict[str, Any]],
    options: Options,
    command: str,
    beside: dict[str, Any],
) -> None:
    """Moves the shards into place, then writes the manifest; safe to interrupt and repeat."""
    content = manifest.read(output) | beside
    for split in options.splits:
        entry, numbers = manifest.total(summaries, split)
        if not entry["pairs"] and split == options.split:
            _remove(work)
            reasons = "; ".join(
                f"{value['count']} x {reason}: {value['first'][:3]}" for reason, value in skipped.items()
            )
            raise UserError(
                "--input: expected at least one usable pair; found none. Skipped: "
                f"{reasons or 'nothing (the input is empty)'}."
            )
        for index, number in enumerate(numbers):
            shard = work / f"{number:05}.{split}"
            if shard.exists():
                shard.replace(output / manifest.shard_name(split, index, len(numbers)))
        if entry["pairs"]:
            content["splits"][split] = entry | {"command": command}
    content["splits"][options.split]["skipped"] = skipped
    manifest.write(output, content)
    for split in options.splits:  # removes leftovers of a killed and abandoned preparation of these splits
        wanted = {shard["file"] for shard in content["splits"].get(split, {"shards": []})["shards"]}
        for path in output.glob(manifest.shard_pattern(split)):
            if path.name not in wanted:
                path.unlink(missing_ok=True)
    shutil.rmtree(work)
    _report(output, content, options)


def _report(output: Path, content: dict[str, Any], options: Options) -> None:
    for split in options.splits:
        if entry := content["splits"].get(split):
            size = entry["bytes"] / 1e6
            pairs, files = entry["pairs"], len(entry["shards"])
            print(f"{printable(output)}: {pairs:,} pairs of {split!r} in {files} shards, {size:,.1f} MB.")
    for line in manifest.describe_skipped(content["splits"][options.split]):
        print(line)


def _open_source(arguments: argparse.Namespace) -> PairSource:
    path, size = arguments.input.absolute(), arguments.shard_size
    match arguments.source:
        case "csv" | "tsv":
            return Table(path, arguments.image_key, arguments.caption_key, arguments.delimiter, size)
        case "webdataset":
            return WebDataset(path, arguments.caption_key)
        case "folder":
            return Folder(path, size)
        case "iconify":
            return IconSets(
                path,
                tuple(arguments.licenses.split(",")),
                arguments.size,
                arguments.color,
                arguments.background,
                tuple(arguments.new_style.split(",")),
                size,
            )
        case _:
            return TfdsDataset(path, arguments.split, arguments.image_key, arguments.caption_key, size)


def _download(arguments: argparse.Namespace, work: Path) -> tuple[PairSource, list[dict[str, Any]]]:
    keys = arguments.image_key, arguments.caption_key
    lost = urls.write_list(arguments.input, *keys, arguments.delimiter, work)
    folder = urls.download(
        work.absolute(),
        shard_size=arguments.shard_size,
        threads=arguments.download_threads,
        processes=arguments.workers,
        options=arguments.img2dataset.split(),
    )
    return WebDataset(folder), [lost, urls.failures(folder)]


def _command(arguments: argparse.Namespace) -> str:
    """Returns the command, with only the flags that affect the output."""
    words = ["python", "-m", "rankclip_jax.input_pipeline.prepare"]
    for name, value in vars(arguments).items():
        if name not in _ELSEWHERE and value is not False and value is not None:
            words.append(f"--{name}" if value is True else f"--{name}={value}")
    return shlex.join(words)


def _check(arguments: argparse.Namespace) -> None:
    """Raises UserError for invalid values."""
    if not arguments.input.exists():
        raise UserError(f"--input: nothing at {arguments.input}. Use an existing file or folder.")
    expected = {"folder": "folder", "tfds": "folder", "csv": "file", "tsv": "file", "urls": "file"}
    kind = "folder" if arguments.input.is_dir() else "file"
    if expected.get(arguments.source, kind) != kind:
        raise UserError(
            f"--input: {arguments.input} is a {kind}; --source {arguments.source} expects a "
            f"{expected[arguments.source]}."
        )
    for name, low, high in (
        ("shrink", 0, 16_384), ("quality", 1, 95), ("shard_size", 1, 10_000_000), ("workers", 1, 4096),
        ("validation_share", 0, 0.999), ("min_caption", 1, 1_000_000), ("max_aspect", 0, 1e9), ("min_side", 0, 1e9),
        ("max_pixels", 1, images.MOST_PIXELS), *((("size", 8, 1024),) if arguments.size else ()),
        ("max_caption", 0, 1e9), ("download_threads", 1, 4096),
    ):  # fmt: skip
        value = getattr(arguments, name)
        if not low <= value <= high:
            raise UserError(f"--{name}: expected {low} to {high}; found {value}.")
    if not arguments.split.isidentifier():
        raise UserError(f"--split: expected letters, digits and _; found {arguments.split!r}.")
    if arguments.validation_share and arguments.split == "validation":
        raise UserError("--validation_share: expected another --split than 'validation'. Use --split train.")
    try:
        str(arguments.output.absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"--output: {printable(arguments.output)} is not UTF-8, which ArrayRecord requires for paths. "
            "Use another path."
        ) from error
    try:
        check_writable(arguments.output)
    except OSError as error:
        raise UserError(f"--output: cannot write to {arguments.output} ({error}). Use another folder.") from error


if __name__ == "__main__":
    main()
