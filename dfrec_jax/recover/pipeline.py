"""From files to results: threads read and find faces ahead of the model, others write behind it.

Batches are filled with the faces of whichever pictures are ready, which changes no result: that of
a face depends on the face, the seed and the checkpoint alone.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
import contextlib
import os
import queue
import sys
import threading
from typing import Any

from absl import logging

from dfrec_jax.errors import InputError
from dfrec_jax.recover import inputs
from dfrec_jax.recover.budget import Budget
from dfrec_jax.recover.finding import make_finder
from dfrec_jax.recover.jobs import Job, Settings
from dfrec_jax.recover.outputs import OutputFolder, failed
from dfrec_jax.recover.recoverer import Recoverer
from dfrec_jax.recover.writing import Writer
from input_pipeline.prepare.faces import FaceFinder
from input_pipeline.transforms import one_opencv_thread

# Pixels of pictures and crops that wait, all together; what is read at this moment comes on top.
_WAITING_PIXELS = 128_000_000
# At most so many batches wait for the model: it leaves cores idle all along, not at first only.
_WAITING_BATCHES = 4
_LONGEST_WAIT = 0.02  # Seconds until the state of the other threads is looked at again.
_NICENESS = 19  # Of the threads beside the model: they take what it leaves.
_MOST_THREADS = 8
_TURN = 0.0005  # Seconds after which a thread that runs Python lets another one.


class Stopped(BaseException):
  """A signal came in the midst of a video."""


class Pipeline:
  """Recovers inputs into an output folder.

  Attributes:
    entries: of results.json, by the input's place; grows while it runs.
  """

  def __init__(
    self,
    recoverer: Recoverer,
    settings: Settings,
    out: OutputFolder,
    gallery: Any = None,
    progress: Callable[[], None] = lambda: None,
  ):
    """Prepares a run.

    Args:
      recoverer: recovers crops.
      settings: what to do.
      out: where results go.
      gallery: of known people, `trace.gallery.Gallery`, if any.
      progress: called after each input that is done or failed.
    """
    self._recoverer, self._settings, self._out = recoverer, settings, out
    self._gallery, self._progress = gallery, progress
    self._writer = Writer(recoverer, out, gallery)
    self._budget = Budget(_WAITING_PIXELS)
    # What the smallest picture takes of it.
    self._least = _WAITING_PIXELS // (_WAITING_BATCHES * recoverer.batch_size)
    self._read: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
    self._recovered: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
    self._stop, self._interruptible = threading.Event(), False
    self._fatal: BaseException | None = None
    self._lock = threading.Lock()
    self._digests: dict[int, str] = {}
    self.entries: dict[int, dict[str, Any]] = {}

  def stop(self) -> None:
    """Ends the run as soon as what is recovered is written; for the handler of a signal.

    Raises:
      Stopped: in the midst of a video, from which nothing is kept.
    """
    self._stop.set()
    if self._interruptible:
      raise Stopped

  def run(self, found: Sequence[inputs.Input]) -> None:
    """Fills `entries`.

    Raises:
      InputError: the output folder cannot be written.
    """
    one_opencv_thread()
    waiting, cores = iter(enumerate(found)), _cores()
    readers = [_start(self._keep_reading, waiting) for _ in range(_between(2, cores))]
    writers = [_start(self._keep_writing) for _ in range(_between(1, cores // 2))]
    try:
      with _quick_turns():
        self._keep_recovering(len(readers))
    except Stopped:
      pass
    finally:
      self._stop.set()
      self._budget.close()
      for _ in writers:
        self._recovered.put(None)
      for thread in (*writers, *readers):
        thread.join()
    if self._fatal:
      raise self._fatal

  # Reading: each thread by itself.

  def _keep_reading(self, waiting: Iterator[tuple[int, inputs.Input]]) -> None:
    try:
      name, smallest = self._settings.finder, self._recoverer.smallest_face
      finder = make_finder(name, smallest) if name else None
      while not self._stop.is_set():
        with self._lock:
          index, item = next(waiting, (0, None))
        if item is None:
          break
        job = self._guarded(index, item, self._open, index, item, finder)
        if job and self._budget.acquire(self._share(job)):
          self._read.put(job)
    except Exception as error:
      self._fail(error)
    finally:
      self._read.put(None)

  def _open(self, index: int, item: inputs.Input, finder: FaceFinder | None) -> Job | None:
    """A job with its faces; None where there is nothing left to do."""
    job, data = Job.open(index, item)
    self._digests[index] = job.sha256
    stored = self._out.stored(job.folder)
    if stored:
      self._finish(index, stored)
      return None
    if data is not None:
      job.look_at(data, finder, self._recoverer)
    return job

  # Recovering: the calling thread.

  def _keep_recovering(self, readers: int) -> None:
    faces: deque[tuple[Job, int]] = deque()
    size = self._recoverer.batch_size
    while (readers or faces) and not self._stop.is_set():
      # A smaller batch only where no more faces can come before these make room.
      starved = not readers or self._budget.waiting >= readers
      if len(faces) >= size or (faces and starved and self._read.empty()):
        self._recover([faces.popleft() for _ in range(min(size, len(faces)))])
        continue
      try:
        job = self._read.get(timeout=_LONGEST_WAIT)
      except queue.Empty:
        continue
      if job is None:
        readers -= 1
      elif job.item.kind == inputs.VIDEO:
        self._guarded(job.index, job.item, self._recover_video, job)
        self._budget.release(self._share(job))
      else:
        faces.extend((job, number) for number in range(len(job.crops)))
        if not job.crops:
          self._recovered.put(job)

  def _recover(self, batch: list[tuple[Job, int]]) -> None:
    images = [job.seen[number] for job, number in batch]
    predictions = self._recoverer.predict(images, seed=self._settings.seed)
    for (job, number), prediction in zip(batch, predictions, strict=True):
      job.predictions[number] = prediction
      if None not in job.predictions:
        self._recovered.put(job)

  def _recover_video(self, job: Job) -> None:
    self._interruptible = True
    try:
      entry = self._writer.write_video(job, self._settings)
    finally:
      self._interruptible = False
    self._finish(job.index, entry)

  # Writing: each thread by itself.

  def _keep_writing(self) -> None:
    ended = False
    while not ended:
      jobs = [self._recovered.get()]
      # One search in the gallery for several pictures.
      while self._gallery is not None and jobs[-1] and len(jobs) < self._recoverer.batch_size:
        try:
          jobs.append(self._recovered.get_nowait())
        except queue.Empty:
          break
      ended = jobs[-1] is None
      self._write(jobs[:-1] if ended else jobs)

  def _write(self, jobs: list[Job]) -> None:
    try:
      candidates = self._writer.search(jobs) if jobs and not self._fatal else {}
    except Exception as error:
      self._fail(error)
    for job in jobs:
      if self._fatal is None:
        self._guarded(job.index, job.item, self._write_one, job, candidates)
      self._budget.release(self._share(job))

  def _write_one(self, job: Job, candidates: dict[tuple[int, int], Any]) -> None:
    self._finish(job.index, self._writer.write(job, candidates))

  # For all of them.

  def _share(self, job: Job) -> int:
    """Of the budget."""
    return max(job.pixels, self._least)

  def _guarded(self, index: int, item: inputs.Input, do: Callable[..., Any], *args: Any) -> Any:
    """Does it; what goes wrong with one input is its result and stops no other."""
    try:
      return do(*args)
    except InputError as error:
      sentence = str(error)
    except OSError as error:
      # Of inputs they are InputErrors: what is left is the output folder.
      self._fail(InputError(f'{self._out.path} cannot be written: {error.strerror or error}.'))
      return None
    except MemoryError:
      sentence = f'{item.path} does not fit into memory; shrink it.'
    except Exception as error:
      logging.info('%s', item.path, exc_info=True)
      sentence = (
        f'{item.path} could not be recovered, by an error that was not foreseen '
        f'({type(error).__name__}); save it as a PNG, or leave it out.'
      )
    digest = self._digests.get(index)
    self._finish(index, failed(item.path, sentence, kind=item.kind, sha256=digest))
    return None

  def _finish(self, index: int, entry: dict[str, Any]) -> None:
    with self._lock:
      self.entries[index] = entry
      self._progress()

  def _fail(self, error: BaseException) -> None:
    """Ends the run with an error."""
    self._fatal = self._fatal or error
    self._stop.set()


@contextlib.contextmanager
def _quick_turns() -> Iterator[None]:
  """Lets the thread of the model wait less for Python's lock: it needs it seldom and shortly."""
  before = sys.getswitchinterval()
  sys.setswitchinterval(_TURN)
  try:
    yield
  finally:
    sys.setswitchinterval(before)


def _start(run: Callable[..., None], *args: Any) -> threading.Thread:
  def nicely() -> None:
    if sys.platform == 'linux':  # Elsewhere a thread has no priority of its own.
      with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
    run(*args)

  thread = threading.Thread(target=nicely, daemon=True)
  thread.start()
  return thread


def _between(least: int, wanted: int) -> int:
  return min(max(least, wanted), _MOST_THREADS)


def _cores() -> int:
  """Processor cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
