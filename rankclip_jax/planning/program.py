"""What a compiled program says of itself: its memory, what it moves between devices, and what it writes to memory."""

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
_IN_CACHE = re.compile(r"\w+\[[\d,]*\]\{[^{}]*T\([^{}]*S\(1\)\}")  # arrays in a TPU's own fast memory
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "conditional", "call", "iota"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over the same devices.

    Args:
      kind: such as ``all-gather``.
      axis: of the mesh that it crosses; several are joined by ``+``.
      count: how often it happens in a step.
      bytes: of what it gathers, sums or moves in a step, on one device: the whole arrays, not a device's part.
      devices: that take part, together.
      hosts: on which they are.
    """

    kind: str
    axis: str
    count: int
    bytes: int
    devices: int
    hosts: int


def bytes_needed(compiled: Any) -> int:
    """What a compiled program occupies on one device: arguments, results that are not in their place, temporaries."""
    memory = compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes


def collectives(text: str, mesh: Mesh) -> list[Collective]:
    """The collectives of a compiled program's text, the largest first, those in loops as often as these turn."""
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
    """Bytes of all results that a program writes to a device's memory in a step; in place, only what is new."""
    untouched = _untouched(text)
    total = 0
    for line, times in _lines(text):
        match = re.match(r"\s*(?:ROOT )?%?(\S+) = (.*?) ([\w-]+)\(", line)
        # What is begun and ended apart counts where it ends, with a result that is no more than what is written.
        if match and match[3] not in _FREE and not match[3].endswith("-start") and "AllocateBuffer" not in line:
            called = re.search(r"calls=%?([\w.-]+)", line)
            total += times * (_bytes_of(_IN_CACHE.sub("", match[2])) - untouched[called[1] if called else match[1]])
    return total


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """The lines that run, of the entry and of loops' bodies, each with how often."""
    computations, entry = _computations(text)
    return _turns(entry, computations, 1)


def _turns(name: str, computations: dict[str, list[str]], times: int) -> Iterator[tuple[str, int]]:
    for line in computations.get(name, []):
        yield line, times
        if loop := re.search(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)", line):
            known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)  # the compiler of TPUs leaves it out
            turns = int(known[1]) if known else _limit(computations.get(loop[1], []))
            yield from _turns(loop[2], computations, times * turns)
        elif called := re.search(r" call\(.*to_apply=%?([\w.-]+)", line):
            yield from _turns(called[1], computations, times)


def _limit(condition: list[str]) -> int:
    """How often a loop turns that counts from zero up to a constant; 1 where it does otherwise."""
    text = "\n".join(condition)
    limits = re.findall(r" s32\[\]\S* constant\((\d+)\)", text)
    return int(limits[0]) if len(limits) == 1 and "direction=LT" in text else 1


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Each computation's lines by its name, and the name of the one that the program begins with."""
    found: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if begun := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = begun[2]
            found[name] = []
            entry = name if begun[1] else entry
        elif line.startswith("}"):
            name = ""
        elif name:
            found[name].append(line)
    return found, entry


def _untouched(text: str) -> Counter[str]:
    """Bytes of results that stay as they are, since an array is updated in its place: by operation and computation."""
    found: Counter[str] = Counter()
    for name, lines in _computations(text)[0].items():
        sizes = {m[1]: _bytes_of(m[2]) for line in lines if (m := re.match(r"\s*(?:ROOT )?%?(\S+) = (\S+) ", line))}
        for line in lines:
            if match := re.match(r"\s*(?:ROOT )?%?(\S+) = \S+ dynamic-update-slice\(%?[^,]+, %?([\w.-]+)", line):
                rest = max(sizes[match[1]] - sizes.get(match[2], 0), 0)
                found[match[1]] += rest
                found[name] += rest
    return found


def _bytes_of(shapes: str) -> int:
    return sum(
        _BYTES.get(kind, 1) * math.prod(int(size) for size in sizes.split(",") if size)
        for kind, sizes in re.findall(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\]", shapes)
    )


def _last_half(shapes: str, *, whole: bool) -> str:
    """Of ``(operands, results)``, as begun operations name them: those that are the whole arrays."""
    found = re.findall(r"[a-z]+\d+\w*\[[\d,]*\]|pred\[[\d,]*\]", shapes)
    half = len(found) // 2
    return " ".join(found[half:] if whole else found[:half])


def _group(line: str, devices: int) -> list[int]:
    """The first group of devices that take part, by their places in the mesh."""
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
    """The host of a GPU, or the slice of a TPU: inside it links are fast."""
    return (getattr(device, "slice_index", None) or 0) if device.platform == "tpu" else device.process_index


def _crossed(group: Iterable[int], mesh: Mesh) -> tuple[str, int]:
    """The axes along which the devices of a group differ, and on how many hosts or slices they are."""
    places: Any = np.asarray([np.unravel_index(number, mesh.devices.shape) for number in group])
    axes = [name for axis, name in enumerate(mesh.axis_names) if len(set(places[:, axis])) > 1]
    flat = mesh.devices.ravel()
    hosts = {_island(flat[number]) for number in group}
    return "+".join(axes), len(hosts)
