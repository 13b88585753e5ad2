"""All evaluations of a model on a validation set, by task."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from input_pipeline.errors import UserError
from input_pipeline.scenes import CLASS_NAMES, CLASS_TEMPLATES, Scenes
from input_pipeline.source import Source
from rankclip_jax.evaluation.encoding import DatasetEncoder, Encoded
from rankclip_jax.evaluation.ranking_quality import ranking_quality
from rankclip_jax.evaluation.retrieval import retrieval
from rankclip_jax.evaluation.zero_shot import accuracy, class_embeddings
from rankclip_jax.models.clip import Clip, Variables
from rankclip_jax.objectives import OBJECTIVES

RANKING_EXAMPLES = 512  # Kendall's tau is taken over lists of this many


class Evaluator:
    """Evaluates parameters on the validation set; compiled at the first call, kept for the next.

    Args:
      source: the validation set.
      tasks: which of `available_tasks` to run; None: all.

    Raises:
      UserError: a task that does not exist, or that these data have no truth for.
    """

    def __init__(
        self, model: Clip, config: ConfigDict, source: Source, mesh: Mesh, tasks: list[str] | None = None
    ) -> None:
        available = available_tasks(source)
        for task in tasks or []:
            if task not in available:
                raise UserError(f"--tasks: no task {task!r} for these data; there are {', '.join(available)}.")
        self.source = source
        self.encoder = DatasetEncoder(model, mesh, min(config.train.global_batch_size, 1024))
        self._tasks = tasks or available
        self._config = config
        self._mesh = mesh
        self._size = min(len(source), config.evaluation.max_examples)
        self._objective = jax.jit(
            lambda outputs, key: OBJECTIVES[config.objective.name](
                outputs, progress=jnp.float32(1), key=key, config=config.objective, mesh=mesh
            )
        )

    def __call__(self, variables: Variables) -> tuple[dict[str, float], Encoded]:
        """Results by name, fractions in [0, 1], and the embeddings they come from.

        Losses are those of the end of training, whatever the step, so that they can be compared.
        """
        encoded = self.encoder.pairs(variables, self.source, self._size)
        if not len(encoded.index):
            raise UserError("config.data.validation: none of its images can be read.")
        results: dict[str, float] = {}
        if "validation" in self._tasks:
            parameters = variables["params"]
            scalars = {"logit_scale": jnp.exp(parameters["logit_scale"])}
            if "logit_bias" in parameters:
                scalars["logit_bias"] = parameters["logit_bias"]
            results |= self._losses(encoded, scalars)
        if "zero_shot" in self._tasks and isinstance(self.source, Scenes):
            classes = class_embeddings(lambda texts: self.encoder.texts(variables, texts), CLASS_NAMES, CLASS_TEMPLATES)
            results |= accuracy(encoded.image, classes, self.source.class_labels()[encoded.index])
        if "retrieval" in self._tasks:
            results |= retrieval(encoded.image, encoded.text)
        if "ranking" in self._tasks and isinstance(self.source, Scenes):
            few = encoded.index[:RANKING_EXAMPLES]
            scores = encoded.image[: len(few)] @ encoded.text[: len(few)].T
            results |= ranking_quality(scores, self.source.relevance()[np.ix_(few, few)])
        return results, encoded

    def _losses(self, encoded: Encoded, scalars: dict[str, jax.Array]) -> dict[str, float]:
        """Means over batches of the training batch's size, or of all pairs where they are fewer."""
        size = min(self._config.train.global_batch_size, len(encoded.index) // self._mesh.size * self._mesh.size)
        batches = []
        for start in range(0, len(encoded.index) - size + 1, size or 1):
            rows = slice(start, start + size)
            outputs = {
                "image_embedding": jnp.asarray(encoded.image[rows]),
                "text_embedding": jnp.asarray(encoded.text[rows]),
                **scalars,
            }
            loss, metrics = self._objective(outputs, jax.random.key(self._config.seed))
            batches.append({"loss": loss} | metrics)
        return {f"validation/{name}": float(np.mean([batch[name] for batch in batches])) for name in batches[0]}


def available_tasks(source: Source) -> list[str]:
    """The tasks that a dataset holds the truth for."""
    return ["validation", "retrieval", *(["zero_shot", "ranking"] if isinstance(source, Scenes) else [])]


def write_results(workdir: Path, step: int, results: dict[str, float]) -> Path:
    """Writes ``evaluation/<step>.json``."""
    path = workdir / "evaluation" / f"{step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf8")
    return path


def format_table(results: dict[str, float]) -> str:
    """A table to read: percentages for fractions, plain numbers for losses."""
    width = max(map(len, results))
    lines = []
    for name, value in results.items():
        as_share = not name.startswith("validation/") and name != "ranking/kendall_tau"
        lines.append(f"  {name:<{width}}  {f'{value:8.2%}' if as_share else f'{value:8.4f}'}")
    return "\n".join(lines)
