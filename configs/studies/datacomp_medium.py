"""The study of objectives at DataComp's scale medium, with its training settings (Gadre et al., 2023).

python -m rankclip_jax.study --config configs/studies/datacomp_medium.py --workdir runs/datacomp_medium
"""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base
from rankclip_jax.studies import datacomp
from rankclip_jax.studies.arms import LENGTHS, every_arm, every_figure, shared_stages
from rankclip_jax.studies.definition import Study

STEPS, BATCH = 31250, 4096  # 128 million examples


def get_config() -> ConfigDict:
    """Returns the base settings with the changes of this recipe."""
    config = base()
    config.data.source = "array_record"
    config.data.train = "data/datacomp_medium"  # prepared from DataComp's shards (docs/data.md)
    config.data.validation = "data/cc3m"  # to tune on: its validation split
    config.model.name = "ViT-B-32"
    config.model.dtype = "auto"
    config.model.remat = "blocks"  # fits one 80 GB GPU
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_fraction = 0.0
    config.optimizer.warmup_steps = 500
    config.train.global_batch_size = BATCH
    config.train.steps = STEPS
    config.evaluation.tasks = datacomp.tasks("data/datacomp_eval")
    return config


def get_study() -> Study:
    """Returns the arms, how they are tuned, and what is reported."""
    return Study(
        title="Which objective? DataComp medium: 128 million examples",
        baseline="clip",
        arms=every_arm("train.steps", STEPS, gradients_every=5000),
        shared=shared_stages(2.5e-4, 5e-4, 1e-3),
        choose_by=("retrieval/image_to_text/recall_10", "retrieval/text_to_image/recall_10"),
        report=datacomp.report(),
        report_tasks=tuple(datacomp.tasks("")),
        lengths=LENGTHS,
        figures=every_figure("ImageNet", STEPS * BATCH),
    )
