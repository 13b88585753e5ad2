"""Webdataset tar shards, such as img2dataset writes: for each sample an image, a caption, and facts in JSON.

Nothing is ever extracted: members are read into memory, one sample at a time. Each sample, which is all members of one
key in a tar (see `tars`), becomes a pair or is counted:

- Members of a sample that do not stand together, as after ``tar cf x.tar *.jpg *.txt``, are found all the same; such
  samples are read last, in the order of their images.
- Of several images, or several captions, of a sample the first counts; each of the others is a "doubled member".
- An image whose name has more dots (``0.seg.png``) is not the sample's, and counted; so is one of another format.
- A sample without an image or without a caption is counted as that.
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
_MOST_WAITING, _MOST_TEXT_WAITING = 1 << 17, 1 << 26  # samples that lack something, and bytes of their captions
_DEFAULT_KEY = "caption"  # the field that img2dataset writes


@dataclasses.dataclass(slots=True)
class _Sample:
    """What is known of a sample.

    Args:
      archive: see `tars.Member`.
      key: the same.
      image: where its image is.
      content: of the image, while it is in memory.
      text: content of its ``.txt``.
      facts: content of its ``.json``.
      counted: what of it was skipped and counted: "image" or "caption".
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
        """Of all its captions."""
        return len(self.text or b"") + len(self.facts or b"")


@dataclasses.dataclass(frozen=True)
class WebDataset:
    """A tar file, or a folder of them; each is a job.

    Args:
      caption_key: field of a sample's JSON with its captions, a string or a list of them; several with commas between.
        Empty: the text file beside the image, or where there is none, the field ``caption``.
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
        if not (found := self._tars()):
            raise UserError(f"--input: no tar files (.tar, .tar.gz, .tgz) in {self.path}.")
        yield from found

    def read(self, job: Path) -> Iterator[Pair | Skip]:
        """See `PairSource.read`."""
        waiting = _Waiting(self, job)
        sample = None
        for item in tars.members(job, _most_read):
            if isinstance(item, Skip):
                yield item
                continue
            member, content = item
            if sample is None or (member.archive, member.key) != (sample.archive, sample.key):
                if sample:
                    yield from waiting.add(sample)
                sample = _Sample(member.archive, member.key)
            if skip := _add(sample, member, content, job):
                yield skip
        if sample:
            yield from waiting.add(sample)
        yield from waiting.rest()

    def lack_of(self, sample: _Sample) -> str | None:
        """What a sample has not: "image" or "caption"; None: it is whole."""
        if sample.image is None:
            return "image"
        return "caption" if sample.facts is None and (self.caption_key or sample.text is None) else None

    def skip(self, sample: _Sample, tar: Path) -> Skip | None:
        """Why a sample that lacks something is no pair; None: that was counted."""
        lack = self.lack_of(sample)
        if lack in sample.counted:
            return None
        reason = f"no {self.caption_key!r} in the JSON" if lack == "caption" and self.caption_key else f"no {lack}"
        return Skip(reason, f"{tar.name}/{sample.key}")

    def pair(self, sample: _Sample, image: bytes, tar: Path) -> Pair | Skip:
        """The pair of a whole sample."""
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


class _Waiting:
    """Samples of a tar that lack something which may stand elsewhere in it."""

    def __init__(self, source: WebDataset, tar: Path) -> None:
        self._source, self._tar = source, tar
        self._samples: dict[tuple[int, str], _Sample] = {}
        self._text_bytes = 0

    def add(self, sample: _Sample) -> Iterator[Pair | Skip]:
        """The pair of a sample whose members stood together; one that lacks something waits, or is skipped."""
        place = sample.archive, sample.key
        if (earlier := self._samples.pop(place, None)) is not None:
            self._text_bytes -= earlier.text_bytes
            yield from self._merge(earlier, sample)
            sample = earlier
        if sample.content is not None and self._source.lack_of(sample) is None:
            yield self._source.pair(sample, sample.content, self._tar)
        elif self._may_wait(sample):
            sample.content = None
            self._samples[place] = sample
            self._text_bytes += sample.text_bytes
        elif skip := self._source.skip(sample, self._tar):
            yield skip

    def rest(self) -> Iterator[Pair | Skip]:
        """Those that have become whole, in the order of their images, and why the others are skipped."""
        whole: list[_Sample] = []
        left: list[_Sample] = []
        for sample in self._samples.values():
            (left if self._source.lack_of(sample) else whole).append(sample)
        yield from (skip for sample in left if (skip := self._source.skip(sample, self._tar)))
        places = sorted(((sample.image, sample) for sample in whole if sample.image), key=lambda both: both[0].offset)
        try:
            images = tars.contents(self._tar, [image for image, _ in places])
            for (_, sample), image in zip(places, images, strict=True):
                yield self._source.pair(sample, image, self._tar)
        except tars.DAMAGES as error:
            yield Skip("damaged tar", f"{self._tar.name}: {error}")

    def _may_wait(self, sample: _Sample) -> bool:
        has_something = sample.image or sample.counted or sample.text is not None or sample.facts is not None
        fits = self._text_bytes + sample.text_bytes <= _MOST_TEXT_WAITING
        return has_something and fits and len(self._samples) < _MOST_WAITING

    def _merge(self, earlier: _Sample, sample: _Sample) -> Iterator[Skip]:
        for part in ("image", "text", "facts"):
            if (found := getattr(sample, part)) is None:
                continue
            if getattr(earlier, part) is None:
                setattr(earlier, part, found)
                earlier.content = sample.content if part == "image" else earlier.content
            else:
                yield Skip("doubled member", f"{self._tar.name}/{sample.key}, {part}")
        earlier.counted |= sample.counted


def _most_read(member: Member) -> int:
    if member.suffix in IMAGE_SUFFIXES:
        return tars.LARGEST_IMAGE
    return tars.LARGEST_TEXT if member.suffix in (".txt", ".json") else 0


def _add(sample: _Sample, member: Member, content: bytes | None, tar: Path) -> Skip | None:
    """Puts a member where it belongs in its sample; why it does not, where something may be missed."""
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
