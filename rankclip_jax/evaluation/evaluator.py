"""The evaluator of a run: evaluations of its validation data, and the tasks that its settings add."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rankclip_jax.cli.console import say
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.evaluation.embedder import Embedded, Embedder
from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.tasks import EVALUATIONS, Task, parse
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.source import Source
from rankclip_jax.models.clip import Clip, Variables
from rankclip_jax.objectives import Objective

VALIDATION = ("validation", "retrieval", "consistency", "zero_shot", "ranking")  # each where the data support it
_BATCH_SIZE = 1024


class Evaluated(NamedTuple):
    """The results of an evaluation.

    Args:
      metrics: all metrics.
      validation: the embeddings of the validation data; None: no validation data, or not evaluated.
    """

    metrics: list[Metric]
    validation: Embedded | None


@dataclasses.dataclass(frozen=True)
class _Planned:
    prefix: str  # of the metrics' names
    evaluation: Evaluation
    data: Data
    every_steps: int


class Evaluator:
    """Evaluates weights on all tasks; compiled on the first call.

    Args:
      model: the model.
      layout: the devices over which rows are sharded.
      config: the run's settings.
      objective: the objective of the validation loss; None: not loaded, so there is no validation loss.
      source: the validation data; None: no validation data.
      tasks: names of the tasks to run; None: all.

    Raises:
      UserError: no task is given, a task is unknown or lacks ground truth in the data, or its data are missing.
    """

    def __init__(
        self,
        model: Clip,
        layout: Layout,
        config: ConfigDict,
        objective: Objective | None,
        source: Source | None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        self.source = source
        self.size = min(len(source), config.evaluation.max_examples) if source is not None else 0
        self.weights = config.evaluation.weights
        self._config, self._objective = config, objective
        self._embedder = Embedder(model, layout)
        added = {task.name: task for task in tasks_of(config)}
        available = {name: EVALUATIONS[name]() for name in VALIDATION if self._can(name)}
        if tasks is not None and not tasks:
            raise UserError(f"--tasks: empty; choose from {', '.join([*available, *added])}.")
        for name in tasks or []:
            if name == "validation" and objective is None:
                raise UserError(f"--tasks: the validation loss cannot be computed: {self._objective_missing()}.")
            if name not in available and name not in added:
                choices = ", ".join([*available, *added])
                raise UserError(f"--tasks: unknown task {name!r} for these data; choose from {choices}.")
        if tasks is None and objective is None and source is not None and is_primary_process():
            say(f"note: the validation loss cannot be computed: {self._objective_missing()}")
        every = config.evaluation.every_steps
        self._planned = {
            name: _Planned("", evaluation, Data(self._validation()), every)
            for name, evaluation in available.items()
            if tasks is None or name in tasks
        }
        opened: dict[Any, Data] = {}
        for name, task in added.items():
            if tasks is None or name in tasks:
                data = self._open(task, opened)
                self._planned[name] = _Planned(f"{name}/", task.evaluation, data, task.every_steps or every)

    def __bool__(self) -> bool:
        """Returns whether there is anything to evaluate."""
        return bool(self._planned)

    def due(self, step: int) -> list[str]:
        """Returns the names of the tasks that are due after a training step."""
        return [name for name, task in self._planned.items() if task.every_steps and step % task.every_steps == 0]

    def __call__(
        self,
        variables: Variables,
        check_interrupt: Callable[[], None] = lambda: None,
        tasks: Collection[str] | None = None,
    ) -> Evaluated:
        """Evaluates weights.

        Args:
          variables: the weights.
          check_interrupt: called on all processes before each batch; may raise to abort.
          tasks: names of the tasks to run; None: all.

        Raises:
          UserError: no image is readable, or an embedding is not finite.
        """
        config = self._config
        model = ModelUnderTest(
            self._embedder,
            variables,
            batch_size=min(config.train.global_batch_size, _BATCH_SIZE),
            threads=config.data.threads,
            workers=config.data.workers,
            max_pixels=config.data.max_pixels,
            report_progress=lambda _done, _size: check_interrupt(),
            objective=self._objective,
            training_batch_size=config.train.global_batch_size,
            seed=config.seed,
        )
        planned = [task for name, task in self._planned.items() if tasks is None or name in tasks]
        metrics = {metric.name: metric for task in planned for metric in self._measure(task, model)}
        _, validation = model.embedded.get(id(self.source), (None, None))
        return Evaluated(list(metrics.values()), validation)

    def _measure(self, planned: _Planned, model: ModelUnderTest) -> Iterator[Metric]:
        source = planned.data.source
        if source is self.source:
            model.embed(source, self.size)
        metrics = planned.evaluation.evaluate(model, planned.data)
        if (unreadable := model.unreadable(source)).value:
            metrics = [*metrics, unreadable]
        yield from (metric._replace(name=f"{planned.prefix}{metric.name}") for metric in metrics)

    def _validation(self) -> Source:
        if self.source is None:
            raise UserError(
                "config.data.validation: expected validation data; found none. Use --config.data.validation=DIR."
            )
        return self.source

    def _can(self, name: str) -> bool:
        """Returns whether the validation data support an evaluation."""
        if self.source is None or (name == "validation" and self._objective is None):
            return False
        try:
            EVALUATIONS[name]().check(Data(self.source))
        except UserError:
            return False
        return True

    def _objective_missing(self) -> str:
        return (
            f"the objective {self._config.objective.name!r} is not loaded. Use --config RECIPE with the recipe that "
            "adds it (a copy is in the run's folder)"
        )

    def _open(self, task: Task, opened: dict[Any, Data]) -> Data:
        """Opens a task's data; tasks with the same data share one object, so that it is embedded once."""
        try:
            if not task.path:
                data = Data(self._validation())
                task.evaluation.check(data)
                return data
            wording = (str(task.classnames), str(task.templates))
            key = (task.path, task.format, task.split, task.max_examples, task.evaluation.training_split, *wording)
            if key in opened:
                task.evaluation.check(opened[key])
            return opened.setdefault(key, opened.get(key) or task.open(Path(), Path()))
        except UserError as error:
            raise UserError(f"config.evaluation.tasks.{task.name}: {error}") from error


def tasks_of(config: Mapping[str, Any] | ConfigDict) -> list[Task]:
    """Returns the tasks that the settings add to those of the validation data.

    Raises:
      UserError: a task is invalid, or has the name of a built-in evaluation.
    """
    given = config["evaluation"]["tasks"]
    plain = given.to_dict() if isinstance(given, ConfigDict) else given
    tasks = [parse(f"config.evaluation.tasks.{name}", name, entry) for name, entry in plain.items()]
    for task in tasks:
        if task.name in VALIDATION:
            raise UserError(
                f"config.evaluation.tasks.{task.name}: the name is reserved for an evaluation of the validation data. "
                "Use another name."
            )
    return tasks
