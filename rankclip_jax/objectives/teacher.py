"""What objectives that learn from teachers share: the option that names the teachers, and the teachers' embeddings.

A batch has two more views for each teacher, without gradient: ``teacher0_image`` and ``teacher0_text``, and so on. Both
are scaled by the square root of the teacher's scale, so that their products are the teacher's logits.
"""

import dataclasses
from typing import ClassVar

from rankclip_jax.input_pipeline.setting import Settings, setting
from rankclip_jax.objectives.pairwise import Similarities


@dataclasses.dataclass(frozen=True)
class TeacherOptions(Settings):
    """The teachers of a student, a base of the objectives that have them."""

    needs_teacher: ClassVar[bool] = True

    teacher: str = setting(
        "",
        "teachers, separated by commas: weights as in `config.init_from`, or embeddings by `rankclip_jax.embed`",
    )

    @property
    def teachers(self) -> tuple[str, ...]:
        """The paths of the teachers."""
        return tuple(path for path in self.teacher.split(",") if path)


def views(number: int) -> tuple[str, str]:
    """Returns the names of a teacher's embeddings of images and of texts."""
    return f"teacher{number}_image", f"teacher{number}_text"


def views_in(similarity: Similarities) -> list[tuple[str, str]]:
    """Returns the names of the embeddings of each teacher of a batch; empty for validation data."""
    pairs = (views(number) for number in range(len(similarity.views)))
    return [pair for pair in pairs if pair[0] in similarity.views]
