"""Video files: frames sampled by presentation time.

What a video says of itself is not trusted: only the demuxers and the protocol that a video file
needs are allowed, so that a playlist under a video's name opens nothing else.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
from fractions import Fraction
import math
import os

import av
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation
import numpy as np

from dfrec_jax.errors import InputError
from dfrec_jax.recover.scenes import CutDetector
from dfrec_jax.recover.wording import printable

LARGEST_SIDE = 3840  # A larger frame is shrunk to it when it is read,
LARGEST_PIXELS = 100_000_000  # and one of more pixels is refused before it is decoded.
LARGEST_FPS = 240
_DEMUXERS = (
  'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,mxf,flv,asf,ogg,h264,hevc,m4v,'
  'ivf,rm,dv'
)
# The same bytes on every machine; faster paths depend on the instructions of the processor.
_SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_THUMBNAIL = 64, 36
_EARLY = Fraction(1, 10)  # of the sampling interval, since time stamps are rounded
# Of what the file promises, less than this much may be missing at its end without a word.
_MISSING_SHARE, _MISSING_SECONDS = 0.03, 0.2
_HDR = (16, 18)  # Transfer characteristics PQ and HLG (ITU-T H.273, table 3).


@dataclasses.dataclass(frozen=True)
class Frame:
  """A sampled frame.

  Attributes:
    index: in the video, from 0, of the frames that can be decoded.
    time: seconds since the first frame.
    slot: number of the sampling interval in which it comes, from 0. A frame that is shown for
      longer than an interval is sampled once.
    pixels: (H, W, 3) uint8 RGB, upright, of square pixels.
    cut: time at which a scene began since the sampled frame before; None if none did.
  """

  index: int
  time: float
  slot: int
  pixels: np.ndarray
  cut: float | None


class SampledVideo:
  """A video that is looked at `fps` times a second; it can be read several times.

  Attributes:
    name: the path as sentences have it.
    fps: samples a second.
    rate: frames a second, as the file says; 0 where it does not.
    width, height: as shown, upright and of square pixels, in pixels of the video.
    size: width and height of the frames that are read.
    scale: of a frame as it is read, in units of the video; 1 but for very large videos.
    duration: seconds that the last complete reading could decode.
    warnings: sentences on what that reading met.

  Raises:
    InputError: no video, sound only, frames that cannot be decoded or are too large.
  """

  def __init__(self, path: str | os.PathLike, fps: float):
    if not (math.isfinite(fps) and 0.001 <= fps <= LARGEST_FPS):
      raise InputError(f'fps is {fps}; it must be from 0.001 to {LARGEST_FPS}.')
    self._path = os.fspath(path)
    self.name = printable(self._path)
    self.fps = Fraction(fps).limit_denominator(1000)
    self.duration, self.warnings = 0.0, []
    with self._open() as (_, stream):
      self.rate = float(stream.average_rate or stream.guessed_rate or 0)
      aspect = stream.sample_aspect_ratio or Fraction(1)
    with contextlib.closing(self._decode(_Log())) as frames:
      first = next(frames, None)
    if first is None:
      raise InputError(f'{self.name} has no frame that can be decoded; copy it anew or convert it.')
    self._orientation = _orientation(first)
    stored = first.width * max(aspect, 1), first.height / min(aspect, 1)
    self.scale = float(min(1, Fraction(LARGEST_SIDE) / max(stored)))
    self._read_size = [max(round(side * self.scale), 1) for side in stored]
    turn = -1 if self._orientation[0] else 1
    self.width, self.height = (round(side) for side in stored[::turn])
    self.size = tuple(self._read_size[::turn])

  def frames(self) -> Iterator[Frame]:
    """The sampled frames, in the order of their time; none is held but the one that is given."""
    log, clock, cuts = _Log(), _Clock(self.rate), CutDetector()
    slot, cut, pending, before = -1, None, None, None
    with contextlib.closing(self._decode(log)) as decoded:
      for index, picture in enumerate(decoded):
        time = clock.tick(picture)
        # Whether a scene begins with a frame is known one frame later.
        if cuts.add(_grey(picture)):
          cut = before
        if pending:
          yield self._frame(*pending, cut)
          pending, cut = None, None
        if (reached := math.floor(time * self.fps + _EARLY)) > slot:
          slot, pending = reached, (picture, index, float(time), reached)
        before = float(time)
    if pending:
      yield self._frame(*pending, before if cuts.add(None) else cut)
    self.duration = float(clock.end)
    self.warnings = log.sentences(self.name, self.duration)

  def _frame(self, picture, index, time, slot, cut) -> Frame:
    width, height = self._read_size
    pixels = picture.to_ndarray(
      width=width, height=height, format='rgb24', interpolation=_SCALING, threads=1
    )
    transposed, right_to_left, upside_down = self._orientation
    if transposed:
      pixels = pixels.swapaxes(0, 1)
    pixels = pixels[:: -1 if upside_down else 1, :: -1 if right_to_left else 1]
    return Frame(index, time, slot, np.ascontiguousarray(pixels), cut)

  @contextlib.contextmanager
  def _open(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its film; a picture of an album's cover is none."""
    options = {'protocol_whitelist': 'file', 'format_whitelist': _DEMUXERS}
    try:
      container = av.open('file:' + os.path.abspath(self._path), options=options)
    except (av.FFmpegError, OSError, ValueError) as error:
      raise InputError(
        f'{self.name} is no video that can be read, or damaged from its beginning '
        f'({_reason(error)}).'
      ) from error
    with container:
      cover = av.stream.Disposition.attached_pic
      films = [stream for stream in container.streams.video if not stream.disposition & cover]
      if not films:
        held = 'sound only' if container.streams.audio else 'no film'
        raise InputError(f'{self.name} holds {held}; give a video with pictures.')
      stream, context = films[0], films[0].codec_context
      if context is None:
        raise InputError(f'{self.name} is coded in a way that cannot be decoded; convert it.')
      if context.width * context.height > LARGEST_PIXELS:
        raise InputError(
          f'{self.name} has frames of {context.width} x {context.height} pixels, more than '
          f'{LARGEST_PIXELS // 10**6} megapixels; shrink it.'
        )
      context.options = {'max_pixels': str(LARGEST_PIXELS)}
      # With more threads, what a decoder makes of damaged data may differ from run to run.
      context.thread_count = 1
      yield container, stream

  def _decode(self, log: '_Log') -> Iterator[av.VideoFrame]:
    """The frames that can be decoded, in the order in which they are shown."""
    with self._open() as (container, stream):
      log.open(container, stream)
      packets = container.demux(stream)
      while True:
        try:
          packet = next(packets)
        except StopIteration:
          return
        except (av.FFmpegError, OSError, ValueError):
          log.lost += 1
          packet = None  # Nothing more can be read; the decoder gives what it still holds.
        try:
          decoded = stream.decode(packet)
        except (av.FFmpegError, OSError, ValueError):
          log.lost += 1
          decoded = []
        yield from (frame for frame in decoded if log.is_sound(frame))
        if packet is None:
          return


class _Clock:
  """Seconds since the first frame; always forward, also where time stamps jump back or lack."""

  def __init__(self, rate: float):
    self._step = 1 / Fraction(rate).limit_denominator(1001) if rate else Fraction(1, 25)
    self._origin = None
    self._last = None
    self.end = Fraction(0)

  def tick(self, frame: av.VideoFrame) -> Fraction:
    following = Fraction(0) if self._last is None else self._last + self._step
    if frame.pts is None or not frame.time_base:
      time = following
    else:
      stamp = frame.pts * frame.time_base
      back = self._last is not None and stamp - (self._origin or 0) <= self._last
      if self._origin is None or back:
        self._origin = stamp - following
      time = stamp - self._origin
    shown = frame.duration * frame.time_base if frame.duration and frame.time_base else self._step
    self._last, self.end = time, time + shown
    return time


class _Log:
  """What went wrong, or is unusual, in a reading."""

  def __init__(self):
    self.lost = 0  # packets and frames
    self._interlaced = self._hdr = False
    self._promised = None

  def open(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
    if stream.duration:
      self._promised = float(stream.duration * stream.time_base)
    elif container.duration and len(container.streams) == 1:
      self._promised = container.duration / av.time_base

  def is_sound(self, frame: av.VideoFrame) -> bool:
    """Whether a decoded frame is whole."""
    self.lost += frame.is_corrupt
    self._interlaced |= frame.interlaced_frame
    self._hdr |= frame.color_trc in _HDR
    return not frame.is_corrupt

  def sentences(self, name: str, duration: float) -> list[str]:
    found = []
    promised = self._promised or 0
    if duration < promised * (1 - _MISSING_SHARE) - _MISSING_SECONDS:
      found.append(
        f'{name} is cut short or damaged: {duration:.1f} s of {promised:.1f} s could be read.'
      )
    if self.lost:
      parts = f'{self.lost} parts' if self.lost > 1 else '1 part'
      found.append(f'{name} is damaged: what could not be decoded, {parts}, was left out.')
    if self._interlaced:
      found.append(f'{name} is interlaced: moving faces show combs, which no training data does.')
    if self._hdr:
      found.append(f'{name} has a high dynamic range: its colours look paler here than they are.')
    return found


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
  """Whether rows are columns, and which are mirrored then, by the display matrix of MP4."""
  data = frame.side_data.get(Type.DISPLAYMATRIX)
  if data is None:
    return False, False, False
  a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
  if abs(a) + abs(d) >= abs(b) + abs(c):
    return False, a < 0, d < 0
  return True, c < 0, b < 0


def _grey(frame: av.VideoFrame) -> np.ndarray:
  width, height = _THUMBNAIL
  small = frame.reformat(width, height, 'gray', interpolation=Interpolation.AREA, threads=1)
  return small.to_ndarray()


def _reason(error: Exception) -> str:
  return (getattr(error, 'strerror', None) or str(error).splitlines()[0]).rstrip('.').lower()
