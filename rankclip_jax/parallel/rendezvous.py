"""All processes of a run meet at the first's address, before JAX is given it.

Where others do not come JAX ends a process without a word that could be caught; here those that are missing are named.
Each process connects and says its number and host; when all have, or the time is over, the first answers each.
"""

import contextlib
import socket
import time

from rankclip_jax.input_pipeline.errors import UserError

_LONGEST = 1000  # bytes of a line
_PAUSE = 0.2


def meet(address: str, count: int, number: int, seconds: float) -> None:
    """Returns when all have come.

    Args:
      address: host and port of the first.
      count: how many processes there are.
      number: which of them this is.
      seconds: in which all must have come.

    Raises:
      UserError: some did not come, two have one number, or the first cannot be reached.
    """
    end = time.monotonic() + seconds
    said = _wait_for_others(address, count, end) if number == 0 else _report(address, number, end)
    if said != "all":
        raise UserError(
            f"{socket.gethostname()}, process {number}: {said} within {seconds:g} seconds. See that the command was "
            "started on every host and that they reach each other, or give them longer: "
            "--config.processes.start_seconds=900"
        )


def _wait_for_others(address: str, count: int, end: float) -> str:
    """What was found; the others are told."""
    port = int(address.rpartition(":")[2])
    hosts = {0: socket.gethostname()}
    twice: list[str] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_server(port))
        others: list[socket.socket] = []
        while len(hosts) < count and not twice and (left := end - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(OSError):
                other = stack.enter_context(server.accept()[0])
                other.settimeout(min(left, 5))
                number, _, host = _line(other).partition(" ")
                if not number.isdecimal() or int(number) >= count:
                    continue  # nobody of ours
                if int(number) in hosts:
                    twice = [hosts[int(number)], host]
                hosts[int(number)] = host
                others.append(other)
        missing = ", ".join(str(number) for number in range(count) if number not in hosts)
        came = ", ".join(f"{number} on {host}" for number, host in sorted(hosts.items()))
        said = f"of {count} processes, {missing} did not come ({came} did)" if missing else "all"
        if twice:
            said = f"two processes, on {twice[0]} and {twice[1]}, came with one number"
        for other in others:
            with contextlib.suppress(OSError):
                other.sendall(f"{said}\n".encode())
    return said


def _report(address: str, number: int, end: float) -> str:
    """What the first process said."""
    host, _, port = address.rpartition(":")
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), left) as first:
            first.sendall(f"{number} {socket.gethostname()}\n".encode())
            first.settimeout(left + 5)  # the first process may be the later one to see that the time is over
            if said := _line(first):
                return said
        time.sleep(_PAUSE)
    return f"the first process did not answer at {address}"


def _server(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
    return socket.create_server(("", port), backlog=4096)


def _line(connection: socket.socket) -> str:
    """Up to the end of the line; empty: the other side closed it."""
    read = b""
    while not read.endswith(b"\n") and len(read) < _LONGEST:
        more = connection.recv(_LONGEST)
        if not more:
            return ""
        read += more
    return read.decode(errors="replace").strip()
