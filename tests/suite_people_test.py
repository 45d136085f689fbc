"""Nobody who is evaluated was trained on: the splits of every configuration share no person."""

import importlib
import pathlib

import pytest

from configs import common
from input_pipeline.people import PeopleFolder
from input_pipeline.prepare import splits
from input_pipeline.sources import Mixed, make_source
from input_pipeline.triplets import Triplets

FOLDER = pathlib.Path(common.__file__).parent
# `identity` trains an encoder, no DFREC; identity_test.py has the same test for it.
OTHERS = ('__init__', 'common', 'identity')
NAMES = sorted(p.stem for p in FOLDER.glob('*.py') if p.stem not in OTHERS)


def _config(name, arguments=None):
  return importlib.import_module(f'configs.{name}').get_config(arguments)


def _people(source):
  """The people of a manifest, of a folder of photographs, or of drawn examples."""
  if isinstance(source, Triplets | PeopleFolder | Mixed):
    return source.people
  rows = [source[i] for i in range(min(len(source), 40))]
  return {row[f'{role}_identity'] for row in rows for role in ('source', 'target')}


@pytest.mark.parametrize('name', NAMES)
def test_people_are_trained_on_or_evaluated(name, request):
  config = _config(name)
  if config.data.kind == 'prepared':
    # Preparation draws a split for each person, and leaves out swaps across splits.
    assert config.data.train != config.data.eval
    people = {f'person {i}': splits.split_of(f'person {i}') for i in range(200)}
    assert set(people.values()) == {'train', 'val', 'test'}
    pairs = {splits.split_of_pair(a, b) for a in people for b in people if people[a] != people[b]}
    assert pairs == {None}
    return
  if config.data.kind != 'synthetic':
    shared = request.getfixturevalue('shared')
    roots = {'triplets': 'faces', 'people': 'faces/lfw160/train'}
    config.data.root = str(shared / roots[config.data.kind])
    if config.data.kind == 'people':
      config.data.eval = ''
  trained, evaluated = (
    _people(make_source(config.data, split, seed=0)) for split in ('train', 'eval')
  )
  assert len(trained) > 30 and len(evaluated) > 10
  assert '' not in trained | evaluated
  assert trained.isdisjoint(evaluated)


@pytest.mark.parametrize('more', ['', ',list={faces}/train.csv'])
def test_the_folders_of_photographs_share_nobody_with_the_manifests(shared, more):
  faces = shared / 'faces'
  arguments = f'root={faces}/lfw160/train,eval={faces}/val.csv' + more.format(faces=faces)
  config = _config('faces', arguments)
  trained, evaluated = (
    _people(make_source(config.data, split, seed=0)) for split in ('train', 'eval')
  )
  assert trained.isdisjoint(evaluated)
