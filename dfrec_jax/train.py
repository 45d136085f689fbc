"""Trains a DFREC: it orchestrates; steps, data and checkpoints know nothing of each other."""

from collections.abc import Sequence
import contextlib
import functools

from absl import logging
import jax
import ml_collections

from dfrec_jax import checkpointing, figures, programs, sharding, starting_point
from dfrec_jax.evaluate import FACES, Evaluator
from dfrec_jax.objective import load_encoders
from dfrec_jax.optimizer import make_optimizer
from dfrec_jax.train_state import plan_state
from dfrec_jax.train_step import make_train_step
from dfrec_jax.training_loop import Loop, Termination
from input_pipeline.loader import batch_shapes, train_loader
from input_pipeline.sources import make_source, require_strangers


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
  require_strangers(sources['train'], sources['eval'])
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
    evaluate = functools.partial(_evaluate, evaluator, config, workdir)
    Loop(config, workdir, checkpointer, learning_rate, evaluate).run(
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


def _evaluate(evaluator, config, workdir, state, done, logger, stop) -> dict[str, float] | None:
  result = evaluator(
    state.ema,
    examples=config.eval_examples,
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
    figures.save_figure(figure, f'{workdir}/figures/step_{done:07d}.png')
  return result.metrics['recovered']['all']
