"""The random-access source of swaps among the people of a folder."""

import concurrent.futures
import zlib

from etils import epath
import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.images import ImageError, check_image, read_rgb
from input_pipeline.people.first_use import folder_of
from input_pipeline.people.framing import face_light, frame_face
from input_pipeline.people.landmarks import lies_in, person_of, read_landmarks
from input_pipeline.people.mesh import FaceMesh
from input_pipeline.people.pose import likeness
from input_pipeline.people.swap import SHAPE_TRANSFER, draw_style, swap_faces
from input_pipeline.transforms import compress_jpeg

SPLITS = ('all', 'train', 'eval')
# Of so many photographs drawn at random, so many are most like the target in pose, and of these
# the one in the most similar light becomes the source: reading more would cost time. In a small
# folder fewer are drawn, or a target would meet the same source whenever it is shown.
_DRAWN, _DRAWN_SHARE, _READ = 64, 0.25, 3
_COMPRESSION_RATE = 0.5
_JPEG_QUALITY = (60, 95)
_CHECK_THREADS = 16


class PeopleFolder:
  """Face swaps among the people of `<person>/<photo>`, made on request.

  Example i is a pure function of (folder, split, seed, i) and the picture's size. The source holds
  the first `examples` of an endless row, and `draw` gives the others, so that training meets other
  swaps in each pass. Target photographs take turns, so that as many examples as there are
  photographs show each once; the source is the photograph of another person, of some drawn at
  random, that is most like the target in pose, mouth and light. Every example is forged.

  Half of the examples are compressed as JPEG files are, the three pictures at one quality: a
  pristine example, which is made of the target or the source, must have what the forged one has,
  or compression alone would tell them apart, and the target to recover is the one that was forged.

  Attributes:
    names: the photographs of this split, paths relative to the folder.
    labels: (examples,) int32, all 1.
  """

  def __init__(
    self,
    root: epath.PathLike,
    *,
    examples: int,
    image_size: int,
    seed: int = 0,
    split: str = 'all',
    held_out: float = 0.05,
    compress: bool = True,
    shape_transfer: tuple[float, float] = SHAPE_TRANSFER,
    check: bool = True,
  ):
    """Reads `landmarks.npz` of the folder and looks at every photograph that it names.

    Args:
      root: the folder; may be a `gs://` path, or `tfds:NAME`, see `first_use.folder_of`.
      examples: number of examples.
      image_size: side of the square pictures in pixels, 16 or more.
      seed: of the pairs and of how they are swapped.
      split: `all` people, or of them `eval`, the share `held_out`, or `train`, the others. A
        person's name alone decides, so that people who are added move nobody.
      held_out: the share of people in `eval`.
      compress: whether half of the examples are compressed.
      shape_transfer: how far the pasted face moves to the source's shape, least and most, in
        [0, 1]; (0, 0) keeps the target's.
      check: whether to look at the header and the end of every photograph now, in threads.

    Raises:
      InputError: there are no landmarks, or photographs of fewer than two people, or one that is
        missing, truncated, not 8-bit RGB or too small for its landmarks, or an argument is out of
        its range.
    """
    _check_arguments(examples, image_size, seed, split, held_out)
    low, high = shape_transfer
    if not 0 <= low <= high <= 1:
      raise InputError(
        f'shape_transfer of a folder of people must be two numbers in [0, 1], the smaller first, '
        f'not {low} and {high}.'
      )
    root = folder_of(root)
    self._root = epath.Path(root).expanduser()
    names, points = read_landmarks(root)
    # The mesh is of the whole folder: both splits draw the same triangles.
    self._mesh = FaceMesh.mean_of(points) if len(points) else None
    keep = np.array([belongs_to_split(person_of(name), split, held_out) for name in names], bool)
    self._choose(names[keep].tolist(), points[keep], split)
    self._examples, self._size, self._seed = examples, image_size, seed
    self._compress, self._shape_transfer = compress, (low, high)
    self._order = np.random.default_rng([seed, len(self.names)]).permutation(len(self.names))
    self.labels = np.ones(examples, np.int32)
    if check:
      self._check()

  def __len__(self) -> int:
    return self._examples

  @property
  def people(self) -> set[str]:
    """Whose photographs these are."""
    return set(map(person_of, self.names))

  def __getitem__(self, index: int) -> dict:
    """Example `index`: the data contract's dictionary, `mask` (H, H, 1) float32 in [0, 1].

    Raises:
      IndexError: the index is outside [0, examples).
      ImageError: a photograph cannot be read.
    """
    index = int(index)
    if not 0 <= index < self._examples:
      raise IndexError(f'The source holds {self._examples} examples; there is no {index}.')
    return self.draw(index)

  def draw(self, index: int) -> dict:
    """Example `index` of the endless row that `source[index]` is the beginning of.

    Raises:
      ImageError: a photograph cannot be read.
    """
    rng = np.random.default_rng([self._seed, index])
    target = int(self._order[index % len(self._order)])
    candidates = self._partners(target, rng)
    style = draw_style(rng, self._shape_transfer)
    compressed = rng.random() < _COMPRESSION_RATE and self._compress
    quality = int(rng.integers(*_JPEG_QUALITY, endpoint=True))
    below = self._framed(target)
    source, face = self._lit_alike(candidates, below[0])
    forged, weight = swap_faces(self._mesh, face, below, style)
    pictures = {'forged': forged, 'source': face[0], 'target': below[0]}
    if compressed:
      pictures = {kind: compress_jpeg(picture, quality) for kind, picture in pictures.items()}
    return {
      **pictures,
      'mask': weight,
      'has_mask': np.bool_(True),
      'label': np.int32(1),
      'attack': style.attack,
      'source_identity': person_of(self.names[source]),
      'target_identity': person_of(self.names[target]),
    }

  def _choose(self, names: list[str], points: np.ndarray, split: str):
    """Keeps the photographs of a split, in the order of people, and where each person's lie."""
    people = np.array([person_of(name) for name in names], str)
    order = np.argsort(people, kind='stable')
    unique, first, count = np.unique(people[order], return_index=True, return_counts=True)
    if len(unique) < 2:
      raise InputError(
        f'{self._root} has photographs of {len(unique)} person(s) for the split {split!r}; a swap '
        'needs two: add people, or give another folder as eval= and hold nobody out.'
      )
    self.names = [names[i] for i in order]
    self._points = points[order]
    self._likeness = likeness(self._points)
    self._first, self._count = np.repeat(first, count), np.repeat(count, count)

  def _partners(self, target: int, rng: np.random.Generator) -> list[int]:
    """A few photographs of other people, in poses like the target's."""
    # A person's photographs lie together: the draw steps over the target's.
    first, count = int(self._first[target]), int(self._count[target])
    others = len(self.names) - count
    size = min(_DRAWN, max(_READ, int(_DRAWN_SHARE * others)))
    drawn = rng.integers(others, size=size)
    drawn = np.unique(drawn + count * (drawn >= first))
    unlike = np.square(self._likeness[drawn] - self._likeness[target]).sum(1)
    return drawn[np.argsort(unlike, kind='stable')[:_READ]].tolist()

  def _lit_alike(self, candidates: list[int], target: np.ndarray):
    """The candidate whose face is lit and coloured most like the target's, and its picture."""
    framed = [self._framed(number) for number in candidates]
    light = face_light(target)
    unlike = [np.square(face_light(picture) - light).sum() for picture, _ in framed]
    best = int(np.argmin(unlike))
    return candidates[best], framed[best]

  def _framed(self, number: int) -> tuple[np.ndarray, np.ndarray]:
    photo = read_rgb(self._root / self.names[number])
    return frame_face(photo, self._points[number], self._size)

  def _check(self):
    with concurrent.futures.ThreadPoolExecutor(_CHECK_THREADS) as pool:
      found = pool.map(self._problem, range(len(self.names)))
      problems = [problem for problem in found if problem]
    if problems:
      more = f' ({len(problems)} photographs have such problems)' if len(problems) > 1 else ''
      raise InputError(f'{problems[0]}{more}') from problems[0]

  def _problem(self, number: int) -> ImageError | None:
    path = self._root / self.names[number]
    try:
      height, width = check_image(path)
    except ImageError as error:
      return error
    if not lies_in(self._points[number], height, width):
      return ImageError(
        f'The face of {path} lies outside its {width} x {height} pixels by landmarks.npz, which '
        'was made of another file; make both anew.'
      )
    return None


def belongs_to_split(person: str, split: str, held_out: float) -> bool:
  """Whether a person is in the split of `SPLITS`, of which `eval` has the share `held_out`."""
  # A checksum scatters names evenly and is the same on every machine.
  held = zlib.crc32(person.encode()) < held_out * 2**32
  return split == 'all' or held == (split == 'eval')


def _check_arguments(examples, image_size, seed, split, held_out):
  if split not in SPLITS:
    raise InputError(f'A folder of people has the splits {", ".join(SPLITS)}, not {split!r}.')
  if not 0 <= held_out < 1:
    raise InputError(f'held_out of a folder of people must be in [0, 1), not {held_out}.')
  for name, value, least in (('examples', examples, 1), ('image_size', image_size, 16)):
    if value < least:
      raise InputError(f'{name} of a folder of people must be at least {least}, not {value}.')
  if seed < 0:
    raise InputError(f'seed of a folder of people must be 0 or more, not {seed}.')
