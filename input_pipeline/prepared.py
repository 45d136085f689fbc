"""Prepared triplets: ArrayRecord shards that `python -m input_pipeline.prepare` wrote."""

from typing import Any

from etils import epath
import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.triplets import Example

_INFO = 'dataset_info.json'
_IMAGES = ('forged', 'source', 'target')
_STRINGS = ('attack', 'source_identity', 'target_identity')


class Prepared:
  """Random access to the examples of a prepared split; TensorFlow is not needed.

  Attributes:
    labels: (n,) int32, 1 for all: a prepared set holds forgeries only.
  """

  def __init__(self, root: epath.PathLike, split: str = 'train', how_to_get: str = ''):
    """Opens the shards.

    Args:
      root: folder of the data set, `OUT/NAME` of the preparation, or of one of its versions.
      split: as of TensorFlow Datasets: `train`, `val`, `test`, `train+train_reenactment`,
        `train[:10%]`.
      how_to_get: told where the data is absent.

    Raises:
      InputError: there is no such data set or split.
    """
    self._root, self._split = epath.Path(root).expanduser(), split
    self._folder = _find_version(self._root, how_to_get)
    self._open()
    self.labels = np.ones(len(self._source), np.int32)

  def _open(self):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(self._folder)
    try:
      self._source = builder.as_data_source(self._split)
    except (KeyError, ValueError) as error:
      raise InputError(
        f'{self._folder} has no split {self._split!r}; it has {", ".join(builder.info.splits)}.'
      ) from error

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    """One example of the data contract, as `Triplets.__getitem__` gives it.

    Raises:
      IndexError: the index is outside [0, len).
    """
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(f'{self._folder} holds {len(self)} examples; there is no {index}.')
    record: dict[str, Any] = self._source[index]
    return {
      **{key: record[key] for key in _IMAGES},
      'mask': record['mask'].astype(np.float32) / 255,
      'has_mask': np.bool_(record['has_mask']),
      'label': np.int32(record['label']),
      **{key: record[key].decode() for key in _STRINGS},
    }

  def __getstate__(self) -> dict[str, Any]:
    # Readers of files stay behind: a worker process opens its own.
    return {key: value for key, value in self.__dict__.items() if key != '_source'}

  def __setstate__(self, state: dict[str, Any]):
    self.__dict__.update(state)
    self._open()


def _find_version(root: epath.Path, how_to_get: str) -> epath.Path:
  """The folder with the shards: `root`, or the newest of the versions in it."""
  if (root / _INFO).exists():
    return root
  versions = [path for path in root.glob('*') if (path / _INFO).exists()] if root.exists() else []
  if not versions:
    remedy = how_to_get or 'prepare it with python -m input_pipeline.prepare (docs/data.md).'
    raise InputError(f'There is no prepared data set in {root}: {remedy}')
  number = lambda path: [int(part) if part.isdigit() else -1 for part in path.name.split('.')]
  return max(versions, key=number)
