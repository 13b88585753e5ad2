"""All processes of a run meet at the first's address, before JAX is given it.

Where others do not come JAX ends a process without a word that could be caught; here those that are missing are named.
Each process connects and sends its number and host; when all have, or the time is over, the first answers each.

Anybody may connect. A stranger is dropped: one who says something else, or nothing within `_PATIENCE` seconds, or who
does not know the launcher's token, where there is one (`TOKEN` in the environment of each process). Of the token only a
digest is sent.
"""

import contextlib
import hashlib
import hmac
import ipaddress
import selectors
import socket
import time
from dataclasses import dataclass

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable

TOKEN = "RANKCLIP_JAX_TOKEN"  # the variable; our launchers set it
_LONGEST = 1000  # bytes of a line
_PATIENCE = 5.0  # seconds that one who connects has for its line
_MOST_WAITING = 256  # connections that have not said yet who they are; of more the oldest is dropped
_PAUSE = 0.2


def meet(address: str, count: int, number: int, seconds: float, token: str = "") -> None:
    """Returns when all have come.

    Args:
      address: host and port of the first.
      count: how many processes there are.
      number: which of them this is.
      seconds: in which all must have come.
      token: what only processes of this run know; empty: whoever reaches the address is one of them.

    Raises:
      UserError: some are missing, two have the same number, or the first cannot be reached.
      OSError: the first cannot listen at the address.
    """
    end = time.monotonic() + seconds
    said = _wait_for_others(address, count, end, token) if number == 0 else _report(address, number, end, token)
    if said != "all":
        raise UserError(
            f"{socket.gethostname()}, process {number}: {printable(said, 2000)} within {seconds:g} seconds. Check that "
            "the command was started on every host and that the hosts reach each other, or allow more time: "
            "--config.processes.start_seconds=900"
        )


def listening_host(address: str) -> str:
    """Where the first process listens: at the address that was named, or on all interfaces.

    On all where the name does not say which: it is this host's own, which other hosts find at an address that this one
    does not (Debian's ``/etc/hosts`` gives it one of the loopback interface).
    """
    host = address.rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError:
        found = []
    is_own_name = host != "localhost" and all(ipaddress.ip_address(one).is_loopback for one in found)
    return "::" if is_own_name and socket.has_dualstack_ipv6() else "0.0.0.0" if is_own_name else found[0]


@dataclass
class _Guest:
    """One who has connected and not yet said who it is."""

    connection: socket.socket
    end: float
    read: bytes = b""


def _wait_for_others(address: str, count: int, end: float, token: str) -> str:
    """What became of the meeting; the others are told."""
    hosts = {0: socket.gethostname()}
    others: list[socket.socket] = []
    duplicate = ""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        server = stack.enter_context(_server(listening_host(address), int(address.rpartition(":")[2])))
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ)
        guests: dict[socket.socket, _Guest] = {}

        def drop(guest: _Guest) -> None:
            selector.unregister(guests.pop(guest.connection).connection)
            guest.connection.close()

        while len(hosts) < count and not duplicate and (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(min(left, _PAUSE)):
                if key.fileobj is server:
                    with contextlib.suppress(OSError):
                        connection = server.accept()[0]
                        connection.setblocking(False)
                        guests[connection] = _Guest(connection, time.monotonic() + _PATIENCE)
                        selector.register(connection, selectors.EVENT_READ)
                    continue
                guest = guests[key.fileobj]  # type: ignore[index]
                if not _hear(guest):
                    drop(guest)
                elif guest.read.endswith(b"\n"):
                    number, host = _who(guest.read, count, token)
                    if number is None:
                        drop(guest)
                        continue
                    selector.unregister(guests.pop(guest.connection).connection)
                    others.append(stack.enter_context(guest.connection))
                    if number in hosts:
                        duplicate = f"duplicate process ID {number}, on {hosts[number]} and on {host}"
                    hosts[number] = host
            now = time.monotonic()
            for guest in list(guests.values())[: max(len(guests) - _MOST_WAITING, 0)]:
                drop(guest)
            for guest in [one for one in guests.values() if one.end < now]:
                drop(guest)
        for guest in list(guests.values()):
            drop(guest)
        said = duplicate or _missing(hosts, count)
        for other in others:
            other.settimeout(1)
            with contextlib.suppress(OSError):
                other.sendall(f"{said}\n".encode())
    return said


def _missing(hosts: dict[int, str], count: int) -> str:
    missing = [number for number in range(count) if number not in hosts]
    if not missing:
        return "all"
    came = ", ".join(f"{number} on {host}" for number, host in sorted(hosts.items()))
    verb = "is" if len(missing) == 1 else "are"
    return f"{len(missing)} of {count} processes {verb} missing: {', '.join(map(str, missing))} ({came} came)"


def _hear(guest: _Guest) -> bool:
    """Reads what has come; whether the guest may still be one of ours."""
    try:
        more = guest.connection.recv(_LONGEST)
    except BlockingIOError:
        return True
    except OSError:
        return False
    guest.read += more
    return bool(more) and len(guest.read) <= _LONGEST


def _who(line: bytes, count: int, token: str) -> tuple[int | None, str]:
    """Number and host of a process of ours; no number: it is none."""
    words = line.decode(errors="replace").split()
    if len(words) != 3 or not (words[0].isascii() and words[0].isdecimal() and len(words[0]) < 10):
        return None, ""
    number, host, checksums = words
    if int(number) >= count or not hmac.compare_digest(checksums.encode(), _proof(token, number, host).encode()):
        return None, ""
    return int(number), printable(host)


def _proof(token: str, number: int | str, host: str) -> str:
    return hmac.new(token.encode(), f"{number} {host}".encode(), hashlib.sha256).hexdigest()


def _report(address: str, number: int, end: float, token: str) -> str:
    """What the first process said."""
    host, _, port = address.rpartition(":")
    name = socket.gethostname()
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), left) as first:
            first.sendall(f"{number} {name} {_proof(token, number, name)}\n".encode())
            # The first process may be the later one to see that the time is over.
            if said := _line(first, end + _PATIENCE):
                return said
        time.sleep(_PAUSE)
    return f"the first process did not answer at {address}"


def _server(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, dualstack_ipv6=host == "::", backlog=4096)


def _line(connection: socket.socket, end: float) -> str:
    """Up to the end of the line; empty: the other side closed it, or the time is over."""
    read = b""
    while not read.endswith(b"\n") and len(read) < 100 * _LONGEST and (left := end - time.monotonic()) > 0:
        connection.settimeout(left)
        more = connection.recv(_LONGEST)
        if not more:
            return ""
        read += more
    return read.decode(errors="replace").strip() if read.endswith(b"\n") else ""
