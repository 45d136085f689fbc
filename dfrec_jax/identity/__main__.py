"""How well encoders tell the people of a folder apart.

python -m dfrec_jax.identity FOLDER shipped_lfw mobilefacenet.npz iresnet:backbone.pth
"""

import argparse
import itertools
import json
import sys

import numpy as np

from dfrec_jax.errors import InputError

_PAIRS = 64
_SIDE = 160


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m dfrec_jax.identity',
    description='Verifies encoders: are two photographs of one person?',
  )
  add = parser.add_argument
  add('people', metavar='PEOPLE', help='folder of <person>/<photo>, or `synthetic`')
  add(
    'encoders', metavar='ENCODER', nargs='+', help='[mobilefacenet:]WEIGHTS, or of another network'
  )
  add('--held-out', type=float, metavar='SHARE', help='only of people held out of training')
  add('--swaps', metavar='MANIFEST', help='also what they see in these face swaps')
  add('--independence', action='store_true', help='also compare every encoder with every other')
  add('--json', action='store_true', help='machine-readable')
  return parser


def _load(given: str):
  from dfrec_jax.encoders import ENCODERS, load_encoder

  network, colon, weights = given.partition(':')
  if not colon or network not in ENCODERS:
    network, weights = 'mobilefacenet', given
  return load_encoder(network, weights)


def _people(arguments: argparse.Namespace):
  from dfrec_jax.identity.people import PhotoFolder, SyntheticPeople

  if arguments.people == 'synthetic':
    return SyntheticPeople('eval', people=300, photographs=3, side=_SIDE)
  share = arguments.held_out
  split = {'split': 'all'} if share is None else {'split': 'eval', 'held_out': share}
  return PhotoFolder(arguments.people, side=_SIDE, **split)


def _independence(encoders, people, embeddings, person) -> dict:
  """Agreement of each pair of encoders, and what fools the first of the second."""
  from dfrec_jax.identity.independence import agreement, transfer

  rng = np.random.default_rng(0)
  chosen = rng.permutation(len(people))[: 2 * _PAIRS]
  first, second = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
  kept = np.flatnonzero(people.person[first] != people.person[second[: len(first)]])
  kept = kept[: len(kept) // 16 * 16]
  pictures, wanted = (
    np.stack([people.picture(int(i)) for i in indices[kept]]) for indices in (first, second)
  )
  result = {}
  for a, b in itertools.permutations(encoders, 2):
    result[f'{a} -> {b}'] = {
      **agreement((embeddings[a], embeddings[b]), person),
      **transfer(encoders[a], encoders[b], pictures, wanted),
    }
  return result


def run(arguments: argparse.Namespace) -> dict:
  """The figures of each encoder by what was given, and of their independence."""
  from dfrec_jax.identity import swaps
  from dfrec_jax.identity.verification import embed_people, verify
  from dfrec_jax.measurements import Embedder

  encoders = {given: _load(given) for given in arguments.encoders}
  people = _people(arguments)
  embeddings, swapped = {}, {}
  for given, encoder in encoders.items():
    embed = Embedder(encoder)
    embeddings[given], person = embed_people(embed, people)
    if arguments.swaps:
      swapped[given] = swaps.measure(embed, arguments.swaps)
  result = {'verification': {given: verify(e, person) for given, e in embeddings.items()}}
  if swapped:
    result['swaps'] = swapped
  if arguments.independence:
    result['independence'] = _independence(encoders, people, embeddings, person)
  return result


def main(argv: list[str] | None = None) -> int:
  """Prints what `run` finds; returns the exit status."""
  arguments = _parser().parse_args(argv)
  try:
    result = run(arguments)
  except InputError as error:
    print(f'Error: {error}', file=sys.stderr)
    return 1
  if arguments.json:
    print(json.dumps(result, indent=2))
    return 0
  from dfrec_jax.identity.evaluate import table

  print(table(result['verification']))
  for part in ('swaps', 'independence'):
    for of, figures in result.get(part, {}).items():
      print(f'{of}: {", ".join(f"{name} {value:.3f}" for name, value in figures.items())}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
