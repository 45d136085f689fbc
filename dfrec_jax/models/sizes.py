"""The sizes of DFREC, as data."""

import dataclasses
from typing import Any

from dfrec_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Size:
  """Width and depth of the three networks.

  Attributes:
    patch: side of a patch in pixels.
    width, depth, heads, mlp: the TIRM's ViT encoder.
    decoder_width, decoder_depth, decoder_heads, decoder_mlp: the TIRM's decoder.
    sirm_widths: channels of the SIRM's five stages; the last splits into source and target halves.
    ism_width, ism_depth: EfficientNet's width and depth multipliers.
    aspp_channels: channels of the ISM's decoder.
    aspp_rates: dilations of its three atrous branches.
    low_level_channels: channels that the stride-4 feature is projected to.
    detail_channels: of the ISM's detail branch, which the published network lacks; empty for none.
  """

  patch: int
  width: int
  depth: int
  heads: int
  mlp: int
  decoder_width: int = 512
  decoder_depth: int = 1
  decoder_heads: int = 16
  decoder_mlp: int = 2048
  sirm_widths: tuple[int, int, int, int, int] = (32, 64, 128, 256, 1024)
  ism_width: float = 1.0
  ism_depth: float = 1.0
  aspp_channels: int = 256
  aspp_rates: tuple[int, int, int] = (12, 24, 36)
  low_level_channels: int = 48
  detail_channels: tuple[int, ...] = ()


SIZES = {
  # For tests and `runlocal`: every part is there, nothing is wide.
  'test': Size(
    patch=8,
    width=32,
    depth=1,
    heads=2,
    mlp=64,
    decoder_width=32,
    decoder_depth=1,
    decoder_heads=2,
    decoder_mlp=64,
    sirm_widths=(8, 8, 16, 16, 32),
    ism_width=0.25,
    ism_depth=0.25,
    aspp_channels=16,
    aspp_rates=(1, 2, 3),
    low_level_channels=8,
    detail_channels=(4, 8, 8, 8, 8),
  ),
  # At most 8 M parameters: for CPUs, the quickstart, and to ship with the package.
  'nano': Size(
    patch=8,
    width=192,
    depth=4,
    heads=6,
    mlp=768,
    decoder_width=192,
    decoder_depth=3,
    decoder_heads=6,
    decoder_mlp=768,
    sirm_widths=(16, 24, 48, 96, 384),
    ism_width=0.5,
    ism_depth=0.5,
    aspp_channels=64,
    aspp_rates=(2, 4, 6),
    low_level_channels=24,
    detail_channels=(16, 32, 64, 96, 128),
  ),
  'Ti/16': Size(
    patch=16,
    width=192,
    depth=12,
    heads=3,
    mlp=768,
    decoder_width=192,
    decoder_depth=2,
    decoder_heads=6,
    decoder_mlp=768,
    sirm_widths=(16, 32, 64, 128, 512),
    ism_width=0.5,
    ism_depth=1.0,
    aspp_channels=128,
  ),
  'S/16': Size(
    patch=16,
    width=384,
    depth=12,
    heads=6,
    mlp=1536,
    decoder_width=384,
    decoder_depth=2,
    decoder_heads=12,
    decoder_mlp=1536,
    sirm_widths=(24, 48, 96, 192, 768),
  ),
  'B/16': Size(patch=16, width=768, depth=12, heads=12, mlp=3072, decoder_depth=2),
  # The published networks.
  'L/16': Size(patch=16, width=1024, depth=24, heads=16, mlp=4096),
  'H/14': Size(
    patch=14,
    width=1280,
    depth=32,
    heads=16,
    mlp=5120,
    decoder_depth=2,
    sirm_widths=(48, 96, 192, 384, 1536),
  ),
}


def get_size(name: str) -> Size:
  """The size of that name: one of `SIZES`, or one with some fields changed.

  `L/16+depth=2+sirm_widths=8-8-16-16-32` is L/16 with two blocks and another SIRM; `describe`
  writes such names.

  Raises:
    InputError: listing the known sizes or fields, or the value that is no number.
  """
  base, *changes = name.split('+')
  if base not in SIZES:
    raise InputError(f'Unknown size {base!r}; the sizes are {", ".join(SIZES)}.')
  return dataclasses.replace(SIZES[base], **dict(_change(name, change) for change in changes))


def _change(name: str, change: str) -> tuple[str, Any]:
  field, _, text = change.partition('=')
  known = {f.name: getattr(SIZES['L/16'], f.name) for f in dataclasses.fields(Size)}
  if field not in known:
    raise InputError(f'The size {name!r} changes {field!r}; it may change {", ".join(known)}.')
  kind = float if isinstance(known[field], float) else int
  try:
    values = tuple(kind(part) for part in text.split('-') if part)
  except ValueError as error:
    raise InputError(f'The size {name!r} sets {field} to {text!r}, which is no number.') from error
  if isinstance(known[field], tuple):
    return field, values
  if len(values) != 1:
    raise InputError(f'The size {name!r} sets {field} to {text!r}; give one number.')
  return field, values[0]


def describe(size: Size) -> str:
  """A name from which `get_size` makes `size`: the nearest known one and what differs from it."""
  given = dataclasses.asdict(size)
  changes = {
    name: {field: value for field, value in given.items() if getattr(known, field) != value}
    for name, known in SIZES.items()
  }
  base = min(changes, key=lambda name: len(changes[name]))
  texts = (
    f'{field}={"-".join(map(str, value)) if isinstance(value, tuple) else value}'
    for field, value in changes[base].items()
  )
  return '+'.join([base, *texts])
