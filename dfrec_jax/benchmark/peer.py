"""The PyTorch modules at the same work: inputs, weights, and alternating time.

Recovery: both sides take uint8 photographs and answer all that recovery needs; equal means each
picture and mask within `TOLERANCE`. PyTorch is given JAX's choice of patches for the comparison of
values, since a sort of nearly equal weights may end otherwise, and makes its own when it is timed.

Training: forward with the true masks, the terms of the objective that need no frozen encoder,
backward, clipping, AdamW and the moving average. The PyTorch modules know neither twins nor frozen
encoders, so that the configuration is measured without them. Equal means loss and norm of the
gradient at the first step, without dropout, within `TOLERANCE` of their size.
"""

from collections.abc import Callable, Mapping
import importlib.util
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from configs.common import without_encoders
from dfrec_jax import sharding
from dfrec_jax.benchmark import timing
from dfrec_jax.benchmark.recovering import RecoveryParts
from dfrec_jax.benchmark.training import TrainingParts
from dfrec_jax.convert import published
from dfrec_jax.errors import InputError

TOLERANCE = 1e-3
KINDS = ('eager', 'compile')


def compare(
  config: ml_collections.ConfigDict,
  what: str,
  *,
  devices: list[jax.Device] | None = None,
  kinds: tuple[str, ...] = KINDS,
  repeats: int = 20,
  seconds: float = 120.0,
  done: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
  """Times JAX and PyTorch in turns, on one device.

  Args:
    config: as for training; what PyTorch's modules lack is switched off.
    what: `train` or `recover`.
    devices: of which the first is used.
    kinds: `eager`, `compile`.
    repeats: rounds.
    seconds: after which no further round begins.
    done: gets what is known after each kind, since `torch.compile` may take minutes.

  Returns:
    Milliseconds of each side, `ratios` (how many times as fast JAX is), the largest `difference` of
    what both computed and whether it is within `tolerance`; `without`: why a kind is not there.

  Raises:
    InputError: PyTorch is not installed, or it cannot do this.
  """
  if what not in ('train', 'recover'):
    raise InputError(f'--peer=torch measures train or recover, not {what}.')
  if importlib.util.find_spec('torch') is None:
    raise InputError(
      "--peer=torch needs PyTorch, which is not installed: pip install -e '.[torch]'."
    )
  # Here, since PyTorch is an extra.
  from dfrec_jax.benchmark import torch_side

  without = {}
  if torch_side.device() == 'cpu' and not shutil.which('g++'):
    without['compile'] = 'torch.compile needs a C++ compiler on a CPU, and no g++ was found.'
  config = _comparable(config, what)
  mesh = sharding.make_mesh(config.mesh, (devices or jax.devices())[:1])
  with jax.set_mesh(mesh):
    side = _Recovery(config, mesh) if what == 'recover' else _Training(config, mesh)
    difference = side.difference()
    report = {
      'what': what,
      'batch': config.batch_size,
      'model': config.model.to_dict(),
      'torch': torch_side.about(),
      'difference': difference,
      'tolerance': TOLERANCE,
      'equal': bool(max(difference.values()) <= TOLERANCE),
      'without': without,
    }
    runs = {'jax': side.run}
    for kind in kinds:
      if kind not in without:
        runs[kind] = side.peer(kind)
        times = timing.rounds(runs, repeats=repeats, seconds=seconds)
        report |= {
          'times': {name: timing.summary(values) for name, values in times.items()},
          'ratios': {k: timing.ratio(times['jax'], v) for k, v in times.items() if k != 'jax'},
        }
        done(report)
  return report


def _comparable(config, what):
  config = config.copy_and_resolve_references()
  config.mesh.update(data=1, fsdp=1, tensor=1)
  if what == 'train':
    without_encoders(config)
    config.data.twins = False
    config.masking.predicted_mask_rate = 0.0
    config.model.update(dropout=0.0, drop_connect=0.0)
    # Terms that the PyTorch side has not; without them nothing learns from a refinement.
    config.loss.weights.update(anchor=0.0, refinement=0.0, structure=0.0)
    config.model.refinement = 0
  return config


def _dictionaries(variables, size):
  host = jax.tree.map(np.asarray, jax.device_get(dict(variables)))
  return published.to_torch(host, size)


class _Recovery:
  """Recovery of one batch on both sides."""

  def __init__(self, config, mesh):
    from dfrec_jax.benchmark import torch_side

    self._jax = RecoveryParts(config, mesh, by_part=False)
    self._torch = torch_side.Recovery(
      config.model, _dictionaries(self._jax.variables, config.model.size)
    )
    self._images = np.asarray(self._jax.images)
    self.run = self._jax.parts['step'].run

  def peer(self, kind):
    return self._torch.runner(kind, self._images)

  def difference(self) -> Mapping[str, float]:
    """The largest difference of each output, of values in [0, 1]."""
    model = self._jax.model

    def patches(variables, images, key):
      images = images.astype(jnp.float32) / 255
      outputs = model.apply(variables, images, train=False, rngs={'masking': key})
      return outputs.kept, outputs.masked

    kept, masked = jax.jit(patches)(self._jax.variables, self._jax.images, self._jax.key)
    ours = jax.device_get(self.run())
    theirs = self._torch.predict(self._images, (np.asarray(kept), np.asarray(masked)))
    return {name: float(np.abs(ours[name] - theirs[name]).max()) for name in theirs}


class _Training:
  """One step of training on both sides."""

  def __init__(self, config, mesh):
    from dfrec_jax.benchmark import torch_side

    self._jax = TrainingParts(config, mesh, by_part=False)
    self._size = config.model.size
    variables = self._jax.variables
    self._batch = jax.device_get(self._jax.batch)
    self._torch = torch_side.Training(config, _dictionaries(variables, self._size), self._batch)
    self._first_partition = self._jax.first_partition
    self.run = self._jax.parts['step'].run

  def peer(self, kind):
    return self._torch.runner(kind)

  def difference(self) -> Mapping[str, float]:
    """Relative differences of loss and norm of the gradient, before anything has been trained."""
    partition = jax.device_get(self._first_partition())
    ours = {k: float(v) for k, v in self.run().items() if k in ('loss', 'gradient_norm')}
    theirs = self._torch.first_step(partition)
    return {name: abs(value - theirs[name]) / abs(theirs[name]) for name, value in ours.items()}
