"""Writes small H.264 videos in MP4 files, losslessly without an encoder, or as cameras do.

Without one, every frame is an IDR picture of I_PCM macroblocks (ITU-T H.264, 7.3.5): the samples
themselves. The boxes around them are those of ISO/IEC 14496-12 and -15.
"""

import re
import struct

import av
import cv2
import numpy as np

_RATE = 25


def write_h264(path, frames):
  """Writes (H, W, 3) uint8 RGB frames; H and W are multiples of 16."""
  path.parent.mkdir(parents=True, exist_ok=True)
  height, width = frames[0].shape[:2]
  sequence, picture = _sequence_parameters(width, height), _picture_parameters()
  samples = [_sample(frame, i) for i, frame in enumerate(frames)]
  kind = _box(b'ftyp', b'isom', struct.pack('>I', 512), b'isomavc1')
  data = _box(b'mdat', *samples)
  where = [len(kind) + 8 + sum(map(len, samples[:i])) for i in range(len(samples))]
  movie = _movie(width, height, sequence, picture, [len(s) for s in samples], where)
  path.write_bytes(kind + data + movie)


def write_lossy_h264(path, frames, quality=23):
  """Writes frames with x264: predicted in both directions, at its constant rate factor."""
  path.parent.mkdir(parents=True, exist_ok=True)
  height, width = frames[0].shape[:2]
  # Without its assembly code x264 gives the same bytes each time and on every processor.
  options = {'crf': str(quality), 'threads': '1', 'bf': '2', 'x264-params': 'asm=0'}
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=_RATE, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode())


class _Bits:
  def __init__(self):
    self.text = ''

  def fixed(self, value, count):
    self.text += format(value, f'0{count}b')
    return self

  def golomb(self, *values):
    for value in values:
      code = format(value + 1, 'b')
      self.text += '0' * (len(code) - 1) + code
    return self

  def to_bytes(self):
    text = self.text + '0' * (-len(self.text) % 8)
    return int(text, 2).to_bytes(len(text) // 8)


def _sequence_parameters(width, height):
  bits = _Bits().fixed(66, 8).fixed(0, 8).fixed(40, 8)  # baseline, level 4
  bits.golomb(0, 0, 2, 0).fixed(0, 1)  # id, frame number's bits, order of output, references
  bits.golomb(width // 16 - 1, height // 16 - 1).fixed(0b1100, 4)  # whole frames, no cropping
  return b'\x67' + _escape(bits.fixed(1, 1).to_bytes())


def _picture_parameters():
  bits = _Bits().golomb(0, 0).fixed(0, 2).golomb(0, 0, 0).fixed(0, 3)
  bits.golomb(0, 0, 0).fixed(0b100, 3)  # deblocking can be switched off
  return b'\x68' + _escape(bits.fixed(1, 1).to_bytes())


def _sample(frame, number):
  bits = _Bits().golomb(0, 7, 0).fixed(0, 4).golomb(number % 2).fixed(0, 2).golomb(0, 1)
  first = _Bits()
  first.text = bits.text
  first.golomb(25)  # I_PCM; then zeros to the next byte
  blocks = _macroblocks(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420), *frame.shape[:2])
  rest = np.hstack([np.tile(np.uint8([0x0D, 0x00]), (len(blocks), 1)), blocks]).tobytes()[2:]
  unit = b'\x65' + _escape(first.to_bytes() + rest + b'\x80')
  return struct.pack('>I', len(unit)) + unit


def _macroblocks(planes, height, width):
  """(number, 384) samples of each macroblock: 16 x 16 luma, then 8 x 8 of both chromas."""
  luma = planes[:height]
  chroma = planes[height:].reshape(2, height // 2, width // 2)
  parts = []
  for plane, side in ((luma, 16), (chroma[0], 8), (chroma[1], 8)):
    rows, columns = plane.shape[0] // side, plane.shape[1] // side
    tiles = plane.reshape(rows, side, columns, side).transpose(0, 2, 1, 3)
    parts.append(tiles.reshape(rows * columns, side * side))
  return np.hstack(parts)


def _escape(payload):
  return re.sub(rb'\x00\x00(?=[\x00-\x03])', b'\x00\x00\x03', payload)


def _box(kind, *content):
  content = b''.join(content)
  return struct.pack('>I', len(content) + 8) + kind + content


def _full(kind, *content):
  return _box(kind, bytes(4), *content)


def _movie(width, height, sequence, picture, sizes, where):
  count = len(sizes)
  unity = struct.pack('>9I', 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
  times = struct.pack('>4I', 0, 0, _RATE, count)
  header = _full(
    b'mvhd', times, struct.pack('>IH10x', 0x10000, 0x100), unity, bytes(24), struct.pack('>I', 2)
  )
  track = _box(
    b'tkhd', b'\0\0\0\7', struct.pack('>5I', 0, 0, 1, 0, count), bytes(16), unity,
    struct.pack('>2I', width << 16, height << 16),
  )  # fmt: skip
  configuration = _box(
    b'avcC', b'\1', sequence[1:4], b'\xff\xe1', struct.pack('>H', len(sequence)), sequence,
    b'\1', struct.pack('>H', len(picture)), picture,
  )  # fmt: skip
  entry = _box(
    b'avc1', bytes(6), struct.pack('>H', 1), bytes(16), struct.pack('>2H', width, height),
    struct.pack('>2I4xH', 0x480000, 0x480000, 1), bytes(32), struct.pack('>Hh', 24, -1),
    configuration,
  )  # fmt: skip
  table = _box(
    b'stbl',
    _full(b'stsd', struct.pack('>I', 1), entry),
    _full(b'stts', struct.pack('>3I', 1, count, 1)),
    _full(b'stsc', struct.pack('>4I', 1, 1, 1, 1)),
    _full(b'stsz', struct.pack(f'>2I{count}I', 0, count, *sizes)),
    _full(b'stco', struct.pack(f'>I{count}I', count, *where)),
  )
  reference = _full(b'dref', struct.pack('>I', 1), _box(b'url ', b'\0\0\0\1'))
  media = _box(
    b'mdia',
    _full(b'mdhd', times, struct.pack('>HH', 0x55C4, 0)),
    _full(b'hdlr', bytes(4), b'vide', bytes(12), b'\0'),
    _box(b'minf', _box(b'vmhd', b'\0\0\0\1', bytes(8)), _box(b'dinf', reference), table),
  )
  return _box(b'moov', header, _box(b'trak', track, media))
