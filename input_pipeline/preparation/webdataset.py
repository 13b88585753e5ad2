"""Webdataset tar shards, as img2dataset writes them: each sample has an image, a caption, and metadata in JSON.

Nothing is extracted: members are read into memory, one sample at a time. A sample is all members with one key in a tar
(see `tars`). Each sample becomes a pair or is counted as skipped:

- Samples whose members are not adjacent, as after ``tar cf x.tar *.jpg *.txt``, are read last, in the order of their
  images.
- If a sample has several images or several captions, the first is used; each other one is a "doubled member".
- Images whose name has more dots (``0.seg.png``), and images of unsupported formats, are skipped and counted.
- A sample without an image, or without a caption, is counted as such.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import tars
from ..errors import UserError
from ..file_names import IMAGE_SUFFIXES, is_hidden, unread_format
from ..preparation.pairs import Pair, Skip, clean_captions
from ..tars import Member

_TAR = re.compile(r"\.(tar(\.\w+)?|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_MAX_PENDING, _MAX_PENDING_TEXT = 1 << 17, 1 << 26  # incomplete samples, and bytes of their captions
_DEFAULT_KEY = "caption"  # the field of captions in img2dataset


@dataclasses.dataclass(slots=True)
class _Sample:
    """The members of a sample read so far.

    Args:
      archive: see `tars.Member`.
      key: see `tars.Member`.
      image: the location of its image.
      content: the bytes of the image, while they are in memory.
      text: the content of its ``.txt``.
      facts: the content of its ``.json``.
      counted: its parts that were skipped and counted: "image" or "caption".
    """

    archive: int
    key: str
    image: Member | None = None
    content: bytes | None = None
    text: bytes | None = None
    facts: bytes | None = None
    counted: frozenset[str] = frozenset()

    @property
    def text_bytes(self) -> int:
        """The size of its captions and metadata in bytes."""
        return len(self.text or b"") + len(self.facts or b"")


@dataclasses.dataclass(frozen=True)
class WebDataset:
    """A tar file, or a folder of tars; each tar is a job.

    Args:
      path: the tar or the folder.
      caption_key: the JSON field with a sample's captions, a string or a list of strings; separate several fields by
        commas. Empty: the text file next to the image, or else the field ``caption``.
    """

    path: Path
    caption_key: str = ""

    def describe(self) -> dict[str, Any]:
        """See `PairSource.describe`."""
        return {"tars": {tar.name: tar.stat().st_size for tar in self._tars()}}

    def job_count(self) -> int:
        """See `PairSource.job_count`."""
        return len(self._tars())

    def jobs(self) -> Iterator[Path]:
        """See `PairSource.jobs`."""
        if not (paths := self._tars()):
            raise UserError(f"--input: expected tar files (.tar, .tar.gz, .tgz) in {self.path}; found none.")
        yield from paths

    def read(self, job: Path) -> Iterator[Pair | Skip]:
        """See `PairSource.read`."""
        pending = _PendingSamples(self, job)
        sample = None
        for item in tars.members(job, _most_read):
            if isinstance(item, Skip):
                yield item
                continue
            member, content = item
            if sample is None or (member.archive, member.key) != (sample.archive, sample.key):
                if sample:
                    yield from pending.add(sample)
                sample = _Sample(member.archive, member.key)
            if skip := _add(sample, member, content, job):
                yield skip
        if sample:
            yield from pending.add(sample)
        yield from pending.rest()

    def lack_of(self, sample: _Sample) -> str | None:
        """Returns what a sample lacks, "image" or "caption", or None if it is complete."""
        if sample.image is None:
            return "image"
        return "caption" if sample.facts is None and (self.caption_key or sample.text is None) else None

    def skip(self, sample: _Sample, tar: Path) -> Skip | None:
        """Returns the `Skip` of an incomplete sample, or None if its missing part was already counted."""
        lack = self.lack_of(sample)
        if lack in sample.counted:
            return None
        reason = f"no {self.caption_key!r} in the JSON" if lack == "caption" and self.caption_key else f"no {lack}"
        return Skip(reason, f"{tar.name}/{sample.key}")

    def pair(self, sample: _Sample, image: bytes, tar: Path) -> Pair | Skip:
        """Returns the pair of a complete sample, or a `Skip` if it has no usable caption."""
        name = f"{tar.name}/{sample.key}"
        texts: list[str | bytes] = []
        if sample.text is not None and not self.caption_key:
            texts = [sample.text]
        else:
            keys = (self.caption_key or _DEFAULT_KEY).split(",")
            try:
                facts = json.loads(sample.facts or b"")
                values = [facts[key] for key in keys if key in facts]
            except (ValueError, TypeError, RecursionError):
                values = []
            if not values:
                return Skip(f"no {','.join(keys)!r} in the JSON", name)
            for value in values:
                texts += [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        captions = clean_captions(texts, name)
        return captions if isinstance(captions, Skip) else Pair(name, image, captions)

    def _tars(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        return sorted(path for path in self.path.iterdir() if _TAR.search(path.name) and not is_hidden(path.name))


class _PendingSamples:
    """Incomplete samples of a tar, whose other members may follow later in it."""

    def __init__(self, source: WebDataset, tar: Path) -> None:
        self._source, self._tar = source, tar
        self._samples: dict[tuple[int, str], _Sample] = {}
        self._text_bytes = 0

    def add(self, sample: _Sample) -> Iterator[Pair | Skip]:
        """Yields the pair of a complete sample; keeps an incomplete one for later, or skips it."""
        sample_key = sample.archive, sample.key
        if (earlier := self._samples.pop(sample_key, None)) is not None:
            self._text_bytes -= earlier.text_bytes
            yield from self._merge(earlier, sample)
            sample = earlier
        if sample.content is not None and self._source.lack_of(sample) is None:
            yield self._source.pair(sample, sample.content, self._tar)
        elif self._may_wait(sample):
            sample.content = None
            self._samples[sample_key] = sample
            self._text_bytes += sample.text_bytes
        elif skip := self._source.skip(sample, self._tar):
            yield skip

    def rest(self) -> Iterator[Pair | Skip]:
        """Yields the pairs of samples that became complete, in the order of their images, and skips the others."""
        complete: list[_Sample] = []
        incomplete: list[_Sample] = []
        for sample in self._samples.values():
            (incomplete if self._source.lack_of(sample) else complete).append(sample)
        yield from (skip for sample in incomplete if (skip := self._source.skip(sample, self._tar)))
        located = sorted(
            ((sample.image, sample) for sample in complete if sample.image), key=lambda item: item[0].offset
        )
        try:
            images = tars.contents(self._tar, [image for image, _ in located])
            for (_, sample), image in zip(located, images, strict=True):
                yield self._source.pair(sample, image, self._tar)
        except tars.DAMAGES as error:
            yield Skip("damaged tar", f"{self._tar.name}: {error}")

    def _may_wait(self, sample: _Sample) -> bool:
        has_something = sample.image or sample.counted or sample.text is not None or sample.facts is not None
        fits = self._text_bytes + sample.text_bytes <= _MAX_PENDING_TEXT
        return has_something and fits and len(self._samples) < _MAX_PENDING

    def _merge(self, earlier: _Sample, sample: _Sample) -> Iterator[Skip]:
        for part in ("image", "text", "facts"):
            if (value := getattr(sample, part)) is None:
                continue
            if getattr(earlier, part) is None:
                setattr(earlier, part, value)
                earlier.content = sample.content if part == "image" else earlier.content
            else:
                yield Skip("doubled member", f"{self._tar.name}/{sample.key}, {part}")
        earlier.counted |= sample.counted


def _most_read(member: Member) -> int:
    if member.suffix in IMAGE_SUFFIXES:
        return tars.LARGEST_IMAGE
    return tars.LARGEST_TEXT if member.suffix in (".txt", ".json") else 0


def _add(sample: _Sample, member: Member, content: bytes | None, tar: Path) -> Skip | None:
    """Adds a member to its sample; returns a `Skip` for a member that is not used but counted."""
    name = f"{tar.name}/{member.key}{member.suffix}"
    part = {".txt": "text", ".json": "facts"}.get(member.suffix, "image")
    last = f".{member.suffix.rpartition('.')[2]}"
    reason = None
    if part == "image" and member.suffix not in IMAGE_SUFFIXES:
        reason = unread_format(last) or ("image whose name has more dots" if last in IMAGE_SUFFIXES else None)
        if reason is None:
            return None
    elif content is None:
        reason = "too many bytes"
    elif getattr(sample, part) is not None:
        return Skip("doubled member", name)
    if reason:
        sample.counted |= {"image" if part == "image" else "caption"}
        return Skip(reason, name)
    setattr(sample, part, member if part == "image" else content)
    if part == "image":
        sample.content = content
    return None
