"""Trains an identity encoder: people, step and loop put together."""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import functools
import json
from typing import Any

from absl import logging
import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dfrec_jax import checkpointing, programs, sharding
from dfrec_jax.encoders import alignment, registry, trainable
from dfrec_jax.errors import InputError
from dfrec_jax.identity import people as people_folders
from dfrec_jax.identity import recognition, verification
from dfrec_jax.identity.export import FILE, write_encoder
from dfrec_jax.identity.people import People, make_people
from dfrec_jax.identity.step import make_train_step
from dfrec_jax.identity.views import Variation, draw_view
from dfrec_jax.optimizer import make_optimizer
from dfrec_jax.train_state import plan_state
from dfrec_jax.training_loop import Loop, Termination
from input_pipeline.loader import TrainIterator, stream_batches

# Of `config.model`: what earlier runs were trained with, whose configuration does not name it.
LATER_SETTINGS = {'network': 'mobilefacenet', 'depth': ''}


def train(
  config: ml_collections.ConfigDict, workdir: str, devices: Sequence[jax.Device] | None = None
) -> None:
  """Trains to `config.steps`, resuming whatever is in `workdir`, on all devices unless given.

  `workdir/encoder.safetensors` is the encoder as it was evaluated last. SIGTERM saves and returns.

  Raises:
    InputError: the configuration, its people or the workdir do not fit; before any training.
    NonFiniteError: a loss is not finite.
  """
  mesh = sharding.make_mesh(config.mesh, devices)
  sharding.check_batch_size(config.batch_size, mesh)
  options = programs.compiler_options(config.compiler_options)
  network = trainable.build(config.model)
  side = alignment.matching_side(network.size)
  learned = make_people(config.data, 'train', side=side)
  held_out = make_people(config.data, 'eval', side=config.data.eval_side)
  people_folders.check_disjoint(learned.people, held_out.people)
  verification.check_people(held_out.person)
  model = recognition.Recognizer(len(learned.people), network)
  tx, learning_rate = make_optimizer(config.optimizer, config.steps)
  checkpointer = checkpointing.Checkpointer(workdir, config, LATER_SETTINGS)
  with contextlib.ExitStack() as open_until_the_end:
    open_until_the_end.enter_context(jax.set_mesh(mesh))
    initialise, abstract = plan_state(
      functools.partial(recognition.init_variables, model), tx, mesh
    )
    iterator = view_batches(config, learned, sharding.batch_sharding(mesh))
    stop = open_until_the_end.enter_context(Termination())
    open_until_the_end.enter_context(contextlib.closing(checkpointer))
    open_until_the_end.enter_context(contextlib.closing(iterator))
    if checkpointer.latest_step is not None:
      state = checkpointer.restore(abstract, iterator)
      logging.info('Resuming %s at step %d.', workdir, int(state.step))
      if state.step >= config.steps:
        return
    else:
      state = initialise(jax.random.key(config.seed))
    step = jax.jit(
      make_train_step(model, tx, config),
      out_shardings=(jax.tree.map(lambda x: x.sharding, abstract), None),
      donate_argnums=0,
      compiler_options=options,
    )
    evaluator = _Evaluator(config.model.network, held_out, mesh)
    evaluate = functools.partial(_evaluate, evaluator, config, workdir)
    Loop(config, workdir, checkpointer, learning_rate, evaluate).run(
      state, iterator, lambda state: step(state, next(iterator)), stop
    )


def view_batches(
  config: ml_collections.ConfigDict, people: People, placed: jax.sharding.Sharding | None
) -> TrainIterator:
  """Endless batches of two views of each person: `views` (B, 2, S, S, 3) uint8, `person` (B,).

  Each pass takes every photograph once. Batch n is a function of the people, the configuration and
  n alone.

  Raises:
    InputError: a batch holds more people than there are photographs, or an augmentation is wrong.
  """
  if config.batch_size > len(people):
    raise InputError(
      f'batch_size is {config.batch_size} and there are {len(people)} photographs; give a '
      'batch_size no larger than that, or more photographs.'
    )
  size = trainable.build(config.model).size
  draw = _DrawViews(people, size, Variation.create(config.data.augmentation))
  count = jax.process_count()
  batches = grain.MapDataset.range(len(people)).seed(config.seed).shuffle().repeat()
  batches = batches.random_map(draw).batch(config.batch_size // count, drop_remainder=True)
  return stream_batches(
    batches[jax.process_index() :: count],
    batch_size=config.batch_size,
    workers=config.data.workers,
    sharding=placed,
  )


@dataclasses.dataclass(frozen=True)
class _DrawViews(grain.transforms.RandomMap):
  """The number of a photograph -> two views of its person."""

  people: People
  size: int
  variation: Variation

  def random_map(self, element: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    *pictures, person = self.people.pair(int(element), rng)
    views = [draw_view(picture, self.size, self.variation, rng) for picture in pictures]
    return {'views': np.stack(views), 'person': np.int32(person)}


class _Evaluator:
  """Verifies, as it will be used, the encoder that a state holds."""

  def __init__(self, network: str, people: People, mesh: jax.sharding.Mesh):
    self._network = network
    self._people = people
    self._gather = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(mesh))
    # Each process verifies for itself, on one device of its own.
    self._here = jax.sharding.Mesh(np.array(jax.local_devices()[:1]), ('data',))
    self._embed = None

  def __call__(self, ema: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The figures, and the network's tensors as PyTorch has them."""
    variables = jax.device_get(self._gather(_network_variables(ema)))
    arrays = trainable.find(self._network).to_torch_arrays(variables)
    encoder = registry.ENCODERS[self._network](arrays, jnp.float32)
    if self._embed is None:
      # The function is of the network's sizes alone, so it is compiled once.
      self._embed = programs.jit(
        lambda params, x: encoder.embed(params, x.astype(jnp.float32) / 255)
      )

    def embed(pictures):
      batch = np.zeros((verification.READ_TOGETHER, *pictures[0].shape), np.uint8)
      batch[: len(pictures)] = pictures
      return np.asarray(self._embed(encoder.params, batch))[: len(pictures)]

    with jax.set_mesh(self._here):
      embedded = verification.embed_people(embed, self._people)
    return verification.verify(*embedded), arrays


def _network_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
  return {name: variables[name]['network'] for name in ('params', 'batch_stats')}


def _evaluate(evaluator, config, workdir, state, done, logger, stop) -> dict[str, float]:
  del stop  # It takes seconds.
  result, arrays = evaluator(state.ema)
  logger.write(done, {f'eval/{name}': value for name, value in result.items()})
  if jax.process_index() == 0:
    fields = json.loads(config.to_json_best_effort())
    card = {'network': config.model.network, 'licence': config.licence, 'step': done}
    card |= {'verification': result, 'config': fields}
    write_encoder(f'{workdir}/{FILE}', arrays, card, dtype=config.export_dtype)
  return result
