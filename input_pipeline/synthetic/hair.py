"""Hair: what hangs behind the head, and what grows over it around the opening of the face."""

import cv2
import numpy as np

from input_pipeline.synthetic.person import Person
from input_pipeline.synthetic.photo import Photo
from input_pipeline.synthetic.raster import (
  HeadFrame,
  cover,
  lambert,
  noise_tile,
  outline,
  paint,
  smooth,
)

# How far the hair stands off the skull (times `volume`), and where its front ends at the sides.
STAND_OFF = {
  'short': 0.6,
  'side': 0.9,
  'crop': 0.2,
  'bald': 0.0,
  'curly': 1.7,
  'long': 1.1,
  'bob': 1.2,
  'tied': 0.35,
}
SIDES_END = {
  'short': -0.05,
  'side': 0.0,
  'crop': -0.12,
  'bald': -0.3,
  'curly': 0.1,
  'long': 1.5,
  'bob': 0.5,
  'tied': -0.05,
}


def back_hair(image, person: Person, photo: Photo, frame: HeadFrame) -> None:
  """Hair that falls behind the neck: long and bob styles only. Draws in place."""
  hair, head = person.hair, person.head
  if hair.style not in ('long', 'bob'):
    return
  end = hair.length if hair.style == 'long' else 0.55 + 0.2 * (hair.length - 0.75)
  wave = hair.waviness * np.sin(9 * frame.y + 2 * hair.part)
  half = head.width + hair.volume + 0.06 * smooth((frame.y + 0.2) * 1.2) + wave
  distance = np.maximum(np.abs(frame.x) - half, frame.y - end)
  distance = np.maximum(distance, -frame.y - 0.3)
  _paint_hair(image, cover(distance, frame.pixel + 0.02), person, photo, frame, 0.6)


def front_hair(image, person: Person, photo: Photo, frame: HeadFrame) -> np.ndarray:
  """Hair over the skull around the face's opening. Draws in place; returns its cover (H, W)."""
  hair, head, pose = person.hair, person.head, photo.pose
  x, y = frame.x, frame.y
  volume = hair.volume * STAND_OFF[hair.style]
  angle = np.arctan2(x, -(y + 0.1))
  if hair.style == 'curly':  # scallops
    ripple = 0.035 * np.abs(np.sin(7 * angle + 9 * hair.part)) + 0.03 * np.abs(np.sin(11 * angle))
  else:
    ripple = 0.007 * (np.sin(17 * angle + 9 * hair.part) + 0.6 * np.sin(37 * angle + hair.length))
  wide, high = head.width + 0.02 + 0.8 * volume, head.top + 0.02 + 1.1 * volume
  above = np.square(np.minimum(y, 0) * np.float32(1 / high))
  skull = np.square(x * np.float32(1 / wide)) + above * (0.5 + 0.5 * above)
  outside = (np.sqrt(skull) - 1) * np.float32(wide) - ripple
  end = SIDES_END[hair.style] + (0 if hair.style != 'long' else hair.length - 1.5)
  outside = np.maximum(outside, y - np.float32(end) + 0.1 * ripple)
  opening = _face_opening(person, photo, frame)
  # Beside the face hair hides the background too; below it, the neck stays free.
  limit = (outline(head, x, y) - 1) * np.float32(0.5 * head.width) + 0.02 - smooth((y - 0.05) * 5)
  opening = np.maximum(opening, limit)
  alpha = cover(np.maximum(outside, -opening), frame.pixel + 0.025)
  if hair.style == 'bald':
    alpha *= 0.75 * smooth((np.abs(x) - 0.36) * 9)
  elif hair.style == 'crop':
    alpha *= 0.9
  if hair.style == 'tied':
    knot = np.hypot(x - 0.2 * np.sin(pose.yaw) - hair.part * 0.3, (y + high + 0.05) * 1.1) - 0.17
    alpha = np.maximum(alpha, cover(np.maximum(knot, y + high - 0.03), frame.pixel + 0.02))
  _paint_hair(image, alpha, person, photo, frame, 1.0)
  return alpha


def _face_opening(person: Person, photo: Photo, frame: HeadFrame) -> np.ndarray:
  """Signed distance (H, W), negative where the face shows: a tall opening that turns with it."""
  hair, head, pose = person.hair, person.head, photo.pose
  x = frame.x - np.float32(0.3 * np.sin(pose.yaw))
  y = frame.y - np.float32(0.35 * np.sin(pose.pitch))
  top = hair.hairline
  if hair.fringe and hair.style not in ('bald', 'crop', 'tied'):
    top = top + 0.1
  if hair.style == 'bald':
    top = -1.0
  covers_ears = hair.style in ('long', 'bob')
  half = head.width * (0.86 if covers_ears else 0.99)
  lean = np.float32(hair.part) * x * (0.8 if hair.style in ('side', 'long', 'bob') else 0.2)
  across = x / np.float32(half)
  across = across * across
  hairline = np.float32(top) + lean + (0.16 + 0.2 * covers_ears) * across * (0.4 + 0.6 * across)
  side = (np.abs(x) - np.float32(half)) - 0.08 * smooth((y - 0.0) * 2) * (not covers_ears)
  return np.maximum(hairline - y, side)


def _paint_hair(image, alpha, person: Person, photo: Photo, frame: HeadFrame, level: float) -> None:
  """Strands fan out from the parting: noise stretched along them, with a band of gloss."""
  hair, head = person.hair, person.head
  x, y = frame.x - np.float32(hair.part), frame.y + np.float32(head.top + 0.25)
  spread = x / (0.3 + np.abs(y)) * 34
  along = y * (3 if hair.style != 'curly' else 22)
  strands = cv2.remap(
    noise_tile(), spread + 32, along + 32, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
  )
  nx = np.clip(frame.x * np.float32(0.9 / head.width), -1, 1)
  ny = np.clip(frame.y * np.float32(0.9 / head.top), -1, 0.2)
  nz = np.sqrt(np.maximum(1.1 - nx * nx - ny * ny, 0.05))
  light = lambert(photo.light, nx, ny, nz) * np.float32(level)
  gloss = smooth(1 - np.abs(frame.y + 0.62 + 0.3 * nx * nx) * 6) * (0.5 + 0.25 * strands)
  colour = hair.colour[:, None, None] * np.maximum(0.85 + 0.15 * strands, 0.2)
  colour = (
    colour + np.float32(0.05 * level) * np.maximum(gloss, 0) * (0.4 + hair.colour)[:, None, None]
  )
  paint(image, alpha, colour * light)
