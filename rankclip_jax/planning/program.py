"""Analysis of a compiled program: its memory, its collectives, and the bytes that it writes to memory."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

_KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute", "ragged-all-to-all")
_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_NAMED_GROUP = r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
_IN_CACHE = re.compile(r"\w+\[[\d,]*\]\{[^{}]*T\([^{}]*S\(1\)\}")  # arrays in a TPU's on-chip memory
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "conditional", "call", "iota"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """The collectives of one kind over the same devices.

    Args:
      kind: such as ``all-gather``.
      axis: the mesh axis that it spans; several are joined by ``+``.
      count: number of executions per step.
      bytes: bytes of the full arrays, not the shards, that it gathers, sums or moves per step on one device.
      devices: number of devices in a group.
      hosts: number of hosts of a group.
    """

    kind: str
    axis: str
    count: int
    bytes: int
    devices: int
    hosts: int


def bytes_needed(compiled: Any) -> int:
    """Returns the bytes of a compiled program on one device: arguments, results without aliases, temporaries."""
    memory = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes


def collectives(text: str, mesh: Mesh) -> list[Collective]:
    """Returns the collectives in a compiled program's text, the largest first, counted once per loop iteration."""
    found: dict[tuple, tuple[int, int]] = {}
    for line, times in _lines(text):
        match = re.match(rf"\s*(?:ROOT )?%?\S+ = (.*?) ({'|'.join(_KINDS)})(-start)?\(", line)
        if not match:
            continue
        shapes = match[1]
        if match[3] and match[2] != "all-reduce":
            shapes = _last_half(shapes, whole=match[2] != "reduce-scatter")
        size = _bytes_of(shapes)
        group = _group(line, mesh.size)
        if match[2] == "reduce-scatter" and not match[3]:
            size *= len(group)
        axes, hosts = _crossed(group, mesh)
        if len(group) > 1:
            key = (match[2], axes, len(group), hosts)
            count, total = found.get(key, (0, 0))
            found[key] = (count + times, total + times * size)
    rows = [
        Collective(kind, axes, count, total, devices, hosts)
        for (kind, axes, devices, hosts), (count, total) in found.items()
    ]
    return sorted(rows, key=lambda row: -row.bytes)


def bytes_written(text: str) -> int:
    """Returns the bytes that a program writes to a device's memory per step; in-place updates count what changes."""
    untouched = _untouched(text)
    total = 0
    for line, times in _lines(text):
        match = re.match(r"\s*(?:ROOT )?%?(\S+) = (.*?) ([\w-]+)\(", line)
        # Asynchronous operations count at their end, where the result has only what is written.
        if match and match[3] not in _FREE and not match[3].endswith("-start") and "AllocateBuffer" not in line:
            called = re.search(r"calls=%?([\w.-]+)", line)
            total += times * (_bytes_of(_IN_CACHE.sub("", match[2])) - untouched[called[1] if called else match[1]])
    return total


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """Yields the executed lines of the entry computation and of loop bodies, each with its number of executions."""
    computations, entry = _computations(text)
    return _turns(entry, computations, 1)


def _turns(name: str, computations: dict[str, list[str]], times: int) -> Iterator[tuple[str, int]]:
    for line in computations.get(name, []):
        yield line, times
        if loop := re.search(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)", line):
            trip_count = re.search(r'known_trip_count":\{"n":"(\d+)"', line)  # the TPU compiler omits it
            turns = int(trip_count[1]) if trip_count else _limit(computations.get(loop[1], []))
            yield from _turns(loop[2], computations, times * turns)
        elif called := re.search(r" call\(.*to_apply=%?([\w.-]+)", line):
            yield from _turns(called[1], computations, times)


def _limit(condition: list[str]) -> int:
    """Returns the trip count of a loop that counts from zero to a constant; 1 for other loops."""
    text = "\n".join(condition)
    limits = re.findall(r" s32\[\]\S* constant\((\d+)\)", text)
    return int(limits[0]) if len(limits) == 1 and "direction=LT" in text else 1


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Returns each computation's lines by its name, and the name of the entry computation."""
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = header[2]
            computations[name] = []
            entry = name if header[1] else entry
        elif line.startswith("}"):
            name = ""
        elif name:
            computations[name].append(line)
    return computations, entry


def _untouched(text: str) -> Counter[str]:
    """Returns the bytes that in-place updates leave unchanged, by operation and computation."""
    unchanged: Counter[str] = Counter()
    for name, lines in _computations(text)[0].items():
        sizes = {m[1]: _bytes_of(m[2]) for line in lines if (m := re.match(r"\s*(?:ROOT )?%?(\S+) = (\S+) ", line))}
        for line in lines:
            if match := re.match(r"\s*(?:ROOT )?%?(\S+) = \S+ dynamic-update-slice\(%?[^,]+, %?([\w.-]+)", line):
                rest = max(sizes[match[1]] - sizes.get(match[2], 0), 0)
                unchanged[match[1]] += rest
                unchanged[name] += rest
    return unchanged


def _bytes_of(shapes: str) -> int:
    return sum(
        _BYTES.get(kind, 1) * math.prod(int(size) for size in sizes.split(",") if size)
        for kind, sizes in re.findall(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\]", shapes)
    )


def _last_half(shapes: str, *, whole: bool) -> str:
    """Returns the half of an asynchronous operation's ``(operands, results)`` that has the full arrays."""
    arrays = re.findall(r"[a-z]+\d+\w*\[[\d,]*\]|pred\[[\d,]*\]", shapes)
    half = len(arrays) // 2
    return " ".join(arrays[half:] if whole else arrays[:half])


def _group(line: str, devices: int) -> list[int]:
    """Returns the first group of participating devices, by their indices in the mesh."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return [int(number) for number in listed[1].split(",")]
    if counted := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        shape, order = _numbers(counted[1]), _numbers(counted[3])
        return _arranged(_numbers(counted[2]), order).reshape(shape)[0].tolist()
    if named := re.search(_NAMED_GROUP, line):
        sizes = re.findall(r"'(\w+)'=(\d+)", named[1])
        shape = [int(size) for _, size in sizes]
        grid = _arranged(_numbers(named[2]) or [math.prod(shape)], _numbers(named[3])).reshape(shape)
        varying = re.findall(r"'(\w+)'", named[4])
        return grid[tuple(slice(None) if name in varying else 0 for name, _ in sizes)].ravel().tolist()
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line):
        return [int(pairs[1]), int(pairs[2])]
    return list(range(devices))


def _arranged(shape: list[int], order: list[int]) -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape).transpose(order or None).ravel()


def _numbers(words: str | None) -> list[int]:
    return [int(word) for word in words.split(",")] if words else []


def _island(device: Any) -> int:
    """Returns the host of a GPU or the slice of a TPU, within which links are fast."""
    return (getattr(device, "slice_index", None) or 0) if device.platform == "tpu" else device.process_index


def _crossed(group: Iterable[int], mesh: Mesh) -> tuple[str, int]:
    """Returns the mesh axes along which the devices of a group differ, and their number of hosts or slices."""
    coordinates: Any = np.asarray([np.unravel_index(number, mesh.devices.shape) for number in group])
    axes = [name for axis, name in enumerate(mesh.axis_names) if len(set(coordinates[:, axis])) > 1]
    flat = mesh.devices.ravel()
    hosts = {_island(flat[number]) for number in group}
    return "+".join(axes), len(hosts)
