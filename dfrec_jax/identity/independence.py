"""Whether two encoders see the same: what trains through one is measured through the other.

A network that is trained through an encoder may learn to please that encoder alone. The other then
shows it, provided that the two do not make the same mistakes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax.encoders.registry import FrozenEncoder

_BATCH = 16


def agreement(embeddings: Sequence[np.ndarray], person: np.ndarray) -> dict[str, float]:
  """Correlation of two encoders' similarities over pairs of photographs.

  Args:
    embeddings: two arrays (n, D) of the same photographs, of unit length; D may differ.
    person: (n,) whose photograph each is.

  Returns:
    Pearson's coefficient over pairs of the `same` and of `different` people.
  """
  first, second = np.triu_indices(len(person), 1)
  a, b = (((e @ e.T)[first, second]) for e in embeddings)
  same = person[first] == person[second]
  return {
    'same': float(np.corrcoef(a[same], b[same])[0, 1]),
    'different': float(np.corrcoef(a[~same], b[~same])[0, 1]),
  }


def transfer(
  fooled: FrozenEncoder,
  witness: FrozenEncoder,
  pictures: np.ndarray,
  wanted: np.ndarray,
  *,
  grey_levels: float = 4.0,
  steps: int = 10,
) -> dict[str, float]:
  """Fools one encoder by changes that hardly show, and asks another (Kurakin et al., 1607.02533).

  Args:
    fooled: the encoder whose gradient is followed.
    witness: the one that is asked.
    pictures, wanted: (n, H, W, 3) uint8, n a multiple of 16; whom each is to pass for.
    grey_levels: the largest change of a pixel, of 255.
    steps: how many, each of the gradient's sign.

  Returns:
    Mean cosines to the wanted face, `fooled` and `witness`, each `_before` and `_after`.
  """
  params = {'fooled': fooled.params, 'witness': witness.params}
  encoders = {'fooled': fooled, 'witness': witness}

  @jax.jit
  def run(params, x, y):
    similarity = lambda name, x: (
      encoders[name].embed(params[name], x) * encoders[name].embed(params[name], y)
    ).sum(-1)
    limit = grey_levels / 255

    def climb(_, changed):
      slope = jax.grad(lambda x: similarity('fooled', x).sum())(changed)
      changed = changed + 2 * limit / steps * jnp.sign(slope)
      return jnp.clip(jnp.clip(changed, x - limit, x + limit), 0, 1)

    changed = jax.lax.fori_loop(0, steps, climb, x)
    return {
      f'{name}_{when}': similarity(name, image)
      for name in encoders
      for when, image in (('before', x), ('after', changed))
    }

  results = []
  for start in range(0, len(pictures), _BATCH):
    x, y = (p[start : start + _BATCH].astype(np.float32) / 255 for p in (pictures, wanted))
    results.append(jax.device_get(run(params, x, y)))
  return {name: float(np.mean([r[name] for r in results])) for name in results[0]}
