"""What an encoder sees in face swaps: the source in them, and what is left of the target."""

from collections.abc import Callable, Sequence
import os

import numpy as np

from dfrec_jax.suite import retrieval
from input_pipeline.triplets import Triplets

_PEOPLE = ('source', 'target')


def measure(embed: Callable[[Sequence[np.ndarray]], np.ndarray], manifest: str) -> dict[str, float]:
  """Similarity of the forged photographs to both people, and whether these are found by them.

  Args:
    embed: n images (H, W, 3) uint8 -> embeddings (n, D) of unit length.
    manifest: of swaps, as for configs/triplets.py.

  Returns:
    Mean cosines `forged_source`, `forged_target` and `source_target`; `found_source` and
    `found_target`, the share of forged photographs whose nearest person, among all sources or among
    all targets, is the right one.

  Raises:
    InputError: the manifest or an image cannot be used.
  """
  folder, name = os.path.split(os.path.abspath(manifest))
  rows = Triplets(folder, name)
  examples = [rows[i] for i in range(len(rows))]
  forged, source, target = (
    embed([example[kind] for example in examples]) for kind in ('forged', *_PEOPLE)
  )
  cosine = lambda a, b: float((a * b).sum(1).mean())
  result = {
    'forged_source': cosine(forged, source),
    'forged_target': cosine(forged, target),
    'source_target': cosine(source, target),
  }
  for kind, known in zip(_PEOPLE, (source, target), strict=True):
    people = [example[f'{kind}_identity'] for example in examples]
    ranks = retrieval.ranks(forged, people, *retrieval.templates(known, people))
    result[f'found_{kind}'] = float((ranks == 0).mean())
  return result
