"""Who is in the picture: everything about a synthetic person that two photographs of them share.

Lengths are in face units: the picture of a centred face spans [-1, 1] on either axis, y downwards,
and the eyes of an average face lie at (+-0.26, -0.14). Colours are linear RGB in [0, 1].
"""

import dataclasses
import functools

import cv2
import numpy as np

SPLITS = {'train': 0, 'eval': 1, 'test': 2}
TEXTURE_SIZE = 96

# Anchors from the lightest to the darkest skin, hair and iris, as sRGB bytes.
SKIN_TONES = (
  (250, 222, 204),
  (240, 203, 176),
  (226, 181, 148),
  (203, 152, 115),
  (169, 117, 82),
  (128, 84, 57),
  (92, 60, 42),
  (66, 44, 34),
)
HAIR_TONES = (
  (226, 190, 130),
  (180, 128, 74),
  (134, 84, 46),
  (88, 54, 34),
  (50, 34, 26),
  (24, 20, 20),
)
GREY_HAIR = (190, 188, 184)
IRIS_TONES = ((120, 160, 190), (110, 140, 110), (128, 104, 58), (90, 56, 32), (48, 30, 22))
LONG_STYLES = ('long', 'bob', 'tied', 'curly')
SHORT_STYLES = ('short', 'side', 'crop', 'bald', 'curly')


@dataclasses.dataclass(frozen=True)
class Head:
  """Outline of the head, ears and neck, in face units; `taper` and `jaw` are in [0, 1]."""

  width: float
  top: float
  chin: float
  taper: float
  jaw: float
  ear: float
  neck: float


@dataclasses.dataclass(frozen=True)
class Features:
  """Places and sizes of the inner face's features, in face units; tilts are slopes."""

  eye_distance: float
  eye_height: float
  eye_width: float
  eye_opening: float
  eye_tilt: float
  lid_crease: float
  iris_radius: float
  brow_height: float
  brow_thickness: float
  brow_arch: float
  brow_tilt: float
  nose_tip: float
  nose_width: float
  nose_bridge: float
  nose_relief: float
  mouth_height: float
  mouth_width: float
  upper_lip: float
  lower_lip: float
  mouth_curve: float
  cheek_relief: float
  chin_relief: float


@dataclasses.dataclass(frozen=True)
class Complexion:
  """Colours (3,) in linear RGB, strengths in [0, 1], and the skin's texture map.

  `texture` is (TEXTURE_SIZE, TEXTURE_SIZE) float32 over the face units [-1, 1]: mottling and
  freckles as a relative change of the skin's colour.
  """

  skin: np.ndarray
  lips: np.ndarray
  brow: np.ndarray
  iris: np.ndarray
  beard: np.ndarray
  beard_strength: float
  moustache_strength: float
  age_lines: float
  eye_bags: float
  blush: float
  eye_shadow: float
  texture: np.ndarray


@dataclasses.dataclass(frozen=True)
class Hair:
  """`style` is in LONG_STYLES or SHORT_STYLES; colour (3,) in linear RGB; lengths in face units."""

  style: str
  colour: np.ndarray
  volume: float
  hairline: float
  fringe: float
  part: float
  length: float
  waviness: float


@dataclasses.dataclass(frozen=True)
class Person:
  """One synthetic person: identity such as 'train-00123', and how they look."""

  identity: str
  head: Head
  features: Features
  complexion: Complexion
  hair: Hair


def linear(colour) -> np.ndarray:
  """sRGB bytes (..., 3) as linear RGB float32; the renderer's transfer curve is a plain square."""
  return np.square(np.asarray(colour, np.float32) / 255)


def _along(tones, position: float) -> np.ndarray:
  """The colour at `position` in [0, 1] along a row of anchors, in linear RGB (3,)."""
  anchors = np.asarray(tones, np.float32)
  place = np.clip(position, 0, 1) * (len(anchors) - 1)
  return linear([np.interp(place, np.arange(len(anchors)), anchors[:, c]) for c in range(3)])


def _draw_head(rng, masculine: float) -> Head:
  return Head(
    width=0.53 + 0.035 * rng.normal(),
    top=0.80 + 0.03 * rng.normal(),
    chin=0.76 + 0.035 * rng.normal() + 0.03 * (masculine - 0.5),
    taper=float(np.clip(0.26 - 0.14 * masculine + 0.08 * rng.normal(), 0, 0.45)),
    jaw=float(np.clip(0.12 + 0.3 * masculine + 0.15 * rng.normal(), 0, 0.75)),
    ear=0.15 + 0.02 * rng.normal(),
    neck=0.27 + 0.07 * masculine + 0.025 * rng.normal(),
  )


def _draw_features(rng, masculine: float, melanin: float) -> Features:
  nose_tip = 0.19 + 0.04 * rng.normal()
  return Features(
    eye_distance=0.255 + 0.024 * rng.normal(),
    eye_height=-0.135 + 0.022 * rng.normal(),
    eye_width=0.118 + 0.012 * rng.normal(),
    eye_opening=float(np.clip(0.052 + 0.012 * rng.normal(), 0.03, 0.08)),
    eye_tilt=0.06 + 0.1 * rng.normal(),
    lid_crease=float(np.clip(0.6 + 0.3 * rng.normal(), 0, 1)),
    iris_radius=0.05 + 0.004 * rng.normal(),
    brow_height=float(np.clip(0.135 - 0.02 * masculine + 0.02 * rng.normal(), 0.09, 0.19)),
    brow_thickness=float(np.clip(0.02 + 0.016 * masculine + 0.008 * rng.normal(), 0.012, 0.05)),
    brow_arch=float(np.clip(0.045 - 0.02 * masculine + 0.02 * rng.normal(), 0, 0.09)),
    brow_tilt=0.02 + 0.09 * rng.normal(),
    nose_tip=nose_tip,
    nose_width=float(
      np.clip(0.105 + 0.015 * masculine + 0.03 * melanin + 0.017 * rng.normal(), 0.07, 0.19)
    ),
    nose_bridge=float(np.clip(0.05 + 0.012 * rng.normal(), 0.025, 0.08)),
    nose_relief=float(np.clip(1 + 0.25 * rng.normal(), 0.5, 1.6)),
    mouth_height=float(max(0.425 + 0.03 * rng.normal(), nose_tip + 0.17)),
    mouth_width=float(np.clip(0.2 + 0.025 * rng.normal(), 0.14, 0.27)),
    upper_lip=float(
      np.clip(0.042 - 0.012 * masculine + 0.02 * melanin + 0.01 * rng.normal(), 0.016, 0.08)
    ),
    lower_lip=float(
      np.clip(0.058 - 0.01 * masculine + 0.02 * melanin + 0.013 * rng.normal(), 0.025, 0.1)
    ),
    mouth_curve=0.01 + 0.02 * rng.normal(),
    cheek_relief=float(np.clip(1 + 0.4 * rng.normal(), 0.2, 2)),
    chin_relief=float(np.clip(1 + 0.4 * rng.normal(), 0.2, 2)),
  )


def _draw_texture(rng, freckles: float, mottling: float) -> np.ndarray:
  """Mottling at two scales and round spots that are darker than the skin."""
  size = TEXTURE_SIZE
  texture = np.zeros((size, size), np.float32)
  for cells, weight in ((8, 1.0), (24, 0.7)):
    noise = rng.normal(size=(cells, cells)).astype(np.float32)
    texture += weight * mottling * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
  spots = rng.uniform(size=(size, size)) < 0.07
  spots = cv2.GaussianBlur(spots.astype(np.float32), (0, 0), 0.6)
  moles = np.zeros((size, size), np.float32)
  places = rng.integers(size // 4, 3 * size // 4, size=(2, 2))
  moles[places[:, 0], places[:, 1]] = rng.uniform(size=2) < 0.2
  return texture - freckles * spots - 2 * cv2.GaussianBlur(moles, (0, 0), 0.7)


def _draw_hair(rng, masculine: float, melanin: float, age: float) -> tuple[Hair, np.ndarray]:
  """The hair, and its colour before greying: brows and beards keep more of it."""
  darkness = np.clip(0.42 + 1.1 * (melanin - 0.15) + 0.28 * rng.normal(), 0.0, 1.0)
  young = _along(HAIR_TONES, darkness)
  if darkness < 0.6 and rng.uniform() < 0.15:  # red hair
    young = young * np.float32([1.35, 0.8, 0.55])
  grey = np.clip((age - 0.55) * 3 + 0.3 * rng.normal(), 0, 1) if age > 0.45 else 0.0
  colour = young + np.float32(grey) * (linear(GREY_HAIR) - young)
  if masculine > 0.5:
    style = rng.choice(SHORT_STYLES, p=(0.34, 0.28, 0.16, 0.12, 0.1))
  else:
    style = rng.choice(LONG_STYLES, p=(0.42, 0.24, 0.18, 0.16))
  hair = Hair(
    style=str(style),
    colour=np.clip(colour, 0, 1).astype(np.float32),
    volume=0.08 + 0.03 * rng.uniform(-1, 1),
    hairline=-0.50 + 0.04 * rng.normal() - (0.1 * age if masculine > 0.5 else 0),
    fringe=float(rng.uniform() < (0.12 if masculine > 0.5 else 0.35)),
    part=float(rng.choice((-1, 1)) * rng.uniform(0.05, 0.3)),
    length=rng.uniform(0.75, 1.2),
    waviness=rng.uniform(0, 0.05),
  )
  return hair, young


@functools.lru_cache(maxsize=512)
def draw_person(split: str, number: int) -> Person:
  """Person `number` of a split: a pure function of both, so splits share nobody."""
  rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SPLITS[split], number, 1])))
  masculine = float(np.clip(rng.choice((0.15, 0.85)) + 0.12 * rng.normal(), 0, 1))
  melanin = float(rng.beta(0.9, 1.2))
  age = float(rng.beta(1.2, 1.9))
  head = _draw_head(rng, masculine)
  features = _draw_features(rng, masculine, melanin)
  hair, young_hair = _draw_hair(rng, masculine, melanin, age)
  undertone = np.float32(
    [1 + 0.06 * rng.normal(), 1 + 0.02 * rng.normal(), 1 + 0.08 * rng.normal()]
  )
  skin = np.clip(_along(SKIN_TONES, melanin) * undertone, 0.01, 0.98)
  bearded = masculine > 0.5 and rng.uniform() < 0.45
  strength = rng.uniform(0.25, 0.9) if bearded else 0.0
  moustache = strength if rng.uniform() < 0.8 else 0.0
  made_up = masculine < 0.5 and rng.uniform() < 0.5
  flush = np.float32([1.02, 0.62, 0.62] if not made_up else [1.0, 0.38, 0.42])
  iris = np.clip(0.35 + 0.9 * melanin + 0.3 * rng.normal(), 0, 1)
  brow = 0.35 * hair.colour + 0.65 * young_hair * rng.uniform(0.45, 0.8)
  complexion = Complexion(
    skin=skin,
    lips=np.clip(skin * flush, 0, 1),
    brow=brow.astype(np.float32),
    iris=_along(IRIS_TONES, iris),
    beard=(0.6 * hair.colour + 0.4 * brow).astype(np.float32),
    beard_strength=float(strength),
    moustache_strength=float(moustache),
    age_lines=float(np.clip((age - 0.35) * 1.7, 0, 1)),
    eye_bags=float(np.clip(0.6 * age + 0.15 * rng.normal(), 0, 1)),
    blush=float(rng.uniform(0.1, 0.6)),
    eye_shadow=float(rng.uniform(0.2, 0.8)) if made_up else 0.1,
    texture=_draw_texture(
      rng, float(rng.uniform() < 0.15) * (1 - melanin) * 0.7, 0.012 + 0.015 * age
    ),
  )
  return Person(f'{split}-{number:05d}', head, features, complexion, hair)


def move_features(source: Features, target: Features, amount: float) -> Features:
  """The source's features moved by `amount` in [0, 1] of the way to the target's geometry."""
  ours, theirs = dataclasses.astuple(source), dataclasses.astuple(target)
  return Features(*(a + amount * (b - a) for a, b in zip(ours, theirs, strict=True)))
