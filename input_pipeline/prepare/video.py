"""Frames of videos, by their index, through PyAV; damaged ones are told from whole ones."""

from collections.abc import Iterable
import os
from typing import NamedTuple

import av
import av.container
import numpy as np

# Otherwise FFmpeg paints over what it cannot decode, and the frame counts as whole.
_STRICT = {'err_detect': 'explode'}


class Reading(NamedTuple):
  """What could be read of a video.

  Attributes:
    frames: index to (H, W, 3) uint8 RGB, without those from the end or the first damaged frame on.
    problem: why some are missing although the file's header promises them; empty if there is none.
  """

  frames: dict[int, np.ndarray]
  problem: str


def frame_count(path: os.PathLike | str) -> int:
  """Frames that the file's header promises; 0 where it cannot be read."""
  try:
    with av.open(os.fspath(path)) as container:
      return _promised(container)
  except (av.FFmpegError, OSError, IndexError):
    return 0


def read_frames(path: os.PathLike | str, indices: Iterable[int]) -> Reading:
  """Reads some frames of a video.

  Every frame up to the last one is decoded: a jump in H.264 may land on a neighbouring frame, and
  then a forged frame and its target would not be the same moment.

  Args:
    path: the video.
    indices: of the frames, from 0.
  """
  wanted = set(indices)
  last = max(wanted, default=-1)
  frames: dict[int, np.ndarray] = {}
  count = promised = 0
  try:
    with av.open(os.fspath(path)) as container:
      promised = _promised(container)
      for frame in _decode(container):
        if frame.is_corrupt:
          raise av.InvalidDataError(0, 'a damaged frame')
        if count in wanted:
          frames[count] = frame.to_ndarray(format='rgb24')
        count += 1
        if count > last:  # The next one may be damaged, and nobody wants it.
          break
  except (av.FFmpegError, OSError, IndexError):
    damage = f'broken: from frame {count} of {promised}'
    return Reading(frames, damage if promised else 'unreadable')
  early = count <= min(last, promised - 1)
  return Reading(frames, f'ends early: after {count} of {promised} frames' if early else '')


def spread(count: int, frames: int) -> list[int]:
  """At most `frames` indices of `count`, evenly spread, each in the middle of its stretch."""
  frames = min(frames, count)
  return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]


def _decode(container: av.container.InputContainer):
  stream = container.streams.video[0]
  # One thread a decoder: the preparation runs a process per core.
  stream.codec_context.thread_count = 1
  stream.codec_context.options = _STRICT
  return container.decode(stream)


def _promised(container: av.container.InputContainer) -> int:
  stream = container.streams.video[0]
  if stream.frames or not (stream.duration and stream.average_rate):
    return stream.frames
  return round(stream.duration * stream.time_base * stream.average_rate)
