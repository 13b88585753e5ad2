"""Embeds the training data of a recipe with any model, and stores the embeddings, for distillation from a teacher.

python -m rankclip_jax.embed --config F --weights PATH --output DIR
"""

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.cli.flags import define_config, given_recipe

define_config()
_WEIGHTS = flags.DEFINE_string("weights", None, "the model: any path that rankclip_jax.load reads")
_OUTPUT = flags.DEFINE_string("output", None, "folder to write; parts that it has are kept")


def main() -> None:
    """Embeds the data, or what is missing of them."""
    config = given_recipe().config
    weights = entry.path_flag(_WEIGHTS, "Use a run or weights, such as --weights runs/demo.")
    output = entry.local_path(_OUTPUT, "Use a folder, such as --output data/teacher.")
    from rankclip_jax.evaluation import embed_command  # after the flags, since importing JAX takes long

    embed_command.embed(config, weights, output)


if __name__ == "__main__":
    entry.run(main, keeps_freed_memory=True)
