"""Recovery of a batch: the model's answer, at the photographs' own resolution."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from dfrec_jax.models.dfrec import DFREC
from dfrec_jax.models.vit import unstack
from dfrec_jax.resolution import mask_to_photograph, to_photograph

# Forged images at the model's size, padded, and the examples as their source gave them.
Batch = tuple[np.ndarray, Sequence[Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Recovery:
  """What was recovered from one example, at the photograph's resolution.

  Attributes:
    source, target: (H, W, 3) uint8.
    mask: (H, W) in [0, 1].
    score: probability of a forgery.
  """

  source: np.ndarray
  target: np.ndarray
  mask: np.ndarray
  score: float


def for_recovery(model: DFREC, variables: Mapping[str, Any]) -> tuple[DFREC, Mapping[str, Any]]:
  """The model and its variables in the form in which this process' devices recover soonest.

  On a CPU each of the TIRM's blocks gets its own arrays, see `vit.Transformer`. Accelerators read a
  layer where it lies in the stack, and compile one block sooner than all of them.
  """
  if jax.default_backend() != 'cpu' or not model.stacked:
    return model, variables
  return model.clone(stacked=False), {**variables, 'params': unstack(variables['params'])}


def where_source_is_residual(model: DFREC, source_mask: np.ndarray) -> bool | np.ndarray:
  """Where the model's source is a change of the forged image, as `to_photograph` takes it.

  Args:
    model: whose source it is.
    source_mask: (H, W, 1) in [0, 1], of that image.
  """
  return source_mask if model.surrounds_with_grey else model.source_residual


def recover_batch(
  predict: Callable[..., Mapping[str, jax.Array]],
  batch: Batch,
  *,
  place: Callable[[np.ndarray], jax.Array],
  key: jax.Array,
  model: DFREC,
) -> list[Recovery]:
  """Recovers the examples of one padded batch.

  Args:
    predict: (forged (B, h, w, 3) uint8, key) -> the dictionary of `make_predict_step`.
    batch: (forged, examples) of `input_pipeline.loader.eval_batches`.
    place: puts this process' part of the batch on the devices.
    key: draws the order of the patches.
    model: what `predict` applies.
  """
  forged, examples = batch
  out = {name: _local(value) for name, value in predict(place(forged), key).items()}
  recovered = []
  for i, example in enumerate(examples):
    photograph = example['forged']
    restore = lambda name, residual, weight=None, i=i, photograph=photograph: to_photograph(
      photograph, out['forged'][i], out[name][i], residual=residual, weight=weight
    )
    weight = out['composite_mask'][i] if model.composite else None
    recovered.append(
      Recovery(
        source=restore('source', where_source_is_residual(model, out['source_mask'][i])),
        target=restore('target', model.target_residual, weight),
        mask=mask_to_photograph(out['mask'][i], photograph),
        score=float(out['score'][i]),
      )
    )
  return recovered


def _local(array: jax.Array) -> np.ndarray:
  """This process' rows of an array divided over the first dimension, in order."""
  shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
  return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
