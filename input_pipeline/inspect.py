"""Shows a prepared dataset, and verifies the checksums of its shards.

python -m rankclip_jax.input_pipeline.inspect DIR [--split train] [--pairs 20] [--contact_sheet FILE] [--seed 0]

Exits with status 1 if a shard is missing, damaged or truncated.
"""

import argparse
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from . import array_record, images
from .errors import UnreadableError, UserError
from .explained import ExitOnUserError, Parser, log_to_stderr
from .files import printable
from .object_stores import disk_path_of
from .preparation import manifest
from .preparation.shards import checksum
from .source import Source, captions

_MOST = {"pairs": 1000, "seed": 2**63 - 1}
_TILE, _LINE, _COLUMNS, _LETTERS = 200, 15, 5, 32  # pixels, and characters of a line
_CAPTIONS = 5  # shown per image


def main(argv: list[str] | None = None) -> None:
    """Runs the command; a UserError prints one paragraph and exits with status 2."""
    log_to_stderr()
    with ExitOnUserError("rankclip_jax.input_pipeline.inspect", "Nothing was changed."):
        damaged = _inspect(_parse(argv))
    for line in damaged:
        print(f"damaged: {printable(line)}")
    if damaged:
        print(f"{len(damaged)} damaged shards. Prepare the split again in another folder, or restore them from a copy.")
        sys.exit(1)
    print("All shards are present, and their checksums match.")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m rankclip_jax.input_pipeline.inspect", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=disk_path_of, help="directory that rankclip_jax.input_pipeline.prepare wrote")
    parser.add_argument("--split", help="split to draw pairs from; default: the first")
    parser.add_argument("--pairs", type=int, default=20, help="random pairs to draw; 0: none (default %(default)s)")
    parser.add_argument(
        "--contact_sheet", type=disk_path_of, help="image file to write; default: DIR/contact_sheet.png"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random pairs")
    arguments = parser.parse_args(argv)
    for name in ("pairs", "seed"):
        if not 0 <= getattr(arguments, name) <= _MOST[name]:
            raise UserError(f"--{name}: expected 0 to {_MOST[name]}; found {getattr(arguments, name)}.")
    if not arguments.folder.is_dir():
        raise UserError(
            f"{arguments.folder}: no such folder. Use a folder that rankclip_jax.input_pipeline.prepare wrote."
        )
    return arguments


def _inspect(arguments: argparse.Namespace) -> list[str]:
    """Prints the counts, draws the contact sheet, and returns a line for each damaged shard."""
    content = manifest.read(arguments.folder)
    if not content["splits"]:
        raise UserError(
            f"{arguments.folder}: no manifest.json. Use the --output of python -m rankclip_jax.input_pipeline.prepare."
        )
    picture = arguments.contact_sheet or arguments.folder / "contact_sheet.png"
    if arguments.pairs and (picture.suffix not in (".png", ".jpg", ".jpeg") or not picture.parent.is_dir()):
        raise UserError(f"--contact_sheet: expected a .png or .jpg file in an existing folder; found {picture}.")
    _print_counts(arguments.folder, content)
    damaged = find_damaged(arguments.folder, content)
    if arguments.pairs:
        split = arguments.split or next(iter(content["splits"]))
        draw_contact_sheet(arguments.folder, split, arguments.pairs, arguments.seed).save(picture)
        print(f"{arguments.pairs} random pairs of {split!r}: {printable(picture)}")
    return damaged


def find_damaged(folder: Path, content: dict[str, Any]) -> list[str]:
    """Returns a line for each shard that differs from the manifest: missing, truncated or changed."""
    lines = []
    for split, entry in content["splits"].items():
        start = 0
        for shard in entry["shards"]:
            path = folder / shard["file"]
            numbers = f"records {start:,} to {start + shard['pairs'] - 1:,} of {split!r}"
            start += shard["pairs"]
            if not path.is_file():
                lines.append(f"{path}: missing ({numbers})")
            elif (size := path.stat().st_size) != shard["bytes"]:
                lines.append(f"{path}: {size:,} bytes, expected {shard['bytes']:,} ({numbers})")
            elif checksum(path) != shard["sha256"]:
                lines.append(f"{path}: its checksum differs from the manifest ({numbers})")
    return lines


def draw_contact_sheet(folder: Path, split: str, pairs: int, seed: int) -> Image.Image:
    """Draws random pairs of a split, each image above its captions, or the reason why it is unreadable.

    Raises:
      UserError: the split does not exist.
    """
    source = array_record.open_split(folder, split, flag="--split")
    chosen = np.random.default_rng(seed).choice(len(source), min(pairs, len(source)), replace=False)
    tiles = [_tile(source, int(index)) for index in chosen]
    height = _TILE + _LINE * max(4, *(len(lines) for _, lines in tiles)) + 4
    sheet = Image.new("RGB", (_COLUMNS * _TILE, -(-len(tiles) // _COLUMNS) * height), "white")
    drawing = ImageDraw.Draw(sheet)
    for position, (tile, lines) in enumerate(tiles):
        left, top = position % _COLUMNS * _TILE, position // _COLUMNS * height
        if tile:
            sheet.paste(tile, (left + (_TILE - tile.width) // 2, top + (_TILE - tile.height) // 2))
        text = "\n".join(lines).encode("latin1", "replace").decode("latin1")
        drawing.text((left + 4, top + _TILE), text, fill="black", spacing=_LINE - 11)
    return sheet


def _tile(source: Source, index: int) -> tuple[Image.Image | None, list[str]]:
    """Returns a thumbnail and its captions in short lines; for an unreadable record, None and the reason."""
    try:
        record = source[index]
        tile, texts = images.decode(record["image"]), captions(record)
    except UnreadableError as error:
        return None, textwrap.wrap(f"unreadable: {error}", _LETTERS, max_lines=4)
    tile.thumbnail((_TILE - 8, _TILE - 8))
    if len(texts) == 1:
        return tile, textwrap.wrap(texts[0], _LETTERS, max_lines=4)
    lines = [
        line
        for number, text in enumerate(texts[:_CAPTIONS], 1)
        for line in textwrap.wrap(f"{number}. {text}", _LETTERS, max_lines=2)
    ]
    return tile, [*lines, f"and {len(texts) - _CAPTIONS} more"] if len(texts) > _CAPTIONS else lines


def _print_counts(folder: Path, content: dict[str, Any]) -> None:
    for split, entry in content["splits"].items():
        mean = entry["bytes"] / max(entry["pairs"], 1) / 1e3
        print(
            f"{printable(folder)}, {printable(split)}: {entry['pairs']:,} pairs, {entry['bytes'] / 1e6:,.1f} MB "
            f"({mean:.1f} kB per pair), {len(entry['shards'])} shards"
        )
        print(f"  captions per image: {_describe(entry['captions'])}")
        print(f"  command: {printable(entry['command'], 1000)}")
        for line in manifest.describe_skipped(entry):
            print(line)


def _describe(counts: dict[str, int]) -> str:
    """Describes the captions per image: one number for all images, or the images per number."""
    if len(counts) == 1:
        return f"{next(iter(counts))} each"
    images_of = [f"{number} ({count:,} images)" for number, count in counts.items()]
    total, pairs = sum(int(number) * count for number, count in counts.items()), sum(counts.values())
    shown = images_of if len(images_of) <= 6 else [*images_of[:3], "...", *images_of[-2:]]
    return f"{', '.join(shown)}; {total:,} in total, {total / pairs:.2f} per image"


if __name__ == "__main__":
    main()
