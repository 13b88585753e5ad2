"""Processes that meet, those that wait in vain, and strangers, over real sockets."""

import concurrent.futures
import contextlib
import socket
import threading
import time

import pytest

from rankclip_jax.distributed import rendezvous
from rankclip_jax.distributed.rendezvous import listening_host, meet
from rankclip_jax.input_pipeline.errors import UserError


def free_address():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def outcomes(numbers, count, seconds, address=None, tokens=None):
    """What became of each, in turn: its error's words, or None."""
    address = address or free_address()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        found = [
            threads.submit(meet, address, count, number, seconds, (tokens or {}).get(number, ""))
            for number in numbers
        ]  # fmt: skip
        return [str(one.exception()) if one.exception() else None for one in found]


def connect(address, seconds=10):
    """A connection to a server that is about to listen."""
    host, port = address.split(":")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            return socket.create_connection((host, int(port)), 1)
        time.sleep(0.02)
    raise AssertionError("nobody listens")


def test_all_go_on_when_all_have_come():
    assert outcomes([2, 0, 1, 3], 4, 30) == [None] * 4
    assert outcomes([2, 0, 1, 3], 4, 30, tokens=dict.fromkeys(range(4), "secret")) == [None] * 4


def test_who_is_missing_is_told_to_all():
    host = socket.gethostname()
    for said in outcomes([0, 2], 4, 1.5):
        assert f"2 of 4 processes are missing: 1, 3 (connected: 0 on {host}, 2 on {host}) within 1.5 seconds" in said


def test_two_with_one_number_are_told():
    assert all("duplicate process ID 1, on" in said for said in outcomes([0, 1, 1], 3, 5)[:1])


def drip(address, over):
    """A byte a moment, for ever, never the end of a line."""
    with contextlib.suppress(OSError), connect(address) as one:
        while not over.wait(0.1):
            one.sendall(b"1")


def silent(address, over):
    with contextlib.suppress(OSError), connect(address) as one:
        over.wait()
        del one


def says(*lines):
    def stranger(address, over):
        for line in lines:
            with contextlib.suppress(OSError), connect(address) as one:
                one.sendall(line)
                one.recv(100)

    return stranger


STRANGERS = {
    "a byte at a time": drip,
    "silent": silent,
    "of the web": says(b"GET / HTTP/1.1\n"),
    "binary": says(bytes(range(256)) * 20, b"\xff\n", b"\0\0\n", b"\n", "٣ host x\n".encode(), b"9" * 900 + b" a b\n"),
    "claiming a number": says(b"1 evil\n", b"1 evil 0\n", b"1 evil " + b"0" * 64 + b"\n", b"1 \x1b[2J x\n"),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_strangers_neither_count_nor_hold_anybody_up(kind):
    address, over = free_address(), threading.Event()
    strangers = [threading.Thread(target=STRANGERS[kind], args=(address, over), daemon=True) for _ in range(20)]
    for one in strangers:
        one.start()
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        first = threads.submit(meet, address, 2, 0, 60, "secret")
        time.sleep(1)  # the strangers are there already
        threads.submit(meet, address, 2, 1, 60, "secret").result()
        first.result()
    over.set()
    assert time.monotonic() - start < 30


def test_the_time_is_over_when_it_is_whoever_talks():
    address, over = free_address(), threading.Event()
    strangers = [threading.Thread(target=drip, args=(address, over), daemon=True) for _ in range(5)]
    for one in strangers:
        one.start()
    start = time.monotonic()
    assert "1 of 2 processes is missing: 1" in outcomes([0], 2, 2, address)[0]
    over.set()
    assert time.monotonic() - start < 10


def test_a_stranger_who_listens_at_the_address_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(rendezvous, "_PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address, over = f"127.0.0.1:{server.getsockname()[1]}", threading.Event()

        def drip_answers():
            connection = server.accept()[0]
            with contextlib.suppress(OSError), connection:
                while not over.wait(0.1):
                    connection.sendall(b"a")

        threading.Thread(target=drip_answers, daemon=True).start()
        start = time.monotonic()
        with pytest.raises(UserError, match="process 0 did not answer"):
            meet(address, 2, 1, 1)
        over.set()
        assert time.monotonic() - start < 8


def test_what_another_service_answers_is_shown_on_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with server.accept()[0] as connection:
                connection.recv(100)
                connection.sendall(b"SSH-2.0 \x1b[2J\x07\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(UserError) as error:
            meet(f"127.0.0.1:{server.getsockname()[1]}", 2, 1, 5)
    assert r"SSH-2.0 \x1b[2J\x07" in str(error.value)


def test_another_token_is_a_strangers():
    said = outcomes([0, 1], 2, 1, tokens={0: "ours", 1: "theirs"})
    assert "1 of 2 processes is missing: 1" in said[0]
    assert "did not answer" in said[1]


def test_the_first_listens_at_the_address_that_was_named():
    address = free_address()
    port = int(address.partition(":")[2])
    with concurrent.futures.ThreadPoolExecutor() as threads:
        waiting = threads.submit(meet, address, 2, 0, 3)
        connect(address).close()
        with socket.create_server(("127.0.0.2", port)):  # free, since nobody listens on all interfaces
            pass
        assert waiting.exception()


def test_a_name_of_this_host_alone_is_listened_for_everywhere(monkeypatch):
    assert listening_host("127.0.0.1:5") == "127.0.0.1"
    assert listening_host("[::1]:5") == "::1"
    assert listening_host("localhost:5") in ("127.0.0.1", "::1")
    for found, host in (("127.0.1.1", None), ("10.1.2.3", "10.1.2.3")):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=found, **__: [(0, 0, 0, "", (found, 0))])
        assert listening_host("node1:5") in ({host} if host else {"::", "0.0.0.0"})


def test_without_the_first_the_address_is_named():
    with pytest.raises(UserError, match=r"process 1: process 0 did not answer at 127\.0\.0\.1:\d+ within 1"):
        meet(free_address(), 2, 1, 1)
