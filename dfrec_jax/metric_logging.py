"""Where a run's numbers go: `metrics.jsonl`, a progress bar, and TensorBoard where it is."""

from collections.abc import Mapping
import importlib.util
import json
import math
import time

from absl import logging
from etils import epath
import jax
import numpy as np
import tqdm


class NonFiniteError(FloatingPointError):
  """A term of the objective is not finite."""


class MetricLogger:
  """Collects a step's metrics without waiting for the device, and writes their means.

  Only process 0 writes. TensorBoard files are written through clu where the extra `tensorflow` is
  installed.
  """

  FILE = 'metrics.jsonl'

  def __init__(self, workdir: str, *, first_step: int, last_step: int, batch_size: int):
    self._writes = jax.process_index() == 0
    self._path = epath.Path(workdir) / self.FILE
    self._batch_size = batch_size
    self._pending: list[tuple[int, dict[str, jax.Array]]] = []
    self._since = time.perf_counter()
    self._bar = tqdm.tqdm(
      total=last_step, initial=first_step, unit='step', disable=not self._writes, mininterval=1.0
    )
    self._tensorboard = _tensorboard_writer(workdir) if self._writes else None
    if self._writes:
      self._forget_after(first_step)

  def _forget_after(self, step: int) -> None:
    """Drops the lines of steps that a resumed run repeats."""
    self._path.parent.mkdir(parents=True, exist_ok=True)
    lines = self._path.read_text().splitlines() if self._path.exists() else []
    kept = [line for line in lines if (number := _step_of(line)) is not None and number <= step]
    if kept != lines:
      beside = self._path.parent / f'.{self.FILE}.part'
      beside.write_text(''.join(f'{line}\n' for line in kept))
      beside.replace(self._path)

  def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Remembers the metrics of step `step` (the number of steps done)."""
    self._pending.append((step, dict(metrics)))
    self._bar.update()

  def flush(self, **extra: float) -> dict[str, float]:
    """Writes the means over the steps since the last flush, and `extra` as it is.

    Raises:
      NonFiniteError: a term was not finite; the message names the first step and the term.
    """
    if not self._pending:
      return {}
    steps = [step for step, _ in self._pending]
    rows = jax.device_get([metrics for _, metrics in self._pending])
    for step, row in zip(steps, rows, strict=True):
      broken = [name for name, value in row.items() if not np.isfinite(value)]
      if broken:
        raise NonFiniteError(
          f'Step {step}: {", ".join(broken)} not finite. The last checkpoint is from before; '
          'lower the learning rate or the weight of that term.'
        )
    means = {name: math.fsum(float(row[name]) for row in rows) / len(rows) for name in rows[0]}
    seconds = time.perf_counter() - self._since
    speed = len(steps) * self._batch_size / seconds
    self._pending, self._since = [], time.perf_counter()
    self.write(steps[-1], {**means, **extra, 'examples_per_second': speed})
    self._bar.set_postfix_str(f'loss {means["loss"]:.4f}, {speed:.1f} examples/s')
    return means

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one line of numbers at once."""
    if not self._writes:
      return
    line = json.dumps({'step': step, **values}) + '\n'
    if '://' in str(self._path):
      # Objects of a bucket are written whole.
      before = self._path.read_text() if self._path.exists() else ''
      self._path.write_text(before + line)
    else:
      with self._path.open('a') as file:
        file.write(line)
    if self._tensorboard is not None:
      self._tensorboard.write_scalars(step, values)

  def pause(self) -> None:
    """Leaves the time until now out of the speed: evaluating, saving."""
    self._since = time.perf_counter()

  def close(self) -> None:
    self._bar.close()
    if self._tensorboard is not None:
      self._tensorboard.close()


def _step_of(line: str) -> int | None:
  """The step of a line; None for one that a killed run left half written."""
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):
    return None


def _tensorboard_writer(workdir: str):
  """clu's writer, or None where TensorFlow, which it imports, is not installed."""
  if not all(importlib.util.find_spec(name) for name in ('tensorflow', 'tensorboard')):
    logging.info('No TensorBoard files: install the extra "tensorflow" to have them.')
    return None
  from clu.metric_writers import SummaryWriter

  return SummaryWriter(str(epath.Path(workdir) / 'tensorboard'))
