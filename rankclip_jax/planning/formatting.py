"""Plans as text tables and as a figure."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from rankclip_jax.input_pipeline.files import write_atomically
from rankclip_jax.planning.plan import Plan

matplotlib.use("Agg")

import matplotlib.pyplot as plt

_PARTS = ("parameters", "optimizer", "batch", "temporaries")


def table(plan: Plan) -> str:
    """Formats the memory, traffic and speed of a plan as lines of text."""
    gib = 2**30
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [f"{plan.topology} ({mesh}), {plan.pairs:,} pairs per step; on each device:"]
    if plan.refusal:
        return "\n".join([*lines, f"  the compiler refuses it: {plan.refusal}"])
    lines += [f"  {part:<24}{plan.bytes[part] / gib:10.2f} GiB" for part in _PARTS]
    verdict = "fits" if plan.fits else "does not fit"
    lines.append(
        f"  {'total':<24}{plan.bytes['total'] / gib:10.2f} GiB of {plan.bytes['capacity'] / gib:.2f}: {verdict}"
    )
    lines.append(f"  {'operations':<24}{plan.flops / 1e12:10.2f} TFLOP")
    lines.append(f"  {'to and from memory':<24}{plan.memory_bytes / gib:10.2f} GiB")
    for row in plan.collectives:
        where = f"over {row.axis}, {row.devices} devices on {row.hosts} host(s)"
        lines.append(f"  {row.kind:<24}{row.bytes / 2**20:10.2f} MiB, {row.count} {where}")
    lines += [f"  at least, for {what:<10}{seconds * 1e3:10.2f} ms" for what, seconds in plan.seconds.items()]
    lines.append(f"  at most {plan.pairs_per_second:,.0f} pairs/s in total, {plan.mfu:.0%} of the peak (MFU)")
    return "\n".join(lines)


def compared(rows: Sequence[tuple[str, Plan]]) -> str:
    """Formats plans as one line each, the best first and those that do not fit last."""
    ordered = sorted(rows, key=lambda row: (not row[1].fits, -row[1].pairs_per_second))
    lines = [f"{'GiB':>8}  {'pairs/s':>12}  {'MFU':>5}  settings"]
    for flags, plan in ordered:
        total = f"{plan.bytes['total'] / 2**30:8.2f}" if "total" in plan.bytes else " refused"
        verdict = "" if plan.fits else "   (does not fit)"
        lines.append(f"{total}  {plan.pairs_per_second:12,.0f}  {plan.mfu:5.0%}  {flags}{verdict}")
    return "\n".join(lines)


def draw(plans: Sequence[Plan], path: Path) -> None:
    """Draws a bar for each plan: its memory by use, and the memory that is available."""
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.5 * len(plans)), layout="constrained")
    for row, plan in enumerate(plans):
        left = 0.0
        for number, part in enumerate(_PARTS):
            size = plan.bytes.get(part, 0) / 2**30
            axes.barh(row, size, left=left, color=f"C{number}", label=part if not row else None)
            left += size
    axes.axvline(plans[0].bytes["capacity"] / 2**30, color="black", linestyle="--", label="available")
    names = [
        f"{plan.topology}, {plan.pairs:,} pairs\n{plan.settings['model.remat']}, "
        f"{plan.settings['train.accumulation']} micro-batch(es)"
        for plan in plans
    ]
    axes.set_yticks(range(len(plans)), names)
    axes.set_xlabel("GiB on each device")
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png")
    plt.close(figure)
    write_atomically(path, content.getvalue())
