"""The training loop: it orchestrates; steps, data and checkpoints know nothing of each other."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
import signal
import threading
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import ml_collections

from dfrec_jax import checkpointing, figures, programs, sharding, starting_point
from dfrec_jax.evaluate import FACES, Evaluator
from dfrec_jax.metric_logging import MetricLogger
from dfrec_jax.objective import load_encoders
from dfrec_jax.optimizer import make_optimizer
from dfrec_jax.train_state import plan_state
from dfrec_jax.train_step import make_train_step
from input_pipeline.loader import batch_shapes, train_loader
from input_pipeline.sources import make_source


def train(
  config: ml_collections.ConfigDict, workdir: str, devices: Sequence[jax.Device] | None = None
) -> None:
  """Trains to `config.steps`, resuming whatever is in `workdir`, on all devices unless given.

  SIGTERM saves and returns; a killed run resumes from its last complete checkpoint bit for bit.

  Raises:
    InputError: the configuration, its data or the workdir do not fit; before any training.
    NonFiniteError: a term of the objective is not finite.
  """
  mesh = sharding.make_mesh(config.mesh, devices)
  options = programs.compiler_options(config.compiler_options)
  model = checkpointing.build_model(config.model)
  encoders = load_encoders(config.loss)
  sources = {name: make_source(config.data, name, seed=config.seed) for name in ('train', 'eval')}
  evaluator = Evaluator(model, config, sources['eval'], mesh)
  tx, learning_rate = make_optimizer(config.optimizer, config.steps)
  checkpointer = checkpointing.Checkpointer(workdir, config)
  with contextlib.ExitStack() as open_until_the_end:
    open_until_the_end.enter_context(jax.set_mesh(mesh))
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    init = functools.partial(checkpointing.init_variables, model)
    initialise, abstract = plan_state(init, tx, mesh)
    fresh = checkpointer.latest_step is None
    given = starting_point.read(config, model, abstract, mesh) if fresh else None
    iterator = _training_batches(config, sources['train'], mesh)
    # In this order: the last checkpoint is written before a second SIGTERM could end the process.
    stop = open_until_the_end.enter_context(Termination())
    open_until_the_end.enter_context(contextlib.closing(checkpointer))
    open_until_the_end.enter_context(contextlib.closing(iterator))
    if not fresh:
      state = checkpointer.restore(abstract, iterator)
      logging.info('Resuming %s at step %d.', workdir, int(state.step))
      if state.step >= config.steps:
        return
    encoder_params = jax.device_put(encoders.params, sharding.replicated(mesh))
    # These compile while the state is initialised.
    step = programs.compile_ahead(
      jax.jit(
        make_train_step(model, tx, encoders, config),
        out_shardings=(jax.tree.map(lambda x: x.sharding, abstract), None),
        donate_argnums=0,
        compiler_options=options,
      ),
      abstract,
      _batch_shapes(config, mesh),
      encoder_params,
      step_key,
    )
    if config.eval_every:
      evaluator.compile_ahead(abstract.ema)
    if fresh:
      state = starting_point.start(initialise(init_key), given)
    run = _Run(config, workdir, checkpointer, evaluator, learning_rate)
    run.loop(
      state, iterator, lambda state: step(state, next(iterator), encoder_params, step_key), stop
    )


def _batch_shapes(config, mesh):
  shapes = batch_shapes(config.batch_size, config.model.image_size, twins=config.data.twins)
  rows = sharding.batch_sharding(mesh)
  return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for name, x in shapes.items()}


def _training_batches(config, source, mesh):
  data = config.data
  return train_loader(
    source,
    batch_size=config.batch_size,
    image_size=config.model.image_size,
    seed=config.seed,
    pristine_rate=data.pristine_rate,
    augmentation=data.augmentation,
    twins=data.twins,
    workers=data.workers,
    sharding=sharding.batch_sharding(mesh),
  )


@dataclasses.dataclass
class _Run:
  """The loop and what happens at its intervals."""

  config: ml_collections.ConfigDict
  workdir: str
  checkpointer: checkpointing.Checkpointer
  evaluator: Evaluator
  learning_rate: Callable[[int], Any]

  def loop(self, state, iterator, advance, stop) -> None:
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
          result = self._evaluate(state, done, logger, stop) if evaluates else None
          self.checkpointer.save(state, iterator, result)
          logger.pause()
    if stopped:
      logging.warning('Stopped by SIGTERM at step %d; start it again to resume.', done)

  def _evaluate(self, state, done, logger, stop) -> dict[str, float] | None:
    result = self.evaluator(
      state.ema,
      examples=self.config.eval_examples,
      should_stop=stop.requested_here,
    )
    if result is None:
      return None
    flat = {
      f'eval/{kind}/{group}/{name}': value
      for kind, groups in result.metrics.items()
      for group, values in groups.items()
      for name, value in values.items()
      if value is not None
    }
    logger.write(done, flat)
    if jax.process_index() == 0:
      figure = figures.faces_figure(FACES, result.faces, labels=result.labels)
      figures.save_figure(figure, f'{self.workdir}/figures/step_{done:07d}.png')
    return result.metrics['recovered']['all']


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
