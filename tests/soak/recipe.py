"""Forty steps of a tiny model over scenes: five epochs, checkpoints, evaluations, all that a fault can fall into."""

from configs import demo


def get_config():
    config = demo.get_config()
    config.model.name = "tiny"
    config.data.train_examples = 128
    config.data.validation_examples = 64
    config.data.workers = 0
    config.train.global_batch_size = 16
    config.train.steps = 40
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.checkpoint.every_steps = 6
    config.evaluation.every_steps = 10
    config.logging.every_steps = 1
    config.processes.start_seconds = 30
    config.processes.heartbeat_seconds = 10
    return config
