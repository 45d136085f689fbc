"""Face swaps with exact masks: the source's face on the target's photograph.

The pasted face has the source's complexion and features, moved part of the way to the target's
geometry, in the target's pose and expression and under light between both photographs'. As in real
swaps, head outline, hair, ears, neck and background stay the target's.
"""

import dataclasses

import cv2
import numpy as np

from input_pipeline.synthetic.person import Person, move_features
from input_pipeline.synthetic.photo import Light, Photo
from input_pipeline.synthetic.raster import FaceView, face_view, head_frame, outline, smooth, unit
from input_pipeline.synthetic.render import blur_optics, develop, draw_face

ATTACKS = ('alpha', 'colour', 'poisson', 'soft')
# A gradient-domain paste shows least of what it covers up: it is the hardest and the rarest.
ATTACK_SHARES = (0.3, 0.25, 0.15, 0.3)

# Decorrelates natural colours into brightness, yellow-blue and red-green; orthonormal.
OPPONENT = np.float32(
  [
    [3**-0.5, 3**-0.5, 3**-0.5],
    [6**-0.5, 6**-0.5, -2 * 6**-0.5],
    [2**-0.5, -(2**-0.5), 0],
  ]
)


@dataclasses.dataclass(frozen=True)
class SwapStyle:
  """How one swap was made.

  Attributes:
    attack: one of ATTACKS.
    reshape: how far the features move to the target's geometry, in [0, 1].
    light: how much of the source photograph's light stays in the pasted face, in [0, 1].
    reach: the mask's share of the way from the middle of the face to the head's outline.
    brow_margin: height of the mask above the brows, face units.
    feather: width of the soft edge inside the mask, face units.
    colour: strength of the colour transfer, in [0, 1].
    softening: standard deviation of the generator's blur, face units.
  """

  attack: str
  reshape: float
  light: float
  reach: float
  brow_margin: float
  feather: float
  colour: float
  softening: float


def draw_style(rng: np.random.Generator) -> SwapStyle:
  """The style of one swap from a generator."""
  return SwapStyle(
    attack=str(rng.choice(ATTACKS, p=ATTACK_SHARES)),
    reshape=rng.uniform(0.2, 0.5),
    light=rng.uniform(0.1, 0.5),
    reach=rng.uniform(0.8, 0.95),
    brow_margin=rng.uniform(0.03, 0.1),
    feather=rng.uniform(0.04, 0.14),
    colour=rng.uniform(0.2, 0.5),
    softening=rng.uniform(0.012, 0.022),
  )


def swap_face(
  source: tuple[Person, Photo],
  target: tuple[Person, Photo],
  picture: np.ndarray,
  hair: np.ndarray,
  style: SwapStyle,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """Pastes the source's face on the target's photograph.

  Args:
    source: the source person and the photograph that their light comes from.
    target: the target person and photograph.
    picture: that photograph, (H, H, 3) float32 in [0, 1].
    hair: where the target's hair covers the face, (H, H) float32 in [0, 1]; it stays on top.
    style: how.
    rng: generator of the pasted face's camera noise.

  Returns:
    The forged photograph (H, H, 3) float32 in [0, 1], and the weight of the pasted face
    (H, H, 1) float32 in [0, 1]: where it is 0 the photograph is the target's, bit for bit.
  """
  size = picture.shape[0]
  (person, own), (other, photo) = source, target
  frame = head_frame(photo.pose, size)
  head = other.head
  view = face_view(head, frame, frame.box(-head.width, -0.5, head.width, head.chin))
  weight = _weight(other, photo, view, style) * (1 - hair[view.box])
  features = move_features(person.features, other.features, style.reshape)
  pasted = dataclasses.replace(person, head=head, features=features)
  lit = dataclasses.replace(photo, light=_mix_light(photo.light, own.light, style.light))
  face = blur_optics(draw_face(pasted, lit, view), photo.camera, size)
  face = develop(face, photo.camera, rng)
  below = picture[view.box]
  face = _blend(face, below, weight, style, size)
  weight = weight[..., None]
  forged, full = picture.copy(), np.zeros((size, size, 1), np.float32)
  forged[view.box] = np.where(weight > 0, below + weight * (face - below), below)
  full[view.box] = weight
  return forged, full


def _mix_light(ours: Light, theirs: Light, amount: float) -> Light:
  mixed = (
    a + np.float32(amount) * (b - a)
    for a, b in zip(
      (ours.direction, ours.key, ours.ambient),
      (theirs.direction, theirs.key, theirs.ambient),
      strict=True,
    )
  )
  return Light(*mixed)


def _weight(person: Person, photo: Photo, view: FaceView, style: SwapStyle) -> np.ndarray:
  """Weight (h, w) of the pasted face: from above the brows to the chin, along the jaw."""
  head, f = person.head, person.features
  radius = outline(head, view.u, view.v - 0.04)
  sides = (np.sqrt(radius) - style.reach) * np.float32(head.width)
  top = f.eye_height - f.brow_height - photo.expression.brow_raise - style.brow_margin
  crown = np.float32(top) + 0.35 * view.u * view.u - view.v
  # A smooth maximum rounds the corners at the temples.
  inside = np.maximum(sides, crown) + 0.25 * np.maximum(0.12 - np.abs(sides - crown), 0)
  weight = smooth(-inside * np.float32(1 / style.feather))
  return np.where(weight > 1 / 255, weight, 0)


def _blend(face, below, weight, style: SwapStyle, size: int) -> np.ndarray:
  """The face (h, w, 3) made to fit the picture below by the style's method."""
  if style.attack == 'alpha':
    return face
  if style.attack == 'poisson':
    return _keep_gradients(face, below, weight, 0.5 + 0.7 * style.colour)
  if style.attack == 'soft':
    sigma = max(style.softening * size / 2, 0.6)
    face = cv2.GaussianBlur(face, (0, 0), sigma)
  return _match_colour(face, below, weight, style.colour)


def _match_colour(face, below, weight, strength: float) -> np.ndarray:
  """Moves mean and spread of the face's opponent colours to those of what it covers.

  After Reinhard et al., Color Transfer between Images (2001), without the logarithm.
  """
  ours, theirs = face @ OPPONENT.T, below @ OPPONENT.T
  share = weight[..., None] / max(float(weight.sum()), 1e-6)
  our_mean, their_mean = (ours * share).sum((0, 1)), (theirs * share).sum((0, 1))
  our_spread = np.sqrt((np.square(ours - our_mean) * share).sum((0, 1)))
  their_spread = np.sqrt((np.square(theirs - their_mean) * share).sum((0, 1)))
  gain = np.clip(their_spread / np.maximum(our_spread, np.float32(1e-3)), 0.6, 1.6)
  gain = 1 + strength * (gain - 1)
  moved = (ours - our_mean) * gain + our_mean + strength * (their_mean - our_mean)
  return unit(moved @ OPPONENT)


def _keep_gradients(face, below, weight, strength: float) -> np.ndarray:
  """Gradient-domain paste: the face plus a smooth membrane that closes the gap at its border.

  The membrane is the difference at the border carried inwards by a pull-push pyramid, an
  approximation of the Poisson equation's solution that costs a few resizes.
  """
  border = ((weight > 0) & (weight < 0.35)).astype(np.float32)[..., None]
  levels = [np.concatenate([(below - face) * border, border], -1)]
  while min(levels[-1].shape[:2]) > 1:
    rows, columns = levels[-1].shape[:2]
    levels.append(
      cv2.resize(levels[-1], ((columns + 1) // 2, (rows + 1) // 2), interpolation=cv2.INTER_AREA)
    )
  filled = levels[-1][..., :3] / np.maximum(levels[-1][..., 3:], 1e-6)
  for level in levels[-2::-1]:
    known = np.minimum(level[..., 3:] * 4, 1)
    own = level[..., :3] / np.maximum(level[..., 3:], 1e-6)
    filled = cv2.resize(filled, level.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    filled = filled + known * (own - filled)
  return unit(face + strength * cv2.blur(filled, (3, 3)))
