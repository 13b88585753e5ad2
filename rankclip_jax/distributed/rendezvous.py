"""Rendezvous of all processes of a run at the coordinator's address, before JAX uses it.

If some processes are missing, JAX ends the process without an exception; this names the missing ones instead. Each
process connects to process 0 and sends its ID and host. When all have connected, or at the timeout, process 0 answers
each of them.

Anyone may connect. Process 0 drops a connection that sends anything else, sends nothing within `_PATIENCE` seconds, or
lacks the launcher's token, if there is one (`TOKEN` in the environment of each process). Only a digest of the token is
sent.
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

TOKEN = "RANKCLIP_JAX_TOKEN"  # the environment variable, set by our launch scripts
_MAX_LINE_BYTES = 1000
_PATIENCE = 5.0  # seconds that a connection has to send its line
_MAX_PENDING = 256  # connections that have not identified themselves; beyond this the oldest are dropped
_PAUSE = 0.2  # seconds between polls or attempts


def meet(address: str, count: int, number: int, seconds: float, token: str = "") -> None:
    """Blocks until all processes have connected.

    Args:
      address: host and port of process 0.
      count: the number of processes.
      number: the ID of this process.
      seconds: the timeout.
      token: a secret of this run's processes; empty: any process that reaches the address may join.

    Raises:
      UserError: processes are missing, two have the same ID, or process 0 cannot be reached.
      OSError: process 0 cannot listen on the address.
    """
    end = time.monotonic() + seconds
    is_first = number == 0
    outcome = _wait_for_others(address, count, end, token) if is_first else _report(address, number, end, token)
    if outcome != "all":
        raise UserError(
            f"{socket.gethostname()}, process {number}: {printable(outcome, 2000)} within {seconds:g} seconds. Check "
            "that the command was started on every host and that the hosts reach each other, or allow more time: "
            "--config.processes.start_seconds=900"
        )


def listening_host(address: str) -> str:
    """Returns the address that process 0 listens on: the given one, or all interfaces.

    It is all interfaces if this host resolves its own name to a loopback address, as with Debian's ``/etc/hosts``:
    other hosts reach that name at an address that this host does not know.
    """
    host = address.rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    try:
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError:
        addresses = []
    is_own_name = host != "localhost" and all(ipaddress.ip_address(found).is_loopback for found in addresses)
    return "::" if is_own_name and socket.has_dualstack_ipv6() else "0.0.0.0" if is_own_name else addresses[0]


@dataclass
class _PendingConnection:
    """A connection that has not identified itself yet."""

    connection: socket.socket
    end: float
    read: bytes = b""


def _wait_for_others(address: str, count: int, end: float, token: str) -> str:
    """Waits as process 0; returns "all" or what went wrong, and sends it to the other processes."""
    hosts = {0: socket.gethostname()}
    others: list[socket.socket] = []
    duplicate = ""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        server = stack.enter_context(_server(listening_host(address), int(address.rpartition(":")[2])))
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ)
        pending: dict[socket.socket, _PendingConnection] = {}

        def drop(client: _PendingConnection) -> None:
            selector.unregister(pending.pop(client.connection).connection)
            client.connection.close()

        while len(hosts) < count and not duplicate and (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(min(left, _PAUSE)):
                if key.fileobj is server:
                    with contextlib.suppress(OSError):
                        connection = server.accept()[0]
                        connection.setblocking(False)
                        pending[connection] = _PendingConnection(connection, time.monotonic() + _PATIENCE)
                        selector.register(connection, selectors.EVENT_READ)
                    continue
                client = pending[key.fileobj]  # type: ignore[index]
                if not _receive(client):
                    drop(client)
                elif client.read.endswith(b"\n"):
                    number, host = _parse_line(client.read, count, token)
                    if number is None:
                        drop(client)
                        continue
                    selector.unregister(pending.pop(client.connection).connection)
                    others.append(stack.enter_context(client.connection))
                    if number in hosts:
                        duplicate = f"duplicate process ID {number}, on {hosts[number]} and on {host}"
                    hosts[number] = host
            now = time.monotonic()
            for client in list(pending.values())[: max(len(pending) - _MAX_PENDING, 0)]:
                drop(client)
            for client in [late for late in pending.values() if late.end < now]:
                drop(client)
        for client in list(pending.values()):
            drop(client)
        outcome = duplicate or _missing(hosts, count)
        for other in others:
            other.settimeout(1)
            with contextlib.suppress(OSError):
                other.sendall(f"{outcome}\n".encode())
    return outcome


def _missing(hosts: dict[int, str], count: int) -> str:
    missing = [number for number in range(count) if number not in hosts]
    if not missing:
        return "all"
    connected = ", ".join(f"{number} on {host}" for number, host in sorted(hosts.items()))
    verb = "is" if len(missing) == 1 else "are"
    return (
        f"{len(missing)} of {count} processes {verb} missing: {', '.join(map(str, missing))} (connected: {connected})"
    )


def _receive(client: _PendingConnection) -> bool:
    """Reads the bytes that have arrived; returns whether the connection is still acceptable."""
    try:
        more = client.connection.recv(_MAX_LINE_BYTES)
    except BlockingIOError:
        return True
    except OSError:
        return False
    client.read += more
    return bool(more) and len(client.read) <= _MAX_LINE_BYTES


def _parse_line(line: bytes, count: int, token: str) -> tuple[int | None, str]:
    """Returns the ID and host in a valid line of a process; None and "" for any other line."""
    words = line.decode(errors="replace").split()
    if len(words) != 3 or not (words[0].isascii() and words[0].isdecimal() and len(words[0]) < 10):
        return None, ""
    number, host, digest = words
    if int(number) >= count or not hmac.compare_digest(digest.encode(), _token_digest(token, number, host).encode()):
        return None, ""
    return int(number), printable(host)


def _token_digest(token: str, number: int | str, host: str) -> str:
    return hmac.new(token.encode(), f"{number} {host}".encode(), hashlib.sha256).hexdigest()


def _report(address: str, number: int, end: float, token: str) -> str:
    """Connects to process 0, and returns its answer."""
    host, _, port = address.rpartition(":")
    name = socket.gethostname()
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), left) as first:
            first.sendall(f"{number} {name} {_token_digest(token, number, name)}\n".encode())
            # Process 0 may reach the timeout later than this one.
            if answer := _read_line(first, end + _PATIENCE):
                return answer
        time.sleep(_PAUSE)
    return f"process 0 did not answer at {address}"


def _server(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, dualstack_ipv6=host == "::", backlog=4096)


def _read_line(connection: socket.socket, end: float) -> str:
    """Reads one line; returns "" if the other side closes the connection or the time is over."""
    read = b""
    while not read.endswith(b"\n") and len(read) < 100 * _MAX_LINE_BYTES and (left := end - time.monotonic()) > 0:
        connection.settimeout(left)
        more = connection.recv(_MAX_LINE_BYTES)
        if not more:
            return ""
        read += more
    return read.decode(errors="replace").strip() if read.endswith(b"\n") else ""
