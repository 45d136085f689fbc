"""Where a film cuts to another scene."""

from collections import deque

import numpy as np

# Mean differences of thumbnails in grey levels. Cuts between scenes of films are mostly 20 to 80;
# people who talk move less than 5, and a pan is as fast before a frame as after it.
_LEAST = 10.0
_SUDDEN = 3.0


class CutDetector:
  """Compares each frame with the two before and the one after it.

  A scene begins where both frames before differ from this one and the next, much more than each
  pair within itself. So neither a flash nor a damaged frame nor a fast pan is a cut.
  """

  def __init__(self):
    self._thumbnails = deque(maxlen=4)

  def add(self, thumbnail: np.ndarray | None) -> bool:
    """Takes the next frame, (h, w) uint8; None after the last one.

    Returns:
      Whether the frame before this one, which can be judged now, began a scene.
    """
    self._thumbnails.append(None if thumbnail is None else thumbnail.astype(np.int16))
    known = [None] * (4 - len(self._thumbnails)) + list(self._thumbnails)
    before, after = (
      [frame for frame in pair if frame is not None] for pair in (known[:2], known[2:])
    )
    if known[1] is None or known[2] is None:
      return False
    across = min(_difference(a, b) for a in before for b in after)
    within = max((_difference(*pair) for pair in (before, after) if len(pair) == 2), default=0.0)
    return across >= max(_LEAST, _SUDDEN * within)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
  return float(np.abs(a - b).mean())
