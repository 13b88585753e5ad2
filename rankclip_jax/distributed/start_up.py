"""How the processes of a run find each other, before any of them touches a device.

What the launcher has put into the environment says how many there are. Where JAX finds that itself, it does (Open MPI,
Cloud TPU, GKE); the rest is read here:

| launcher | variables |
|---|---|
| our scripts, Kubeflow Trainer | `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID` |
| JobSet | the first two of these, and Kubernetes' own `JOB_COMPLETION_INDEX` |
| SkyPilot | `SKYPILOT_NODE_IPS`, `SKYPILOT_NODE_RANK`, `SKYPILOT_NUM_NODES` |
| SLURM | `SLURM_STEP_NUM_TASKS`, `SLURM_PROCID` and others: a process for each GPU, or one for each node |

`RANKCLIP_JAX_TOKEN`, where it is set for all, keeps strangers out of the meeting of processes (`rendezvous`).
"""

import dataclasses
import importlib.util
import logging
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rankclip_jax import __version__
from rankclip_jax.distributed import rendezvous
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.explained import PrintableFormatter

_PORT = 8476  # of the first process, where the launcher names none
_LONGEST = 16_384  # bytes of what a process tells the others of itself


@dataclasses.dataclass(frozen=True)
class TensorMapping:
    """A process's place among the processes of a run.

    Args:
      launcher: what was found to have started it.
      count: how many processes there are; None: JAX finds it.
      number: which of them this is, from 0; None: JAX finds it.
      coordinator: address and port of the first; None: JAX finds it.
      local_devices: the GPUs of this host that are this process's; None: all that it sees.
    """

    launcher: str
    count: int | None
    number: int | None = None
    coordinator: str | None = None
    local_devices: tuple[int, ...] | None = None


def start(config: ConfigDict) -> list[str]:
    """Joins the processes of the run, or does nothing where this is the only one.

    Args:
      config: the settings under ``config.processes``.

    Returns:
      The host of each process that was joined.

    Raises:
      UserError: what the environment says is incomplete, or fewer processes came than it speaks of.
    """
    place = place_in(os.environ)
    if place is None or jax.distributed.is_initialized():
        return []
    explicit, count = place.coordinator is not None, place.count or "unknown number of"
    if place.coordinator and place.count and place.number is not None:
        try:
            token = os.environ.get(rendezvous.TOKEN, "")
            rendezvous.meet(place.coordinator, place.count, place.number, config.start_seconds, token)
        except OSError as error:
            raise UserError(
                f"{socket.gethostname()}: cannot listen at {place.coordinator} for the other processes ({error}). "
                "Expected an address of this host and a free port; set another with JAX_COORDINATOR_ADDRESS."
            ) from error
    bind_address = None
    if place.coordinator and place.number == 0:
        host = rendezvous.listening_host(place.coordinator)
        bind_address = f"{f'[{host}]' if ':' in host else host}:{place.coordinator.rpartition(':')[2]}"
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.count if explicit else None,
            place.number,
            local_device_ids=place.local_devices,
            cluster_detection_method="deactivate" if explicit else None,
            initialization_timeout=config.start_seconds,
            heartbeat_timeout_seconds=config.heartbeat_seconds,
            shutdown_timeout_seconds=config.heartbeat_seconds,
            coordinator_bind_address=bind_address,
        )
    except (RuntimeError, ValueError, TypeError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(
            f"{socket.gethostname()}: {place.launcher} reports {count} processes, but not all of them started within "
            f"{config.start_seconds} seconds, or could not reach {place.coordinator or 'the first'} ({words}). See "
            "that the command was started on every host, or give them longer: --config.processes.start_seconds=900"
        ) from error
    if place.count and jax.process_count() != place.count:
        raise UserError(
            f"{socket.gethostname()}: {place.launcher} reports {place.count} processes, but {jax.process_count()} "
            "started. Start the command once for each of them."
        )
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PrintableFormatter(named("%(message)s")))
    return check_same_on_all({"JAX": jax.__version__, "rankclip_jax": __version__, "devices": _devices_here()})


def place_in(environment: Mapping[str, str]) -> TensorMapping | None:
    """What the environment says of the processes; None: this is the only one.

    Raises:
      UserError: it says only a part, or what cannot be.
    """
    for find in (_named_by_jax, _in_skypilot, _in_slurm, _found_by_jax):
        place = find(environment)
        if place is None:
            continue
        if place.count and place.number is not None and place.number >= place.count:
            raise UserError(
                f"{place.launcher}: this is process {place.number} of {place.count}; expected 0 to {place.count - 1}."
            )
        return None if place.count == 1 else place
    return None


def named(line: str) -> str:
    """A line as this process says it: all but the first say where it comes from."""
    if not jax.distributed.is_initialized() or not jax.process_index():
        return line
    return f"{socket.gethostname()}, process {jax.process_index()}: {line}"


def check_same_on_all(facts: Mapping[str, object]) -> list[str]:
    """The host of each process, where every process calls this with the same facts.

    Args:
      facts: what must agree, by name; long ones are told by how they begin and by a hash by the caller.

    Raises:
      UserError: they differ; it names the hosts.
    """
    if jax.process_count() == 1:
        return [socket.gethostname()]
    lines = "\n".join([socket.gethostname(), *(f"{name}: {value}" for name, value in facts.items())])
    row = np.zeros(_LONGEST, np.uint8)
    told = lines.encode()[:_LONGEST]
    row[: len(told)] = np.frombuffer(told, np.uint8)
    theirs = [bytes(row).rstrip(b"\0").decode(errors="replace").split("\n") for row in _gather(row)]
    first, expected = theirs[0][0], theirs[0][1:]
    for number, (name, *found) in enumerate(theirs):
        for here, there in zip(expected, found, strict=False):
            if here != there:
                raise UserError(
                    f"the processes of this run do not agree: {name}, process {number}, has {there}; {first}, process "
                    f"0, has {here}. Start all of them with the same command, files and installation."
                )
    return [name for name, *_ in theirs]


def _gather(row: np.ndarray) -> np.ndarray:
    """The rows of all processes, ``[processes, ...]``; hosts may have different numbers of devices."""
    first = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.asarray([first[number] for number in range(jax.process_count())]), ("process",))
    shape = (jax.process_count(), *row.shape)
    rows = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("process")), row[None], shape)
    everywhere = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(rows)
    return np.asarray(everywhere.addressable_data(0))


def _devices_here() -> str:
    kinds = sorted({device.device_kind for device in jax.local_devices()})
    return f"{jax.local_device_count()} x {', '.join(kinds)}"


def _named_by_jax(environment: Mapping[str, str]) -> TensorMapping | None:
    """The variables that Kubeflow Trainer sets, our scripts too, and in part the manifests of JobSets."""
    count, address = environment.get("JAX_NUM_PROCESSES"), environment.get("JAX_COORDINATOR_ADDRESS")
    number = environment.get("JAX_PROCESS_ID", environment.get("JOB_COMPLETION_INDEX"))
    if count is None and (address is None or "SLURM_STEP_NUM_TASKS" in environment):
        return None
    found = {"JAX_NUM_PROCESSES": count, "JAX_COORDINATOR_ADDRESS": address, "JAX_PROCESS_ID": number}
    if count == "1":
        return TensorMapping("JAX_NUM_PROCESSES", 1)
    for name, value in found.items():
        if not value:
            given = ", ".join(f"{other}={one}" for other, one in found.items() if one)
            raise UserError(f"{name}: not set, while {given} is. Processes that are to find each other need all three.")
    if ":" not in str(address):
        address = f"{address}:{_PORT}"
    places, place = (_whole(name, found[name]) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    return TensorMapping("JAX_NUM_PROCESSES", places, place, address, _ids(environment.get("JAX_LOCAL_DEVICE_IDS")))


def _in_skypilot(environment: Mapping[str, str]) -> TensorMapping | None:
    if "SKYPILOT_NUM_NODES" not in environment:
        return None
    names = ("SKYPILOT_NUM_NODES", "SKYPILOT_NODE_RANK")
    count, number = (_whole(name, environment.get(name)) for name in names)
    addresses = environment.get("SKYPILOT_NODE_IPS", "").split()
    if len(addresses) != count:
        raise UserError(f"SKYPILOT_NODE_IPS: expected {count} addresses, SKYPILOT_NUM_NODES; found {addresses}.")
    return TensorMapping("SkyPilot", count, number, f"{addresses[0]}:{_PORT}")


def _in_slurm(environment: Mapping[str, str]) -> TensorMapping | None:
    """A process for each task of a job's step, which ``srun`` starts."""
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_JOB_ID", "SLURM_LOCALID")
    if any(name not in environment for name in (*names, "SLURM_STEP_NODELIST")):
        if (tasks := environment.get("SLURM_NTASKS", "1")) != "1":
            raise UserError(
                f"SLURM_NTASKS: this job has {tasks} tasks, but was not started as one of them. Put srun before the "
                "command, or unset SLURM_NTASKS to run it once."
            )
        return None
    count, number, job, local = (_whole(name, environment[name]) for name in names)
    port = 61_440 + job % 4096  # as JAX chooses it
    first = _first_host(environment["SLURM_STEP_NODELIST"])
    coordinator = environment.get("JAX_COORDINATOR_ADDRESS") or f"{first}:{port}"
    nodes = _whole("SLURM_STEP_NUM_NODES", environment.get("SLURM_STEP_NUM_NODES", "1"))
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    shares = count > nodes and len(visible) > 1  # tasks of one node see the same GPUs: each takes its own
    return TensorMapping("SLURM", count, number, coordinator, (local,) if shares else None)


def _first_host(names: str) -> str:
    """The first of SLURM's list of hosts, such as ``gpu[07-09,12],cpu1``."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", names)
    return "".join(part or "" for part in match.groups()) if match else names


def _found_by_jax(environment: Mapping[str, str]) -> TensorMapping | None:
    """Where JAX finds the others by itself."""
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return TensorMapping("Open MPI", _whole("OMPI_COMM_WORLD_SIZE", environment["OMPI_COMM_WORLD_SIZE"]))
    if importlib.util.find_spec("libtpu") and any(map(Path.exists, (Path("/dev/accel0"), Path("/dev/vfio/0")))):
        workers = environment.get("TPU_WORKER_HOSTNAMES")
        slices = _whole("MEGASCALE_NUM_SLICES", environment.get("MEGASCALE_NUM_SLICES", "1"))
        return TensorMapping("the TPU's environment", len(workers.split(",")) * slices if workers else None)
    return None


def _ids(words: str | None) -> tuple[int, ...] | None:
    return tuple(_whole("JAX_LOCAL_DEVICE_IDS", word) for word in words.split(",")) if words else None


def _whole(name: str, word: str | None) -> int:
    if word is None or not word.isdecimal():
        raise UserError(f"{name}: expected a whole number; found {word!r}.")
    return int(word)
