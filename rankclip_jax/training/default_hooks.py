"""The default hooks of a run, in the order in which they are called after a step."""

from collections.abc import Sequence

from rankclip_jax.checkpoints import workdir as workdirs
from rankclip_jax.training.hooks import Hook, StepInfo
from rankclip_jax.training.hooks.anomalies import AnomalyHook
from rankclip_jax.training.hooks.checkpointing import CheckpointHook
from rankclip_jax.training.hooks.evaluation import EvaluationHook
from rankclip_jax.training.hooks.interruption import InterruptHook
from rankclip_jax.training.hooks.logging import LoggingHook
from rankclip_jax.training.hooks.nonfinite import NonFiniteHook, Rollback
from rankclip_jax.training.hooks.profiling import ProfileHook
from rankclip_jax.training.run import Run


def default_hooks(run: Run, logging: LoggingHook, more: Sequence[Hook]) -> list[Hook]:
    """Returns the hooks of a run; the user's run before those that save, so that they see each saved state.

    Args:
      run: the run.
      logging: closed after the other hooks, since the final evaluation is logged too.
      more: the user's hooks.
    """
    checkpointing = CheckpointHook(run, flush=logging.flush)
    nonfinite = NonFiniteHook(run, kept=checkpointing.checkpoints.kept)

    def save_if_finite(info: StepInfo) -> int:
        try:
            nonfinite.check()
        except Rollback:  # the run will resume from its last checkpoint
            return max(workdirs.saved_steps(run.workdir), default=0)
        checkpointing.save(info)
        return info.step

    config = run.experiment.config.checkpoint
    interrupt = InterruptHook(save_if_finite, patience=config.patience_seconds, deadline=config.deadline_seconds)
    return [
        logging,
        AnomalyHook(run),
        nonfinite,
        ProfileHook(run),
        *more,
        checkpointing,
        interrupt,
        EvaluationHook(run, logging, interrupt.check_interrupt),
    ]
