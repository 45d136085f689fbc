"""Images and masks: what is read, and what is refused in one sentence that names the file."""

import io

import cv2
import numpy as np
from PIL import Image
import pytest

from input_pipeline.images import ImageError, check_image, read_mask, read_rgb


def ramp(height=24, width=32):
  y, x = np.mgrid[:height, :width]
  return np.stack([7 * x, 9 * y, 3 * x + 2 * y], -1).astype(np.uint8)


def save(path, array, **options):
  Image.fromarray(array).save(path, **options)
  return path


@pytest.mark.parametrize('name, tolerance', [('a.png', 0), ('a.jpg', 12), ('a.webp', 24)])
def test_reads_rgb_in_the_order_red_green_blue(tmp_path, name, tolerance):
  path = save(tmp_path / name, ramp(), quality=95)
  image = read_rgb(path)
  assert image.dtype == np.uint8 and image.shape == (24, 32, 3)
  assert np.abs(image.astype(int) - ramp()).mean() <= tolerance / 4
  assert check_image(path) == (24, 32)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('name', ['a.jpg', 'a.png'])
def test_exif_orientation_is_applied(tmp_path, name, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = save(tmp_path / name, ramp(), exif=exif, quality=95)
  turned = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
  }[orientation](ramp())
  image = read_rgb(path)
  assert image.shape == turned.shape
  assert np.abs(image.astype(int) - turned).mean() < 4
  assert check_image(path) == turned.shape[:2]


def sixteen_bit(channels):
  array = np.full((8, 8, 3) if channels == 3 else (8, 8), 40000, np.uint16)
  return cv2.imencode('.png', array)[1].tobytes()


def encoded(mode, kind='PNG', **options):
  buffer = io.BytesIO()
  Image.new(mode, (8, 8), **options).save(buffer, kind)
  return buffer.getvalue()


def transparent_colour():
  buffer = io.BytesIO()
  Image.new('RGB', (8, 8)).save(buffer, 'PNG', transparency=(0, 0, 0))
  return buffer.getvalue()


@pytest.mark.parametrize(
  'data, says',
  [
    (encoded('L'), 'a grey image;'),
    (encoded('L', 'JPEG'), 'a grey image;'),
    (encoded('LA'), 'a grey image with an alpha channel'),
    (encoded('RGBA'), 'an image with an alpha channel'),
    (encoded('P'), 'a palette image'),
    (encoded('CMYK', 'JPEG'), 'a CMYK image'),
    (transparent_colour(), 'a transparent colour'),
    (sixteen_bit(1), 'a 16-bit image'),
    (sixteen_bit(3), 'a 16-bit image'),
  ],
)
@pytest.mark.parametrize('function', [read_rgb, check_image])
def test_refuses_what_is_not_8_bit_rgb(tmp_path, data, says, function):
  path = tmp_path / 'odd.img'
  path.write_bytes(data)
  with pytest.raises(ImageError, match=says) as error:
    function(path)
  assert str(path) in str(error.value) and 'convert it to 8-bit RGB' in str(error.value)


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.webp'])
@pytest.mark.parametrize('kept', [0, 0.02, 0.5, 0.98])
@pytest.mark.parametrize('function', [read_rgb, check_image])
def test_refuses_truncated_files(tmp_path, name, kept, function):
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  path = save(tmp_path / name, noise)
  data = path.read_bytes()
  path.write_bytes(data[: int(kept * len(data))])
  with pytest.raises(ImageError, match=r'truncated|cannot be read as an image') as error:
    function(path)
  assert str(path) in str(error.value)


def test_end_of_a_thumbnail_is_not_the_end_of_the_photograph(tmp_path):
  thumbnail = encoded('RGB', 'JPEG')
  segment = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
  data = save(tmp_path / 'a.jpg', ramp()).read_bytes()
  whole = data[:2] + segment + data[2:]
  (tmp_path / 'a.jpg').write_bytes(whole)
  assert read_rgb(tmp_path / 'a.jpg').shape == (24, 32, 3)
  (tmp_path / 'a.jpg').write_bytes(whole[:-100])
  with pytest.raises(ImageError, match='truncated'):
    check_image(tmp_path / 'a.jpg')


def test_bytes_that_a_camera_appends_are_no_truncation(tmp_path):
  path = save(tmp_path / 'a.jpg', ramp())
  path.write_bytes(path.read_bytes() + bytes(300))
  assert check_image(path) == (24, 32) and read_rgb(path).shape == (24, 32, 3)


@pytest.mark.parametrize('function', [read_rgb, read_mask, check_image])
def test_refuses_missing_files_folders_and_text(tmp_path, function):
  (tmp_path / 'text.png').write_text('not an image')
  for name, says in (('none.png', 'missing'), ('', 'cannot be read'), ('text.png', 'cannot be')):
    with pytest.raises(ImageError, match=says) as error:
      function(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_masks_are_soft_and_in_unit_range(tmp_path):
  grey = np.tile(np.arange(0, 256, 5, dtype=np.uint8), (10, 1))
  for array in (grey, np.stack([grey] * 3, -1)):
    mask = read_mask(save(tmp_path / 'mask.png', array))
    assert mask.dtype == np.float32
    np.testing.assert_allclose(mask, grey / 255, atol=1e-6)
  hard = read_mask(save(tmp_path / 'mask.png', grey > 100))
  np.testing.assert_array_equal(hard, (grey > 100).astype(np.float32))


@pytest.mark.parametrize(
  'array, says',
  [
    (ramp(), 'coloured'),
    (np.eye(8, dtype=np.uint8), 'holds 0 and 1'),
    (np.full((8, 8), 40000, np.uint16), 'a 16-bit image'),
    (np.zeros((8, 8, 4), np.uint8), 'an alpha channel'),
  ],
)
def test_refuses_masks_that_would_be_misread(tmp_path, array, says):
  path = save(tmp_path / 'mask.png', array)
  with pytest.raises(ImageError, match=says) as error:
    read_mask(path)
  assert str(path) in str(error.value)
