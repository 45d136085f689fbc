"""The network in training, which knows the people it learns from, and its two losses."""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from dfrec_jax.models.partitioning import constrain

# No embedding is divided by less, so that the gradient of a zero one is finite.
_LEAST_SQUARED_NORM = 1e-12


class Recognition(NamedTuple):
  """What is known of B views.

  Attributes:
    embedding: (B, D) float32 of unit length.
    cosines: (B, people) float32, between the embeddings and each person's direction; 0 for a
      person who was not seen yet.
  """

  embedding: jax.Array
  cosines: jax.Array


class Recognizer(nn.Module):
  """A network with its batch norms, and a direction in its space for each training person.

  ArcFace learns the directions as a linear layer. A person with one photograph is seen once a pass,
  so that a learned one would take dozens of passes to find the person: here it is a moving mean of
  the person's embeddings, the memory of Wu et al. (arXiv 1805.01978), and has no gradient.

  Attributes:
    people: how many there are.
    network: of `encoders.trainable.build`.
    memory: how much of a direction stays when its person is seen, in [0, 1).
  """

  people: int
  network: nn.Module
  memory: float = 0.5

  @nn.compact
  def __call__(
    self, views: jax.Array, person: jax.Array | None = None, *, train: bool
  ) -> Recognition:
    """Embeds views, and in training updates the directions.

    Args:
      views: (B, S, S, 3) in [0, 1], S = network.size, aligned to `alignment.TEMPLATE_112`.
      person: (B,) int32, who is seen; needed in training.
      train: whether batch norms take the batch's statistics.
    """
    views = self.network.from_pixels(constrain(views, 'batch'))
    embedding = _unit(self.network(views, train=train).embedding, axis=-1)
    shape = (self.people, embedding.shape[-1])
    directions = self.variable('batch_stats', 'directions', jnp.zeros, shape, jnp.float32)
    known = Recognition(embedding, embedding @ directions.value.T)
    if train:
      directions.value = self._remember(directions.value, jax.lax.stop_gradient(embedding), person)
    return known

  def _remember(self, directions, embedding, person):
    seen = jnp.zeros_like(directions).at[person].add(embedding)
    times = jnp.zeros(self.people).at[person].add(1)[:, None]
    mixed = self.memory * directions + (1 - self.memory) * seen / jnp.maximum(times, 1)
    return jnp.where(times > 0, _unit(mixed, axis=-1), directions)


def _unit(x: jax.Array, axis: int) -> jax.Array:
  squared = jnp.square(x).sum(axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(squared, _LEAST_SQUARED_NORM))


def init_variables(model: Recognizer, key: jax.Array) -> Any:
  """The module's variables, boxed with logical axis names.

  Residual blocks begin as the identity (Goyal et al., arXiv 1706.02677, section 5.1): through all
  of them, with their batch norms, two views of one photograph would come out unrelated.
  """
  size = model.network.size
  variables = model.init(key, jnp.zeros((1, size, size, 3)), train=False)
  for path in model.network.residual_norms():
    norm = variables['params']['network']
    for name in path:
      norm = norm[name]
    norm['scale'] = jax.tree.map(jnp.zeros_like, norm['scale'])
  return variables


def arcface_loss(
  cosines: jax.Array, person: jax.Array, *, margin: jax.Array | float, scale: float
) -> jax.Array:
  """Cross-entropy in which the true person's angle counts as larger (Deng et al., 1801.07698).

  Args:
    cosines: (B, people) float32.
    person: (B,) int32, the true one.
    margin: what is added to the true angle, in radians.
    scale: of the cosines as logits.
  """
  true = jnp.take_along_axis(cosines, person[:, None], axis=1)[:, 0]
  sine = jnp.sqrt(jnp.maximum(1 - jnp.square(true), 1e-6))
  with_margin = true * jnp.cos(margin) - sine * jnp.sin(margin)
  # Beyond pi the cosine would rise again: a straight line goes on falling.
  with_margin = jnp.where(true > -jnp.cos(margin), with_margin, true - margin * jnp.sin(margin))
  is_true = jax.nn.one_hot(person, cosines.shape[1], dtype=bool)
  logits = scale * jnp.where(is_true, with_margin[:, None], cosines)
  return optax.softmax_cross_entropy_with_integer_labels(logits, person).mean()


def contrastive_loss(embedding: jax.Array, person: jax.Array, *, temperature: float) -> jax.Array:
  """Supervised contrastive loss (Khosla et al., arXiv 2004.11362, L_out): views of one person meet.

  Args:
    embedding: (B, D) of unit length.
    person: (B,) int32; each has two views or more in the batch.
    temperature: of the softmax over the other views.
  """
  itself = jnp.eye(len(person), dtype=bool)
  similarity = jnp.where(itself, -jnp.inf, embedding @ embedding.T / temperature)
  log_share = jnp.where(itself, 0, jax.nn.log_softmax(similarity, axis=1))
  same = (person[:, None] == person) & ~itself
  return -((log_share * same).sum(1) / jnp.maximum(same.sum(1), 1)).mean()
