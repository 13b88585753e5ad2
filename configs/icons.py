"""RankCLIP on drawings of icon sets, some ten minutes on two CPU cores (docs/data.md has the download).

npm pack @iconify/json; pip install resvg-py
python -m rankclip_jax.input_pipeline.prepare --source iconify --input iconify-json-*.tgz --output data/icons
python -m rankclip_jax.train --config icons --workdir runs/icons
"""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base


def get_config() -> ConfigDict:
    """Returns the base settings with the changes of this recipe."""
    config = base()
    config.data.source = "array_record"
    config.data.train = "data/icons"
    config.data.validation = "data/icons"
    config.data.crop = "center"  # drawings have the model's size, and directions: no crop and no flip
    config.model.name = "ViT-demo"
    config.model.image_size = 48
    config.model.remat = "none"  # all activations fit into memory
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.warmup_fraction = 0.1
    config.optimizer.weight_decay = 0.1
    config.optimizer.gradient_clip = 1.0
    config.train.global_batch_size = 256
    config.train.steps = 1000
    config.logging.every_steps = 50
    config.checkpoint.every_steps = 250
    config.evaluation.every_steps = 250
    config.evaluation.max_examples = 2048
    at_the_end = {"path": "data/icons", "max_examples": 5000, "every_steps": config.train.steps}
    config.evaluation.tasks = {
        "new_style": at_the_end | {"task": "retrieval", "split": "new_style"},
        "new_style_order": at_the_end | {"task": "ranking", "split": "new_style"},
        "new_style_names": at_the_end | {"task": "zero_shot", "split": "classes"},
        "new_concept": at_the_end | {"task": "retrieval", "split": "new_concept"},
    }
    return config
