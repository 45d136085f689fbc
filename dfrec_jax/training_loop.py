"""The loop of a training run: logs, evaluation and checkpoints at their intervals, and its end."""

from collections.abc import Callable
import contextlib
import dataclasses
import signal
import threading
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import ml_collections

from dfrec_jax import checkpointing
from dfrec_jax.metric_logging import MetricLogger
from input_pipeline.loader import TrainIterator


@dataclasses.dataclass
class Loop:
  """The loop and what happens at its intervals.

  Attributes:
    config, workdir: of the run.
    checkpointer: saves at intervals, at the end and when the run is told to stop.
    learning_rate: of a step.
    evaluate: (state, steps done, logger, stop) -> what decides which checkpoint is best; None where
      it was stopped.
  """

  config: ml_collections.ConfigDict
  workdir: str
  checkpointer: checkpointing.Checkpointer
  learning_rate: Callable[[int], Any]
  evaluate: Callable[[Any, int, MetricLogger, 'Termination'], dict[str, float] | None]

  def run(
    self,
    state: Any,
    iterator: TrainIterator,
    advance: Callable[[Any], tuple[Any, dict[str, jax.Array]]],
    stop: 'Termination',
  ) -> None:
    """Advances the state from its step to the last one, or until it is told to stop."""
    config = self.config
    done = int(state.step)
    logger = MetricLogger(
      self.workdir, first_step=done, last_step=config.steps, batch_size=config.batch_size
    )
    due = lambda every: bool(every) and (done % every == 0 or done == config.steps)
    stopped = False
    with contextlib.closing(logger):
      while done < config.steps and not stopped:
        state, metrics = advance(state)
        done += 1
        logger.add(done, metrics)
        stopped = stop.requested_at(done)
        finished = stopped or done == config.steps
        saves = due(config.checkpoint_every) or due(config.eval_every) or finished
        # A checkpoint never holds a state that follows a loss that is not finite.
        if due(config.log_every) or saves:
          logger.flush(learning_rate=float(self.learning_rate(done - 1)))
        if saves:
          evaluates = due(config.eval_every) and not stopped
          result = self.evaluate(state, done, logger, stop) if evaluates else None
          self.checkpointer.save(state, iterator, result)
          logger.pause()
    if stopped:
      logging.warning('Stopped by SIGTERM at step %d; start it again to resume.', done)


class Termination:
  """Notes SIGTERM while it is entered; a second one ends the process as usual.

  With several processes JAX itself notes it, and all of them learn of it at the same step: one that
  stopped alone would leave the others waiting.
  """

  def __init__(self):
    self._noted = False
    self._handles = (
      jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
    )

  def __enter__(self) -> 'Termination':
    if self._handles:
      self._before = signal.signal(signal.SIGTERM, self._note)
    return self

  def _note(self, *unused) -> None:
    self._noted = True
    signal.signal(signal.SIGTERM, self._before)

  def __exit__(self, *unused) -> None:
    if self._handles:
      signal.signal(signal.SIGTERM, self._before)

  def requested_at(self, step: int) -> bool:
    """Whether to stop after step `step`; every process asks, and gets the same answer."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._noted

  def requested_here(self) -> bool:
    """Whether this process, being the only one, may give up what it does between steps."""
    return self._noted
