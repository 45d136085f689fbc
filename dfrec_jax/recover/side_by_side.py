"""The side-by-side video: as given, and restored, with what is an estimate marked as such."""

from collections.abc import Sequence
import dataclasses
from fractions import Fraction
import pathlib
from typing import Self

import av
from av.video.reformatter import Colorspace, Interpolation
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dfrec_jax.errors import InputError
from dfrec_jax.recover import wording
from input_pipeline.prepare.faces import Box

_LARGEST_PANE, _SMALLEST_PANE = 960, 480  # The larger side of each half, in pixels.
_HEADER = 32
_PAPER, _INK = (24, 26, 30), (240, 240, 242)
_SWAPPED, _UNSWAPPED = (255, 96, 80), (96, 200, 128)
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_BT709, _LIMITED_RANGE = 1, 1  # ITU-T H.273
# Equal frames give equal bytes: what x264 chooses depends on the number of its threads, and with
# `mbtree` on memory that it never wrote.
_ENCODER = 'libx264'
_OPTIONS = {'crf': '18', 'preset': 'veryfast', 'threads': '1', 'mbtree': '0'}
_SECONDS_BETWEEN_KEY_FRAMES = 2


@dataclasses.dataclass(frozen=True)
class Mark:
  """A face to mark in a frame.

  Attributes:
    number: of the face.
    box: (x, y, width, height) in pixels of the frame.
    swapped: whether it was restored.
  """

  number: int
  box: Box
  swapped: bool


class SideBySide:
  """Composes pairs of frames and writes them as H.264 in MP4, beside the path and renamed.

  Use it as a context: the file appears at the end, and not at all after an error.

  Args:
    path: of the file, `.mp4`.
    fps: slots a second.
    width, height: of the frames, in pixels.

  Raises:
    InputError: PyAV is without the encoder.
  """

  def __init__(self, path: pathlib.Path, fps: Fraction, width: int, height: int):
    side = max(width, height)
    scale = min(_LARGEST_PANE / side, max(1.0, _SMALLEST_PANE / side))
    # H.264 in 4:2:0 has even sides.
    self._pane = tuple(max(2 * round(side * scale / 2), 2) for side in (width, height))
    self._scale, self._fps, self._path = scale, fps, path
    self._beside = path.with_name(f'.{path.name}.part')
    self._font = ImageFont.load_default(15)
    # `bitexact` leaves the names of the libraries out.
    options = {'movflags': '+faststart', 'fflags': '+bitexact'}
    self._container = av.open(str(self._beside), 'w', format='mp4', options=options)
    try:
      self._stream = self._container.add_stream(_ENCODER, rate=fps, options=dict(_OPTIONS))
    except ValueError as error:
      self._discard()
      raise InputError(
        f'PyAV {av.__version__} was built without {_ENCODER}; install its wheel from PyPI.'
      ) from error
    stream, context = self._stream, self._stream.codec_context
    stream.width, stream.height = self._pane[0] * 2, self._pane[1] + _HEADER
    stream.pix_fmt = 'yuv420p'
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED_RANGE
    context.gop_size = max(round(_SECONDS_BETWEEN_KEY_FRAMES * fps), 1)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, kind, error, trace) -> None:
    if kind is not None:
      self._discard()
      return
    self._container.mux(self._stream.encode(None))
    self._container.close()
    self._beside.replace(self._path)

  def write(
    self, given: np.ndarray, restored: np.ndarray, marks: Sequence[Mark], time: float, slot: int
  ) -> None:
    """Adds a pair of frames.

    Args:
      given, restored: (H, W, 3) uint8.
      marks: the faces in them.
      time: of the frame in its video, in seconds.
      slot: when it is shown, in units of 1 / fps; increasing.
    """
    picture = av.VideoFrame.from_ndarray(np.asarray(self._compose(given, restored, marks, time)))
    frame = picture.reformat(
      format='yuv420p', dst_colorspace=Colorspace.ITU709, interpolation=_SCALING, threads=1
    )
    frame.pts, frame.time_base = slot, 1 / self._fps
    self._container.mux(self._stream.encode(frame))

  def _compose(self, given, restored, marks, time) -> Image.Image:
    width, height = self._pane
    picture = Image.new('RGB', (2 * width, height + _HEADER), _PAPER)
    pen = ImageDraw.Draw(picture)
    for x, frame, title in ((0, given, 'as given'), (width, restored, 'restored (estimate)')):
      shrinks = frame.shape[1] > width
      pane = cv2.resize(
        frame, self._pane, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
      )
      pane = Image.fromarray(pane)
      draw_marks(pane, marks, self._scale, self._font, estimate=x > 0)
      picture.paste(pane, (x, _HEADER))
      pen.text((x + 10, _HEADER // 2), title, _INK, self._font, 'lm')
    pen.text((2 * width - 10, _HEADER // 2), f'{time:.2f} s', _INK, self._font, 'rm')
    return picture

  def _discard(self) -> None:
    self._container.close()
    self._beside.unlink(missing_ok=True)


def draw_marks(
  picture: Image.Image,
  marks: Sequence[Mark],
  scale: float,
  font: ImageFont.FreeTypeFont,
  *,
  estimate: bool,
) -> None:
  """Draws the boxes of faces with their numbers onto a picture.

  Args:
    scale: of the picture, in units of the frame that the boxes are in.
    estimate: whether the picture shows restored faces, which is then written beside them.
  """
  pen = ImageDraw.Draw(picture)
  for mark in marks:
    colour = _SWAPPED if mark.swapped else _UNSWAPPED
    x, y, width, height = (value * scale for value in mark.box)
    pen.rectangle((x, y, x + width, y + height), outline=colour, width=2 if mark.swapped else 1)
    found = 'estimate' if estimate else wording.SCORES_AS_SWAPPED
    verdict = found if mark.swapped else wording.NO_SWAP_FOUND
    text = f' {mark.number}: {verdict} '
    left, top, right, bottom = pen.textbbox((0, 0), text, font, 'lb')
    # Above the box, inside of the picture.
    x = min(max(x, 0), max(picture.width - (right - left), 0))
    y = max(y - 1, bottom - top + 4)
    pen.rectangle((x, y - (bottom - top) - 4, x + right - left, y), fill=_PAPER)
    pen.text((x, y - 2), text, colour, font, 'lb')
