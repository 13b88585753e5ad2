"""Processes that meet, and those that wait in vain."""

import concurrent.futures
import socket

import pytest

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.parallel.rendezvous import meet


def free_address():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def outcomes(numbers, count, seconds, address=None):
    """What became of each, in turn: its error's words, or None."""
    address = address or free_address()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        found = [threads.submit(meet, address, count, number, seconds) for number in numbers]
        return [str(one.exception()) if one.exception() else None for one in found]


def test_all_go_on_when_all_have_come():
    assert outcomes([2, 0, 1, 3], 4, 30) == [None] * 4


def test_who_is_missing_is_told_to_all():
    host = socket.gethostname()
    for said in outcomes([0, 2], 4, 1.5):
        assert f"of 4 processes, 1, 3 did not come (0 on {host}, 2 on {host} did) within 1.5 seconds" in said


def test_two_with_one_number_are_told():
    assert all("came with one number" in said for said in outcomes([0, 1, 1], 3, 5)[:1])


def test_strangers_are_not_counted():
    address = free_address()
    host, port = address.split(":")

    def stranger():
        for _ in range(100):
            try:
                with socket.create_connection((host, int(port)), 1) as one:
                    one.sendall(b"GET / HTTP/1.1\n")
                    return
            except OSError:
                continue

    with concurrent.futures.ThreadPoolExecutor() as threads:
        threads.submit(stranger)
        assert outcomes([0, 1], 2, 20, address) == [None, None]


def test_without_the_first_the_address_is_named():
    with pytest.raises(UserError, match=r"process 1: the first process did not answer at 127\.0\.0\.1:\d+ within 1"):
        meet(free_address(), 2, 1, 1)
