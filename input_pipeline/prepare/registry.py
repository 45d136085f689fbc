"""The data sets that can be prepared, by name."""

import importlib
import types

# The module of each. It has `list_units(settings, log)`, and `make_examples(unit, settings, log)`,
# which yields (split, example) with the fields of `records.serialise`.
DATASETS = {
  'ffpp': 'input_pipeline.prepare.ffpp',
  'megafs_ffpp': 'input_pipeline.prepare.megafs_ffpp',
  'celeba_megafs': 'input_pipeline.prepare.celeba_megafs',
  'ffhq_e4s': 'input_pipeline.prepare.ffhq_e4s',
}


def load(name: str) -> types.ModuleType:
  """The module of a data set."""
  return importlib.import_module(DATASETS[name])
