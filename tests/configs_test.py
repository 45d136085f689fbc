"""Every configuration: it builds, refuses what it does not know, and shrinks to seconds."""

import importlib
import pathlib
import subprocess
import sys

import jax
from ml_collections import ConfigDict
import pytest

from configs import common
from dfrec_jax import checkpointing
from dfrec_jax.errors import InputError
from input_pipeline.sources import make_source
from input_pipeline.transforms import Augmentation

FOLDER = pathlib.Path(common.__file__).parent
# `identity` trains an encoder, no DFREC: identity_test.py.
OTHERS = ('__init__', 'common', 'identity')
NAMES = sorted(p.stem for p in FOLDER.glob('*.py') if p.stem not in OTHERS)


def get_config(name: str, arguments: str | None = None) -> ConfigDict:
  return importlib.import_module(f'configs.{name}').get_config(arguments)


@pytest.mark.parametrize('name', NAMES)
def test_configuration_builds(name):
  config = get_config(name)
  assert config.name == name
  assert f'configs/{name}.py' in importlib.import_module(f'configs.{name}').__doc__
  Augmentation.create(config.data.augmentation)
  model = checkpointing.build_model(config.model)
  jax.eval_shape(lambda key: checkpointing.init_variables(model, key), jax.random.key(0))
  assert set(common.base().to_dict()) == set(config.to_dict())
  assert config.eval_every % config.checkpoint_every == 0


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_runlocal_trains_and_evaluates(name, tmp_path):
  command = [
    sys.executable, '-m', 'dfrec_jax.main', f'--config=configs/{name}.py:runlocal',
    f'--workdir={tmp_path}', f'--compilation_cache={jax.config.jax_compilation_cache_dir}',
  ]  # fmt: skip
  for mode in ('train', 'eval'):
    result = subprocess.run(
      [*command, f'--mode={mode}'], cwd=FOLDER.parent, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
  assert 'all: recovered' in result.stdout
  assert (tmp_path / 'eval' / 'metrics.json').exists()
  assert (tmp_path / 'eval' / 'faces.png').exists()
  assert list((tmp_path / 'figures').glob('*.png'))


def test_runlocal_combines_with_other_arguments():
  config = get_config('triplets', 'runlocal,size=S/16,steps=7')
  assert (config.steps, config.batch_size) == (7, 8)
  assert (config.model.size, config.model.image_size) == ('S/16', 32)
  assert config.data.kind == 'synthetic'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('sise=S/16', "no argument 'sise'"),
    ('steps=many', 'of type int'),
    ('runlocal=perhaps', 'true or false'),
    ('steps', 'needs a value'),
  ],
)
def test_wrong_arguments_are_refused(arguments, message):
  with pytest.raises(InputError, match=message):
    get_config('triplets', arguments)


def test_a_misspelled_field_is_refused():
  with pytest.raises(AttributeError, match='learning_rat'):
    _ = get_config('quickstart').optimizer.learning_rat


@pytest.mark.parametrize('name', [name for name in NAMES if name != 'quickstart'])
def test_absent_data_is_named_with_the_remedy(name, tmp_path):
  config = get_config(name, f'root={tmp_path}/none')
  prepare = f'input_pipeline.prepare {name} --raw='
  file, remedy = {
    'triplets': ('none/train.csv', 'forged, source, target'),
    'faces': ('none/landmarks.npz', f'{prepare}{tmp_path}/none --out='),
  }.get(name, ('none', prepare))
  with pytest.raises(InputError, match=file) as error:
    make_source(config.data, 'train', seed=0)
  assert remedy in str(error.value)
  assert '\n' not in str(error.value)
