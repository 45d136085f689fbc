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
    return PeopleFolder(config.root, split=split, held_out=config.held_out, **settings)
  if split == 'train':
    return PeopleFolder(config.root, **settings)
  if config.eval.endswith('.csv'):
    manifest = epath.Path(config.eval).expanduser()
    return Triplets(manifest.parent, manifest.name)
  return PeopleFolder(config.eval, **settings)


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
