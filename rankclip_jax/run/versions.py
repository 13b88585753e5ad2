"""Settings of earlier versions, brought up to date with values that keep what those runs did.

Whoever adds, renames or removes a setting raises `VERSION` and adds a row to `CHANGES`.
"""

from collections.abc import Callable

from input_pipeline.errors import UserError

VERSION = 6
KEY = "settings_version"  # beside the settings in a run's config.json; version 1 wrote none

Settings = dict[str, dict]


def _to_2(settings: Settings) -> None:
    data, model, optimizer = settings["data"], settings["model"], settings["optimizer"]
    data["crop"] = "random"
    if data["source"] == "scenes":  # images in memory were taken as they are
        data |= {"crop": "center", "flip": 0.0, "color_jitter": [0.0] * 4, "auto_augment": ""}
    model |= {
        "pooling": "class_token",
        "pixel_mean": [0.48145466, 0.4578275, 0.40821073],
        "pixel_deviation": [0.26862954, 0.26130258, 0.27577711],
    }
    if model.pop("learn_logit_bias") and settings["objective"]["name"] != "siglip":
        raise UserError("config.model.learn_logit_bias: only siglip learns a bias now. Start a new run.")
    settings["objective"]["target_scale"] = "learned"
    optimizer |= {
        "name": "adamw",
        "schedule": "cosine",
        "warmup_share": 0.0,
        "final_share": 0.0,
        "decay_share": 0.2,
        "rate_overrides": [],
        "decay_overrides": [],
        "average": 0.0,
    }
    settings["evaluation"]["weights"] = "latest"


def _to_3(settings: Settings) -> None:
    model = settings["model"]
    model["rematerialise"] = "blocks" if model["rematerialise"] else "nothing"
    settings["optimizer"]["moments"] = "float32"
    settings["train"]["accumulation"] = 1
    settings["objective"]["precision"] = "auto"
    settings["mesh"] = {"replica": 1, "data": -1, "fsdp": 1, "overrides": []}
    settings["processes"] = {"start_seconds": 300, "heartbeat_seconds": 100}


def _to_4(settings: Settings) -> None:
    later = {"every_minutes": 0.0, "patience_seconds": 5.0, "failures_limit": 5, "keep_every_steps": 0}
    settings["checkpoint"] |= later
    settings["train"] |= {"when_not_finite": "stop", "not_finite_limit": 10}


def _to_5(settings: Settings) -> None:
    settings["processes"]["hang_seconds"] = 3600.0


def _to_6(settings: Settings) -> None:
    settings["checkpoint"]["deadline_seconds"] = 240.0
    settings["logging"] |= {"profile_steps": [0, 0], "wandb": ""}


# What a version does otherwise than the one before, with the same settings: said when a run of before goes on.
NOTES = {
    2: "the random crop, the warmup's first rate and what a second view is averaged with are others (CHANGELOG.md)",
    3: "which patches a step leaves out is drawn otherwise (CHANGELOG.md)",
}

# For each version, how settings of the version before become its own.
CHANGES: dict[int, Callable[[Settings], None]] = {2: _to_2, 3: _to_3, 4: _to_4, 5: _to_5, 6: _to_6}


def written(settings: Settings) -> dict:
    """Settings as files hold them, with their version."""
    return {KEY: VERSION} | settings


def bring_up_to_date(settings: Settings, version: int) -> None:
    """Changes the settings of a version in place to those of `VERSION`.

    Raises:
      UserError: they are of a later version.
    """
    if version > VERSION:
        raise UserError(f"its settings are of version {version}; this is version {VERSION}. Update rankclip_jax.")
    for later in range(version + 1, VERSION + 1):
        CHANGES[later](settings)
