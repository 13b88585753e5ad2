"""The plan command: compiles plans, searches for better settings, and prints the command that starts the run."""

import math
import shlex
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.planning import formatting, search_space
from rankclip_jax.planning.hardware import TPUS
from rankclip_jax.planning.plan import Plan, Tracer, plan
from rankclip_jax.planning.topology import Topology, topology_of

_HOUR = 3600


def run(
    config: ConfigDict,
    recipe: str,
    topology_name: str,
    trace: Tracer,
    *,
    memory: int | None,
    find: bool,
    sweep: bool,
    price: float | None,
    pairs: int | None,
) -> list[Plan]:
    """Computes and prints plans; returns them, the best first.

    Args:
      config: the settings.
      recipe: the recipe, as given on the command line.
      topology_name: the devices.
      trace: see `plan`.
      memory: bytes per device; None: the device's own.
      find: whether to search for the largest batch that fits.
      sweep: whether to compare meshes, remat policies and accumulation.
      price: price of a device-hour; None: no cost estimate.
      pairs: number of training pairs; None: unknown.

    Raises:
      UserError: the settings are invalid on these devices, or their compiler is not installed.
    """
    topology = topology_of(topology_name)
    devices = math.prod(topology.shape)
    changes: dict[str, Any] = {}

    def planned(settings: ConfigDict) -> Plan:
        result = plan(settings, topology, trace, memory)
        if find or sweep:
            total = f"{result.bytes['total'] / 2**30:.2f} GiB" if "total" in result.bytes else "refused"
            verdict = "fits" if result.fits else "does not fit"
            print(f"tried {result.pairs:,} pairs, {result.mesh}, {result.settings}: {total}, {verdict}", flush=True)
        return result

    if sweep:
        rows = list(search_space.sweep(config, planned, devices, topology.shape[1] if topology.is_gpu else devices))
        print(formatting.compared([(search_space.as_flags(flags), result) for flags, result in rows]))
        rows.sort(key=lambda row: (not row[1].fits, -row[1].pairs_per_second))
        plans, changes = [result for _, result in rows], rows[0][0]
    elif find:
        best, tried = search_space.largest_batch(config, planned, devices * config.train.accumulation)
        plans, changes = (
            [best, *(other for other in tried if other is not best)],
            {"train.global_batch_size": best.pairs},
        )
    else:
        plans = [planned(config)]
    best = plans[0]
    print(formatting.table(best))
    if (
        not best.fits
        and not sweep
        and not find
        and (less := search_space.find_fitting(config, lambda settings: planned(settings).fits))
    ):
        print(f"It fits with: {search_space.as_flags(less)}")
        changes = less
    if price is not None and best.pairs_per_second:
        print(_cost(config, best, devices, price, pairs))
    print(f"Start it with: {how_to_start(topology, recipe, changes)}")
    return plans


def _cost(config: ConfigDict, best: Plan, devices: int, price: float, pairs: int | None) -> str:
    total = config.train.steps * best.pairs or config.train.epochs * (pairs or 0)
    hours = total / best.pairs_per_second / _HOUR
    cost = hours * devices * price
    return f"  at least {hours:,.1f} hours for {total:,} pairs, {cost:,.2f} at {price:g} per device-hour"


def how_to_start(topology: Topology, recipe: str, changes: dict[str, Any]) -> str:
    """Returns the command that starts a run on these devices."""
    flags = f"--config {shlex.quote(recipe)} {search_space.as_flags(changes)}".strip()
    if not topology.is_gpu:
        shape = "x".join(map(str, topology.shape))
        words = f"tpu {TPUS[topology.kind].label} {shape} 1 -- {flags}"
        return f"IMAGE=YOURS launch/kubernetes.sh {words} | kubectl apply -f -"
    hosts, devices = topology.shape
    if hosts == 1:
        return f"python -m rankclip_jax.train {flags}"
    return f"sbatch --nodes={hosts} --gpus-per-node={devices} launch/slurm.sh {flags}"
