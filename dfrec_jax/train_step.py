"""The pure functions of a step: one update, one prediction."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from dfrec_jax import masking, sharding
from dfrec_jax.models.dfrec import DFREC
from dfrec_jax.objective import Encoders, objective
from dfrec_jax.train_state import TrainState, update_average

Metrics = dict[str, jax.Array]


def to_float(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """The loader's batch with its photographs as float32 in [0, 1]."""
  names = ('forged', 'source', 'target', 'twin')
  photographs = {name: batch[name].astype(jnp.float32) / 255 for name in names if name in batch}
  return {**batch, **photographs, 'mask': batch['mask'].astype(jnp.float32)}


def make_train_step(
  model: DFREC,
  tx: optax.GradientTransformation,
  encoders: Encoders,
  config: ml_collections.ConfigDict,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """The function (state, batch, encoder_params, key) -> (state, metrics).

  It draws all that is random from `fold_in(key, state.step)`, so that a resumed run repeats an
  uninterrupted one. Metrics are float32 scalars: `loss`, its terms, `gradient_norm`. Under a mesh
  (`jax.set_mesh`) the activations are divided as `sharding.RULES` say.
  """
  weights = config.loss.weights.to_dict()
  curriculum = config.masking

  @nn.logical_axis_rules(sharding.RULES)
  def train_step(state, batch, encoder_params, key):
    batch = to_float(batch)
    mixing, dropout, patches = jax.random.split(jax.random.fold_in(key, state.step), 3)
    # The true mask guides, and now and then the predicted one, which is what evaluation has.
    predicted = jax.random.bernoulli(
      mixing, curriculum.predicted_mask_rate, batch['has_mask'].shape
    )
    use_guide = batch['has_mask'] & ~predicted
    progress = masking.masking_progress(
      state.step, start=curriculum.start_step, end=curriculum.end_step
    )

    def loss(params):
      outputs, updated = model.apply(
        {'params': params, 'batch_stats': state.batch_stats},
        batch['forged'],
        twins=batch.get('twin'),
        guide=batch['mask'],
        use_guide=use_guide,
        progress=progress,
        train=True,
        rngs={'dropout': dropout, 'masking': patches},
        mutable=['batch_stats'],
      )
      total, terms = objective(
        outputs,
        batch,
        encoders,
        encoder_params,
        weights,
        twin_segmentation=config.loss.twin_segmentation,
        encoded_examples=config.loss.encoded_examples,
      )
      scales = config.optimizer.module_scale
      batch_stats = unless_frozen(state.batch_stats, updated['batch_stats'], scales)
      return total, (terms, batch_stats)

    return descend(state, loss, tx, ema_decay=config.ema_decay)

  return train_step


def unless_frozen(old: Any, new: Any, module_scale: Mapping[str, float]) -> Any:
  """The batch statistics of each network: `new`, or `old` of one that does not learn.

  Else a frozen segmentation would follow the statistics of the batches beside it, and its masks
  would change.
  """
  return {
    name: old[name] if module_scale.get(name, 1.0) == 0 else stats for name, stats in new.items()
  }


def descend(
  state: TrainState,
  loss: Callable[[Any], tuple[jax.Array, tuple[Metrics, Any]]],
  tx: optax.GradientTransformation,
  *,
  ema_decay: float,
) -> tuple[TrainState, Metrics]:
  """One step of the optimizer and of the moving average.

  Args:
    state: before it.
    loss: params -> (loss, (its terms, batch statistics)).
    tx: the optimizer.
    ema_decay: of the moving average.

  Returns:
    The state after it, and `loss`, the terms and `gradient_norm`.
  """
  (total, (terms, batch_stats)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
  updates, opt_state = tx.update(gradients, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  ema = update_average(
    state.ema, {'params': params, 'batch_stats': batch_stats}, ema_decay, state.step
  )
  metrics = {'loss': total, **terms, 'gradient_norm': optax.global_norm(gradients)}
  return TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics


def make_predict_step(model: DFREC) -> Callable[[Any, jax.Array, jax.Array], dict[str, jax.Array]]:
  """The function (variables, forged uint8 (B, H, W, 3), key) -> what recovery needs.

  It answers `mask`, `composite_mask`, `source_mask` (B, H, W, 1), `score` (B,): the probability of
  a forgery, and `forged`, `source`, `target` (B, H, W, 3), the target before compositing; all in
  [0, 1].
  The key draws the order of the patches.
  """

  @nn.logical_axis_rules(sharding.RULES)
  def predict(variables, forged, key):
    forged = forged.astype(jnp.float32) / 255
    outputs = model.apply(variables, forged, train=False, rngs={'masking': key})
    return {
      'mask': outputs.mask,
      'composite_mask': outputs.composite_mask,
      'source_mask': outputs.source_mask,
      'score': jax.nn.softmax(outputs.class_logits)[:, 1],
      'forged': forged,
      'source': outputs.source,
      'target': outputs.target_raw,
    }

  return predict
