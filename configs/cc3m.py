"""CC3M with ViT-B/32: the setting of RankCLIP's main table (arXiv 2404.09387), for current GPUs."""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base


def get_config() -> ConfigDict:
    """Returns the base settings with the changes of this recipe."""
    config = base()
    config.data.source = "array_record"
    config.data.train = (
        "data/cc3m"  # written by: python -m rankclip_jax.input_pipeline.prepare --source urls (docs/data.md)
    )

    config.model.name = "ViT-B-32"  # the paper's smaller-scale encoder: 224 px, 32 px patches, 12 layers
    config.model.remat = "blocks"  # fits one 80 GB GPU, 22 GiB; on two or more, "cheap" is faster
    config.model.dtype = "auto"  # ours: bfloat16 on matrix units; the release's towers run in float32

    config.objective.name = "rankclip"
    config.objective.variant = "exact"  # ours: "released" repeats the paper's code, rounding included
    config.objective.lambda_cross = 1.0  # paper: equal weights
    config.objective.lambda_in = 1.0
    config.objective.ramp = (0.0, 2.0, 2 / 3)  # release: clip(3 (e - 1) / (E - 1), 0, 2)

    config.optimizer.learning_rate = 5e-4  # paper
    config.optimizer.warmup_fraction = 0.01  # ours: about 450 steps; the paper's 10,000 are batches of 128
    config.optimizer.weight_decay = 0.1  # release's default
    config.optimizer.b1, config.optimizer.b2, config.optimizer.eps = 0.9, 0.999, 1e-8  # release's defaults

    config.train.global_batch_size = 4096  # ours: the release used 128 in total; a contrastive loss gains from more
    config.train.epochs = 64  # paper
    config.evaluation.every_steps = 5000
    return config
