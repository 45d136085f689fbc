"""The examples of a source, pass after pass."""

from typing import Any

import grain

from input_pipeline.triplets import Example


def rows_of(source: Any) -> grain.MapDataset:
  """A source for grain, whose repetitions show other examples where the source has more.

  Args:
    source: random access to examples; a source of more has `draw(index)` for every index from 0 on.
  """
  if not hasattr(source, 'draw'):
    return grain.MapDataset.source(source)
  return grain.MapDataset.range(len(source)).map_with_index(_Draw(source))


class _Draw(grain.transforms.MapWithIndex):
  """Grain's indices run on through all passes; its own sources see their remainder."""

  def __init__(self, source: Any):
    self._source = source

  def map_with_index(self, index: int, element: int) -> Example:
    return self._source.draw(index)
