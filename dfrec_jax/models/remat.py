"""What the backward pass recomputes instead of keeping it."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax

from dfrec_jax.errors import InputError


def _saves_products(primitive, *_, **params) -> bool:
  """Keeps convolutions and products with parameters; attention's products have batch dimensions."""
  if primitive is jax.lax.conv_general_dilated_p:
    return True
  return jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *_, **params)


# Name -> what is kept of each stage of the SIRM and each block of the TIRM besides its input, as a
# policy of `jax.checkpoint`; None keeps all that the backward pass reads.
POLICIES: dict[str, Callable[..., bool] | None] = {
  'none': None,
  'dots': _saves_products,  # Recomputes norms, activations, gates and attention: little FLOP.
  'full': jax.checkpoint_policies.nothing_saveable,  # A forward pass more of both networks.
}


def policy_name(value: str | bool) -> str:
  """The name of a policy. Older configurations say true or false: full or none.

  Raises:
    InputError: there is no such policy.
  """
  name = {True: 'full', False: 'none'}.get(value, value)
  if name not in POLICIES:
    raise InputError(f'config.model.remat is {value!r}; it is one of {", ".join(POLICIES)}.')
  return name


def rematerialise(target: Any, name: str, **kwargs: Any) -> Any:
  """`nn.remat` of a module's class or function under the policy; `target` itself for `none`."""
  policy = POLICIES[name]
  return target if policy is None else nn.remat(target, policy=policy, **kwargs)
