"""One face swap between two photographs whose face meshes are known."""

import dataclasses

import cv2
import numpy as np

from input_pipeline.people.blending import border_steps, feather, match_colour, soften
from input_pipeline.people.mesh import FaceMesh, aligned

ATTACKS = ('lab', 'lab_soft', 'poisson', 'alpha')
# How far faces move to the source's shape: `SwapStyle.reshape`, least and most.
SHAPE_TRANSFER = (0.2, 0.8)


@dataclasses.dataclass(frozen=True)
class SwapStyle:
  """How one swap is made.

  Attributes:
    attack: `lab` matches colour, `lab_soft` does so in part, `poisson` keeps the source's
      gradients and closes the gap at the outline, `alpha` only feathers.
    strength: of the method's correction of colour, in [0, 1].
    reshape: how far the face moves from the target's shape to the source's, in [0, 1].
    inset: how far inside the mesh's outline the paste begins, by the face's width.
    feather: width of the soft edge, by the face's width.
    softness: how many times coarser than the photograph a generator made the face; 1 is none.
    smooth: whether it blurred instead of enlarging.
  """

  attack: str
  strength: float
  reshape: float
  inset: float
  feather: float
  softness: float
  smooth: bool


def draw_style(
  rng: np.random.Generator, shape_transfer: tuple[float, float] = SHAPE_TRANSFER
) -> SwapStyle:
  """The style of one swap from a generator.

  Args:
    rng: the generator.
    shape_transfer: least and most of `SwapStyle.reshape`; (0, 0) keeps the target's shape.
  """
  attack = str(rng.choice(ATTACKS))
  strength = {'lab': (0.8, 1), 'lab_soft': (0.4, 0.7), 'poisson': (0.7, 1), 'alpha': (0, 0)}
  softness = rng.uniform(1.2, 2.2) if rng.random() < 0.3 else 1
  return SwapStyle(
    attack=attack,
    strength=rng.uniform(*strength[attack]),
    reshape=rng.uniform(*shape_transfer),
    inset=rng.uniform(0, 0.03),
    feather=rng.uniform(0.06, 0.16),
    softness=softness,
    smooth=bool(rng.random() < 0.5),
  )


def swap_faces(
  mesh: FaceMesh,
  source: tuple[np.ndarray, np.ndarray],
  target: tuple[np.ndarray, np.ndarray],
  style: SwapStyle,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws the source's face on the target's photograph.

  Light, expression and pose are the target's mesh with the source's texture.

  Args:
    mesh: the triangles.
    source, target: photograph (H, W, 3) uint8 RGB and its face mesh (468, 2) float32, whole
      numbers being pixels' centres.
    style: how.

  Returns:
    The forged photograph (H, W, 3) uint8, and the weight of the pasted face (H, W, 1) float32 in
    [0, 1]: where it is 0 the photograph is the target's, bit for bit.
  """
  (texture, texture_points), (photo, points) = source, target
  height, width = photo.shape[:2]
  moved = aligned(texture_points, points) - points
  shape = points + style.reshape * mesh.freedom[:, None] * moved
  drawing = mesh.draw(shape, width, height)
  where = drawing.spread(texture_points)
  face = cv2.remap(
    texture, where[..., 0], where[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
  )
  scale = float(np.sqrt(np.count_nonzero(drawing.covered)))  # about the face's width
  weight = feather(drawing.covered, style.inset * scale, style.feather * scale)
  below = photo[drawing.box]
  face, below = (image.astype(np.float32) * np.float32(1 / 255) for image in (face, below))
  if style.attack in ('lab', 'lab_soft'):
    face = match_colour(face, below, weight, style.strength)
  elif style.attack == 'poisson':
    # A membrane alone would carry a dark face's contrast to a bright one's brightness.
    face = match_colour(face, below, weight, 0.5 * style.strength)
    face = _close_gap(mesh, drawing, shape, face, below, style, scale)
  if style.softness > 1:
    face = soften(face, style.softness, style.smooth)
  return _paste(photo, face, weight, drawing.box)


def _close_gap(mesh, drawing, points, face, below, style: SwapStyle, scale: float) -> np.ndarray:
  """Adds the membrane that meets the photograph's colours where the paste fades (Perez, 2003).

  The source's colours plus a harmonic function solve Poisson's equation for the source's gradients;
  on the mesh's triangles the harmonic function is a product of matrices.
  """
  rows, columns = drawing.box
  points = points - np.float32([columns.start, rows.start])
  outline = points[mesh.border]
  # The colours to meet are those of the skin half-way through the soft edge.
  inwards = points.mean(0) - outline
  inwards /= np.maximum(np.linalg.norm(inwards, axis=1, keepdims=True), 1)
  depth = (style.inset + 0.5 * style.feather) * scale
  steps = border_steps(face, below, outline + depth * inwards, 0.5 * style.feather * scale)
  membrane = drawing.spread(mesh.membrane @ (np.float32(style.strength) * steps))
  return np.clip(face + membrane, 0, 1)


def _paste(photo, face, weight, box) -> tuple[np.ndarray, np.ndarray]:
  weight = weight[..., None]
  below = photo[box]
  mixed = below + weight * (face * 255 - below)
  forged, full = photo.copy(), np.zeros((*photo.shape[:2], 1), np.float32)
  forged[box] = np.where(weight > 0, np.rint(mixed), below).astype(np.uint8)
  full[box] = weight
  return forged, full
