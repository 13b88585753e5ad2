"""A study of objectives on drawings of icon sets: which one, by how much, and why (docs/study.md has the findings).

npm pack @iconify/json; pip install resvg-py
python -m rankclip_jax.input_pipeline.prepare --source iconify --input iconify-json-*.tgz --output data/icons
python -m rankclip_jax.study --config configs/studies/icons.py --jobs 2
"""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base
from rankclip_jax.studies.definition import Arm, Figure, Study

STEPS = 400

# The numbers that an arm tries are half and twice the default of its main setting.
_SCALES = ({"model.initial_logit_scale": 7.0}, {"model.initial_logit_scale": 28.0})
_RAMPS = ({"objective.ramp": (0.0, 1.0, 2 / 3)}, {"objective.ramp": (0.0, 4.0, 2 / 3)})


def get_config() -> ConfigDict:
    """Returns the base settings with the changes of this recipe."""
    config = base()
    config.data.source = "array_record"
    config.data.train = "data/icons"
    config.data.validation = "data/icons"
    config.data.crop = "center"  # drawings have directions: no crop and no flip
    config.data.workers = 0
    config.model.name = "ViT-demo"
    config.model.image_size = 32
    config.model.context_length = 16
    config.model.remat = "none"  # all activations fit into memory
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.warmup_fraction = 0.1
    config.optimizer.weight_decay = 0.1
    config.optimizer.gradient_clip = 1.0
    config.train.global_batch_size = 256
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


_GRADIENTS = {"task": "rankclip_jax.studies.gradients:GradientAgreement", "every_steps": 40}
_HIGH = {"model.initial_logit_scale": 50.0, "evaluation.tasks.gradients": _GRADIENTS}


def _weight(end: float) -> dict:
    return {"objective.ramp": (0.0, end, 2 / 3)}


def get_study() -> Study:
    """Returns the arms, how they are tuned, and what is reported."""
    return Study(
        title="Which objective? Icons, 102,400 examples",
        baseline="clip",
        shared=[{"optimizer.learning_rate": rate} for rate in (2e-3, 4e-3, 8e-3)],
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
        seeds=3,
        arms={
            "clip": Arm({"objective.name": "clip"}, _SCALES, seeds=5),
            "rankclip": Arm({"objective.name": "rankclip"}, [_weight(1.0), _weight(4.0)], seeds=5),
            "listnet": Arm(
                {"objective.name": "listnet"},
                [{"objective.listnet_ramp": (0.0, end, 2 / 3)} for end in (0.25, 1.0)],
                seeds=5,
            ),
            "clip_fixed_scale": Arm(
                {"objective.name": "clip", "optimizer.frozen": ("^logit_scale$",)}, _SCALES, seeds=5
            ),
            "clip_800_steps": Arm({"train.steps": 800}, like="clip"),
            "rank_distillation": Arm(
                {"objective.name": "rank_distillation"},
                [{"objective.distillation_weight": weight} for weight in (1.0, 4.0)],
                teacher="clip_800_steps",
                seeds=5,
            ),
            "affinity_distillation": Arm(
                {"objective.name": "affinity_distillation"},
                [{"objective.distillation_fraction": fraction} for fraction in (0.25, 0.75)],
                teacher="clip_800_steps",
            ),
            "softclip": Arm({"objective.name": "softclip"}, [{"objective.soft_fraction": f} for f in (0.25, 0.75)]),
            "superclip": Arm(
                {"objective.name": "superclip"}, [{"objective.classification_weight": w} for w in (0.5, 2.0)]
            ),
            "siglip": Arm(
                {"objective.name": "siglip", "model.initial_logit_scale": 10.0},
                [{"model.initial_logit_scale": scale} for scale in (5.0, 20.0)],
            ),
            "cyclip": Arm({"objective.name": "cyclip"}, [{"objective.cyclic": (w, w)} for w in (0.125, 0.5)]),
            "self_distillation": Arm(
                {"objective.name": "self_distillation"},
                [{"objective.distillation_ramp": (0.0, end, 1.0)} for end in (0.25, 0.75)],
            ),
            "rankclip_released": Arm(
                {"objective.name": "rankclip", "objective.variant": "released"}, [_weight(1.0), _weight(4.0)]
            ),
            "clip_same_text": Arm({"objective.name": "clip", "objective.same_text": True}, _SCALES),
            "fastclip_v3": Arm(
                {"objective.name": "fastclip", "objective.version": "v3"},
                [{"objective.rho": rho} for rho in (3.25, 13.0)],
            ),
            "fastclip_v1": Arm({"objective.name": "fastclip", "objective.version": "v1"}, _SCALES),
            "fastclip_v2": Arm(
                {"objective.name": "fastclip", "objective.version": "v2"},
                [{"objective.sample_temperature": temperature} for temperature in (0.015, 0.06)],
            ),
            "siglip_same_text": Arm(
                {"objective.name": "siglip", "model.initial_logit_scale": 10.0, "objective.same_text": True},
                [{"model.initial_logit_scale": scale} for scale in (5.0, 20.0)],
            ),
            "ranking_alone": Arm({"objective.name": "ranking"}, _SCALES),
            # Variants of a tuned arm, with its settings otherwise.
            "cross_modal_alone": Arm({"objective.lambda_in": 0.0}, like="rankclip"),
            "in_modal_alone": Arm({"objective.lambda_cross": 0.0}, like="rankclip"),
            "ranking_scale_fixed": Arm({"objective.ranking_scale": "14.3"}, like="rankclip"),
            "ranking_scale_without_gradient": Arm(
                {"objective.ranking_scale": "learned_without_gradient"}, like="rankclip"
            ),
            "position_decay": Arm({"objective.position_decay": True}, like="rankclip"),
            "sublists_64": Arm({"objective.list_size": 64}, like="rankclip"),
            "clip_scale_50": Arm(_HIGH, like="clip"),
            "rankclip_scale_50": Arm(_HIGH, like="rankclip", against="clip_scale_50"),
            "released_scale_50": Arm(_HIGH, like="rankclip_released", against="clip_scale_50"),
            "clip_200_steps": Arm({"train.steps": 200}, like="clip"),
            "rankclip_200_steps": Arm({"train.steps": 200}, like="rankclip", against="clip_200_steps"),
            "rankclip_800_steps": Arm(
                {"train.steps": 800, "evaluation.tasks.gradients": _GRADIENTS},
                like="rankclip",
                against="clip_800_steps",
            ),
            **{
                f"rankclip_weight_{end:g}": Arm(_weight(end), like="rankclip", seeds=2)
                for end in (0.5, 1.0, 2.0, 4.0, 8.0)
            },
        },
        lengths={0.5: "clip_200_steps", 1.0: "clip", 2.0: "clip_800_steps"},
        figures={
            "Weight of the ranking terms": Figure(
                "new style: R@1",
                "weight at the end of the ramp",
                {"rankclip": {0.0: "clip"} | {end: f"rankclip_weight_{end:g}" for end in (0.5, 1.0, 2.0, 4.0, 8.0)}},
            ),
            "Amount of data": Figure(
                "new style: R@1",
                "examples seen",
                {
                    name: {51_200.0: f"{name}_200_steps", 102_400.0: name, 204_800.0: f"{name}_800_steps"}
                    for name in ("clip", "rankclip")
                },
            ),
        },
    )
