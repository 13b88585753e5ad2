"""A study of objectives on drawings of icon sets: which one, by how much, and why (docs/study.md has the findings).

npm pack @iconify/json; pip install resvg-py
python -m rankclip_jax.input_pipeline.prepare --source iconify --input iconify-json-*.tgz --output data/icons
python -m rankclip_jax.study --config configs/studies/icons.py --jobs 2
"""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base
from rankclip_jax.studies.arms import LENGTHS, every_arm, every_figure, shared_stages
from rankclip_jax.studies.definition import Study

STEPS, BATCH = 600, 256


def get_config() -> ConfigDict:
    """Returns the base settings with the changes of this recipe."""
    config = base()
    config.data.source = "array_record"
    config.data.train = "data/icons"
    config.data.validation = "data/icons"
    config.data.crop = "center"  # drawings have directions: no crop and no flip
    config.data.workers = 0
    config.model.name = "ViT-demo"
    config.model.image_size = 24
    config.model.context_length = 12
    config.model.remat = "none"  # all activations fit into memory
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_fraction = 0.1
    config.optimizer.weight_decay = 0.1
    config.optimizer.gradient_clip = 1.0
    config.train.global_batch_size = BATCH
    config.train.steps = STEPS
    config.logging.every_steps = 20
    config.checkpoint.every_steps = 100
    config.checkpoint.keep = 1
    data = {"path": "data/icons", "max_examples": 5000}
    config.evaluation.tasks = {
        "new_style": data | {"task": "retrieval", "split": "new_style"},
        "new_style_order": data | {"task": "ranking", "split": "new_style"},
        "new_style_names": data | {"task": "zero_shot", "split": "classes"},
        "new_concept": data | {"task": "retrieval", "split": "new_concept"},
        "new_concept_order": data | {"task": "ranking", "split": "new_concept"},
    }
    return config


def get_study() -> Study:
    """Returns the arms, how they are tuned, and what is reported."""
    return Study(
        title="Which objective? Drawings of icon sets, 153,600 examples",
        baseline="clip",
        arms=every_arm("train.steps", STEPS, gradients_every=50),
        shared=shared_stages(1e-3, 2e-3, 4e-3),
        choose_by=("retrieval/image_to_text/recall_10", "retrieval/text_to_image/recall_10"),
        report={
            "new style: R@1": ("new_style/retrieval/mean_recall_1",),
            "new style: R@10": (
                "new_style/retrieval/image_to_text/recall_10",
                "new_style/retrieval/text_to_image/recall_10",
            ),
            "new style: top-1": ("new_style_names/zero_shot/top_1",),
            "new style: NDCG": ("new_style_order/ranking/ndcg",),
            "new style: Kendall's tau": ("new_style_order/ranking/kendall_tau",),
            "new concept: R@1": ("new_concept/retrieval/mean_recall_1",),
            "new concept: NDCG": ("new_concept_order/ranking/ndcg",),
            "new concept: Kendall's tau": ("new_concept_order/ranking/kendall_tau",),
        },
        report_tasks=("new_style", "new_style_order", "new_style_names", "new_concept", "new_concept_order"),
        lengths=LENGTHS,
        figures=every_figure("new style: R@1", STEPS * BATCH),
    )
