"""The search page's server as strangers ask it, over real sockets; what it searches is made up."""

import base64
import concurrent.futures
import contextlib
import hashlib
import html.parser
import json
import random
import re
import socket
import threading
import time

import pytest

from rankclip_jax.input_pipeline.errors import UnreadableError
from rankclip_jax.search import server as servers

SECURE = {
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class MadeUp:
    """What a `Search` answers, and how many images were decoded at once."""

    def __init__(self):
        self.at_once = self.most = 0
        self._lock = threading.Lock()

    def __len__(self):
        return 3

    def by_text(self, text):
        if text == "fail":
            raise RuntimeError("a\n\x1b[2Jb")
        if text == "memory":
            raise MemoryError
        return {"images": [], "texts": [], "seconds": 0.0, "text": text}

    def by_image(self, content):
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.05)
        with self._lock:
            self.at_once -= 1
        if content.startswith(b"bad"):
            raise UnreadableError("no\nimage \x1b[2J")
        return {"images": [], "texts": [], "seconds": 0.0, "bytes": len(content)}

    def picture(self, record):
        if record > 2:
            raise UnreadableError(f"no record {record}")
        return b"\xff\xd8"


@pytest.fixture(scope="module")
def running():
    """A server whose time-outs are short, and what it asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(servers, "_HEAD_SECONDS", 1.5)
        patch.setattr(servers, "_BODY_SECONDS", 2.0)
        search = MadeUp()
        server = servers.serve(search, "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address, search
        server.shutdown()
        thread.join(30)
        assert not thread.is_alive()


def talk(address, content, seconds=20):
    """All that comes back until the server closes, or nothing more comes for a while."""
    with socket.create_connection(address, seconds) as connection:
        read = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(content)
        with contextlib.suppress(ConnectionError):
            while more := connection.recv(1 << 16):
                read += more
        return read


def post(path, body, *headers, host="localhost"):
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path, *headers, host="localhost"):
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]).encode()


def text(words):
    return json.dumps({"text": words}).encode()


def status_of(reply):
    return int(reply.split(b" ", 2)[1])


def headers_of(reply):
    head = reply.partition(b"\r\n\r\n")[0].decode("latin1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in head)}


def check_secure(reply):
    headers = headers_of(reply)
    for name, value in SECURE.items():
        assert headers.get(name) == value, (name, reply[:500])
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_a_hundred_queries_at_once_are_all_answered(running):
    address, search = running
    asked = [post("/text", text(f"words {number}")) for number in range(100)]
    asked += [post("/image", b"\x89PNG" + bytes(100_000)) for _ in range(20)]
    with concurrent.futures.ThreadPoolExecutor(120) as threads:
        replies = list(threads.map(lambda content: talk(address, content, 60), asked))
    assert [status_of(reply) for reply in replies] == [200] * 120
    assert {json.loads(reply.partition(b"\r\n\r\n")[2])["text"] for reply in replies[:100]} == {
        f"words {number}" for number in range(100)
    }
    assert search.most == 1  # image at a time


REFUSED = {
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "no host in HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", 400),
    "half an address as host": (get("/", host="["), 400),
    "a host of letters": (get("/", host="a b"), 400),
    "a host that is no name": (get("/", host="localhost:99999999"), 400),
    "two hosts": (get("/", "Host: evil.example"), 400),
    "another host": (get("/", host="evil.example"), 403),
    "another host for words": (post("/text", text("a"), host="evil.example:8000"), 403),
    "ours as a part": (get("/", host="localhost.evil.example"), 403),
    "a form of another site": (post("/text", text("a"), "Origin: https://evil.example"), 403),
    "a form of nowhere": (post("/text", text("a"), "Origin: null"), 403),
    "5,000 digits": (b"POST /text HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    "18 digits": (b"POST /text HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 18 + b"\r\n\r\n", 413),
    "a negative length": (b"POST /text HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 400),
    "two lengths": (post("/text", text("a"), "Content-Length: 3"), 400),
    "deep JSON": (post("/text", b"[" * 60_000), 400),
    "deep JSON of objects": (post("/text", b'{"a":' * 10_000), 400),
    "a number of 5,000 digits": (post("/text", b'{"text": ' + b"9" * 5000 + b"}"), 400),
    "no JSON": (post("/text", b"{"), 400),
    "no UTF-8": (post("/text", b'{"text": "\xff"}'), 400),
    "no words": (post("/text", text(" \n")), 400),
    "many words": (post("/text", text("a " * 4000)), 400),
    "too many bytes": (post("/text", text("a" * 100_000)), 413),
    "nothing": (post("/text", b""), 413),
    "too large an image": (post("/image", b"", "X: y").replace(b"Length: 0", b"Length: 40000000"), 413),
    "no image": (post("/image", b"bad"), 400),
    "a long number": (get("/image/" + "1" * 5000), 404),
    "a number of another script": (get("/image/%D9%A3"), 404),
    "no such record": (get("/image/77"), 400),
    "a path upwards": (get("/image/../../etc/passwd"), 404),
    "an escaped path": (get("/%2e%2e/%00%0a%1b"), 404),
    "another address": (get("http://["), 404),
    "a slash too many": (get("/text/"), 404),
    "another method": (get("/text"), 405),
    "no method": (b"\x00\xff / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "an endless head": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 66_000, 400),
    "a broken chunk": (
        b"POST /text HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400,
    ),
    "a chunk of 5,000 digits": (
        b"POST /text HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\n", 400,
    ),
    "an unknown encoding": (b"POST /text HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: x\r\n\r\n", 501),
    "memory": (post("/text", text("memory")), 503),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_query_is_refused_without_a_traceback(name, running, capfd):
    content, status = REFUSED[name]
    reply = talk(running[0], content)
    assert status_of(reply) in (status, 400), reply[:300]
    check_secure(reply)
    assert not any(byte < 32 for byte in reply.partition(b"\r\n\r\n")[2])
    assert status_of(talk(running[0], get("/"))) == 200
    assert capfd.readouterr() == ("", "")
    if status == 403:
        assert reply.endswith(b"header not allowed")


def test_what_fails_is_one_line(running, capfd):
    reply = talk(running[0], post("/text", text("fail")))
    assert (status_of(reply), reply.partition(b"\r\n\r\n")[2]) == (500, b"the query failed")
    check_secure(reply)
    assert capfd.readouterr() == ("a query failed: RuntimeError: a\\n\\x1b[2Jb\n", "")


def test_every_reply_keeps_other_sites_out(running):
    for content in (get("/"), get("/image/1"), post("/text", text("a")), post("/image", b"x"), get("/none")):
        check_secure(talk(running[0], content))


def test_connections_that_wait_or_drip_are_closed(running):
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(running[0], 10)) for _ in range(400)]
        idle[0].sendall(b"GET / HT")
        idle[1].sendall(get("/").replace(b"close", b"keep-alive"))
        assert status_of(talk(running[0], get("/"))) == 200  # beside them
        for connection in idle:
            connection.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1 << 16):
                    pass
    assert time.monotonic() - start < 9


def drip(address, head, part):
    """What is answered to a request that never ends."""
    with socket.create_connection(address, 10) as connection:
        connection.sendall(head)
        read, end = b"", time.monotonic() + 15
        connection.settimeout(0.05)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    if not (more := connection.recv(1 << 16)):
                        return read
                    read += more
                connection.sendall(part)
        assert time.monotonic() < end, "still open"
        return read


CHUNKED = b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_requests_without_an_end_are_ended(running):
    whole = running[0]
    assert status_of(drip(whole, CHUNKED % b"/image", b"1\r\na\r\n")) == 408
    assert status_of(drip(whole, CHUNKED % b"/text", b"4000\r\n" + b"a" * 0x4000 + b"\r\n")) == 413
    assert status_of(drip(whole, CHUNKED % b"/image", b"100000\r\n" + b"a" * 0x100000 + b"\r\n")) == 413
    drip(whole, b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-a: b\r\n")  # closed, with or without a reply
    drip(whole, CHUNKED % b"/none", b"1\r\na\r\n")
    assert status_of(talk(whole, get("/"))) == 200


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_never_end_the_server(seed, running, capfd):
    """Requests with bytes of them altered, cut or doubled: none is left without an end, none makes a traceback."""
    rng = random.Random(seed)
    whole = [content for content, _ in REFUSED.values() if len(content) < 2000] + [post("/text", text("a")), get("/")]

    def mutated():
        content = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(content))
            match rng.randrange(3):
                case 0:
                    content[place] = rng.randrange(256)
                case 1:
                    del content[place : place + rng.randint(1, 9)]
                case _:
                    content[place:place] = content[place : place + rng.randint(1, 20)]
        return bytes(content) or b"x"

    asked = [mutated() for _ in range(60)]
    with concurrent.futures.ThreadPoolExecutor(30) as threads:
        replies = list(threads.map(lambda content: talk(running[0], content), asked))
    for reply in replies:
        if reply:
            assert 200 <= status_of(reply) < 505
            assert status_of(reply) != 500
            check_secure(reply)
    assert status_of(talk(running[0], get("/"))) == 200
    assert "Traceback" not in "".join(capfd.readouterr())


class Page(html.parser.HTMLParser):
    """The elements of the page, with their attributes and the text of scripts and styles."""

    def __init__(self, content):
        super().__init__()
        self.elements, self.texts = [], {}
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] in ("script", "style"):
            self.texts.setdefault(self.elements[-1][0], data)


def test_the_page_is_for_everybody_and_its_policy_allows_what_it_needs(running):
    reply = talk(running[0], get("/"))
    page = Page(reply.partition(b"\r\n\r\n")[2].decode())
    policy = dict(part.strip().split(" ", 1) for part in headers_of(reply)["content-security-policy"].split(";"))
    tags = [tag for tag, _ in page.elements]
    assert [tags.count(tag) for tag in ("main", "h1", "script", "style")] == [1] * 4
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.texts[tag].encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not any(name.startswith("on") or name == "style" for _, attrs in page.elements for name in attrs)
    icon = next(attrs["href"] for tag, attrs in page.elements if tag == "link" and attrs["rel"] == "icon")
    assert icon.startswith("data:image/svg+xml,")
    assert "data:" in policy["img-src"]
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements
    for tag, attrs in page.elements:  # what one can act on is reached and named without a mouse
        if tag == "input":
            assert attrs.get("tabindex") is None
            assert "aria-label" in attrs or attrs["type"] == "file"
            assert "hidden" not in attrs
    assert ":focus-visible" in page.texts["style"]
    assert not re.search(r"https?://(?!www\.w3\.org)", reply.partition(b"\r\n\r\n")[2].decode())


def test_whoever_opens_it_to_others_is_asked_by_any_name():
    server = servers.serve(MadeUp(), "0.0.0.0", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = ("127.0.0.1", server.server_address[1])
    assert status_of(talk(address, get("/", host="my-machine.example:8000"))) == 200
    assert status_of(talk(address, get("/", host="["))) == 400
    server.shutdown()
    thread.join(30)
