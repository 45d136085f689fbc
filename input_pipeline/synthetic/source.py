"""The random-access source of synthetic face swaps."""

import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.synthetic.person import SPLITS, draw_person
from input_pipeline.synthetic.photo import draw_photo
from input_pipeline.synthetic.render import render
from input_pipeline.synthetic.swap import draw_style, swap_face


class SyntheticFaces:
  """Face swaps among procedural people, drawn on request.

  Example i is a pure function of (split, seed, i) and the picture's size; the size changes the
  camera's noise and the rasterisation, not who is shown or how. Whoever is in one split is in no
  other. Every example is forged; `source` is the photograph whose light the pasted face carries.
  """

  def __init__(
    self, split: str, *, examples: int, image_size: int, seed: int = 0, people: int = 4096
  ):
    """Builds the source; nothing is drawn yet.

    Args:
      split: 'train', 'eval' or 'test'.
      examples: number of examples.
      image_size: side of the square pictures in pixels, 16 or more.
      seed: chooses pairs of people and photographs; the people of a split do not depend on it.
      people: number of people of the split that the examples draw from, 2 or more.

    Raises:
      InputError: an argument is out of its range.
    """
    if split not in SPLITS:
      raise InputError(f'Synthetic faces have the splits {", ".join(SPLITS)}, not {split!r}.')
    for name, value, least in (
      ('examples', examples, 1),
      ('image_size', image_size, 16),
      ('people', people, 2),
      ('seed', seed, 0),
    ):
      if value < least:
        raise InputError(f'{name} of synthetic faces must be at least {least}, not {value}.')
    self.split = split
    self.examples = examples
    self.image_size = image_size
    self.seed = seed
    self.people = people

  def __len__(self) -> int:
    return self.examples

  def __repr__(self) -> str:
    return (
      f'SyntheticFaces({self.split!r}, examples={self.examples}, image_size={self.image_size}, '
      f'seed={self.seed}, people={self.people})'
    )

  def __getitem__(self, index: int) -> dict:
    """Example `index`: the data contract's dictionary with uint8 pictures and mask.

    Raises:
      IndexError: the index is outside [0, examples).
    """
    index = int(index)
    if not 0 <= index < self.examples:
      raise IndexError(f'Synthetic faces hold {self.examples} examples; there is no {index}.')
    # Separate streams, so that the number of noisy pixels changes nothing else.
    choice, *noise = (
      np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([SPLITS[self.split], self.seed, index, k]))
      )
      for k in range(4)
    )
    first = int(choice.integers(self.people))
    second = (first + 1 + int(choice.integers(self.people - 1))) % self.people
    source, target = (draw_person(self.split, number) for number in (first, second))
    source_photo, target_photo = draw_photo(choice), draw_photo(choice)
    style = draw_style(choice)
    source_picture, _ = render(source, source_photo, self.image_size, noise[0])
    target_picture, hair = render(target, target_photo, self.image_size, noise[1])
    forged, weight = swap_face(
      (source, source_photo), (target, target_photo), target_picture, hair, style, noise[2]
    )
    return {
      'forged': _to_bytes(forged),
      'source': _to_bytes(source_picture),
      'target': _to_bytes(target_picture),
      'mask': (weight > 0).astype(np.uint8),
      'has_mask': np.bool_(True),
      'label': np.int32(1),
      'attack': style.attack,
      'source_identity': source.identity,
      'target_identity': target.identity,
    }


def _to_bytes(picture: np.ndarray) -> np.ndarray:
  return (picture * 255 + np.float32(0.5)).astype(np.uint8)
