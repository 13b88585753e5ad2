"""Where the settings of a run are declared, each once, with its default, its meaning and the values that it may have.

docs/settings.md and ``--help`` list all of them. A recipe begins with their defaults and changes what it must:

    from rankclip_jax.recipes import base

    def get_config():
        config = base()
        config.train.steps = 1000
        return config
"""

from ml_collections import ConfigDict

from rankclip_jax import recipes
from rankclip_jax.checkpoints.settings import CheckpointSettings
from rankclip_jax.distributed.settings import MeshSettings, ProcessSettings
from rankclip_jax.evaluation.settings import EvaluationSettings
from rankclip_jax.evaluation.tasks import EVALUATIONS, Task
from rankclip_jax.input_pipeline import SOURCES
from rankclip_jax.input_pipeline.augmentation import Augmentation
from rankclip_jax.input_pipeline.settings import DataSettings
from rankclip_jax.input_pipeline.tokenizers import TOKENIZERS
from rankclip_jax.models.families import TEXT_ENCODERS, VISION_ENCODERS
from rankclip_jax.models.settings import ModelSettings
from rankclip_jax.monitoring.settings import LoggingSettings
from rankclip_jax.objectives import OBJECTIVES
from rankclip_jax.objectives.settings import ObjectiveSettings
from rankclip_jax.training.hooks import HOOKS
from rankclip_jax.training.settings import OptimizerSettings, RunSettings, TrainSettings

DECLARED = (
    RunSettings,  # config: the seed, and the weights to start from
    DataSettings,  # config.data: what is read, by how many threads and processes
    Augmentation,  # config.data: the crop, flips and colours of training views
    ObjectiveSettings,  # config.objective: which one; its own settings are in its file
    ModelSettings,  # config.model: the encoders, and how they are computed
    OptimizerSettings,  # config.optimizer: the optimiser, the learning rate, what is frozen
    TrainSettings,  # config.train: the batch and the length
    MeshSettings,  # config.mesh: how a run lies on its devices
    ProcessSettings,  # config.processes: how long processes wait for each other
    CheckpointSettings,  # config.checkpoint: when it saves, what it keeps
    LoggingSettings,  # config.logging: metrics, profiles, Weights & Biases
    EvaluationSettings,  # config.evaluation: on what, and when
)
# Parts that a setting chooses among, each with settings of its own in that section.
CHOSEN = (
    SOURCES,  # config.data.source
    OBJECTIVES,  # config.objective.name
)
# Parts that are chosen inside another setting; their own settings, if any, stand beside their names.
NAMED = (
    VISION_ENCODERS,  # config.model.vision.family
    TEXT_ENCODERS,  # config.model.text.family
    TOKENIZERS,  # config.model.tokenizer
    EVALUATIONS,  # config.evaluation.tasks
    HOOKS,  # config.train.hooks
)
# What each entry of a setting has that holds a dictionary of parts.
ENTRIES = (Task,)  # config.evaluation.tasks.NAME
SETTINGS = (DECLARED, CHOSEN, NAMED, ENTRIES)


def get_config() -> ConfigDict:
    """All settings with their defaults, to be changed by a recipe."""
    return recipes.base()
