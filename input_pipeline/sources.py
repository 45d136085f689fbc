"""From a `config.data` section to its sources of examples."""

from typing import Any

from etils import epath
import ml_collections
import numpy as np

from dfrec_jax.errors import InputError
from input_pipeline.people import PeopleFolder
from input_pipeline.prepared import Prepared
from input_pipeline.synthetic import SyntheticFaces
from input_pipeline.triplets import Triplets


def make_source(config: ml_collections.ConfigDict, split: str, *, seed: int) -> Any:
  """Random access to the examples of a split.

  Args:
    config: `config.data`; `kind` is `synthetic`, `triplets`, `people` or `prepared`.
    split: `train` or `eval`.
    seed: of the swaps that are made on request.

  Raises:
    InputError: an unknown kind, or data that is absent or cannot be used.
  """
  if config.kind == 'synthetic':
    return SyntheticFaces(
      split, examples=config[f'{split}_examples'], image_size=config.image_size, seed=seed
    )
  if config.kind == 'triplets':
    return Triplets(config.root, config[split])
  if config.kind == 'people':
    return _people(config, split, seed)
  if config.kind == 'prepared':
    return Prepared(config.root, config[split], how_to_get=config.how_to_get)
  raise InputError(
    f'config.data.kind is {config.kind!r}; it is synthetic, triplets, people or prepared.'
  )


def _people(config: ml_collections.ConfigDict, split: str, seed: int) -> Any:
  settings = {
    'examples': config[f'{split}_examples'],
    'image_size': config.image_size,
    'seed': seed,
    'shape_transfer': config.shape_transfer,
  }
  if not config.eval:
    if config.list:
      raise InputError(
        f'config.data.list is {config.list} and no config.data.eval is named: people of the list '
        'may be among those held out; name what to evaluate on, with eval=.'
      )
    return PeopleFolder(config.root, split=split, held_out=config.held_out, **settings)
  if split == 'train' and config.list:
    made = PeopleFolder(config.root, **settings)
    return Mixed(made, _manifest(config.list), config.list_share)
  if split == 'train':
    return PeopleFolder(config.root, **settings)
  if config.eval.endswith('.csv'):
    return _manifest(config.eval)
  return PeopleFolder(config.eval, **settings)


def _manifest(path: str) -> Triplets:
  manifest = epath.Path(path).expanduser()
  return Triplets(manifest.parent, manifest.name)


def require_strangers(train: Any, evaluation: Any) -> None:
  """Raises an InputError if two sources name the same person.

  Manifests and folders of people name them; drawn and prepared sets, whose splits are by person,
  are not asked, nor are rows that name nobody.
  """
  if known := _people_of(train) & _people_of(evaluation):
    raise InputError(
      f'The training data shows {len(known)} of the people who are evaluated, {min(known)} among '
      'them; leave them out, since nobody may be evaluated who was trained on.'
    )


def _people_of(source: Any) -> set[str]:
  return source.people if isinstance(source, Triplets | PeopleFolder | Mixed) else set()


class Mixed:
  """Swaps made on request, and among them, evenly, those of a list, in turn.

  The list has what this project's swaps lack (another program's, real ones); what is made on
  request never repeats. Like `made` it is endless: `draw` gives every example from 0 on.

  Attributes:
    made, listed: the two.
  """

  def __init__(self, made: PeopleFolder, listed: Triplets, share: float):
    """Takes `share` of the examples, in (0, 1), from `listed`; one pass shows each of `made`."""
    if not 0 < share < 1:
      raise InputError(f'config.data.list_share is {share}; it must lie between 0 and 1.')
    self.made, self.listed, self._share = made, listed, share

  def __len__(self) -> int:
    return round(len(self.made) / (1 - self._share))

  @property
  def people(self) -> set[str]:
    """Who is named in either."""
    return self.made.people | self.listed.people

  def draw(self, index: int) -> dict[str, Any]:
    listed = int(index * self._share)  # of the examples before this one
    if int((index + 1) * self._share) > listed:
      return self.listed[listed % len(self.listed)]
    return self.made.draw(index - listed)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(f'{index} is outside [0, {len(self)}).')
    return self.draw(index)


class Spread:
  """At most `examples` of a source, the same ones each time, in its order.

  They are drawn, since every n-th row of a manifest that lists attacks in turn is of one attack.

  Attributes:
    labels: (n,) int32 of its examples, where the source tells them.
  """

  def __init__(self, source: Any, examples: int):
    self._source = source
    count = min(examples, len(source))
    self._chosen = np.sort(np.random.default_rng(0).permutation(len(source))[:count])
    if hasattr(source, 'labels'):
      self.labels = source.labels[self._chosen]

  def __len__(self) -> int:
    return len(self._chosen)

  def __getitem__(self, index: int) -> Any:
    return self._source[int(self._chosen[index])]
