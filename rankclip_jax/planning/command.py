"""The story of a plan: compile, show, search, and say how to start what was found."""

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
    """Plans and prints; the plans, the best first.

    Args:
      config: the settings.
      recipe: as the command line names it.
      topology_name: the devices.
      trace: see `plan`.
      memory: bytes of each; None: its own.
      find: look for the largest batch that fits.
      sweep: compare meshes, rematerialisation and accumulation.
      price: of a device for an hour; None: no cost is told.
      pairs: of the data set; None: not known.

    Raises:
      UserError: no run can have these settings on these devices, or their compiler is not installed.
    """
    topology = topology_of(topology_name)
    devices = math.prod(topology.shape)
    changes: dict[str, Any] = {}

    def planned(settings: ConfigDict) -> Plan:
        found = plan(settings, topology, trace, memory)
        if find or sweep:
            total = f"{found.bytes['total'] / 2**30:.2f} GiB" if "total" in found.bytes else "refused"
            verdict = "fits" if found.fits else "does not fit"
            print(f"tried {found.pairs:,} pairs, {found.mesh}, {found.settings}: {total}, {verdict}", flush=True)
        return found

    if sweep:
        rows = list(search_space.sweep(config, planned, devices, topology.shape[1] if topology.is_gpu else devices))
        print(formatting.compared([(search_space.as_flags(flags), found) for flags, found in rows]))
        rows.sort(key=lambda row: (not row[1].fits, -row[1].pairs_per_second))
        plans, changes = [found for _, found in rows], rows[0][0]
    elif find:
        best, tried = search_space.largest_batch(config, planned, devices * config.train.accumulation)
        plans, changes = [best, *(one for one in tried if one is not best)], {"train.global_batch_size": best.pairs}
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
    return f"  at least {hours:,.1f} hours for {total:,} pairs, {cost:,.2f} at {price:g} a device and hour"


def how_to_start(topology: Topology, recipe: str, changes: dict[str, Any]) -> str:
    """The command that starts a run on such devices."""
    flags = f"--config {shlex.quote(recipe)} {search_space.as_flags(changes)}".strip()
    if not topology.is_gpu:
        shape = "x".join(map(str, topology.shape))
        words = f"tpu {TPUS[topology.kind].label} {shape} 1 -- {flags}"
        return f"IMAGE=YOURS launch/kubernetes.sh {words} | kubectl apply -f -"
    hosts, devices = topology.shape
    if hosts == 1:
        return f"python -m rankclip_jax.train {flags}"
    return f"sbatch --nodes={hosts} --gpus-per-node={devices} launch/slurm.sh {flags}"
