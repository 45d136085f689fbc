"""Frames of videos, by their index, through OpenCV's FFmpeg."""

from collections.abc import Iterable
import os

# FFmpeg's own messages on a broken file; what matters is in the report. Read at the first use.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')

import cv2
import numpy as np

# One thread a decoder: the preparation runs a process per core.
_OPTIONS = (cv2.CAP_PROP_N_THREADS, 1)


def frame_count(path: os.PathLike | str) -> int:
  """Frames that the file's header promises; 0 where it cannot be read."""
  capture = _open(path)
  count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
  capture.release()
  return max(count, 0)


def read_frames(path: os.PathLike | str, indices: Iterable[int]) -> dict[int, np.ndarray]:
  """Reads some frames of a video.

  Every frame up to the last one is decoded: a jump in H.264 may land on a neighbouring frame, and
  then a forged frame and its target would not be the same moment.

  Args:
    path: the video.
    indices: of the frames, from 0.

  Returns:
    Index to frame, (H, W, 3) uint8 RGB, without those behind the end or the first broken frame.
  """
  wanted = set(indices)
  frames = {}
  capture = _open(path)
  try:
    for index in range(max(wanted, default=-1) + 1):
      if not capture.grab():
        break
      if index in wanted:
        decoded, bgr = capture.retrieve()
        if decoded:
          frames[index] = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
  finally:
    capture.release()
  return frames


def spread(count: int, frames: int) -> list[int]:
  """At most `frames` indices of `count`, evenly spread, each in the middle of its stretch."""
  frames = min(frames, count)
  return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]


def _open(path: os.PathLike | str) -> cv2.VideoCapture:
  """Opens a video; that it cannot be opened is for the report, not for the terminal."""
  level = cv2.utils.logging.getLogLevel()
  cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
  try:
    return cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG, _OPTIONS)
  finally:
    cv2.utils.logging.setLogLevel(level)
