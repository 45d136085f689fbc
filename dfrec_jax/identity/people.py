"""People to learn from: folders of photographs, and synthetic ones.

Both give pictures (side, side, 3) uint8 in which the face lies where the fixed alignment expects
it, and number their people from 0.
"""

from collections.abc import Sequence
import concurrent.futures
import functools

from etils import epath
import ml_collections
import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.images import check_image, read_rgb
from input_pipeline.people.framing import frame_face
from input_pipeline.people.landmarks import FILE, person_of, read_landmarks
from input_pipeline.people.mesh import FaceMesh
from input_pipeline.people.pose import likeness
from input_pipeline.people.source import belongs_to_split
from input_pipeline.people.swap import draw_style, swap_faces
from input_pipeline.synthetic.person import SPLITS, draw_person
from input_pipeline.synthetic.photo import draw_photo
from input_pipeline.synthetic.render import render
from input_pipeline.transforms import resize

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')
# A swapped view is drawn on the one of so many photographs whose pose is most like its own.
_HEADS = 16
_CHECK_THREADS = 16


class PhotoFolder:
  """The people of a folder `<person>/<photo>`.

  With `landmarks.npz` in the folder each face is framed by its mesh; without it a photograph must
  be such a crop already (`python -m input_pipeline.prepare faces` makes both).

  Attributes:
    names: (n,) the photographs, paths relative to the folder, sorted by person.
    person: (n,) int32, the number of each photograph's person.
    people: names of the people.
  """

  def __init__(
    self,
    root: epath.PathLike,
    *,
    side: int,
    split: str = 'all',
    held_out: float = 0.05,
    swap_rate: float = 0.0,
  ):
    """Looks at the header and the end of every photograph.

    Args:
      root: the folder; may be a `gs://` path.
      side: of the pictures, in pixels.
      split: `all` people, or of them `eval`, the share `held_out`, or `train`, the others.
      held_out: the share of people in `eval`, by their names alone.
      swap_rate: how often the second picture of a pair shows the face on another person's
        photograph, by the meshes: the same person with other hair, light, pose and background.

    Raises:
      InputError: there are no photographs of two people, one cannot be read, or views are to be
        swapped without landmarks.
    """
    self._root = epath.Path(root).expanduser()
    self._side, self._swap_rate = side, swap_rate
    names, self._points = self._list()
    keep = np.array([belongs_to_split(person_of(name), split, held_out) for name in names], bool)
    self.names = [name for name, kept in zip(names, keep, strict=True) if kept]
    people = [person_of(name) for name in self.names]
    self.people, self.person = np.unique(np.array(people, str), return_inverse=True)
    self.person = self.person.astype(np.int32)
    if len(self.people) < 2:
      raise InputError(
        f'{root} has photographs of {len(self.people)} person(s) for the split {split!r}, as '
        '<person>/<photo>; give a folder of two people or more.'
      )
    with concurrent.futures.ThreadPoolExecutor(_CHECK_THREADS) as pool:
      for _ in pool.map(lambda name: check_image(self._root / name), self.names):
        pass
    self._prepare_swaps(keep)

  def __len__(self) -> int:
    return len(self.names)

  def picture(self, number: int) -> np.ndarray:
    """Photograph `number`, framed: (side, side, 3) uint8."""
    return self._framed(number)[0]

  def pair(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Two pictures of the person of photograph `number`, and the person's number.

    The second is of another photograph where there is one.
    """
    # A person's photographs lie together: the draw steps over the one that is there.
    first, end = np.searchsorted(self.person, self.person[number] + np.arange(2))
    other = number
    if end - first > 1:
      other = int(rng.integers(first, end - 1))
      other += other >= number
    swapped = rng.random() < self._swap_rate
    second = self._swapped(other, rng) if swapped else self.picture(other)
    return self.picture(number), second, int(self.person[number])

  def _list(self) -> tuple[list[str], np.ndarray | None]:
    if (self._root / FILE).exists():
      names, points = read_landmarks(self._root)
      order = np.argsort([person_of(name) for name in names], kind='stable')
      return names[order].tolist(), points[order]
    if self._swap_rate:
      raise InputError(
        f'There is no {self._root / FILE}, which data.swap_rate={self._swap_rate} needs: make it '
        'with `python -m input_pipeline.prepare faces`, or set data.swap_rate to 0.'
      )
    if not self._root.is_dir():
      raise InputError(f'There is no folder {self._root}; give one of <person>/<photo> as root=.')
    found = [
      f'{person.name}/{photo.name}'
      for person in sorted(self._root.iterdir())
      if person.is_dir()
      for photo in sorted(person.iterdir())
      if photo.suffix.lower() in _SUFFIXES
    ]
    return found, None

  def _prepare_swaps(self, keep: np.ndarray) -> None:
    if self._points is not None:
      # The triangles are of the whole folder, whatever the split.
      self._mesh = FaceMesh.mean_of(self._points) if self._swap_rate else None
      self._points = self._points[keep]
      self._likeness = likeness(self._points)

  def _framed(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
    photo = read_rgb(self._root / self.names[number])
    if self._points is None:
      return resize(photo, self._side), None
    return frame_face(photo, self._points[number], self._side)

  def _swapped(self, number: int, rng) -> np.ndarray:
    heads = rng.integers(len(self), size=_HEADS)
    unlike = np.square(self._likeness[heads] - self._likeness[number]).sum(1)
    head = int(heads[np.argmin(unlike)])
    forged, _ = swap_faces(self._mesh, self._framed(number), self._framed(head), draw_style(rng))
    return forged


class SyntheticPeople:
  """Procedural people, drawn on request.

  Attributes:
    person: (n,) int32, the number of each photograph's person.
    people: their identities.
  """

  def __init__(self, split: str, *, people: int, photographs: int, side: int):
    """`split`: 'train', 'eval' or 'test'; nobody is in two of them. `photographs`: of each."""
    if people < 2 or photographs < 1:
      raise InputError(
        f'{people} synthetic people with {photographs} photograph(s) each are too few; at least 2 '
        'people with 1 are needed.'
      )
    self._split, self._side, self._photographs = split, side, photographs
    self.people = [f'{split}-{number:05d}' for number in range(people)]
    self.person = np.repeat(np.arange(people, dtype=np.int32), photographs)

  def __len__(self) -> int:
    return len(self.person)

  def picture(self, number: int) -> np.ndarray:
    """Photograph `number`, always the same: (side, side, 3) uint8."""
    seed = [SPLITS[self._split], int(number) % self._photographs, int(self.person[number])]
    return self._drawn(int(self.person[number]), np.random.default_rng(seed))

  def pair(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Two new photographs of the person of photograph `number`, and the person's number."""
    person = int(self.person[number])
    return self._drawn(person, rng), self._drawn(person, rng), person

  def _drawn(self, person: int, rng) -> np.ndarray:
    drawn = render(_person(self._split, person), draw_photo(rng), self._side, rng)[0]
    return (drawn * 255 + np.float32(0.5)).astype(np.uint8)


@functools.lru_cache(maxsize=4096)
def _person(split: str, number: int):
  return draw_person(split, number)


People = PhotoFolder | SyntheticPeople


def make_people(config: ml_collections.ConfigDict, split: str, *, side: int) -> People:
  """The people of `config.data`; nobody is in both splits.

  Args:
    config: `config.data`; `kind` is `people` or `synthetic`.
    split: `train` or `eval`.
    side: of the pictures, in pixels.

  Raises:
    InputError: an unknown kind, or photographs that are absent or cannot be used.
  """
  if config.kind == 'synthetic':
    count = config[f'{split}_people']
    photographs = 1 if split == 'train' else config.eval_photographs
    return SyntheticPeople(split, people=count, photographs=photographs, side=side)
  if config.kind != 'people':
    raise InputError(f'config.data.kind is {config.kind!r}; it is people or synthetic.')
  swap_rate = config.swap_rate if split == 'train' else 0.0
  if not config.eval:
    return PhotoFolder(
      config.root, side=side, split=split, held_out=config.held_out, swap_rate=swap_rate
    )
  return PhotoFolder(config[{'train': 'root'}.get(split, 'eval')], side=side, swap_rate=swap_rate)


def check_disjoint(train: Sequence[str], held_out: Sequence[str]) -> None:
  """Raises an InputError if somebody is among both."""
  if both := sorted(set(map(str, train)) & set(map(str, held_out))):
    raise InputError(
      f'{len(both)} people are in training and evaluation alike, the first {both[0]}; give a '
      'folder of other people as eval=, or none, to have some of root held out.'
    )
