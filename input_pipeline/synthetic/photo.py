"""How a picture was taken: everything that changes between two photographs of one person."""

import dataclasses

import numpy as np

from input_pipeline.synthetic.person import linear


@dataclasses.dataclass(frozen=True)
class Pose:
  """Angles in radians; shifts in face units; `scale` multiplies the size of the head."""

  yaw: float
  pitch: float
  roll: float
  scale: float
  shift_x: float
  shift_y: float


@dataclasses.dataclass(frozen=True)
class Expression:
  """`smile` in [-0.5, 1], `mouth_open`, `eyes_open` in [0, 1], the rest in face units."""

  smile: float
  mouth_open: float
  eyes_open: float
  brow_raise: float
  gaze_x: float
  gaze_y: float


@dataclasses.dataclass(frozen=True)
class Light:
  """A directional key light (unit vector towards it; z to the viewer) and an ambient one."""

  direction: np.ndarray
  key: np.ndarray
  ambient: np.ndarray


@dataclasses.dataclass(frozen=True)
class Surroundings:
  """Background colours (4, 3) of the corners, blobs (6, 6, 3), clothes' colours and collar."""

  corners: np.ndarray
  blobs: np.ndarray
  clothes: np.ndarray
  shirt: np.ndarray
  collar: str


@dataclasses.dataclass(frozen=True)
class Camera:
  """`gamma` and `contrast` near 1, `blur` in face units, `noise` as a fraction of white."""

  gamma: float
  contrast: float
  blur: float
  noise: float


@dataclasses.dataclass(frozen=True)
class Photo:
  pose: Pose
  expression: Expression
  light: Light
  surroundings: Surroundings
  camera: Camera


def _draw_light(rng) -> Light:
  across = 0.55 * rng.normal()
  direction = np.array([across, -0.35 + 0.25 * rng.normal(), 1.0], np.float32)
  warmth = 0.08 * rng.normal()
  tint = np.float32([1 + warmth, 1 + 0.02 * rng.normal(), 1 - warmth])
  strength = rng.uniform(0.6, 0.95)
  level = rng.uniform(0.9, 1.25)
  coolness = 0.05 * rng.normal()
  ambient = np.float32([1 - coolness, 1, 1 + coolness]) * level * (1 - 0.8 * strength)
  return Light(direction / np.linalg.norm(direction), tint * strength * level, ambient)


def _draw_surroundings(rng) -> Surroundings:
  base = rng.uniform(20, 235, size=3) * 0.25 + rng.uniform(20, 235) * 0.75
  corners = np.clip(base + rng.normal(size=(4, 3)) * 12 + rng.normal(size=(4, 1)) * 25, 5, 250)
  blobs = rng.normal(size=(6, 6, 3)) * rng.choice((2, 14, 30)) * np.float32([1, 0.9, 1])
  blobs = 0.7 * blobs.mean(-1, keepdims=True) * 1.7 + 0.3 * blobs
  clothes = rng.uniform(10, 230, size=3) * 0.35 + rng.uniform(10, 220) * 0.65
  shirt = rng.uniform(150, 245, size=3) * 0.4 + rng.uniform(120, 245) * 0.6
  return Surroundings(
    corners=corners.astype(np.float32) / 255,
    blobs=blobs.astype(np.float32) / 255,
    clothes=linear(clothes),
    shirt=linear(shirt),
    collar=str(rng.choice(('round', 'open', 'jacket'))),
  )


def draw_photo(rng) -> Photo:
  """One photograph's circumstances from a generator."""
  pose = Pose(
    yaw=float(np.clip(0.2 * rng.normal(), -0.42, 0.42)),
    pitch=float(np.clip(0.1 * rng.normal(), -0.22, 0.22)),
    roll=float(np.clip(0.08 * rng.normal(), -0.22, 0.22)),
    scale=float(1.06 + 0.04 * rng.normal()),
    shift_x=float(0.03 * rng.normal()),
    shift_y=float(0.03 * rng.normal()),
  )
  talks = rng.uniform() < 0.35
  expression = Expression(
    smile=float(np.clip(0.3 + 0.4 * rng.normal(), -0.4, 1)),
    mouth_open=float(rng.uniform(0.2, 1)) if talks else 0.0,
    eyes_open=float(np.clip(1 + 0.12 * rng.normal(), 0.7, 1.25)),
    brow_raise=float(0.012 * rng.normal()),
    gaze_x=float(0.009 * rng.normal()),
    gaze_y=float(0.006 * rng.normal()),
  )
  light = _draw_light(rng)
  surroundings = _draw_surroundings(rng)
  camera = Camera(
    gamma=float(np.exp(0.08 * rng.normal())),
    contrast=float(np.exp(0.06 * rng.normal())),
    blur=float(rng.uniform(0.0, 0.01)),
    noise=float(rng.uniform(0.002, 0.016)),
  )
  return Photo(pose, expression, light, surroundings, camera)
