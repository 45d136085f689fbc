"""How a trained encoder tells people apart whom it was not trained on."""

from collections.abc import Mapping
import os

from etils import epath
import jax
import ml_collections

from dfrec_jax.checkpointing import write_json
from dfrec_jax.encoders import load_encoder, trainable
from dfrec_jax.identity import verification
from dfrec_jax.identity.export import FILE
from dfrec_jax.identity.people import make_people

RESULT = 'eval/verification.json'


def evaluate_checkpoint(
  config: ml_collections.ConfigDict, workdir: str, encoder: str
) -> dict[str, float]:
  """Verifies an exported encoder on the configuration's held-out people; prints and writes it.

  Args:
    config: of `configs/identity.py`.
    workdir: where `eval/verification.json` is written.
    encoder: its file, or a workdir that holds one.

  Raises:
    InputError: there is no such file, it is not of `config.model.network`, or no such people.
  """
  trainable.find(config.model.network)
  if not encoder.endswith('.safetensors'):
    encoder = os.path.join(encoder, FILE)
  frozen = load_encoder(config.model.network, encoder)
  people = make_people(config.data, 'eval', side=config.data.eval_side)
  result = verification.verify_encoder(frozen, people)
  if jax.process_index() == 0:
    write_json(epath.Path(workdir) / RESULT, {'encoder': encoder, **result})
    print(table({encoder: result}))
  return result


def table(results: Mapping[str, Mapping[str, float]]) -> str:
  """A row of Markdown for each encoder."""
  headings, formats = zip(*verification.COLUMNS.values(), strict=True)
  rows = [f'| encoder | {" | ".join(headings)} |', '|---' * (len(headings) + 1) + '|']
  for name, result in results.items():
    values = [format(result[c], f) for c, f in zip(verification.COLUMNS, formats, strict=True)]
    rows.append(f'| {name} | {" | ".join(values)} |')
  return '\n'.join(rows)
