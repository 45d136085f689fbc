"""The benchmark of the examiner's tool prints what it measured."""

import re
import sys

import numpy as np
import pytest

from dfrec_jax.benchmark import examiner
from tests.recovering import faces, framed, save, write_model


def _run(monkeypatch, *arguments):
  monkeypatch.setattr(sys, 'argv', ['examiner', '--compilation-cache=', *map(str, arguments)])
  examiner.main()


def test_the_tool_is_timed_next_to_its_model(tmp_path, monkeypatch, capsys):
  model = write_model(tmp_path / 'model.safetensors')
  for k in range(3):
    save(tmp_path / 'in' / f'{k}.png', framed(faces()[k]))
  given = f'--checkpoint={model}', '--batch-size=2'
  _run(monkeypatch, *given, '--rounds=2', tmp_path / 'in')
  ratio, least, most = re.search(
    r'Ratio: median ([\d.]+), ([\d.]+) to ([\d.]+)\.\n', capsys.readouterr().out
  ).groups()
  assert 0 < float(least) <= float(ratio) <= float(most)
  # Nothing is left beside the inputs.
  assert sorted(path.name for path in tmp_path.iterdir()) == ['in', 'model.safetensors']
  save(tmp_path / 'grey.png', np.full((64, 64, 3), 128, np.uint8))
  with pytest.raises(SystemExit, match='No face was found'):
    _run(monkeypatch, *given, tmp_path / 'grey.png')
  with pytest.raises(SystemExit):
    _run(monkeypatch, *given, '--rounds=0', tmp_path / 'in')
