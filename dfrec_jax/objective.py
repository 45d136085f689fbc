"""The objective: which terms count, on which examples, with which frozen encoder."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from dfrec_jax import losses
from dfrec_jax.encoders.registry import FrozenEncoder, load_encoder
from dfrec_jax.errors import InputError
from dfrec_jax.models import layers
from dfrec_jax.models.dfrec import Outputs
from dfrec_jax.models.partitioning import constrain, interleave, separate
from dfrec_jax.models.target_reconstruction import patchify, take

Batch = Mapping[str, jax.Array]

_PEOPLE = ('source', 'target')  # In the order in which the encoders see them.

# Weights of the terms that need a frozen encoder, by the encoder's setting.
_TERMS_OF_ENCODER = {
  'identity_encoder': ('identity', 'attribute'),
  'perceptual_encoder': ('perceptual',),
}


@dataclasses.dataclass(frozen=True)
class Encoders:
  """The frozen encoders of the objective; None where no term needs one.

  Their parameters are passed to the step as an argument, so that they are no constants of it.
  """

  identity: FrozenEncoder | None = None
  perceptual: FrozenEncoder | None = None

  @property
  def params(self) -> dict[str, Any]:
    named = {'identity': self.identity, 'perceptual': self.perceptual}
    return {name: encoder.params for name, encoder in named.items() if encoder is not None}


def load_encoders(config: ml_collections.ConfigDict) -> Encoders:
  """Loads the encoders that the terms of `config.loss` need.

  Raises:
    InputError: a term has a weight and its encoder has no weights.
  """
  loaded, by_file = {}, {}
  dtype = layers.compute_dtype('config.loss.encoder_dtype', config.encoder_dtype)
  for setting, terms in _TERMS_OF_ENCODER.items():
    weighted = [f'config.loss.weights.{term}' for term in terms if config.weights[term]]
    if not weighted:
      continue
    encoder = config[setting]
    if not encoder.weights:
      raise InputError(
        f'{" and ".join(weighted)} need the weights of a frozen encoder: give their file as '
        f'config.loss.{setting}.weights, or set the weights of these terms to 0.'
      )
    key = (encoder.name, encoder.weights)
    if key not in by_file:
      by_file[key] = load_encoder(*key, dtype=dtype)
    loaded[setting] = by_file[key]
    if setting == 'identity_encoder' and by_file[key].embed is None:
      raise InputError(f'The encoder {encoder.name} embeds no identity; name a face encoder.')
  return Encoders(
    identity=loaded.get('identity_encoder'), perceptual=loaded.get('perceptual_encoder')
  )


def objective(
  outputs: Outputs,
  batch: Batch,
  encoders: Encoders,
  encoder_params: Mapping[str, Any],
  weights: Mapping[str, float],
  *,
  twin_segmentation: float = 1.0,
  encoded_examples: int = 0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """DFREC's objective and its terms, unweighted, by name.

  L = L_id + w_perc L_perc + w_attr L_attr + w_patch L_patch (paper, section 3), plus segmentation
  on examples with a mask and real/fake cross-entropy, both also on twins, which are pristine.
  Terms of recovery count forged examples only, except the squared errors of the target, which
  pristine ones teach as well.
  A term of weight 0 is not computed.

  Args:
    outputs: of the model in training.
    batch: `forged`, `source`, `target` (B, H, W, 3) and `mask` (B, H, W, 1) float32 in [0, 1],
      `has_mask` (B,) bool, `label` (B,) int32.
    encoders: the frozen encoders.
    encoder_params: `encoders.params`, as an argument of the step.
    weights: weight by the name of the term's family.
    twin_segmentation: how much the mask of a twin counts beside an example's.
    encoded_examples: how many of the batch the frozen encoders see, forged ones first; 0 for all.
      On a mesh they are divided over those axes, from the first on, that divide their number.
  """
  forged = (batch['label'] == 1).astype(jnp.float32)
  families = _families(outputs, batch, forged, twin_segmentation)
  terms, total = {}, jnp.zeros(())
  for family, compute in families.items():
    if weights[family]:
      new = compute()
      terms |= new
      total += weights[family] * sum(new.values())
  faces = {
    'source': (outputs.source, batch['source']),
    'target': (outputs.target, batch['target']),
    'forged': forged,
  }
  if encoded_examples:
    chosen = jnp.argsort(-forged, stable=True)[:encoded_examples]
    # Else every device might take all of them.
    faces = jax.tree.map(lambda x: constrain(x[chosen], 'batch'), faces)
  recovery = _recovery_terms(faces, encoders, encoder_params, weights)
  for name, value in recovery.items():
    total += weights[name.split('_')[0]] * value
  return total, terms | recovery


def _families(outputs, batch, forged, twin_segmentation):
  """The terms that need no encoder: family -> a function that computes its terms."""
  has_mask = batch['has_mask'].astype(jnp.float32)
  return {
    'patch': lambda: {
      'patch': losses.patch_loss(
        outputs.target_patches, _true_patches(outputs, batch['target']), jnp.ones_like(forged)
      )
    },
    'refinement': lambda: {
      'refinement': losses.refinement_loss(outputs.target, batch['target'], jnp.ones_like(forged))
    },
    'structure': lambda: {
      'structure': losses.structure_loss(outputs.target, batch['target'], forged)
    },
    'source': lambda: {'source': losses.source_loss(outputs.source, batch['source'], forged)},
    'anchor': lambda: {'anchor': losses.anchor_loss(outputs.source, outputs.uncorrected, forged)},
    'segmentation': lambda: {
      'mask_cross_entropy': losses.mask_cross_entropy(
        *_with_twins(
          outputs.mask_logits,
          batch['mask'],
          has_mask,
          outputs.twin_mask_logits,
          twin_segmentation,
        )
      ),
      # Of an empty mask Dice says next to nothing, and its gradient is noise.
      'dice': losses.dice_loss(outputs.mask_logits, batch['mask'], has_mask * forged),
    },
    'detection': lambda: {
      'detection': losses.detection_loss(
        *_with_twins(
          outputs.class_logits, batch['label'], jnp.ones_like(forged), outputs.twin_class_logits
        )[:2]
      )
    },
  }


def _with_twins(logits, truth, weights, twin_logits, twin_weight=1.0):
  """With the twins: nothing was pasted there, and label and mask are 0."""
  if twin_logits is None:
    return logits, truth, weights
  return (
    interleave(logits, twin_logits),
    interleave(truth, jnp.zeros_like(truth)),
    interleave(weights, jnp.full_like(weights, twin_weight)),
  )


def _true_patches(outputs: Outputs, target: jax.Array) -> jax.Array:
  """The target's own pixels at the masked positions, (B, M, patch * patch * 3)."""
  patch = math.isqrt(outputs.target_patches.shape[-1] // target.shape[-1])
  return take(patchify(target, patch), outputs.masked)


def _recovery_terms(faces, encoders, encoder_params, weights):
  """L_id, L_perc and L_attr; each encoder sees recovered and true faces once."""
  forged = faces['forged']
  recovered, true = (
    constrain(interleave(*people), 'batch')
    for people in zip(faces['source'], faces['target'], strict=True)
  )
  terms = {}
  seen = {}

  def encode(role):
    encoder = getattr(encoders, role)
    if id(encoder) not in seen:
      params = encoder_params[role]
      seen[id(encoder)] = encoder.both(params, recovered), encoder.both(params, true)
    return seen[id(encoder)]

  if weights['identity'] or weights['attribute']:
    (embedding, features), (true_embedding, true_features) = encode('identity')
    if weights['identity']:
      pairs = zip(_PEOPLE, separate(embedding), separate(true_embedding), strict=True)
      for name, found, wanted in pairs:
        terms[f'identity_{name}'] = losses.identity_loss(found, wanted, forged)
    if weights['attribute']:
      terms['attribute'] = losses.attribute_loss(
        separate(features[-1])[1], separate(true_features[-1])[1], forged
      )
  if weights['perceptual']:
    (_, features), (_, true_features) = encode('perceptual')
    for part, name in enumerate(_PEOPLE):
      terms[f'perceptual_{name}'] = losses.perceptual_loss(
        *([separate(f)[part] for f in of] for of in (features, true_features)), forged
      )
  return terms
