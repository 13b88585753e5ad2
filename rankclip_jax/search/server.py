"""A page on this machine on which a person searches: type a sentence or drop an image, see what is nearest."""

import io
import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from rankclip_jax.embedding.encoder import Encoder
from rankclip_jax.input_pipeline.errors import UnreadableError
from rankclip_jax.input_pipeline.images import decode
from rankclip_jax.input_pipeline.source import Source, captions
from rankclip_jax.search.index import Index

_PAGE = Path(__file__).parent / "page.html"
_LARGEST = 32 << 20  # bytes of a query
_SHOWN = 24
_OURS = ("localhost", "127.0.0.1", "::1")
_SIDE = 256  # of what is shown, in pixels


class Search:
    """A model, a dataset and its index, asked with words or an image.

    Args:
      encoder: the model.
      source: the dataset.
      index: of its embeddings by that model.
    """

    def __init__(self, encoder: Encoder, source: Source, index: Index) -> None:
        self._encoder, self._source, self._index = encoder, source, index
        self._encoder.encode_text(["a warm start"])

    def __len__(self) -> int:
        return len(self._index)

    def by_text(self, text: str) -> dict[str, Any]:
        """The nearest images and captions: lists of ``record``, ``score`` and ``caption``, and ``seconds``."""
        return self._found(lambda: self._encoder.encode_text([text])[0])

    def by_image(self, content: bytes) -> dict[str, Any]:
        """The same for an image file.

        Raises:
          UnreadableError: it is none.
        """
        pixels = np.asarray(decode(content))
        return self._found(lambda: self._encoder.encode_image([pixels])[0])

    def picture(self, record: int) -> bytes:
        """A record's image, made small, as JPEG.

        Raises:
          UnreadableError: it cannot be read, or there is no such record.
        """
        if not 0 <= record < len(self._source):
            raise UnreadableError(f"no record {record}")
        image = self._source[record]["image"]
        shown = Image.fromarray(image) if isinstance(image, np.ndarray) else decode(image)
        shown.thumbnail((_SIDE, _SIDE))
        file = io.BytesIO()
        shown.save(file, "JPEG", quality=90)
        return file.getvalue()

    def _found(self, embed: Callable[[], np.ndarray]) -> dict[str, Any]:
        start = time.perf_counter()
        query = embed()
        images, texts = (self._index.nearest(query, kind, _SHOWN) for kind in ("image", "text"))
        seconds = time.perf_counter() - start
        return {
            "images": [
                {"record": record, "score": score, "caption": self._caption(record)} for _, record, score in images
            ],
            "texts": [
                {"record": record, "score": score, "caption": self._caption(record, number)}
                for number, record, score in texts
            ],
            "seconds": seconds,
        }

    def _caption(self, record: int, number: int | None = None) -> str:
        """The first caption of a record, or the one that a row of the index is of."""
        try:
            told = captions(self._source[record])
        except UnreadableError:
            return ""
        return told[0] if number is None else told[self._index.place_of_text(number)]


def serve(search: Search, host: str, port: int) -> ThreadingHTTPServer:
    """A server, bound and not yet started; port 0 is any that is free.

    Raises:
      OSError: the address cannot be used.
    """
    is_here_alone = host in _OURS

    class Handler(BaseHTTPRequestHandler):
        """Answers one request."""

        def do_GET(self) -> None:
            """The page, or an image."""
            path = urlsplit(self.path).path
            if not self._is_for_us():
                self._answer(403, "text/plain", b"asked under another name")
            elif path == "/":
                content = _PAGE.read_text(encoding="utf8").replace("{count}", f"{len(search):,}")
                self._answer(200, "text/html; charset=utf-8", content.encode())
            elif path.startswith("/image/") and path[7:].isdecimal():
                self._try(lambda: ("image/jpeg", search.picture(int(path[7:]))))
            else:
                self._answer(404, "text/plain", b"nothing here")

        def do_POST(self) -> None:
            """A query: words as JSON at /text, an image file at /image."""
            told = self.headers.get("Content-Length", "")
            size = int(told) if told.isdecimal() else 0
            if not self._is_for_us():
                self._answer(403, "text/plain", b"asked under another name")
                return
            if not 0 < size <= _LARGEST:
                self._answer(413, "text/plain", b"expected up to 32 MiB")
                return
            content = self.rfile.read(size)
            if self.path == "/text":
                self._try(lambda: _json(search.by_text(_text_of(content))))
            elif self.path == "/image":
                self._try(lambda: _json(search.by_image(content)))
            else:
                self._answer(404, "text/plain", b"nothing here")

        def _is_for_us(self) -> bool:
            """Another site, whose name was made to lead here, does not see what is here."""
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            return not is_here_alone or name in _OURS

        def _try(self, make: Callable[[], tuple[str, bytes]]) -> None:
            try:
                self._answer(200, *make())
            except (UnreadableError, ValueError) as error:
                self._answer(400, "text/plain; charset=utf-8", str(error).encode())

        def _answer(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: Any) -> None:
            """Requests are not logged."""

    return ThreadingHTTPServer((host, port), Handler)


def _json(content: dict[str, Any]) -> tuple[str, bytes]:
    return "application/json", json.dumps(content).encode()


def _text_of(content: bytes) -> str:
    found = json.loads(content)
    if not isinstance(found, dict) or not isinstance(found.get("text"), str) or not found["text"].strip():
        raise ValueError('expected {"text": "some words"}')
    return found["text"]
