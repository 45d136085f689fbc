"""Recovery and its parts, as programs with arguments."""

import functools

from flax import linen as nn
import jax
import ml_collections
import numpy as np

from dfrec_jax import checkpointing, programs, sharding
from dfrec_jax.benchmark import modules
from dfrec_jax.benchmark.timing import compile_program
from dfrec_jax.benchmark.training import Part
from dfrec_jax.recovery import for_recovery
from dfrec_jax.train_step import make_predict_step


class RecoveryParts:
  """Recovery with the model of a configuration, on random photographs, with random weights.

  Attributes:
    parts: `step`, the whole, and what of it is asked for: `ism`, `sirm` and `tirm` forward.
    variables: of the model.
    images: (B, H, W, 3) uint8.
    key: draws the order of the patches.
  """

  def __init__(
    self, config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, *, by_part: bool = True
  ):
    self.model = checkpointing.build_model(config.model)
    init = functools.partial(checkpointing.init_variables, self.model)
    boxed = jax.eval_shape(init, jax.random.key(0))
    shardings = sharding.parameter_shardings(boxed, mesh)
    initialise = jax.jit(lambda key: nn.unbox(init(key)), out_shardings=shardings)
    self.variables = initialise(jax.random.key(0))
    self.key = jax.random.key(1)
    rows, side = sharding.batch_sharding(mesh), config.model.image_size
    images = np.random.default_rng(0).integers(0, 256, (config.batch_size, side, side, 3), np.uint8)
    self.images = jax.device_put(images, rows)
    model, variables = for_recovery(self.model, self.variables)
    predict = programs.jit(make_predict_step(model))
    self.parts = {'step': self._part(predict, variables, self.images, self.key)}
    if by_part:
      for name, call in modules.calls(model, config.batch_size, train=False).items():
        own = {k: tree[name] for k, tree in variables.items() if name in tree}
        self.parts[name] = self._part(
          programs.jit(call.forward()), own, self.key, *call.example(rows)
        )

  def _part(self, function, *args) -> Part:
    program = compile_program(function, *args)
    return Part(program, lambda: program.compiled(*args))
