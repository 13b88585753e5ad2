"""Lists the classes that declare the settings of a run, each with default, meaning and allowed values.

docs/settings.md and ``--help`` list all settings. A recipe starts from the defaults and overrides some of them:

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
    RunSettings,  # config: the seed, and the pretrained weights
    DataSettings,  # config.data: sources, decoding threads and processes
    Augmentation,  # config.data: augmentation of training views
    ObjectiveSettings,  # config.objective: its name; the options are in the objective's file
    ModelSettings,  # config.model: the encoders, and how they are computed
    OptimizerSettings,  # config.optimizer: the optimizer, the learning rate, frozen parameters, LoRA
    TrainSettings,  # config.train: batch size and length
    MeshSettings,  # config.mesh: how arrays are sharded over devices
    ProcessSettings,  # config.processes: timeouts between processes
    CheckpointSettings,  # config.checkpoint: when to save, what to keep
    LoggingSettings,  # config.logging: metrics, profiles, Weights & Biases
    EvaluationSettings,  # config.evaluation: tasks and intervals
)
# Registries of parts that a setting selects. The options of a part are in the same section.
CHOSEN = (
    SOURCES,  # config.data.source
    OBJECTIVES,  # config.objective.name
)
# Registries of parts that are selected inside another setting. The options of a part stand beside its name.
NAMED = (
    VISION_ENCODERS,  # config.model.vision.family
    TEXT_ENCODERS,  # config.model.text.family
    TOKENIZERS,  # config.model.tokenizer
    EVALUATIONS,  # config.evaluation.tasks
    HOOKS,  # config.train.hooks
)
# Fields of each entry in a setting that is a dictionary of parts.
ENTRIES = (Task,)  # config.evaluation.tasks.NAME
SETTINGS = (DECLARED, CHOSEN, NAMED, ENTRIES)


def get_config() -> ConfigDict:
    """Returns all settings with their defaults, for a recipe to override."""
    return recipes.base()
