"""The optimizer: AdamW with warm-up and cosine decay, from the configuration."""

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import optax

from dfrec_jax.errors import InputError


def learning_rate_schedule(config: ml_collections.ConfigDict, updates: int) -> optax.Schedule:
  """Linear warm-up, then a cosine to `final_fraction` of the peak, over `updates` updates."""
  warmup = min(config.warmup_steps, max(updates - 1, 0))
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0 if warmup else config.learning_rate,
    peak_value=config.learning_rate,
    warmup_steps=warmup,
    decay_steps=max(updates, 1),
    end_value=config.learning_rate * config.final_fraction,
  )


def decay_mask(params: Any) -> Any:
  """True for kernels. Biases, norms, positions and tokens are not decayed."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)


def scale_by_module(scales: Mapping[str, float]) -> optax.GradientTransformation:
  """Multiplies the updates of each top-level module by its scale, 1 where none is given."""

  def update(updates, state, params=None):
    known = set(updates)
    if unknown := set(scales) - known:
      raise InputError(
        f'config.optimizer.module_scale names {sorted(unknown)}; the modules are {sorted(known)}.'
      )
    scaled = {}
    for name, subtree in updates.items():
      scale = scales.get(name, 1.0)
      scaled[name] = jax.tree.map(lambda u, s=scale: u * s, subtree)
    return scaled, state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(
  config: ml_collections.ConfigDict, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """The optimizer of `config.optimizer`, and the learning rate as a function of the step.

  With accumulation, one update is made every `accumulate_steps` steps from their mean gradient.
  """
  every = config.accumulate_steps
  if every < 1:
    raise InputError(f'config.optimizer.accumulate_steps is {every}; it is 1 or more.')
  schedule = learning_rate_schedule(config, -(-steps // every))
  tx = optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
    optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
    scale_by_module(config.module_scale),
    optax.scale_by_learning_rate(schedule),
  )
  if every > 1:
    tx = optax.MultiSteps(tx, every).gradient_transformation()
  return tx, lambda step: schedule(step // every)
