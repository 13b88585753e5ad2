"""The definition of a study: its arms, how each is tuned, and what is reported; data that a reader can check.

A recipe file defines a study by a second function, ``get_study()``, next to ``get_config()``:

    def get_study() -> Study:
        return Study(title="...", arms={"clip": Arm({"objective.name": "clip"}, tries=(...)), ...}, ...)
"""

import dataclasses
import re
import runpy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.settings.schema import import_parts, is_open, schema

Settings = Mapping[str, Any]  # values by dotted name, such as {"optimizer.learning_rate": 1e-3}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the methods that a study compares.

    Args:
      settings: its settings, on top of the recipe's.
      tries: settings to try after the shared ones; every tuned arm has the same number.
      like: the arm whose tuned settings it starts from, for variants that are not tuned themselves; empty: tuned.
      against: the arm that a variant is compared with; empty: ``like``. Tuned arms are compared with the baseline.
      seeds: the number of seeds; 0: the study's.
      teacher: the arm whose first seed's weights are passed as ``objective.teacher``; empty: none.
    """

    settings: Settings
    tries: Sequence[Settings] = ()
    like: str = ""
    against: str = ""
    seeds: int = 0
    teacher: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A line chart of a reported column over several arms.

    Args:
      column: the column of the report.
      across: the label of the x axis.
      lines: for each line of the chart, its arms by their place on the x axis.
    """

    column: str
    across: str
    lines: Mapping[str, Mapping[float, str]]


@dataclasses.dataclass(frozen=True)
class Study:
    """A comparison of arms on equal terms.

    Every tuned arm is trained once with each setting of each stage: the stages of ``shared``, then its own tries. A
    stage starts from the best run of the stages before, by ``choose_by``, and the best run of all gives the arm's
    settings. All arms are then trained with other seeds, which are the same for all of them, and so see the same
    batches in the same order.

    Args:
      title: its name on the page.
      baseline: the arm with which the others are compared.
      arms: by name, most informative first.
      shared: stages of settings that every arm tries, such as learning rates and then initial scales.
      choose_by: metrics of the validation data; the mean of them, higher is better, chooses the settings.
      report: the columns of the main table: names of metrics, of which each column is the mean.
      seeds: number of runs of each arm with its chosen settings.
      first_seeds: number of seeds that all arms finish before any arm gets more.
      report_tasks: the tasks of ``config.evaluation.tasks`` that tuning leaves out, so that no choice sees them.
      lengths: the baseline trained for other lengths, by their ratio, for comparisons at equal time; 1 is the baseline.
      figures: charts by title.
    """

    title: str
    baseline: str
    arms: Mapping[str, Arm]
    shared: Sequence[Sequence[Settings]]
    choose_by: Sequence[str]
    report: Mapping[str, Sequence[str]]
    seeds: int = 3
    first_seeds: int = 3
    report_tasks: Sequence[str] = ()
    lengths: Mapping[float, str] = dataclasses.field(default_factory=dict)
    figures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = {name: len(self.arms[name].tries) for name in self.tuned}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{name}: {count}" for name, count in counts.items())
            raise UserError(f"study: expected the same number of tries for each tuned arm; found {found}.")
        for name, arm in self.arms.items():
            if not re.fullmatch(r"\w[\w.-]*", name):  # it names a folder
                raise UserError(f"study: expected names of arms of letters, digits, _, . and -; found {name!r}.")
            if arm.like and arm.like not in self.tuned:
                raise UserError(f"study: {name}: expected like= a tuned arm; found {arm.like!r}.")
            if arm.like and arm.tries:
                raise UserError(f"study: {name}: an arm with like= is not tuned; remove its tries.")
            self._check_arms(f"{name}: ", [other for other in (arm.against, arm.teacher) if other])
        self._check_arms("baseline: ", [self.baseline])
        self._check_arms("lengths: ", self.lengths.values())
        for title, figure in self.figures.items():
            self._check_arms(f"figure {title!r}: ", [arm for line in figure.lines.values() for arm in line.values()])
            if figure.column not in self.report:
                raise UserError(
                    f"study: figure {title!r}: unknown column {figure.column!r}; choose from {', '.join(self.report)}."
                )

    def _check_arms(self, where: str, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.arms:
                raise UserError(f"study: {where}unknown arm {name!r}; choose from {', '.join(self.arms)}.")

    @property
    def tuned(self) -> list[str]:
        """The arms that are tuned."""
        return [name for name, arm in self.arms.items() if not arm.like]

    def reference_of(self, arm: str) -> str:
        """Returns the arm that an arm is compared with."""
        definition = self.arms[arm]
        return definition.against or definition.like or self.baseline

    def seeds_of(self, arm: str) -> int:
        """Returns the number of seeds of an arm."""
        return self.arms[arm].seeds or self.seeds


def read(recipe: Path) -> Study:
    """Returns the study that a recipe file defines.

    Raises:
      UserError: the file defines none, or an invalid one.
    """
    get_study = runpy.run_path(str(recipe)).get("get_study")
    if get_study is None:
        raise UserError(
            f"--config: {recipe} defines no study; expected a function get_study(). Use a study, such as --config "
            "configs/studies/icons.py."
        )
    return get_study()


def with_settings(config: ConfigDict, settings: Settings) -> ConfigDict:
    """Returns a copy of a recipe's settings with some of them replaced.

    Raises:
      UserError: a name is not that of a setting.
    """
    copy = config.copy_and_resolve_references()
    parts = {name: value for name, value in settings.items() if name in schema().selectors()}
    if parts and len(parts) < len(settings):  # the chosen parts may have settings of their own
        copy = with_settings(copy, parts)
        import_parts(copy)
        copy = schema().complete(copy)
    with copy.unlocked():
        for name, value in settings.items():
            *sections, key = name.split(".")
            section: Any = copy
            for part in sections:
                section = section.get(part) if isinstance(section, ConfigDict) else None
            is_section = isinstance(section, ConfigDict) and isinstance(section.get(key), ConfigDict)
            is_known = isinstance(section, ConfigDict) and (key in section or is_open(name))
            if not is_known or (is_section and not isinstance(value, Mapping)):
                raise UserError(f"study: unknown setting {name!r}. Choose from docs/settings.md.")
            section[key] = ConfigDict(value) if isinstance(value, Mapping) else value
    return copy
