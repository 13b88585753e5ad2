"""A study of a few seconds, with every kind of arm and figure."""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base
from rankclip_jax.studies.definition import Arm, Figure, Study


def get_config() -> ConfigDict:
    """Returns the settings of a tiny model on few scenes."""
    config = base()
    config.data.source = "scenes"
    config.data.train_examples = 64
    config.data.validation_examples = 32
    config.data.workers = 0
    config.model.name = "ViT-demo"
    config.model.vision = {"width": 16, "layers": 1, "heads": 1}
    config.model.text = {"width": 16, "layers": 1, "heads": 1, "vocabulary_size": 49408}
    config.model.remat = "none"
    config.optimizer.learning_rate = 1e-3
    config.train.global_batch_size = 16
    config.train.steps = 4
    config.logging.every_steps = 1
    config.checkpoint.every_steps = 2
    config.evaluation.tasks = {"unseen": {"task": "retrieval"}, "order": {"task": "ranking"}}
    return config


def get_study() -> Study:
    """Returns a study with tuned arms, a student, a variant and a figure."""
    gradients = {"task": "rankclip_jax.studies.gradients:GradientAgreement", "every_steps": 4}
    return Study(
        title="A small study",
        baseline="clip",
        shared=[[{"optimizer.learning_rate": 2e-3}]],
        choose_by=("retrieval/mean_recall_1",),
        report={"R@1": ("unseen/retrieval/mean_recall_1",), "NDCG": ("order/ranking/ndcg",)},
        report_tasks=("unseen", "order"),
        seeds=1,
        arms={
            "clip": Arm({"objective.name": "clip"}),
            "student": Arm({"objective.name": "rank_distillation"}, teacher="long"),
            "long": Arm({"train.steps": 8, "evaluation.tasks.gradients": gradients}, like="clip"),
        },
        lengths={1.0: "clip", 2.0: "long"},
        figures={"Length": Figure("R@1", "steps", {"clip": {4: "clip", 8: "long"}})},
    )
