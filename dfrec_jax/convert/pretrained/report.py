"""What became of a pretrained file's tensors and of the model's arrays."""

import collections
from collections.abc import Iterable
import dataclasses


@dataclasses.dataclass
class Report:
  """What one file gave to the model; `str` of it is a summary of a few lines.

  The model's arrays are named by their paths, such as `tirm/encoder/blocks/qkv/kernel`.

  Attributes:
    part: as in `config.pretrained`.
    path: of the file.
    naming: whose names its tensors have.
    loaded: arrays that come from the file as they are there.
    resized: position tables that were interpolated to another grid.
    left: the other arrays of the network that the part belongs to, which stay as initialised.
    ignored: tensors of the file that nothing takes.
    notes: sentences, without their full stop.
  """

  part: str
  path: str
  naming: str
  loaded: list[str] = dataclasses.field(default_factory=list)
  resized: list[str] = dataclasses.field(default_factory=list)
  left: list[str] = dataclasses.field(default_factory=list)
  ignored: list[str] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)

  def __str__(self) -> str:
    lines = [f'Pretrained {self.part} from {self.path}, in the naming of {self.naming}:']
    for what, names, separator, depth in (
      ('loaded', self.loaded, '/', 2),
      ('resized', self.resized, '/', 2),
      ('left as initialised', self.left, '/', 2),
      ('ignored in the file', self.ignored, '.', 1),
    ):
      if names:
        lines.append(f'  {len(names)} {what}: {_grouped(names, separator, depth)}')
    return '\n'.join(lines + [f'  {note}.' for note in self.notes])


def _grouped(names: Iterable[str], separator: str, depth: int) -> str:
  """The names' first `depth` components, with the number of names where there are several."""
  counts = collections.Counter(separator.join(name.split(separator)[:depth]) for name in names)
  return ', '.join(f'{name} ({n})' if n > 1 else name for name, n in counts.items())
