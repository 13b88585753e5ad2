"""The search server: a local web page that shows the images and captions nearest to a text or an image.

Uvicorn and Starlette serve it. This module adds what they lack: idle and slow connections are closed, request bodies
are limited in bytes and seconds, images are decoded one at a time, and every response has headers that isolate it from
other sites.
"""

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import re
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import h11
import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from rankclip_jax.cli.console import say
from rankclip_jax.evaluation.encoder import Encoder
from rankclip_jax.input_pipeline.errors import UnreadableError, UserError
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.input_pipeline.images import decode
from rankclip_jax.input_pipeline.source import Source, captions
from rankclip_jax.search.index import Index

_PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf8")
_LARGEST_IMAGE = 32 << 20  # bytes of a query
_LARGEST_TEXT = 1 << 16
_LETTERS = 4000  # characters of a query: many times a model's context length
_IN_MEMORY = 1 << 20  # bytes of a query; larger ones wait on disk
_HEAD_SECONDS = 10.0  # timeout for a request's headers, or between requests
_BODY_SECONDS = 30.0  # timeout for a request's body
_SHOWN = 24
_OURS = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.ASCII)
_SIDE = 256  # of the shown images, in pixels


def _source_of(tag: str) -> str:
    """Returns the hash source of the page's script or style for the content security policy."""
    texts = re.findall(f"<{tag}>(.*?)</{tag}>", _PAGE, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)


_HEADERS = {
    "content-security-policy": f"default-src 'none'; script-src {_source_of('script')}; "
    f"style-src {_source_of('style')}; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Search:
    """Answers text and image queries with a model, a dataset and its index.

    Args:
      encoder: the model.
      source: the dataset.
      index: the index of the dataset's embeddings by the model.
    """

    def __init__(self, encoder: Encoder, source: Source, index: Index) -> None:
        self._encoder, self._source, self._index = encoder, source, index
        self._encoder.encode_text(["a warm start"])

    def __len__(self) -> int:
        return len(self._index)

    def by_text(self, text: str) -> dict[str, Any]:
        """Returns the nearest images and captions: lists of ``record``, ``score`` and ``caption``, and ``seconds``.

        A caption that several records share is listed once, with their number as ``count``.
        """
        return self._found(lambda: self._encoder.encode_text([text])[0])

    def by_image(self, content: bytes) -> dict[str, Any]:
        """Returns the nearest images and captions of an image file; see `by_text`.

        Raises:
          UnreadableError: the content is not a readable image.
        """
        pixels = np.asarray(decode(content))
        return self._found(lambda: self._encoder.encode_image([pixels])[0])

    def picture(self, record: int) -> bytes:
        """Returns a thumbnail of a record's image as JPEG.

        Raises:
          UnreadableError: the image is unreadable, or the record does not exist.
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
                {
                    "record": record,
                    "score": score,
                    "caption": self._caption(record, number),
                    "count": self._index.count_of_text(number),
                }
                for number, record, score in texts
            ],
            "seconds": seconds,
        }

    def _caption(self, record: int, number: int | None = None) -> str:
        """Returns the first caption of a record, or the caption of a row of the index."""
        try:
            texts = captions(self._source[record])
        except UnreadableError:
            return ""
        return texts[0] if number is None else texts[self._index.place_of_text(number)]


class Server:
    """A server that is bound to a socket but not yet started.

    Args:
      app: the application.
      listening: the socket.
    """

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        self.server_address: tuple[str, int] = listening.getsockname()[:2]
        self._socket = listening
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=_Connection,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # invalid requests need no log
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=3,
                headers=list(_HEADERS.items()),
            )
        )

    def serve_forever(self) -> None:
        """Serves until a signal, or `shutdown` by another thread; raises KeyboardInterrupt after Ctrl-C."""
        self._server.run(sockets=[self._socket])

    def shutdown(self) -> None:
        """Requests the server to stop."""
        self._server.should_exit = True


def serve(search: Search, host: str, port: int) -> Server:
    """Returns a server that is bound but not yet started; port 0 selects a free port.

    Raises:
      OSError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=2048)
    is_local_only = host in ("localhost", "127.0.0.1", "::1")
    return Server(_guarded(_application(search), is_local_only), listening)


def _application(search: Search) -> Starlette:
    one_image = asyncio.Semaphore(1)  # untrusted images are decoded one at a time, whatever the number of requests
    one_text = asyncio.Semaphore(1)

    async def page(_: Request) -> Response:
        return HTMLResponse(_PAGE.replace("{count}", f"{len(search):,}"))

    async def picture(request: Request) -> Response:
        record = request.path_params["record"]
        if not (record.isascii() and record.isdecimal() and len(record) < 19):
            raise HTTPException(404, "not found")
        content = await _in_thread(lambda: search.picture(int(record)), one_image)
        return Response(content, media_type="image/jpeg")

    async def by_text(request: Request) -> Response:
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as body:
            await _receive(request, body, _LARGEST_TEXT)
            text = _text_of(body.read())
        return _json(await _in_thread(lambda: search.by_text(text), one_text))

    async def by_image(request: Request) -> Response:
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as body:
            await _receive(request, body, _LARGEST_IMAGE)
            return _json(await _in_thread(lambda: search.by_image(body.read()), one_image))

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/image/{record}", picture),
            Route("/text", by_text, methods=["POST"]),
            Route("/image", by_image, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refuse, Exception: _fail},
    )
    app.router.redirect_slashes = False  # redirects would use the Host header
    return app


async def _in_thread(work: Callable[[], Any], turn: asyncio.Semaphore) -> Any:
    try:
        async with turn:
            return await asyncio.to_thread(work)
    except (UnreadableError, UserError, ValueError) as error:
        raise HTTPException(400, printable(error)) from error
    except MemoryError as error:
        raise HTTPException(503, "out of memory") from error


async def _receive(request: Request, body: Any, limit: int) -> None:
    """Writes a request's body to a file, and rewinds the file.

    Raises:
      HTTPException: the body is empty, too large, or too slow.
    """
    content_length = request.headers.get("content-length", "0")
    size = 0
    if len(content_length) > 18 or int(content_length) > limit:
        raise _ending(413, f"expected a request body of up to {limit:,} bytes")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _ending(413, f"expected a request body of up to {limit:,} bytes")
                body.write(chunk)
    except TimeoutError as error:
        raise _ending(408, f"expected the whole request within {_BODY_SECONDS:g} seconds") from error
    if not size:
        raise HTTPException(413, f"expected a request body of 1 to {limit:,} bytes; found none")
    body.seek(0)


def _ending(status: int, words: str) -> HTTPException:
    """Returns an error response that closes the connection without reading the rest of the request."""
    return HTTPException(status, words, headers={"connection": "close"})


async def _refuse(_: Request, error: Exception) -> Response:
    refused = cast(HTTPException, error)
    return PlainTextResponse(refused.detail, refused.status_code, headers=dict(refused.headers or {}))


async def _fail(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("the query failed", 500)


def _json(content: dict[str, Any]) -> Response:
    return Response(json.dumps(content), media_type="application/json")


def _text_of(content: bytes) -> str:
    try:
        query = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"expected JSON; found something else ({printable(error)})") from error
    text = query.get("text") if isinstance(query, dict) else None
    if not isinstance(text, str) or not text.strip() or len(text) > _LETTERS:
        raise HTTPException(400, f'expected {{"text": "some words"}}, of up to {_LETTERS:,} characters')
    return text.encode("utf8", "replace").decode("utf8")


def _guarded(app: ASGIApp, is_local_only: bool) -> ASGIApp:
    """Wraps the application with checks of the Host and Origin headers, and turns errors into one-line messages.

    The checks protect against DNS rebinding and against cross-site form submissions.
    """

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        host = _HOST.fullmatch(headers.get(b"host", b"").decode("latin1").lower())
        origin = headers.get(b"origin", b"").decode("latin1").lower().partition("://")[2]
        if host is None:
            await PlainTextResponse("malformed Host header", 400)(scope, receive, send)
        elif is_local_only and host[1] not in _OURS:
            await PlainTextResponse("Host header not allowed", 403)(scope, receive, send)
        elif scope["method"] == "POST" and b"origin" in headers and origin != host[0]:
            await PlainTextResponse("Origin header not allowed", 403)(scope, receive, send)
        else:
            await app(scope, receive, send)

    async def caught(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await guard(scope, receive, send)
        except ClientDisconnect:
            pass
        except Exception as error:  # Starlette has already sent a response
            say(f"a query failed: {type(error).__name__}: {printable(error)}")

    return caught


class _Connection(H11Protocol):
    """Uvicorn's HTTP protocol with a timeout for idle connections, and our headers on its errors for invalid HTTP."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the timeout for the first request."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timeout."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def handle_events(self) -> None:
        """Handles events as Uvicorn does, and answers any parser error with status 400."""
        try:
            super().handle_events()
        except Exception:
            self.send_400_response("Invalid HTTP request received.")
        self._watch()

    def on_response_complete(self) -> None:
        """Starts the timeout for the next request."""
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answers invalid HTTP, unless another response is in progress."""
        headers = [
            *_HEADERS.items(),
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", str(len(msg))),
            ("connection", "close"),
        ]
        with contextlib.suppress(h11.LocalProtocolError):
            reply = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (reply, h11.Data(data=msg.encode()), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        """Runs the timeout only while no request is being answered."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif not is_answering and self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)
