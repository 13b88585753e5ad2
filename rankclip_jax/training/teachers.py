"""Teachers of a student: their embeddings of each batch, from weights run beside the student, or from stored ones."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.input_pipeline.embeddings import StoredEmbeddings, is_stored
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.object_stores import path_of
from rankclip_jax.input_pipeline.source import Source
from rankclip_jax.interop import loading
from rankclip_jax.models.clip import Clip, Outputs, Variables
from rankclip_jax.objectives import Objective

_FLAG = "config.objective.teacher"


class Teacher(Protocol):
    """A teacher: the width of its embeddings, and the embeddings of a batch."""

    @property
    def width(self) -> int:
        """The width of its embeddings."""
        ...

    def embed(self, rows: Mapping[str, np.ndarray], batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns embeddings of images and of texts, ``[B, width]``, whose products are the teacher's logits.

        Args:
          rows: this process's rows of the batch, with ``sample`` and ``caption``; see `loader.training_batches`.
          batch: the views of the global batch, on the devices.
        """
        ...


@dataclasses.dataclass(frozen=True)
class RunningTeacher:
    """A model that embeds the views that the student sees.

    Args:
      model: the model.
      variables: its weights, on all devices.
      layout: the devices over which rows are sharded.
    """

    model: Clip
    variables: Variables
    layout: Layout

    @property
    def width(self) -> int:
        """The width of its embeddings."""
        return self.model.preset.embedding_size

    @functools.cached_property
    def _program(self) -> jax.stages.Wrapped:
        preset = self.model.preset

        def embed(variables: Variables, image: jax.Array, text: jax.Array) -> tuple[jax.Array, jax.Array]:
            side = preset.vision.image_size
            if image.shape[1] != side:
                resized = jax.image.resize(image.astype(jnp.float32), (len(image), side, side, 3), "bicubic")
                image = jnp.clip(jnp.round(resized), 0, 255).astype(jnp.uint8)
            text = jnp.pad(text, ((0, 0), (0, preset.text.context_length - text.shape[1])))
            outputs = self.model.apply(variables, {"image": image, "text": text})
            assert isinstance(outputs, Outputs)
            root = jnp.sqrt(outputs.scalars["scale"])
            return root * outputs.embeddings["image"], root * outputs.embeddings["text"]

        return jax.jit(embed, in_shardings=(None, self.layout.rows, self.layout.rows), out_shardings=self.layout.rows)

    def embed(self, rows: Mapping[str, np.ndarray], batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns the embeddings of a batch; images are resized to the teacher's size."""
        del rows
        return self._program(self.variables, batch["image"], batch["text"])


@dataclasses.dataclass(frozen=True)
class StoredTeacher:
    """Embeddings of the training data that were computed before, of images as evaluation sees them.

    Args:
      stored: the embeddings.
      layout: the devices over which rows are sharded.
    """

    stored: StoredEmbeddings
    layout: Layout

    @property
    def width(self) -> int:
        """The width of the embeddings."""
        return self.stored.width

    def embed(self, rows: Mapping[str, np.ndarray], batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns the embeddings of a batch's images and of the captions drawn for them."""
        del batch
        image, text = self.stored.rows(rows["sample"], rows["caption"])
        placed = self.layout.put_rows({"image": image, "text": text})
        return placed["image"], placed["text"]


def open_teachers(
    config: ConfigDict, objective: Objective, student: Clip, source: Source, layout: Layout
) -> list[Teacher]:
    """Opens the teachers that an objective names.

    Args:
      config: the settings.
      objective: the objective.
      student: the model to train.
      source: the training data.
      layout: the devices.

    Raises:
      UserError: a teacher is missing or unusable, or the objective needs one and names none.
    """
    if objective.needs_teacher and not objective.teachers:
        raise UserError(
            f"{_FLAG}: not given; {config.objective.name} needs a teacher. Use the path of weights, such as "
            f"--{_FLAG}=runs/large, or of embeddings written by rankclip_jax.embed."
        )
    return [_open(name, student, source, layout) for name in objective.teachers]


def _open(name: str, student: Clip, source: Source, layout: Layout) -> Teacher:
    path = path_of(name)
    try:
        if is_stored(path):
            stored = StoredEmbeddings.open(path)
            stored.check(source)
            return StoredTeacher(stored, layout)
        weights = loading.read(path)
    except UserError as error:
        raise UserError(f"{_FLAG}: {error}") from error
    length, most = student.preset.text.context_length, weights.model.preset.text.context_length
    if weights.model.tokenizer != student.tokenizer or length > most:
        raise UserError(
            f"{_FLAG}: expected a teacher with the student's tokenizer {student.tokenizer!r} and at least its "
            f"{length} tokens; found {weights.model.tokenizer!r} and {most} in {path}. Store its embeddings instead: "
            f"python -m rankclip_jax.embed --config RECIPE --weights {path} --output DIR"
        )
    execution = dataclasses.replace(student.execution, activation=weights.model.execution.activation, remat="none")
    return RunningTeacher(
        weights.model.clone(execution=execution), jax.device_put(weights.variables, layout.replicated), layout
    )
