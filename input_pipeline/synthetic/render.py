"""A photograph of a person: layers from the background to the fringe, then the camera."""

import cv2
import numpy as np

from input_pipeline.synthetic import features as parts
from input_pipeline.synthetic.hair import back_hair, front_hair
from input_pipeline.synthetic.person import TEXTURE_SIZE, Person
from input_pipeline.synthetic.photo import Camera, Photo, Surroundings
from input_pipeline.synthetic.raster import (
  FaceView,
  HeadFrame,
  bell,
  cover,
  face_view,
  head_frame,
  lambert,
  paint,
  pixel_grid,
  smooth,
  unit,
)


def draw_face(person: Person, photo: Photo, view: FaceView) -> np.ndarray:
  """The lit skin and features inside a view, without hair: linear RGB (3, h, w)."""
  f, c, e = person.features, person.complexion, photo.expression
  albedo = np.empty((3, *view.u.shape), np.float32)
  albedo[:] = c.skin[:, None, None]
  place = [(t + 1) * np.float32(TEXTURE_SIZE / 2) - np.float32(0.5) for t in (view.u, view.v)]
  albedo *= 1 + cv2.remap(c.texture, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
  across = np.abs(view.u)
  blush = bell(across - 0.3, view.v - 0.14, 0.12, 0.1) + bell(
    view.u, view.v - f.nose_tip, 0.08, 0.06
  )
  albedo *= 1 - c.blush * np.float32([0.02, 0.22, 0.2])[:, None, None] * blush
  sockets = bell(across - f.eye_distance * 0.9, view.v - f.eye_height + 0.01, 0.11, 0.06)
  albedo *= 1 - np.float32([0.2, 0.26, 0.26])[:, None, None] * sockets
  parts.draw_age(albedo, view, f, c, e)
  parts.draw_beard(albedo, view, f, c)
  parts.draw_nose(albedo, view, f, c)
  parts.draw_mouth(albedo, view, f, c, e)
  parts.draw_eyes(albedo, view, f, c, e, photo.light)
  parts.draw_brows(albedo, view, f, c, e)
  return albedo * _skin_light(person, photo, view)


def _skin_light(person: Person, photo: Photo, view: FaceView) -> np.ndarray:
  """Light on the skin (3, h, w): an ellipsoid's normals bent by the relief of the features."""
  head, frame = person.head, view.frame
  x, y = frame.x[view.box], frame.y[view.box]
  flat = np.minimum(0.5 + 0.5 * view.radius, 1)
  slope_y, slope_x = _slopes(_relief(person, photo, view), frame.pixel)
  nx = x * flat * np.float32(0.9 / head.width) - slope_x
  ny = y * flat * np.float32(0.55 / head.chin) - slope_y
  nz = np.sqrt(np.maximum(1 - np.minimum(view.radius, 1) * np.float32(0.75), 0.05))
  length = 1 / np.sqrt(nx * nx + ny * ny + nz * nz)
  light = lambert(photo.light, nx * length, ny * length, nz * length)
  return light * (1 - 0.25 * smooth((view.radius - 0.6) * 2.5))


def _slopes(height: np.ndarray, pixel: float) -> tuple[np.ndarray, np.ndarray]:
  """Central differences along y and x."""
  padded = cv2.copyMakeBorder(height, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
  scale = np.float32(0.5 / pixel)
  return (
    (padded[2:, 1:-1] - padded[:-2, 1:-1]) * scale,
    (padded[1:-1, 2:] - padded[1:-1, :-2]) * scale,
  )


def _relief(person: Person, photo: Photo, view: FaceView) -> np.ndarray:
  """Height of nose, sockets, brow ridge, cheeks, lips and chin over the ellipsoid, face units."""
  f, u, v = person.features, view.u, view.v
  across = np.abs(u)
  down = smooth((v - f.eye_height) * np.float32(1 / (f.nose_tip - f.eye_height)))
  half = np.float32(f.nose_bridge) + (0.55 * f.nose_width - f.nose_bridge) * down * down
  ridge = smooth(1.25 - across / (1.6 * half))
  end = smooth((f.nose_tip + 0.07 - v) * 13) * smooth((v - f.eye_height + 0.08) * 7)
  height = np.float32(0.075 * f.nose_relief) * ridge * end * (0.35 + 0.65 * down)
  height -= 0.03 * bell(across - f.eye_distance, v - f.eye_height, 0.1, 0.07)
  height += 0.02 * bell(across - 0.2, v - f.eye_height + 0.13, 0.16, 0.05)
  smile = 1 + 0.5 * max(photo.expression.smile, 0)
  height += np.float32(0.03 * f.cheek_relief * smile) * bell(across - 0.3, v - 0.13, 0.12, 0.11)
  height += 0.016 * bell(u, v - f.mouth_height - 0.04, 0.6 * f.mouth_width, 0.045)
  height += np.float32(0.03 * f.chin_relief) * bell(u, v - 0.64, 0.11, 0.08)
  return height


def _draw_background(surroundings: Surroundings, size: int) -> np.ndarray:
  """Gradient between the corners' colours plus soft blobs: linear RGB (3, size, size)."""
  blobs = cv2.resize(surroundings.blobs, (size, size), interpolation=cv2.INTER_CUBIC)
  corners = surroundings.corners.reshape(2, 2, 3)
  image = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
  image = np.clip(image + blobs, 0.01, 1)
  return np.ascontiguousarray(np.square(image).transpose(2, 0, 1))


def _draw_body(image, person: Person, photo: Photo, frame: HeadFrame) -> None:
  """Neck in the head's shadow, shoulders and clothes; the body turns less than the head."""
  x, y = pixel_grid(frame.size)
  head, light, pixel = person.head, photo.light, 2 / frame.size
  scale = photo.pose.scale
  chin = head.chin * scale + photo.pose.shift_y
  middle = photo.pose.shift_x - np.sin(photo.pose.roll) * 0.5 * scale
  x = (x - np.float32(middle)) * np.float32(1 / scale)
  rows = slice(max(int((chin * 0.45 + 1) / pixel), 0), frame.size)
  y, view = y[rows] - np.float32(chin), image[:, rows]
  across = np.abs(x)
  flare = head.neck + 0.12 * np.square(np.maximum(y + 0.1, 0) * 4)
  turn = np.clip(x * np.float32(1 / (head.neck * 1.3)), -1, 1)
  skin = lambert(light, turn, 0.2 * np.ones_like(y), np.sqrt(1.02 - turn * turn))
  skin *= person.complexion.skin[:, None, None]
  skin *= 0.42 + 0.4 * smooth((y - 0.02 + 0.2 * x * x) * 5)
  paint(view, cover(across - flare, pixel + 0.01), skin)
  surroundings = photo.surroundings
  opening = {'round': 0.16 - 1.6 * x * x, 'open': 0.4 - 1.6 * across, 'jacket': 0.14 - 0.6 * x * x}
  collar = np.maximum(opening[surroundings.collar], 0.1 - 0.1 * across)
  shoulder = np.maximum(collar, 0.06 + 0.16 * across * across)
  folds = 1 + 0.06 * np.sin(17 * x + 5 * y) * smooth(y * 4)
  cloth = lambert(light, 0.5 * x, -0.4 * np.ones_like(y), 0.85 * np.ones_like(x)) * folds
  body = cover(shoulder - y, pixel + 0.01)
  paint(view, body, surroundings.clothes[:, None, None] * cloth)
  if surroundings.collar == 'jacket':
    shirt = cover(across - 0.3 + 0.45 * np.maximum(y - 0.02, 0), pixel + 0.01) * body
    paint(view, shirt, surroundings.shirt[:, None, None] * cloth)


def _draw_ears(image, person: Person, photo: Photo, frame: HeadFrame) -> None:
  """An ellipse at either side, half behind the head; yaw hides one and shows the other."""
  head, yaw = person.head, photo.pose.yaw
  for side in (-1, 1):
    out = 0.03 - 0.12 * side * np.sin(yaw)
    u, v = side * (head.width + out - 0.02), 0.02 - 0.3 * np.sin(photo.pose.pitch)
    box = frame.box(u - 0.12, v - 0.22, u + 0.12, v + 0.22)
    x, y = frame.x[box] - np.float32(u), frame.y[box] - np.float32(v)
    x = x + np.float32(side * 0.12) * y
    radius = np.sqrt(np.square(x * 15) + np.square(y * np.float32(1 / head.ear)))
    facing = lambert(photo.light, np.float32(side * 0.7) + 0 * x, 0 * x, 0.7 + 0 * x)
    shade = 0.6 + 0.4 * smooth(np.abs(radius - 0.45) * 2.5)
    ear = person.complexion.skin[:, None, None] * np.float32([1, 0.86, 0.84])[:, None, None]
    paint(image[:, *box], cover((radius - 1) * 0.07, frame.pixel), ear * facing * shade)


def develop(image: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
  """Exposes linear RGB (3, h, w): (h, w, 3) float32 in [0, 1] with the camera's curve and noise."""
  size = image.shape[1:]
  image = np.sqrt(unit(image)).transpose(1, 2, 0)
  image = (image - 0.5) * np.float32(camera.contrast) + np.float32(0.5)
  image = cv2.pow(unit(image), camera.gamma)
  grain = rng.standard_normal(size=(*size, 3), dtype=np.float32)
  return unit(image + np.float32(camera.noise) * grain)


def blur_optics(image: np.ndarray, camera: Camera, size: int) -> np.ndarray:
  """Blurs linear RGB (3, h, w), part of a picture of `size` pixels, by the lens."""
  sigma = camera.blur * size / 2
  if sigma < 0.3:
    return image
  return np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in image])


def render(person: Person, photo: Photo, size: int, rng) -> tuple[np.ndarray, np.ndarray]:
  """A photograph.

  Args:
    person: who.
    photo: how.
    size: side in pixels.
    rng: generator of the camera's noise.

  Returns:
    The picture (size, size, 3) float32 in [0, 1], and where hair covers the face: (size, size)
    float32 in [0, 1].
  """
  frame = head_frame(photo.pose, size)
  image = _draw_background(photo.surroundings, size)
  back_hair(image, person, photo, frame)
  _draw_body(image, person, photo, frame)
  _draw_ears(image, person, photo, frame)
  head = person.head
  box = frame.box(-head.width, -head.top, head.width, head.chin)
  view = face_view(head, frame, box)
  edge = cover((view.radius - 1) * np.float32(0.5 * head.width), frame.pixel)
  paint(image[:, *box], edge, draw_face(person, photo, view))
  hair = front_hair(image, person, photo, frame)
  return develop(blur_optics(image, photo.camera, size), photo.camera, rng), hair
