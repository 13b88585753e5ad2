"""The demo: RankCLIP on scenes drawn on the fly, minutes on two CPU cores, no download."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.source = "scenes"
    config.model.name = "ViT-demo"
    config.model.scan_layers = False

    config.objective.name = "rankclip"

    # Found by trying: what a model this small learns fastest with.
    config.optimizer.learning_rate = 7e-4
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 0.1
    config.optimizer.gradient_clip = 1.0

    config.train.global_batch_size = 128
    config.train.steps = 600  # 76,800 pairs, under two minutes on two cores

    config.checkpoint.every_steps = 100
    config.logging.every_steps = 25
    config.evaluation.every_steps = 200
    return config
