"""What each part of DFREC is worth: one training and evaluation for each part left out."""

from collections.abc import Sequence
import dataclasses
import json
import shlex
import subprocess
import sys
from typing import Any

from absl import logging
from etils import epath
import ml_collections

from dfrec_jax.checkpointing import write_json
from dfrec_jax.errors import InputError
from dfrec_jax.suite import columns, protocols, summary

FULL = 'full'
FILE = 'ablations.json'
COMMAND = 'command.json'  # In each ablation's folder, how it was trained.
# Each evaluation measures the model alone: the baselines are the same for all.
_EVALUATION = (
  '--mode=eval',
  '--config.suite.baselines=()',
  '--config.suite.robustness_examples=0',
)


@dataclasses.dataclass(frozen=True)
class Ablation:
  """A training with other settings.

  Attributes:
    meaning: what is left out, in words.
    settings: fields of the configuration and their values.
  """

  meaning: str
  settings: dict[str, Any]


PARTS = {
  FULL: Ablation('nothing', {}),
  'no_ism_mask': Ablation(
    'the SIRM sees the whole forged image instead of the masked one',
    {'model.without': 'ism_mask'},
  ),
  'no_target_tokens': Ablation(
    "the TIRM gets no identity tokens of the SIRM's target half",
    {'model.without': 'target_tokens'},
  ),
  'no_forged_tokens': Ablation(
    "the TIRM's decoder does not see the pixels of the patches that it fills",
    {'model.forged_tokens': False},
  ),
  'mae': Ablation(
    'the TIRM is a masked autoencoder alone: no identity tokens, forged pixels or corrections',
    {
      'model.without': 'target_tokens',
      'model.forged_tokens': False,
      'model.target_residual': False,
    },
  ),
  'random_masking': Ablation(
    'the masked patches are random, not those of the face', {'model.without': 'guided_masking'}
  ),
  'no_curriculum': Ablation(
    'the masks cover the whole face from the first step on',
    {'masking.start_step': -1, 'masking.end_step': 0},
  ),
  'forged_surroundings': Ablation(
    "the source is shown in the whole forged image, the target's hair included",
    {'model.grey_surroundings': False},
  ),
  'no_refinement': Ablation(
    "the TIRM's patches stay as they are, without the terms of the target as it is shown",
    {'model.refinement': 0, 'loss.weights.refinement': 0.0, 'loss.weights.structure': 0.0},
  ),
  'unet': Ablation('the TIRM; a U-Net like the SIRM paints the target', {'model.without': 'tirm'}),
}


def ablations_of(config: ml_collections.ConfigDict) -> dict[str, Ablation]:
  """The parts, and each family of the objective that has a weight in this configuration."""
  losses = {
    f'no_{family}_loss': Ablation(f'the loss {family}', {f'loss.weights.{family}': 0.0})
    for family, weight in config.loss.weights.items()
    if weight
  }
  parts = dict(PARTS)
  if not config.model.refinement:
    del parts['no_refinement']
  if not (config.model.grey_surroundings and config.model.source_residual):
    del parts['forged_surroundings']
  return parts | losses


def commands(
  config: str, workdir: epath.Path, name: str, ablation: Ablation, further: Sequence[str]
) -> list[list[str]]:
  """The two command lines, of training and of evaluation, that an ablation is.

  Args:
    config: as `--config=` of `dfrec_jax.main` takes it.
    workdir: of the sweep; the ablation's is in it.
    name: of the ablation.
    ablation: its settings.
    further: arguments for both, such as `--config.seed=1`. The ablation's own come last and win,
      so that nothing puts back what it leaves out.
  """
  settings = [f'--config.{field}={value}' for field, value in ablation.settings.items()]
  line = [sys.executable, '-m', 'dfrec_jax.main', f'--config={config}']
  line += [f'--workdir={workdir / name}', *further, *settings]
  return [line, [*line, *_EVALUATION]]


def run_sweep(
  config: str,
  workdir: epath.PathLike,
  chosen: dict[str, Ablation],
  further: Sequence[str] = (),
) -> list[str]:
  """Trains and evaluates one ablation after the other; what is finished is not done again.

  Returns:
    The names of those that failed.

  Raises:
    InputError: one was begun with other arguments, so that it would be compared with others.
  """
  workdir, failed = epath.Path(workdir), []
  lines = {name: commands(config, workdir, name, a, further) for name, a in chosen.items()}
  for name, (training, _) in lines.items():
    begun, asked = workdir / name / COMMAND, training[1:]
    if begun.exists() and json.loads(begun.read_text()) != asked:
      raise InputError(
        f'{workdir / name} was begun with other arguments ({begun}); give those, or another '
        '--workdir.'
      )
  for name, (training, evaluation) in lines.items():
    if (workdir / name / 'eval' / protocols.FILE).exists():
      logging.info('%s is done already; delete %s to repeat it.', name, workdir / name)
      continue
    write_json(workdir / name / COMMAND, training[1:])
    for line in (training, evaluation):
      logging.info('%s: %s', name, shlex.join(line))
      if subprocess.run(line, check=False).returncode:
        failed.append(name)
        break
  return failed


def collect(
  workdir: epath.PathLike, chosen: dict[str, Ablation], *, resamples: int = 1_000
) -> dict[str, Any]:
  """The figures of a sweep.

  Returns:
    `methods`: {ablation: {group: {name: figure}}}; `differences`: {ablation: {name: figure}}, the
    mean over forged examples of the ablation's minus the full model's figure of the same example,
    with its interval over people; `meanings`.

  Raises:
    InputError: the full model was not evaluated.
  """
  workdir = epath.Path(workdir)
  done = [name for name in chosen if (workdir / name / 'eval' / protocols.FILE).exists()]
  if FULL not in done:
    raise InputError(f'{workdir / FULL} holds no evaluation; run the sweep with {FULL} in it.')
  methods, rows = {}, {}
  for name in done:
    folder = workdir / name / 'eval'
    methods[name] = json.loads((folder / protocols.FILE).read_text())['methods']['recovered']
    rows[name] = protocols.read_examples(folder / protocols.EXAMPLES)
  return {
    'methods': methods,
    'differences': {
      name: _differences(rows[name], rows[FULL], resamples) for name in done if name != FULL
    },
    'meanings': {name: chosen[name].meaning for name in done},
  }


def _differences(rows, full, resamples):
  if [e['target_person'] for e in rows.examples] != [e['target_person'] for e in full.examples]:
    raise InputError('The ablations were evaluated on other examples than the full model.')
  indices = full.groups()['all']
  result = {}
  for name in full.names('recovered'):
    mine, theirs = (r.values('recovered', name)[indices] for r in (rows, full))
    role = columns.person_of(name)
    people = [full.examples[i][f'{role}_person'] for i in indices]
    result[name] = summary.paired_difference(mine, theirs, people, resamples)
  return {name: figure for name, figure in result.items() if figure['value'] is not None}
