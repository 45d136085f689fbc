"""The parts of a face, each drawn on its own small box of the albedo."""

import numpy as np

from input_pipeline.synthetic.person import Complexion, Features
from input_pipeline.synthetic.photo import Expression, Light
from input_pipeline.synthetic.raster import FaceView, bell, cover, noise_tile, paint, smooth, unit

SCLERA = np.float32([0.66, 0.62, 0.6])
TEETH = np.float32([0.72, 0.69, 0.6])
MOUTH_CAVITY = np.float32([0.05, 0.012, 0.012])


def draw_eyes(
  albedo, view: FaceView, f: Features, c: Complexion, e: Expression, light: Light
) -> None:
  """Lids, eyeball, lashes and crease of both eyes, the face folded about its middle line."""
  box, u, v = view.part(0, f.eye_height, f.eye_distance + f.eye_width + 0.07, 0.14)
  image, pixel = albedo[:, *box], view.frame.pixel
  if not image.size:
    return
  side = np.sign(u)
  u = np.abs(u) - np.float32(f.eye_distance)  # grows outwards
  v = v + np.float32(f.eye_tilt) * u
  arc = np.maximum(1 - np.square(u * np.float32(1 / f.eye_width)), 0)
  upper = -np.float32(f.eye_opening * e.eyes_open) * arc * (1.25 - 0.25 * arc)
  lower = np.float32(f.eye_opening * (0.6 - 0.25 * max(e.smile, 0))) * arc
  paint(image, 0.55 * c.eye_shadow * bell(u, v + 0.05, 0.09, 0.04), c.skin * 0.3)
  crease = np.abs(v - upper + 0.035) - 0.004
  paint(image, 0.6 * f.lid_crease * cover(crease, pixel + 0.012) * smooth(2 * arc), c.skin * 0.35)
  bags = np.abs(v - lower - 0.05 + 0.02 * arc) - 0.008
  paint(image, 0.45 * c.eye_bags * cover(bags, pixel + 0.03) * smooth(1.5 * arc), c.skin * 0.4)
  inside = cover(np.maximum(upper - v, v - lower), pixel)
  inside *= np.abs(u) < f.eye_width
  shade = 0.45 + 0.55 * smooth((v - upper) * np.float32(1 / (0.9 * f.eye_opening)))
  paint(image, inside, SCLERA[:, None, None] * shade)
  iu, iv = side * u - np.float32(e.gaze_x), v - np.float32(e.gaze_y - 0.006)
  distance = np.sqrt(iu * iu + iv * iv)
  ring = 1.15 - 0.6 * smooth(distance * np.float32(1 / f.iris_radius) - 0.25)
  paint(
    image, inside * cover(distance - f.iris_radius, pixel), c.iris[:, None, None] * ring * shade
  )
  paint(image, inside * cover(distance - 0.42 * f.iris_radius, pixel), np.float32([0.01] * 3))
  hu, hv = iu - 0.02 * np.sign(light.direction[0]), iv + np.float32(0.018)
  glint = cover(np.sqrt(hu * hu + hv * hv) - 0.011, pixel)
  paint(image, 0.85 * inside * glint, np.float32([1.0] * 3))
  lash = np.abs(v - upper + 0.004) - (0.006 + 0.006 * c.eye_shadow)
  reach = cover(np.abs(u) - f.eye_width - 0.006, pixel)
  paint(image, 0.9 * cover(lash, pixel) * reach, c.brow * 0.15)
  paint(image, 0.4 * cover(np.abs(v - lower) - 0.003, pixel) * reach, c.skin * 0.25)


def draw_brows(albedo, view: FaceView, f: Features, c: Complexion, e: Expression) -> None:
  """Two arched bands that thin outwards."""
  height = f.eye_height - f.brow_height - e.brow_raise
  box, u, v = view.part(0, height, f.eye_distance + 0.23, 0.12)
  image, pixel = albedo[:, *box], view.frame.pixel
  if not image.size:
    return
  s = np.abs(u) - np.float32(f.eye_distance + 0.01)  # grows outwards
  bend = (s - 0.03) * np.float32(1 / 0.16)
  middle = np.float32(f.brow_arch) * (bend * bend - 0.5) - np.float32(f.brow_tilt) * s
  thickness = np.float32(f.brow_thickness) * (1 - 0.6 * smooth((s + 0.05) * 5))
  grain = noise_tile()[(u * 90 + 90).astype(np.int32) & 63, (v * 60 + 60).astype(np.int32) & 63]
  band = cover(np.abs(v - middle) - thickness, pixel + 0.016)
  band *= cover(np.abs(s) - 0.15, pixel + 0.02)
  paint(image, unit(band * (0.86 + 0.08 * grain)), c.brow)


def draw_nose(albedo, view: FaceView, f: Features, c: Complexion) -> None:
  """Nostrils, wings and the shadow under the tip; the bridge comes from the relief's shading."""
  box, u, v = view.part(0, f.nose_tip + 0.02, f.nose_width + 0.08, 0.13)
  image, pixel = albedo[:, *box], view.frame.pixel
  if not image.size:
    return
  across = np.abs(u)
  paint(image, 0.4 * bell(u, v - 0.06, 0.8 * f.nose_width, 0.02), c.skin * 0.25)
  wing_u, wing_v = across - np.float32(0.68 * f.nose_width), v + 0.002
  wing = np.sqrt(wing_u * wing_u + wing_v * wing_v) - np.float32(0.36 * f.nose_width)
  outer = smooth(wing_u * 30 + 0.3) * smooth(1 - np.abs(wing_v) * 16)
  paint(image, 0.5 * cover(np.abs(wing) - 0.004, pixel + 0.014) * outer, c.skin * 0.3)
  nostril_u = (across - np.float32(0.45 * f.nose_width)) * np.float32(1 / (0.27 * f.nose_width))
  nostril_v = (v - 0.028 + 0.15 * across) * np.float32(1 / 0.017)
  nostril = (np.sqrt(nostril_u * nostril_u + nostril_v * nostril_v) - 1) * 0.018
  paint(image, 0.75 * cover(nostril, pixel + 0.012), c.skin * 0.12)


def draw_mouth(albedo, view: FaceView, f: Features, c: Complexion, e: Expression) -> None:
  """Lips, their parting, teeth and the shadow below."""
  half = f.mouth_width * (1 + 0.16 * e.smile)
  box, u, v = view.part(0, f.mouth_height + 0.03, half + 0.04, 0.22)
  image, pixel = albedo[:, *box], view.frame.pixel
  if not image.size:
    return
  v = v + 0.03
  t = u * np.float32(1 / half)
  arc = np.maximum(1 - t * t, 0)
  middle = -np.float32(f.mouth_curve + 0.055 * e.smile) * (1 - arc) + 0.02 * e.smile
  gap = np.float32(0.075 * e.mouth_open + 0.04 * max(e.smile - 0.5, 0)) * np.sqrt(arc)
  inner_top, inner_bottom = middle - 0.3 * gap, middle + gap
  bow = 1 - 0.22 * bell(t, t, 0.15, 0.15)
  thin = 1 - 0.3 * max(e.smile, 0)
  top = inner_top - np.float32(f.upper_lip * thin) * arc * (1.35 - 0.35 * arc) * bow
  bottom = inner_bottom + np.float32(f.lower_lip * thin) * arc * (1.2 - 0.2 * arc)
  paint(image, 0.35 * bell(u, v - bottom - 0.03, 0.6 * half, 0.018), c.skin * 0.35)
  lips = cover(np.maximum(top - v, v - bottom), pixel + 0.008) * smooth(3 * arc)
  shade = 0.78 + 0.3 * smooth((v - middle) * 30) - 0.22 * smooth((v - bottom) * 25 + 1)
  paint(image, 0.9 * lips, c.lips[:, None, None] * shade)
  parting = cover(np.abs(v - middle) - 0.004, pixel + 0.006) * cover(np.abs(u) - half, pixel)
  paint(image, 0.65 * parting, c.lips * 0.15)
  if e.mouth_open > 0 or e.smile > 0.5:
    inside = cover(np.maximum(inner_top - v, v - inner_bottom), pixel) * (arc > 0)
    paint(image, inside, MOUTH_CAVITY)
    teeth = cover(v - inner_top - np.minimum(0.85 * gap, 0.045), pixel) * inside
    paint(image, teeth * smooth(2.2 * arc), TEETH)


def draw_age(albedo, view: FaceView, f: Features, c: Complexion, e: Expression) -> None:
  """Folds from nose to mouth, which a smile deepens; lines on the forehead and by the eyes."""
  u, v, pixel = view.u, view.v, view.frame.pixel
  across = np.abs(u)
  top, bottom = f.nose_tip - 0.03, f.mouth_height + 0.02
  t = unit((v - top) * np.float32(1 / (bottom - top)))
  fold = (
    np.float32(f.nose_width) + 0.01 + (f.mouth_width * 1.2 - f.nose_width) * t * (1.5 - 0.5 * t)
  )
  line = cover(np.abs(across - fold) - 0.004, pixel + 0.02 + 0.02 * (1 - c.age_lines))
  strength = min(0.1 + 0.45 * c.age_lines + 0.25 * max(e.smile, 0), 0.7)
  paint(albedo, strength * line * smooth(8 * t * (1 - t)), c.skin * 0.4)
  if c.age_lines < 0.05:
    return
  wave = 0.012 * np.cos(9 * u)
  phase = (v + wave + 0.33 + e.brow_raise) * np.float32(1 / 0.065)
  line = smooth(1 - np.abs(phase - np.round(phase)) * np.float32(0.065 / (0.5 * pixel + 0.012)))
  line *= (
    smooth((np.float32(0.36) - across) * 6) * smooth((-0.3 - v) * 30) * smooth((v + 0.52) * 20)
  )
  paint(albedo, 0.4 * c.age_lines * line, c.skin * 0.45)
  corner = across - np.float32(f.eye_distance + f.eye_width)
  rays = np.abs(((v - f.eye_height) / np.maximum(corner + 0.04, 0.02)) * 1.2)
  rays = smooth(1 - np.abs(rays - np.round(rays)) * 3.5) * (rays < 1.4)
  reach = smooth(corner * 40) * smooth((0.09 - corner) * 20)
  paint(albedo, 0.35 * c.age_lines * rays * reach, c.skin * 0.45)


def draw_beard(albedo, view: FaceView, f: Features, c: Complexion) -> None:
  """Beard along the jaw and the moustache, grained, under the lips."""
  if c.beard_strength <= 0:
    return
  u, v = view.u, view.v
  edge = 0.42 - 1.6 * u * u
  jaw = smooth((v - edge) * 6) * smooth((view.radius - 0.1) * 6)
  upper_lip = f.mouth_height - f.upper_lip
  moustache = bell(u, v - 0.6 * upper_lip - 0.4 * (f.nose_tip + 0.06), 0.62 * f.mouth_width, 0.035)
  grain = noise_tile()[(v * 90 + 90).astype(np.int32) & 63, (u * 140 + 140).astype(np.int32) & 63]
  alpha = np.maximum(c.beard_strength * jaw, np.minimum(1.4 * moustache, 1) * c.moustache_strength)
  paint(albedo, unit(alpha * (0.85 + 0.07 * grain)), c.beard)
