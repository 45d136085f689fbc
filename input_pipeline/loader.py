"""Batches for training and evaluation, made with grain.

Training batch n is a function of the source, the settings, the seed and n alone: neither the
number of processes, workers and threads nor what was prefetched changes which examples it holds.
"""

from collections.abc import Iterator, Mapping
import itertools
import signal
from typing import Any

from absl import flags
import grain
import jax
import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline import transforms
from input_pipeline.passes import rows_of
from input_pipeline.triplets import Example, WithPristine

Batch = dict[str, Any]

_READ_THREADS = 4  # In the process of the training loop.
_WORKER_READ_THREADS = 2
_READ_AHEAD = 16  # Examples, in evaluation.


class TrainIterator(grain.DatasetIterator):
  """Endless batches, whose state is the number of batches taken, not of those prefetched.

  The state is `{'next_batch': n}` whatever the number of workers and processes, so a checkpoint
  may be resumed with others. `close()` ends threads and workers.
  """

  def __init__(self, batches: grain.MapDataset, deliver):
    """`deliver` turns the batches from some index on into an iterable that reads ahead."""
    super().__init__()
    self._batches, self._deliver = batches, deliver
    self._next_batch = 0
    self._running = None

  def __next__(self) -> Batch:
    if self._running is None:
      self._running = iter(self._deliver(self._batches.slice(slice(self._next_batch, None))))
    batch = next(self._running)
    self._next_batch += 1
    return batch

  def get_state(self) -> dict[str, int]:
    return {'next_batch': self._next_batch}

  def set_state(self, state: dict[str, int]):
    self._stop()
    self._next_batch = state['next_batch']

  def close(self):
    self._closed = True
    self._stop()

  def _stop(self):
    if self._running is not None:
      self._running.close()
    self._running = None


def train_loader(
  source,
  *,
  batch_size: int,
  image_size: int,
  seed: int,
  pristine_rate: float,
  augmentation: Mapping[str, Any] | transforms.Augmentation,
  twins: bool = False,
  workers: int = 0,
  sharding: jax.sharding.Sharding | None = None,
  shuffle: bool = True,
  prefetch: int = 2,
  process_index: int | None = None,
  process_count: int | None = None,
) -> TrainIterator:
  """Endless training batches, reshuffled and augmented anew in each pass over the source.

  Args:
    source: random access to examples of the data contract; picklable where `workers` > 0. If it has
      `draw(index)` for every index from 0 on, pass k (from 0) shows the examples k n to (k + 1) n,
      where n is its length: others in each pass.
    batch_size: examples a step, of all processes together (B).
    image_size: height and width of the images (S).
    seed: of the order and of every augmentation.
    pristine_rate: share of examples that pristine ones replace.
    augmentation: the fields of `transforms.Augmentation`.
    twins: whether each example also has `twin`, its target's photograph augmented alike.
    workers: processes that prepare batches; 0 uses threads of this one.
    sharding: where the batch goes: global arrays of B examples, sent ahead of their use. None
      gives NumPy arrays of this process's share.
    shuffle: whether to shuffle; False keeps the source's order in every pass.
    prefetch: batches that wait on the devices.
    process_index, process_count: which share of each batch is made here; JAX's unless given.

  Returns:
    An iterator over `forged`, `source`, `target` (B, S, S, 3) uint8, `mask` (B, S, S, 1) float32
    in [0, 1], `has_mask` (B,) bool, `label` (B,) int32; with `twins`, `twin` (B, S, S, 3) uint8.
    Its state, `{'next_batch': n}`, goes into checkpoints.

  Raises:
    InputError: the batch cannot be shared out or holds more examples than there are, or a setting
      is out of range.
  """
  process_index, process_count = _processes(process_index, process_count)
  local = _local_batch(batch_size, process_count)
  if batch_size > len(source):
    raise InputError(
      f'batch_size is {batch_size} and the data set has {len(source)} examples; give a batch_size '
      'no larger than that, or more data.'
    )
  augmentation = transforms.Augmentation.create(augmentation)
  examples = rows_of(source).seed(seed)
  examples = examples.shuffle() if shuffle else examples
  # Randomness comes before the processes part: its seed is the position in the whole stream.
  examples = (
    examples.repeat()
    .random_map(transforms.MixPristine(pristine_rate))
    .random_map(
      transforms.PairedGeometry(image_size, flip=augmentation.flip, crop=augmentation.crop)
    )
  )
  examples = examples.map(transforms.AddTwin()) if twins else examples
  examples = examples.random_map(transforms.ForgedCorruption(augmentation)).map(
    transforms.SelectModelKeys()
  )
  # Each process has a run of every batch: an example's place in the batch, by which the step draws
  # at random, is the same whatever the number of processes.
  batches = examples.batch(local, drop_remainder=True)[process_index::process_count]
  return stream_batches(
    batches, batch_size=batch_size, workers=workers, sharding=sharding, prefetch=prefetch
  )


def stream_batches(
  batches: grain.MapDataset,
  *,
  batch_size: int,
  workers: int = 0,
  sharding: jax.sharding.Sharding | None = None,
  prefetch: int = 2,
) -> TrainIterator:
  """An iterator over this process's share of endless batches, prepared and sent ahead.

  The arguments are those of `train_loader`; `batches` gives dictionaries of arrays.
  """

  def deliver(remaining: grain.MapDataset):
    stream = _in_parallel(remaining, workers)
    return stream if sharding is None else _to_devices(stream, sharding, batch_size, prefetch)

  return TrainIterator(batches, deliver)


def batch_shapes(
  batch_size: int, image_size: int, *, twins: bool
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and types of the batches of `train_loader` on the devices."""
  pictures = ('forged', 'source', 'target') + (('twin',) if twins else ())
  square = (batch_size, image_size, image_size)
  return {name: jax.ShapeDtypeStruct((*square, 3), np.uint8) for name in pictures} | {
    'mask': jax.ShapeDtypeStruct((*square, 1), np.float32),
    'has_mask': jax.ShapeDtypeStruct((batch_size,), np.bool_),
    'label': jax.ShapeDtypeStruct((batch_size,), np.int32),
  }


def eval_batches(
  source,
  *,
  batch_size: int,
  image_size: int,
  process_index: int | None = None,
  process_count: int | None = None,
) -> Iterator[tuple[np.ndarray, list[Example]]]:
  """Every example of `source` once and then each forged one's target as pristine, in order.

  Args:
    source: random access to examples of the data contract.
    batch_size: examples a batch, of all processes together; b = batch_size / process_count.
    image_size: height and width S of `forged`.
    process_index, process_count: which share is made here; JAX's unless given.

  Yields:
    (forged, examples), equally many in every process. `forged`: (b, S, S, 3) uint8, padded with
    zeros. `examples`: as the source gave them, with their own resolution and strings, as many as
    there are before the padding.

  Raises:
    InputError: `batch_size` cannot be shared out, or `source` is empty.
  """
  process_index, process_count = _processes(process_index, process_count)
  local = _local_batch(batch_size, process_count)
  if not len(source):
    raise InputError('The evaluation data set is empty; give a manifest with at least one row.')
  return _evaluation_batches(source, local, image_size, process_index, process_count)


def _evaluation_batches(source, local, image_size, process_index, process_count):
  transforms.one_opencv_thread()
  examples = grain.MapDataset.source(WithPristine(source))
  largest_share = -(-len(examples) // process_count)
  options = grain.ReadOptions(num_threads=_READ_THREADS, prefetch_buffer_size=_READ_AHEAD)
  stream = iter(
    examples[process_index::process_count]
    .map(lambda example: (transforms.resize(example['forged'], image_size), example))
    .to_iter_dataset(options)
  )
  try:
    for _ in range(-(-largest_share // local)):
      pairs = list(itertools.islice(stream, local))
      forged = np.zeros((local, image_size, image_size, 3), np.uint8)
      for i, (image, _) in enumerate(pairs):
        forged[i] = image
      yield forged, [example for _, example in pairs]
  finally:
    stream.close()


def _in_parallel(batches: grain.MapDataset, workers: int) -> grain.IterDataset:
  """Prepares batches ahead, in the same order for any number of workers."""
  transforms.one_opencv_thread()
  if workers and not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain reads flags to start a worker; a notebook parses none.
  threads = _WORKER_READ_THREADS if workers else _READ_THREADS
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
  return batches.to_iter_dataset(options).mp_prefetch(
    grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
    worker_init_fn=_start_worker,
  )


def _start_worker(*unused):
  """A signal to the whole group is for the training loop, which still wants the next batch."""
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  transforms.one_opencv_thread()


def _to_devices(
  stream: grain.IterDataset, sharding: jax.sharding.Sharding, batch_size: int, prefetch: int
) -> grain.IterDataset:
  """Sends batches ahead, as `grain.experimental.device_put` does, from any number of processes."""

  def put(batch: Batch) -> Batch:
    return {
      key: jax.make_array_from_process_local_data(sharding, x, (batch_size, *x.shape[1:]))
      for key, x in batch.items()
    }

  stream = grain.experimental.ThreadPrefetchIterDataset(stream, prefetch_buffer_size=1)
  return grain.experimental.ThreadPrefetchIterDataset(
    stream.map(put), prefetch_buffer_size=prefetch
  )


def _processes(index: int | None, count: int | None) -> tuple[int, int]:
  index = jax.process_index() if index is None else index
  return index, jax.process_count() if count is None else count


def _local_batch(batch_size: int, process_count: int) -> int:
  if batch_size < 1 or batch_size % process_count:
    raise InputError(
      f'batch_size is {batch_size}; it must be a positive multiple of the {process_count} '
      'process(es) that share it.'
    )
  return batch_size // process_count
