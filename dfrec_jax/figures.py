"""Figures: rows of faces, and a table as a picture."""

from collections.abc import Sequence
import io

import cv2
from etils import epath
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK, _PALE, _PAPER = (20, 20, 24), (226, 230, 236), (255, 255, 255)
_GAP = 4


def faces_figure(
  columns: Sequence[str],
  rows: Sequence[Sequence[np.ndarray]],
  *,
  labels: Sequence[str] = (),
  side: int = 128,
) -> Image.Image:
  """A grid of images (H, W, 3) uint8 under the names of the columns.

  Args:
    columns: names, one a column.
    rows: images of any size, shown at `side` pixels.
    labels: a caption under each row, optional.
    side: of a cell, in pixels.
  """
  font, small = ImageFont.load_default(14), ImageFont.load_default(12)
  header, caption = 24, 18 if labels else 0
  width = len(columns) * (side + _GAP) + _GAP
  figure = Image.new('RGB', (width, header + len(rows) * (side + caption + _GAP)), _PAPER)
  draw = ImageDraw.Draw(figure)
  for x, name in enumerate(columns):
    draw.text((_GAP + x * (side + _GAP), 4), name, fill=_INK, font=font)
  for y, row in enumerate(rows):
    top = header + y * (side + caption + _GAP)
    for x, image in enumerate(row):
      shrinks = image.shape[0] > side
      shown = cv2.resize(
        image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
      )
      figure.paste(Image.fromarray(shown), (_GAP + x * (side + _GAP), top))
    if labels:
      draw.text((_GAP, top + side + 1), labels[y], fill=_INK, font=small)
  return figure


def table_figure(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Image.Image:
  """A table of strings as a picture; the first column is aligned to the left."""
  font = ImageFont.load_default(15)
  cells = [list(header), *map(list, rows)]
  widths = [max(int(font.getlength(row[i])) for row in cells) + 20 for i in range(len(header))]
  line = 26
  figure = Image.new('RGB', (sum(widths) + 8, line * len(cells) + 8), _PAPER)
  draw = ImageDraw.Draw(figure)
  for y, row in enumerate(cells):
    top, right = 4 + y * line, 4
    if y % 2 == 0:
      draw.rectangle((0, top, figure.width, top + line), fill=_PALE if y == 0 else (247, 248, 250))
    for x, text in enumerate(row):
      left = right + 8 if x == 0 else right + widths[x] - font.getlength(text) - 8
      draw.text((left, top + 4), text, fill=_INK, font=font)
      right += widths[x]
  return figure


def mask_image(mask: np.ndarray) -> np.ndarray:
  """A mask (H, W) in [0, 1] as a grey picture."""
  return np.repeat(np.round(mask * 255).astype(np.uint8)[..., None], 3, axis=2)


def save_figure(figure: Image.Image, path: str | epath.Path) -> None:
  """Writes a PNG beside its place and renames it."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  encoded = io.BytesIO()
  figure.save(encoded, 'PNG')
  beside = path.parent / f'.{path.name}.part'
  beside.write_bytes(encoded.getvalue())
  beside.replace(path)
