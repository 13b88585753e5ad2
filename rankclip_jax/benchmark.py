"""Measures a part of the system, side by side with the straightforward way; prints a table and can write JSON.

python -m rankclip_jax.benchmark loss [--batch_sizes 1024,2048] [--objective rankclip] [--topology h200:1x8] [--json F]
"""

import json
from pathlib import Path

from absl import flags

from input_pipeline.errors import UserError
from rankclip_jax import command_line

_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["1024", "2048"], "global batch sizes, by comma")
_EMBEDDING_SIZE = flags.DEFINE_integer("embedding_size", 512, "width of the embeddings")
_OBJECTIVE = flags.DEFINE_string("objective", "rankclip", "a row of rankclip_jax/objectives/__init__.py")
_VARIANT = flags.DEFINE_enum("variant", "exact", ["exact", "released"], "of the ranking terms")
_CHUNK_SIZE = flags.DEFINE_integer("chunk_size", 0, "rows a device handles at once; 0: by a memory budget")
_LIST_SIZE = flags.DEFINE_integer("list_size", 0, "columns that a row is ranked against; 0: all")
_OURS_ONLY = flags.DEFINE_bool("ours_only", False, "leave out the straightforward version, which may not fit")
_TOPOLOGY = flags.DEFINE_string("topology", None, "compile for these devices instead of running, such as h200:1x8")
_JSON = flags.DEFINE_string("json", None, "file to write the rows to as well")


def main(subject: str) -> None:
    del subject  # the only one so far
    from rankclip_jax.benchmarks import loss
    from rankclip_jax.objectives import OBJECTIVES
    from rankclip_jax.parallel import topology
    from rankclip_jax.parallel.mesh import make_mesh

    if _OBJECTIVE.value not in OBJECTIVES:
        raise UserError(f"--objective: no {_OBJECTIVE.value!r}; there are {', '.join(OBJECTIVES)}.")
    mesh = topology.mesh_of(_TOPOLOGY.value) if _TOPOLOGY.value else make_mesh()
    rows = []
    for batch_size in _sizes(mesh.size):
        for row in loss.measure(
            _OBJECTIVE.value,
            batch_size=batch_size,
            embedding_size=_EMBEDDING_SIZE.value,
            mesh=mesh,
            variant=_VARIANT.value,  # type: ignore[arg-type]
            chunk_size=_CHUNK_SIZE.value,
            list_size=_LIST_SIZE.value,
            ours_only=_OURS_ONLY.value,
            topology_name=_TOPOLOGY.value,
        ):
            rows.append(row)
            print(_format(row), flush=True)
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf8")


def _sizes(devices: int) -> list[int]:
    sizes = [int(size) if size.isdigit() else 0 for size in _BATCH_SIZES.value]
    for size in sizes:
        if size < 1 or size % devices:
            raise UserError(f"--batch_sizes: expected multiples of {devices}, the devices; found {_BATCH_SIZES.value}.")
    return sizes


def _format(row: dict) -> str:
    text = f"{row['objective']} {row['version']:<15}  B {row['batch_size']:>7,}  D {row['embedding_size']}"
    text += f"  {row['devices']} device(s)  {row['temporary_gib']:8.3f} GiB temporary"
    if "milliseconds" in row:
        text += f"  {row['milliseconds']:10.1f} ms  ({row['time_against_ours']:.2f} x ours)"
    for kind, traffic in row.get("collectives", {}).items():
        text += f"\n    {kind}: {traffic['count']}, {traffic['bytes']:,} bytes"
    return text


if __name__ == "__main__":
    command_line.run(main, subjects=("loss",))
