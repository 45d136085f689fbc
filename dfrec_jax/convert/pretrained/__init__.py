"""Parts of a new model from published weights: the ISM's EfficientNet, the TIRM's ViT.

One file for each kind of part; `report` says what became of every array.
"""

from collections.abc import Mapping
import os
from typing import Any

from dfrec_jax.convert.pretrained import efficientnet, vit
from dfrec_jax.convert.pretrained.report import Report
from dfrec_jax.encoders.weights import read_arrays
from dfrec_jax.errors import InputError
from dfrec_jax.models.dfrec import DFREC

__all__ = ['PARTS', 'Report', 'apply_pretrained']

# Part of `config.pretrained` -> (variables, tensors, model, path of the file) -> the same as below.
PARTS = {'efficientnet': efficientnet.load, 'vit': vit.load}


def apply_pretrained(
  variables: Mapping[str, Any], pretrained: Mapping[str, str], model: DFREC
) -> tuple[dict[str, Any], list[Report]]:
  """Puts pretrained parts into freshly initialised variables.

  Leaves that nothing replaces are returned as they are, and of those that are replaced only shape
  and type are read, so that `variables` may be sharded, or abstract.

  Args:
    variables: of `model`, unboxed: the collections `params` and `batch_stats`.
    pretrained: `config.pretrained`, part -> its file as `encoders.weights.read_arrays` takes it, or
      '' for none. `efficientnet`: EfficientNet-B0 of efficientnet-pytorch or torchvision. `vit`: of
      facebookresearch/mae, with or without its decoder, timm, or torchvision.
    model: whose variables they are.

  Returns:
    The variables, replaced leaves as numpy arrays, and a report on each part.

  Raises:
    InputError: a part is unknown; a file cannot be read or does not fit the model: the error lists
      every tensor at fault.
  """
  if unknown := set(pretrained) - set(PARTS):
    raise InputError(
      f'config.pretrained names {", ".join(sorted(unknown))}; the parts are {", ".join(PARTS)}.'
    )
  reports = []
  for part, load in PARTS.items():
    if path := os.fspath(pretrained.get(part) or ''):
      variables, report = load(variables, read_arrays(path), model, path)
      if model.input_normalisation != 'imagenet':
        report.notes.append(
          "It was trained on images of ImageNet's mean and deviation: "
          "config.model.input_normalisation='imagenet' fits it, and not "
          f'{model.input_normalisation!r}'
        )
      reports.append(report)
  return dict(variables), reports
