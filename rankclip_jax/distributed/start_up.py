"""Initializes the processes of a multi-process run, before any of them uses a device.

The launcher's environment variables give the number of processes. JAX reads those of Open MPI, Cloud TPU and GKE
itself; this module reads the others:

| launcher | variables |
|---|---|
| our scripts, Kubeflow Trainer | `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID` |
| JobSet | the first two of these, and Kubernetes' `JOB_COMPLETION_INDEX` |
| SkyPilot | `SKYPILOT_NODE_IPS`, `SKYPILOT_NODE_RANK`, `SKYPILOT_NUM_NODES` |
| SLURM | `SLURM_STEP_NUM_TASKS`, `SLURM_PROCID` and others: one process per GPU, or one per node |

`RANKCLIP_JAX_TOKEN`, if set for all processes, keeps other programs out of the `rendezvous`.
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

_PORT = 8476  # of process 0, if the launcher gives none
_MAX_FACTS_BYTES = 16_384  # that a process sends to the others


@dataclasses.dataclass(frozen=True)
class ProcessPlacement:
    """The position of a process among the processes of a run.

    Args:
      launcher: the detected launcher.
      count: the number of processes; None: JAX detects it.
      number: the ID of this process, from 0; None: JAX detects it.
      coordinator: address and port of process 0; None: JAX detects it.
      local_devices: the GPUs of this host that this process uses; None: all visible ones.
    """

    launcher: str
    count: int | None
    number: int | None = None
    coordinator: str | None = None
    local_devices: tuple[int, ...] | None = None


def start(config: ConfigDict) -> list[str]:
    """Joins the other processes of the run; does nothing in a single-process run.

    Args:
      config: the settings under ``config.processes``.

    Returns:
      The host of each process; empty in a single-process run.

    Raises:
      UserError: the environment is incomplete, or processes are missing.
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
                f"{socket.gethostname()}: cannot listen on {place.coordinator} for the other processes ({error}). "
                "Expected an address of this host and a free port. Use JAX_COORDINATOR_ADDRESS to set another."
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
            f"{socket.gethostname()}: {place.launcher} reports {count} processes, but within {config.start_seconds} "
            f"seconds not all of them started and reached {place.coordinator or 'process 0'} ({words}). Check that the "
            "command was started on every host and that the hosts can reach each other, or allow more time: "
            f"--config.processes.start_seconds={3 * config.start_seconds}"
        ) from error
    if place.count and jax.process_count() != place.count:
        raise UserError(
            f"{socket.gethostname()}: {place.launcher} reports {place.count} processes, but {jax.process_count()} "
            "started. Run the command once per process."
        )
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PrintableFormatter(named("%(message)s")))
    return check_same_on_all({"JAX": jax.__version__, "rankclip_jax": __version__, "devices": _local_devices()})


def place_in(environment: Mapping[str, str]) -> ProcessPlacement | None:
    """Returns this process's placement from the environment, or None for a single-process run.

    Raises:
      UserError: the environment variables are incomplete or inconsistent.
    """
    for find in (_from_jax_variables, _from_skypilot, _from_slurm, _detected_by_jax):
        place = find(environment)
        if place is None:
            continue
        if place.count and place.number is not None and place.number >= place.count:
            raise UserError(
                f"{place.launcher}: expected a process number from 0 to {place.count - 1} for {place.count} processes; "
                f"found {place.number}. Correct the variables that the launcher sets."
            )
        return None if place.count == 1 else place
    return None


def named(line: str) -> str:
    """Returns a line as this process prints it: all but process 0 add their host and process ID."""
    if not jax.distributed.is_initialized() or not jax.process_index():
        return line
    return f"{socket.gethostname()}, process {jax.process_index()}: {line}"


def check_same_on_all(facts: Mapping[str, object]) -> list[str]:
    """Checks that all processes have the same facts, and returns the host of each process; all must call this.

    Args:
      facts: values that must be equal on all processes, by name; for long values, pass the beginning and a hash.

    Raises:
      UserError: the facts differ; the message names the hosts.
    """
    if jax.process_count() == 1:
        return [socket.gethostname()]
    lines = "\n".join([socket.gethostname(), *(f"{name}: {value}" for name, value in facts.items())])
    row = np.zeros(_MAX_FACTS_BYTES, np.uint8)
    content = lines.encode()[:_MAX_FACTS_BYTES]
    row[: len(content)] = np.frombuffer(content, np.uint8)
    received = [bytes(row).rstrip(b"\0").decode(errors="replace").split("\n") for row in _gather(row)]
    first_host, expected = received[0][0], received[0][1:]
    for number, (host, *found) in enumerate(received):
        for expected_fact, found_fact in zip(expected, found, strict=False):
            if expected_fact != found_fact:
                raise UserError(
                    f"the processes of this run differ: {host}, process {number}, has {found_fact}; {first_host}, "
                    f"process 0, has {expected_fact}. Start all of them with the same command, files and installation."
                )
    return [host for host, *_ in received]


def _gather(row: np.ndarray) -> np.ndarray:
    """All-gathers a row per process, ``[processes, ...]``; hosts may have different numbers of devices."""
    first = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.asarray([first[number] for number in range(jax.process_count())]), ("process",))
    shape = (jax.process_count(), *row.shape)
    rows = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("process")), row[None], shape)
    everywhere = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(rows)
    return np.asarray(everywhere.addressable_data(0))


def _local_devices() -> str:
    kinds = sorted({device.device_kind for device in jax.local_devices()})
    return f"{jax.local_device_count()} x {', '.join(kinds)}"


def _from_jax_variables(environment: Mapping[str, str]) -> ProcessPlacement | None:
    """Reads the variables of Kubeflow Trainer and our launch scripts; JobSet manifests set some of them."""
    count, address = environment.get("JAX_NUM_PROCESSES"), environment.get("JAX_COORDINATOR_ADDRESS")
    number = environment.get("JAX_PROCESS_ID", environment.get("JOB_COMPLETION_INDEX"))
    if count is None and (address is None or "SLURM_STEP_NUM_TASKS" in environment):
        return None
    variables = {"JAX_NUM_PROCESSES": count, "JAX_COORDINATOR_ADDRESS": address, "JAX_PROCESS_ID": number}
    if count == "1":
        return ProcessPlacement("JAX_NUM_PROCESSES", 1)
    for name, value in variables.items():
        if not value:
            given = ", ".join(f"{other}={setting}" for other, setting in variables.items() if setting)
            raise UserError(f"{name}: not set; found only {given}. Set all of {', '.join(variables)}.")
    if ":" not in str(address):
        address = f"{address}:{_PORT}"
    processes, process_id = (_whole(name, variables[name]) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    return ProcessPlacement(
        "JAX_NUM_PROCESSES", processes, process_id, address, _ids(environment.get("JAX_LOCAL_DEVICE_IDS"))
    )


def _from_skypilot(environment: Mapping[str, str]) -> ProcessPlacement | None:
    if "SKYPILOT_NUM_NODES" not in environment:
        return None
    names = ("SKYPILOT_NUM_NODES", "SKYPILOT_NODE_RANK")
    count, number = (_whole(name, environment.get(name)) for name in names)
    addresses = environment.get("SKYPILOT_NODE_IPS", "").split()
    if len(addresses) != count:
        raise UserError(
            f"SKYPILOT_NODE_IPS: expected {count} addresses (SKYPILOT_NUM_NODES); found {addresses}. "
            "Set both variables, or unset them to run one process."
        )
    return ProcessPlacement("SkyPilot", count, number, f"{addresses[0]}:{_PORT}")


def _from_slurm(environment: Mapping[str, str]) -> ProcessPlacement | None:
    """Reads the variables of ``srun``, which starts one process per task of a job step."""
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_JOB_ID", "SLURM_LOCALID")
    if any(name not in environment for name in (*names, "SLURM_STEP_NODELIST")):
        if (tasks := environment.get("SLURM_NTASKS", "1")) != "1":
            raise UserError(
                f"SLURM_NTASKS: this job has {tasks} tasks, but srun did not start this process. Put srun before the "
                "command, or unset SLURM_NTASKS to run a single process."
            )
        return None
    count, number, job, local = (_whole(name, environment[name]) for name in names)
    port = 61_440 + job % 4096  # the same choice as JAX
    first = _first_host(environment["SLURM_STEP_NODELIST"])
    coordinator = environment.get("JAX_COORDINATOR_ADDRESS") or f"{first}:{port}"
    nodes = _whole("SLURM_STEP_NUM_NODES", environment.get("SLURM_STEP_NUM_NODES", "1"))
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    shares = count > nodes and len(visible) > 1  # all tasks of a node see the same GPUs: each uses one
    return ProcessPlacement("SLURM", count, number, coordinator, (local,) if shares else None)


def _first_host(names: str) -> str:
    """Returns the first host of a SLURM node list, such as ``gpu[07-09,12],cpu1``."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", names)
    return "".join(part or "" for part in match.groups()) if match else names


def _detected_by_jax(environment: Mapping[str, str]) -> ProcessPlacement | None:
    """Detects the launchers whose processes JAX finds by itself."""
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return ProcessPlacement("Open MPI", _whole("OMPI_COMM_WORLD_SIZE", environment["OMPI_COMM_WORLD_SIZE"]))
    if importlib.util.find_spec("libtpu") and any(map(Path.exists, (Path("/dev/accel0"), Path("/dev/vfio/0")))):
        workers = environment.get("TPU_WORKER_HOSTNAMES")
        slices = _whole("MEGASCALE_NUM_SLICES", environment.get("MEGASCALE_NUM_SLICES", "1"))
        return ProcessPlacement("the TPU's environment", len(workers.split(",")) * slices if workers else None)
    return None


def _ids(words: str | None) -> tuple[int, ...] | None:
    return tuple(_whole("JAX_LOCAL_DEVICE_IDS", word) for word in words.split(",")) if words else None


def _whole(name: str, word: str | None) -> int:
    if word is None or not word.isdecimal():
        raise UserError(f"{name}: expected a whole number; found {word!r}.")
    return int(word)
