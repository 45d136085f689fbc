"""The training step and its parts, as programs with arguments."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from dfrec_jax import checkpointing, masking, programs, sharding
from dfrec_jax.benchmark import generated, modules
from dfrec_jax.benchmark.timing import Program, compile_program
from dfrec_jax.models.dfrec import Outputs
from dfrec_jax.objective import objective
from dfrec_jax.optimizer import make_optimizer
from dfrec_jax.train_state import TrainState, plan_state, update_average
from dfrec_jax.train_step import make_train_step
from input_pipeline.loader import batch_shapes

_ENCODED = ('identity', 'attribute', 'perceptual')


@dataclasses.dataclass
class Part:
  """A program and how to run it.

  Attributes:
    program: compiled.
    run: runs it once and answers its result.
  """

  program: Program
  run: Callable[[], Any]


class TrainingParts:
  """The training step of a configuration, on random photographs.

  Attributes:
    parts: `step`, the whole, and what of it is asked for: `ism`, `sirm`, `tirm` forward and
      backward, `encoders` on true and recovered faces, `optimizer` with the moving average.
    encoders: names of the frozen encoders.
  """

  def __init__(
    self, config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, *, by_part: bool = True
  ):
    self._config, self._mesh = config, mesh
    self._model = checkpointing.build_model(config.model)
    self._tx, _ = make_optimizer(config.optimizer, config.steps)
    frozen, self.encoders = generated.load_encoders(config.loss)
    self._frozen = frozen
    self._frozen_params = jax.device_put(frozen.params, sharding.replicated(mesh))
    init = functools.partial(checkpointing.init_variables, self._model)
    initialise, self._abstract = plan_state(init, self._tx, mesh)
    self._state = initialise(jax.random.key(0))
    self._key = jax.random.key(1)
    self.batch = random_batch(config, mesh)
    self.parts = {'step': self._step()}
    if by_part:
      self.parts |= self._networks()
      if frozen.params:
        self.parts['encoders'] = self._encoding()
      self.parts['optimizer'] = self._optimizer()

  @property
  def variables(self) -> dict[str, Any]:
    """The model's parameters and statistics as they are now."""
    return {'params': self._state.params, 'batch_stats': self._state.batch_stats}

  def first_partition(self) -> tuple[jax.Array, jax.Array]:
    """The kept and masked patches of the first step, if the true masks guide it."""
    curriculum = self._config.masking

    def partition(variables, forged, mask, key):
      _, dropout, patches = jax.random.split(jax.random.fold_in(key, 0), 3)
      outputs, _ = self._model.apply(
        variables,
        forged.astype(jnp.float32) / 255,
        guide=mask,
        progress=masking.masking_progress(0, start=curriculum.start_step, end=curriculum.end_step),
        train=True,
        rngs={'dropout': dropout, 'masking': patches},
        mutable=['batch_stats'],
      )
      return outputs.kept, outputs.masked

    # All that these two do not depend on is never computed.
    return jax.jit(partition)(self.variables, self.batch['forged'], self.batch['mask'], self._key)

  def _step(self) -> Part:
    step = jax.jit(
      make_train_step(self._model, self._tx, self._frozen, self._config),
      out_shardings=(jax.tree.map(lambda x: x.sharding, self._abstract), None),
      donate_argnums=0,
      compiler_options=programs.compiler_options(self._config.compiler_options),
    )
    rest = self.batch, self._frozen_params, self._key
    return self._carrying(step, *rest)

  def _carrying(self, function, *rest) -> Part:
    """A program that takes the state and gives the next one, in the same memory."""
    program = compile_program(function, self._abstract, *rest)

    def run():
      self._state, result = program.compiled(self._state, *rest)
      return result

    return Part(program, run)

  def _networks(self) -> dict[str, Part]:
    config, rows = self._config, sharding.batch_sharding(self._mesh)
    found = modules.calls(self._model, config.batch_size, train=True, twins=config.data.twins)
    return {name: self._network(call, rows) for name, call in found.items()}

  def _network(self, call, rows) -> Part:
    args = call.example(rows)
    variables = lambda state: {
      collection: getattr(state, collection)[call.name]
      for collection in ('params', 'batch_stats')
      if call.name in getattr(state, collection)
    }
    program = compile_program(
      programs.jit(call.gradients()), variables(self._abstract), self._key, *args
    )
    return Part(program, lambda: program.compiled(variables(self._state), self._key, *args))

  def _encoding(self) -> Part:
    loss = self._config.loss
    weights = {name: value * (name in _ENCODED) for name, value in loss.weights.to_dict().items()}
    to_float = lambda x: x.astype(jnp.float32) / 255
    source, target = (jax.jit(to_float)(self.batch[name]) for name in ('source', 'target'))

    @nn.logical_axis_rules(sharding.RULES)
    def run(frozen_params, recovered, true):
      def total(recovered):
        outputs = _only(source=recovered[0], target=recovered[1])
        batch = {**true, 'has_mask': true['label'] == 1}
        encoded = loss.encoded_examples
        return objective(
          outputs, batch, self._frozen, frozen_params, weights, encoded_examples=encoded
        )[0]

      return jax.grad(total)(recovered)

    true = {'source': source, 'target': target, 'label': self.batch['label']}
    program = compile_program(programs.jit(run), self._frozen_params, (target, source), true)
    return Part(program, lambda: program.compiled(self._frozen_params, (target, source), true))

  def _optimizer(self) -> Part:
    tx, decay = self._tx, self._config.ema_decay

    def update(state, gradients):
      updates, opt_state = tx.update(gradients, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
      new = {'params': params, 'batch_stats': state.batch_stats}
      ema = update_average(state.ema, new, decay, state.step)
      norm = optax.global_norm(gradients)
      return TrainState(state.step + 1, params, state.batch_stats, opt_state, ema), norm

    gradients = jax.jit(lambda params: jax.tree.map(jnp.zeros_like, params))(self._state.params)
    shardings = jax.tree.map(lambda x: x.sharding, self._abstract)
    step = programs.jit(update, out_shardings=(shardings, None), donate_argnums=0)
    return self._carrying(step, gradients)


def random_batch(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> dict[str, Any]:
  """A batch as the loader gives it: noise for photographs, a square pasted into each."""
  generator = np.random.default_rng(0)
  side, rows = config.model.image_size, sharding.batch_sharding(mesh)
  arrays = {}
  for name, x in batch_shapes(config.batch_size, side, twins=config.data.twins).items():
    if name == 'mask':
      value = np.zeros(x.shape, x.dtype)
      value[:, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    elif x.dtype == np.uint8:
      value = generator.integers(0, 256, x.shape, np.uint8)
    else:
      value = np.ones(x.shape, x.dtype)
    arrays[name] = jax.device_put(value, rows)
  return arrays


def _only(**given) -> Outputs:
  """Outputs of which a loss reads only these."""
  fields = {field.name: None for field in dataclasses.fields(Outputs)}
  return Outputs(**fields | given)


__all__ = ['Part', 'TrainingParts', 'random_batch']
