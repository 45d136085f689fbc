"""The pure function of an update."""

from collections.abc import Callable, Mapping

from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from dfrec_jax import sharding
from dfrec_jax.identity.recognition import Recognizer, arcface_loss, contrastive_loss
from dfrec_jax.train_state import TrainState
from dfrec_jax.train_step import Metrics, descend


def make_train_step(
  model: Recognizer, tx: optax.GradientTransformation, config: ml_collections.ConfigDict
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Metrics]]:
  """The function (state, batch) -> (state, metrics).

  The batch is `views` (B, 2, S, S, 3) uint8, two of each person, and `person` (B,) int32. Metrics
  are float32 scalars: `loss`, `arcface`, `contrast`, `accuracy` (the true person's direction is the
  nearest) and `gradient_norm`.
  """
  settings = config.identity

  @nn.logical_axis_rules(sharding.RULES)
  def train_step(state, batch):
    views = batch['views'].reshape(-1, *batch['views'].shape[2:]).astype(jnp.float32) / 255
    person = jnp.repeat(batch['person'], 2)
    # At first nobody is known, and a margin would only push all views to one place.
    margin = settings.margin * jnp.minimum(state.step / max(settings.margin_steps, 1), 1)

    def loss(params):
      variables = {'params': params, 'batch_stats': state.batch_stats}
      known, updated = model.apply(variables, views, person, train=True, mutable=['batch_stats'])
      arcface = arcface_loss(known.cosines, person, margin=margin, scale=settings.scale)
      contrast = contrastive_loss(known.embedding, person, temperature=settings.temperature)
      total = arcface + settings.contrast * contrast
      accuracy = (known.cosines.argmax(1) == person).astype(jnp.float32).mean()
      terms = {'arcface': arcface, 'contrast': contrast, 'accuracy': accuracy}
      return total, (terms, updated['batch_stats'])

    return descend(state, loss, tx, ema_decay=config.ema_decay)

  return train_step
