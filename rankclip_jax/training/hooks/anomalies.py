"""Detection of anomalies in training: loss spikes, and a logit scale at its upper bound."""

import collections
import itertools
import math
import statistics

from rankclip_jax.models.clip import MAX_LOGIT_SCALE
from rankclip_jax.training.hooks import Hook, StepInfo
from rankclip_jax.training.run import Run

_SEEN = 30  # logged losses with which a loss is compared
_FAR = 6  # threshold in standard deviations, estimated from differences of neighbours, since losses decrease
_DEVIATION = 1.4826 / math.sqrt(2)  # standard deviation of normal values, per median difference of neighbours
_BOUND = math.exp(MAX_LOGIT_SCALE) * (1 - 1e-5)


class AnomalyHook(Hook):
    """Checks the logged steps; reports and records each loss spike, and the scale when it reaches its bound.

    Args:
      run: the run.
    """

    cause = "step"  # it waits for the step

    def __init__(self, run: Run) -> None:
        self._every_steps, self._events = run.experiment.config.logging.every_steps, run.events
        self._losses: collections.deque[float] = collections.deque(maxlen=_SEEN)
        self._at_bound = False

    def after_step(self, info: StepInfo) -> None:
        """Checks the step if it is logged."""
        if not info.is_due(self._every_steps) or not info.metrics:
            return
        loss, scale = float(info.metrics["loss"]), float(info.metrics["logit_scale"])
        if not math.isfinite(loss):
            return
        if len(self._losses) == _SEEN:
            usual = statistics.median(self._losses)
            changes = (abs(after - before) for before, after in itertools.pairwise(self._losses))
            deviation = max(_DEVIATION * statistics.median(changes), 0.01 * abs(usual))
            if loss > usual + _FAR * deviation:
                self._events.write("loss_spike", step=info.step, loss=loss, before=usual)
                self._events.say(f"note: the loss jumped to {loss:.4g} at step {info.step}, from about {usual:.4g}")
        self._losses.append(loss)
        if scale >= _BOUND and not self._at_bound:
            self._events.write("logit_scale_at_bound", step=info.step, logit_scale=scale)
            self._events.say(
                f"note: at step {info.step} logit_scale has reached its upper bound, {scale:.4g}, and is clipped"
            )
        self._at_bound = scale >= _BOUND
