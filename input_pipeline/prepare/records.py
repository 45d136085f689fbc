"""Examples as records: `tf.train.Example` protos in the features of TensorFlow Datasets.

TensorFlow Datasets makes and parses them without TensorFlow, as long as images are handed over
encoded.
"""

from collections.abc import Iterable, Iterator
import contextlib
import functools
import os
import pathlib
from typing import Any

import cv2
import numpy as np

IMAGE_KEYS = ('forged', 'source', 'target')
TEXT_KEYS = ('attack', 'source_identity', 'target_identity', 'mask_kind', 'name')
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111)  # 4:4:4
# One example a group: grain reads single examples.
_WRITER_OPTIONS = 'group_size:1'


@functools.cache
def features() -> Any:
  """`tfds.features.FeaturesDict` of a prepared example.

  The keys of the data contract, and `mask_kind` (`read`, `difference`, `box`) and `name` (of the
  raw file, and the frame's index).
  """
  import tensorflow_datasets as tfds

  image = lambda: tfds.features.Image(shape=(None, None, 3))
  return tfds.features.FeaturesDict(
    {
      **{key: image() for key in IMAGE_KEYS},
      'mask': tfds.features.Image(shape=(None, None, 1)),
      'has_mask': tfds.features.Scalar(np.bool_),
      'label': tfds.features.Scalar(np.int32),
      **{key: tfds.features.Text() for key in TEXT_KEYS},
    }
  )


def serialise(example: dict[str, Any], encoding: str) -> bytes:
  """One example as a record.

  Args:
    example: `forged`, `source`, `target` (H, W, 3) uint8 RGB, `mask` (H, W) uint8, `has_mask`,
      `label` and the strings of `TEXT_KEYS`.
    encoding: `jpeg` or `png`.
  """
  encoded = dict(example)
  for key in IMAGE_KEYS:
    encoded[key] = encode_image(example[key], encoding)
  encoded['mask'] = cv2.imencode('.png', example['mask'])[1].tobytes()
  proto = _serializer().get_tf_example(features().encode_example(encoded))
  # A proto's map has no order of its own: without this, equal examples are unequal records.
  return proto.SerializeToString(deterministic=True)


def encode_image(image: np.ndarray, encoding: str) -> bytes:
  """(H, W, 3) uint8 RGB as the bytes of a `jpeg` or `png` file."""
  bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
  if encoding == 'png':
    return cv2.imencode('.png', bgr)[1].tobytes()
  return cv2.imencode('.jpg', bgr, _JPEG)[1].tobytes()


@functools.cache
def _serializer() -> Any:
  import tensorflow_datasets as tfds

  return tfds.core.ExampleSerializer(features().get_serialized_info())


def write_records(path: os.PathLike | str, records: Iterable[bytes]) -> int:
  """Writes an ArrayRecord file; returns how many records.

  Raises:
    OSError: it cannot be written, as on a full disk.
  """
  from array_record.python import array_record_module

  with _writing(path):
    writer = array_record_module.ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)
  count = 0
  try:
    for record in records:
      with _writing(path):
        writer.write(record)
      count += 1
  finally:
    with _writing(path):
      writer.close()
  return count


@contextlib.contextmanager
def _writing(path: os.PathLike | str) -> Iterator[None]:
  try:
    yield
  except RuntimeError as error:
    # Whatever ArrayRecord meets; it tells the system's reason, then where in its own code.
    reason = str(error).partition(';')[0]
    raise OSError(f'{os.fspath(path)} cannot be written: {reason}') from error


def read_records(path: pathlib.Path) -> list[bytes]:
  """All records of a file."""
  from array_record.python import array_record_module

  reader = array_record_module.ArrayRecordReader(os.fspath(path))
  try:
    return reader.read_all()
  finally:
    reader.close()
