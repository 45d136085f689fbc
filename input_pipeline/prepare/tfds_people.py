"""A set of TensorFlow Datasets as a folder of people: `tfds:NAME`, such as `tfds:lfw`.

It needs the features `image` and `label`, a text or a class. What is prepared already is read
without TensorFlow; LFW is fetched without it, other sets with it.
"""

import functools
import os
import pathlib
from typing import Any

import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.prepare import lfw

PREFIX = 'tfds:'
_SPLIT = 'train'


def is_tfds(raw: str) -> bool:
  """Whether `raw` names a set of TensorFlow Datasets, not a folder."""
  return raw.startswith(PREFIX)


def require(raw: str):
  """Raises InputError where there is no such set, or it does not name people."""
  _builder(raw)


def resolve(raw: str) -> str:
  """A folder of people, or the name of a set of TensorFlow Datasets that is prepared.

  Raises:
    InputError: there is no such set, or it cannot be fetched, or it does not name people.
  """
  if not is_tfds(raw):
    return raw
  if _name(raw) == 'lfw' and not _builder(raw).is_prepared():
    return str(lfw.fetch(pathlib.Path(_data_dir()) / 'downloads'))
  _source(raw)
  return raw


def list_photographs(raw: str) -> list[list]:
  """[PERSON/PERSON_NUMBER.jpg, place in the set] of each photograph, by name."""
  import tensorflow_datasets as tfds

  label = _builder(raw).info.features['label']
  source = _open(raw, decoders={'image': tfds.decode.SkipDecoding()})
  photographs, counts = [], {}
  for place in range(len(source)):
    person = _person(label, source[place]['label'])
    counts[person] = counts.get(person, 0) + 1
    photographs.append([f'{person}/{person}_{counts[person]:04d}.jpg', place])
  return sorted(photographs)


def read_image(raw: str, place: int) -> np.ndarray:
  """(H, W, 3) uint8 RGB."""
  image = _source(raw)[place]['image']
  return np.repeat(image, 3, -1) if image.shape[-1] == 1 else image


def _person(label: Any, value: Any) -> str:
  """A folder's name for a label: a text, a class by its name, or a number."""
  if hasattr(label, 'int2str'):
    name = label.int2str(int(value))
  else:
    name = value.decode(errors='replace') if isinstance(value, bytes) else str(value)
  # Neither a path of several parts nor one that leads elsewhere.
  return name.replace('/', '_').replace('\0', '_').strip('. ') or 'unnamed'


def _name(raw: str) -> str:
  return raw.removeprefix(PREFIX)


@functools.cache
def _builder(raw: str) -> Any:
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(_name(raw), data_dir=_data_dir())
  except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
    raise InputError(
      f'TensorFlow Datasets has no {_name(raw)!r}; see '
      'https://www.tensorflow.org/datasets/catalog/overview.'
    ) from error
  features = builder.info.features or {}
  if missing := [key for key in ('image', 'label') if key not in features]:
    raise InputError(
      f'{_name(raw)} of TensorFlow Datasets has no feature {missing[0]!r}; give a set with image '
      'and label, the label being the person.'
    )
  return builder


def _data_dir() -> str:
  import tensorflow_datasets as tfds

  # TensorFlow Datasets looks at the environment when it is imported, and not again.
  return os.path.expanduser(os.environ.get('TFDS_DATA_DIR') or tfds.core.constants.DATA_DIR)


@functools.cache
def _source(raw: str) -> Any:
  return _open(raw)


def _open(raw: str, decoders: Any = None) -> Any:
  """Random access to the split `train`, prepared first where it is not."""
  builder = _builder(raw)
  try:
    if not builder.is_prepared():
      builder.download_and_prepare(file_format='array_record')
    return builder.as_data_source(_SPLIT, decoders=decoders)
  except ImportError as error:
    raise InputError(
      f'TensorFlow Datasets needs {error.name or "TensorFlow"} to fetch {_name(raw)}; install it: '
      "pip install -e '.[tensorflow]' importlib_resources."
    ) from error
  except NotImplementedError as error:
    raise InputError(
      f'{builder.data_dir} is in a format without random access; delete it, and the same command '
      'prepares it anew.'
    ) from error
  except KeyError as error:
    raise InputError(f'{_name(raw)} of TensorFlow Datasets has no split {_SPLIT!r}.') from error
