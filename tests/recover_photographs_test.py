"""Photographs as people send them: what shows a picture is read, and the rest is a sentence."""

import io
import os
import re
import struct
import zlib

import cv2
import numpy as np
from PIL import Image, ImageCms
import pytest

from dfrec_jax.errors import InputError
from dfrec_jax.recover import photographs
from dfrec_jax.recover.photographs import read_photograph

RED, GREEN = (200, 30, 40), (30, 160, 60)


def _picture(size=(40, 24)):
  """Red with its upper left quarter green."""
  image = Image.new('RGB', size, RED)
  image.paste(GREEN, (0, 0, size[0] // 2, size[1] // 2))
  return image


def _close(pixels, colour, tolerance=6):
  np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(colour, 3), atol=tolerance)


def _check(photograph, size=(40, 24), tolerance=6):
  assert photograph.pixels.shape == (size[1], size[0], 3)
  assert photograph.pixels.dtype == np.uint8
  _close(photograph.pixels[2, 2], GREEN, tolerance)
  _close(photograph.pixels[-3, -3], RED, tolerance)


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'bmp', 'tif', 'ppm', 'jp2', 'avif'])
def test_common_formats(tmp_path, suffix):
  path = tmp_path / f'a.{suffix}'
  options = {'quality': 95, 'subsampling': 0} if suffix == 'jpg' else {}
  _picture().save(path, **options)
  _check(read_photograph(path), tolerance=12)
  assert not read_photograph(path).warnings


def test_a_name_says_nothing(tmp_path):
  _picture().save(tmp_path / 'a.jpg', 'PNG')
  _check(read_photograph(tmp_path / 'a.jpg'))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_picture_is_upright(tmp_path, orientation):
  undo = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
  }
  stored = _picture() if orientation == 1 else _picture().transpose(undo[orientation])
  exif = Image.Exif()
  exif[0x0112] = orientation
  stored.save(tmp_path / 'a.png', exif=exif)
  photograph = read_photograph(tmp_path / 'a.png')
  _check(photograph)
  assert photograph.turned == (orientation != 1)


def test_cmyk_and_profiles(tmp_path):
  _picture().convert('CMYK').save(tmp_path / 'a.jpg', quality=95)
  _check(read_photograph(tmp_path / 'a.jpg'), tolerance=12)
  srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  _picture().save(tmp_path / 'b.png', icc_profile=srgb)
  _check(read_photograph(tmp_path / 'b.png'), tolerance=0)
  _picture().save(tmp_path / 'c.png', icc_profile=b'no profile at all' * 20)
  _check(read_photograph(tmp_path / 'c.png'), tolerance=0)
  # A profile whose red and blue are swapped is one that does not mean sRGB.
  swapped = srgb.replace(b'rXYZ', b'tXYZ').replace(b'bXYZ', b'rXYZ').replace(b'tXYZ', b'bXYZ')
  swapped = swapped.replace('sRGB'.encode('utf-16-be'), 'test'.encode('utf-16-be'))
  _picture().save(tmp_path / 'd.png', icc_profile=swapped)
  pixels = read_photograph(tmp_path / 'd.png').pixels
  assert pixels[-3, -3, 2] > 150 > pixels[-3, -3, 0]


def test_sixteen_bits(tmp_path):
  levels = np.linspace(0, 65535, 12 * 16).reshape(12, 16).astype(np.uint16)
  cv2.imwrite(str(tmp_path / 'grey.png'), levels)
  cv2.imwrite(str(tmp_path / 'grey.tif'), levels)
  cv2.imwrite(str(tmp_path / 'colour.png'), np.stack([levels] * 3, -1))
  for name in ('grey.png', 'grey.tif', 'colour.png'):
    photograph = read_photograph(tmp_path / name)
    np.testing.assert_allclose(photograph.pixels[..., 0], levels / 257, atol=1.01)
    assert 'more than 8 bits' in photograph.warnings[0]
    assert name in photograph.warnings[0]
  Image.fromarray(levels.astype(np.float32) / 65535).save(tmp_path / 'float.tif')
  pixels = read_photograph(tmp_path / 'float.tif').pixels
  np.testing.assert_allclose(pixels[..., 1], levels / 257, atol=1.01)


@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
def test_fewer_bits_in_a_deeper_file(tmp_path, bits):
  white = 2**bits - 1
  levels = np.linspace(0, white, 200).reshape(10, 20)
  Image.fromarray(levels.astype(np.uint16)).save(tmp_path / 'a.tif')
  Image.fromarray(levels.astype(np.int32)).save(tmp_path / 'b.tif')
  Image.fromarray(levels.astype(np.float32)).save(tmp_path / 'c.tif')
  for name in ('a.tif', 'b.tif', 'c.tif'):
    photograph = read_photograph(tmp_path / name)
    np.testing.assert_allclose(photograph.pixels[..., 0], levels / white * 255, atol=1.5)
    assert f'values up to {white}; {white} was taken for white' in photograph.warnings[0]


def test_what_is_no_number_is_black_or_white(tmp_path, monkeypatch):
  monkeypatch.setattr(photographs, '_ROWS_PIXELS', 1)
  values = np.array([[0.5, np.nan], [np.inf, -np.inf]], np.float32)
  Image.fromarray(values).save(tmp_path / 'a.tif')
  np.testing.assert_array_equal(
    read_photograph(tmp_path / 'a.tif').pixels[..., 0], [[128, 0], [255, 0]]
  )


def test_sixteen_bits_of_colour(tmp_path):
  levels = np.linspace(0, 65535, 12 * 16).reshape(12, 16).astype(np.uint16)
  for name, values in (
    ('bright.tif', levels),
    ('dark.tif', levels // 16),
    ('dark.png', levels // 16),
  ):
    cv2.imwrite(str(tmp_path / name), np.stack([values] * 3, -1))
    warnings = read_photograph(tmp_path / name).warnings
    assert 'more than 8 bits' in warnings[0]
    assert any('is dark throughout' in warning for warning in warnings) == name.startswith('dark')


def test_alpha_is_put_on_white(tmp_path):
  image = _picture().convert('RGBA')
  image.putpixel((39, 23), (0, 0, 0, 0))
  image.save(tmp_path / 'a.png')
  photograph = read_photograph(tmp_path / 'a.png')
  _close(photograph.pixels[23, 39], 255, 0)
  _check(photograph, tolerance=0)
  assert 'transparent' in photograph.warnings[0]
  _picture().convert('RGBA').save(tmp_path / 'b.png')
  assert not read_photograph(tmp_path / 'b.png').warnings


def test_palette_grey_and_black_and_white(tmp_path):
  _picture().convert('P', palette=Image.Palette.ADAPTIVE).save(tmp_path / 'p.png')
  _check(read_photograph(tmp_path / 'p.png'))
  palette = _picture().convert('P', palette=Image.Palette.ADAPTIVE)
  palette.save(tmp_path / 'clear.png', transparency=palette.getpixel((0, 0)))
  _close(read_photograph(tmp_path / 'clear.png').pixels[0, 0], 255, 0)
  for mode in ('L', 'LA', '1'):
    Image.new(mode, (5, 4), 1 if mode == '1' else 255).save(tmp_path / 'g.png')
    pixels = read_photograph(tmp_path / 'g.png').pixels
    assert pixels.shape == (4, 5, 3)


@pytest.mark.parametrize('suffix', ['gif', 'webp', 'png', 'tif'])
def test_of_an_animation_the_first_frame(tmp_path, suffix):
  path = tmp_path / f'a.{suffix}'
  _picture().save(path, save_all=True, append_images=[Image.new('RGB', (40, 24), 'blue')])
  photograph = read_photograph(path)
  _check(photograph, tolerance=12)
  assert 'only the first' in photograph.warnings[0]


def test_heic(tmp_path):
  heif = pytest.importorskip('pillow_heif')
  heif.from_pillow(_picture((64, 64))).save(tmp_path / 'a.heic', quality=95)
  _check(read_photograph(tmp_path / 'a.heic'), (64, 64), 12)


@pytest.mark.parametrize('compression', [None, 'tiff_lzw'])
def test_a_tiff_that_is_turned_in_decoding(tmp_path, compression):
  stored = _picture().transpose(Image.Transpose.ROTATE_90)
  stored.save(tmp_path / 'a.tif', tiffinfo={0x0112: 6}, compression=compression)
  photograph = read_photograph(tmp_path / 'a.tif')
  _check(photograph)
  assert photograph.turned
  _picture().save(tmp_path / 'b.tif', tiffinfo={0x0112: 1})
  assert not read_photograph(tmp_path / 'b.tif').turned


def test_heic_is_turned_by_its_container_only():
  pytest.importorskip('pillow_heif')
  photographs._readable()  # It registers the format.
  exif = Image.Exif()
  exif[0x0112] = 6
  stored = _picture((64, 80)).transpose(Image.Transpose.ROTATE_90)
  for turned in (True, False):
    # The encoder writes the picture's own orientation into the container, and another as it is.
    stored.info = {'exif': exif.tobytes()} if turned else {}
    encoded = io.BytesIO()
    stored.save(encoded, 'HEIF', quality=95, **({} if turned else {'exif': exif}))
    photograph = read_photograph('a.heic', encoded.getvalue())
    assert photograph.turned == turned
    if turned:
      _check(photograph, (64, 80), 12)
    assert any('EXIF of a.heic asks' in text for text in photograph.warnings) == (not turned)


@pytest.mark.parametrize('bits', [8, 10])
def test_deeper_heic_and_avif(tmp_path, bits):
  heif = pytest.importorskip('pillow_heif')
  white = 65535 if bits > 8 else 255
  levels = np.full((64, 64, 3), white // 2, np.uint16 if bits > 8 else np.uint8)
  image = heif.from_bytes('RGB;16' if bits > 8 else 'RGB', (64, 64), levels.tobytes())
  image.save(tmp_path / 'a.heic', bit_depth=bits)
  depth = [cv2.IMWRITE_AVIF_DEPTH, bits]
  done = cv2.imwrite(str(tmp_path / 'a.avif'), levels // (64 if bits > 8 else 1), depth)
  for name in ('a.heic', 'a.avif') if done else ('a.heic',):
    warnings = read_photograph(tmp_path / name).warnings
    assert [f'{name} has more than 8 bits' in text for text in warnings] == [True] * (bits > 8)


@pytest.mark.parametrize('suffix', ['jp2', 'j2k'])
def test_deeper_jpeg_2000(tmp_path, suffix):
  levels = np.linspace(0, 65535, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint16)
  cv2.imwrite(str(tmp_path / 'deep.jp2'), levels)
  cv2.imwrite(str(tmp_path / 'flat.jp2'), (levels >> 8).astype(np.uint8))
  for name in ('deep', 'flat'):
    data = (tmp_path / f'{name}.jp2').read_bytes()
    start = data.index(b'\xff\x4f\xff\x51') if suffix == 'j2k' else 0
    warnings = read_photograph('a', data[start:]).warnings
    assert ['more than 8 bits' in text for text in warnings] == [True] * (name == 'deep')


def test_tiffs_that_are_not_read(tmp_path):
  _picture().save(tmp_path / 'a.tif')
  plain = (tmp_path / 'a.tif').read_bytes()
  entry = struct.Struct('<HHII').pack  # tag, type, count, value
  # A compression that nobody has, and colours of a kind that nobody has.
  for tag, value, other in ((259, 1, 60_001), (262, 2, 60_001)):
    assert plain.count(entry(tag, 3, 1, value)) == 1
    damaged = plain.replace(entry(tag, 3, 1, value), entry(tag, 3, 1, other))
    (tmp_path / 'odd.tif').write_bytes(damaged)
    with pytest.raises(InputError, match=r'odd\.tif is damaged, or a TIFF of a kind'):
      read_photograph(tmp_path / 'odd.tif')


def test_heic_without_its_reader_names_the_extra(tmp_path, monkeypatch):
  (tmp_path / 'a.heic').write_bytes(b'\0\0\0\x18ftypheic' + bytes(40))
  monkeypatch.setattr(photographs, '_readable', lambda: ('JPEG', 'PNG'))
  with pytest.raises(InputError, match=r'HEIC.*\[heif\]'):
    read_photograph(tmp_path / 'a.heic')


def _png_of(width, height):
  """The header of a PNG, and hardly any pixels."""
  chunk = lambda kind, data: (
    struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
  )
  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  pixels = zlib.compress(bytes(1000))
  return (
    b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')
  )


def _encoded(suffix, size=(300, 200)):
  noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
  data = io.BytesIO()
  Image.fromarray(noise).save(data, suffix)
  return data.getvalue()


@pytest.mark.parametrize(
  ('name', 'data', 'says'),
  [
    ('empty.jpg', b'', 'is empty'),
    ('text.jpg', b'Dear Sir or Madam,\n' * 20, 'is not an image'),
    ('zeros.png', bytes(2000), 'is not an image'),
    ('bomb.png', _png_of(20_000, 20_000), 'too many pixels.*100 megapixels'),
    ('large.png', _png_of(11_000, 10_000), '11000 x 10000 pixels.*100 megapixels'),
    ('short.png', _png_of(2_000, 2_000), 'truncated'),
    ('half.jpg', _encoded('JPEG')[:20_000], 'truncated'),
    ('half.png', _encoded('PNG')[:20_000], 'truncated'),
    ('half.webp', _encoded('WEBP')[:9_000], 'truncated|damaged'),
    ('header.jpg', _encoded('JPEG')[:30], 'not an image|damaged|truncated'),
    ('program.eps', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'is not an image'),
  ],
  ids=lambda value: value if isinstance(value, str) else '',
)
def test_bad_files_are_one_sentence(tmp_path, name, data, says):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(InputError, match=says) as raised:
    read_photograph(tmp_path / name)
  sentence = str(raised.value)
  assert name in sentence
  assert sentence.endswith('.')
  assert '\n' not in sentence


@pytest.mark.parametrize('progressive', [False, True])
def test_a_jpeg_that_is_cut_off_at_its_end(progressive):
  noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
  encoded = io.BytesIO()
  Image.fromarray(noise).save(encoded, 'JPEG', progressive=progressive)
  data = encoded.getvalue()
  whole = read_photograph('a.jpg', data)
  assert not whole.warnings
  for missing in (1, 2):
    photograph = read_photograph('a.jpg', data[:-missing])
    np.testing.assert_array_equal(photograph.pixels, whole.pixels)
    assert 'nothing but its end mark is missing' in photograph.warnings[0]
  if progressive:
    # What is gone of it is gone everywhere.
    with pytest.raises(InputError, match='truncated'):
      read_photograph('a.jpg', data[:-1000])
    return
  photograph = read_photograph('a.jpg', data[: -len(data) // 25])
  (warning,) = photograph.warnings
  (lost,) = re.findall(r'of its 200 rows the last (\d+) are missing', warning)
  assert 4 <= int(lost) <= 20
  kept = 200 - int(lost)
  np.testing.assert_array_equal(photograph.pixels[:kept], whole.pixels[:kept])
  assert (photograph.pixels[kept : kept + 4] != whole.pixels[kept : kept + 4]).any()
  with pytest.raises(InputError, match='truncated'):
    read_photograph('a.jpg', data[: -len(data) // 5])


def test_what_is_no_file(tmp_path, monkeypatch):
  (tmp_path / 'link.jpg').symlink_to(tmp_path / 'gone.jpg')
  os.mkfifo(tmp_path / 'pipe.jpg')
  for name, says in (
    ('missing.jpg', 'does not exist'),
    ('link.jpg', 'leads to a file that does not exist'),
    ('pipe.jpg', 'no regular file'),
    ('', 'no regular file'),
  ):
    with pytest.raises(InputError, match=says):
      read_photograph(tmp_path / name)
  _picture().save(tmp_path / 'a.png')

  def forbidden(*unused):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(photographs, 'open', forbidden, raising=False)  # root may read everything.
  with pytest.raises(InputError, match=r'a\.png may not be read; change its permissions\.'):
    read_photograph(tmp_path / 'a.png')


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_damage_anywhere_is_a_sentence_or_a_picture():
  """Bytes changed at random: whatever Pillow stumbles over, nothing but InputError comes out."""
  rng = np.random.default_rng(0)
  for suffix in ('JPEG', 'PNG', 'GIF', 'TIFF', 'WEBP'):
    whole = _encoded(suffix, (30, 20))
    for _ in range(40):
      data = bytearray(whole)
      for place in rng.integers(0, min(len(data), 400), 5):
        data[place] = rng.integers(256)
      try:
        assert read_photograph('x', bytes(data)).pixels.ndim == 3
      except InputError as error:
        assert str(error).startswith('x ')
