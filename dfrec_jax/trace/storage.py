"""A gallery as a folder: JSON that says what it is, and plain arrays, each known by its SHA-256.

| file | content |
|---|---|
| `gallery.json` | schema, encoder, framing, counts, figures of non-mates, SHA-256 of the others |
| `photographs.json` | people with their photographs, in the order of rows; what was left out |
| `embeddings.npy` | (M, D) float32 of unit length, one a photograph, person after person |
| `contents.npy` | (M, 32) uint8, SHA-256 of each photograph's file |
| `non_mates.npy` | (2, levels) int64, see `rates.Rates` |
| `index.faiss` | where the gallery was made with an index of faiss |
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

import dfrec_jax
from dfrec_jax.errors import InputError
from dfrec_jax.recover.photographs import file_sha256
from dfrec_jax.trace import people_search, rates
from dfrec_jax.trace.framing import Framing

SCHEMA = 1
DESCRIPTION = 'gallery.json'
FAISS_FILE = 'index.faiss'
_PHOTOGRAPHS = 'photographs.json'
_EMBEDDINGS, _CONTENTS, _NON_MATES = 'embeddings.npy', 'contents.npy', 'non_mates.npy'
_UNIT_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Stored:
  """What a gallery's folder holds.

  Attributes:
    people: names, sorted.
    photographs: of each photograph its path below the folder that was indexed, POSIX.
    starts: (P,) each person's first row; the rows of a person follow each other.
    embeddings: (M, D) float32 of unit length.
    contents: (M, 32) uint8, SHA-256 of the files.
    non_mates: rates of chance similarities.
    encoder: `name`, `sha256` and `weights` (the path they were read from).
    framing: how faces were cut.
    index: `exact` or `faiss`.
    left_out: `photograph` and `reason` of each that is not in the gallery.
    warnings: sentences about the whole.
  """

  people: Sequence[str]
  photographs: Sequence[str]
  starts: np.ndarray
  embeddings: np.ndarray
  contents: np.ndarray
  non_mates: rates.Rates
  encoder: Mapping[str, str]
  framing: Framing
  index: str = 'exact'
  left_out: Sequence[Mapping[str, str]] = ()
  warnings: Sequence[str] = ()

  @property
  def ends(self) -> np.ndarray:
    return np.append(self.starts[1:], len(self.photographs))


def unit(vectors: np.ndarray) -> np.ndarray:
  """Rows scaled to unit length; a row of zeros stays."""
  return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def templates(embeddings: np.ndarray, starts: np.ndarray) -> np.ndarray:
  """(P, D) float32: the mean of each person's embeddings, made of unit length.

  Args:
    embeddings: (M, D) float32, person after person.
    starts: (P,) each person's first row.
  """
  return unit(np.add.reduceat(np.asarray(embeddings), starts, axis=0))


def write(stored: Stored, folder: pathlib.Path) -> None:
  """Writes a gallery into an empty folder; equal ones give equal bytes."""
  arrays = {
    _EMBEDDINGS: stored.embeddings,
    _CONTENTS: stored.contents,
    _NON_MATES: stored.non_mates.counts,
  }
  for name, array in arrays.items():
    np.save(folder / name, array, allow_pickle=False)
  people = [
    {'name': name, 'photographs': list(stored.photographs[start:end])}
    for name, start, end in zip(
      stored.people, stored.starts.tolist(), stored.ends.tolist(), strict=True
    )
  ]
  _write_json(
    folder / _PHOTOGRAPHS,
    {'people': people, 'left_out': list(stored.left_out), 'warnings': list(stored.warnings)},
  )
  names = [*arrays, _PHOTOGRAPHS]
  if stored.index == 'faiss':
    people_search.write_faiss(templates(stored.embeddings, stored.starts), folder / FAISS_FILE)
    names.append(FAISS_FILE)
  _write_json(
    folder / DESCRIPTION,
    {
      'schema': SCHEMA,
      'tool': {'name': 'dfrec_jax', 'version': dfrec_jax.__version__},
      'encoder': {**stored.encoder, 'dimensions': stored.embeddings.shape[1]},
      'framing': stored.framing.as_dict(),
      'index': stored.index,
      'people': len(stored.people),
      'photographs': len(stored.photographs),
      'left_out': len(stored.left_out),
      'non_mates': stored.non_mates.summary(),
      'files': {name: file_sha256(folder / name) for name in sorted(names)},
    },
  )


def read(folder: pathlib.Path) -> Stored:
  """Reads a gallery; its embeddings stay on the disk until they are used.

  Raises:
    InputError: it is no gallery, of another version, or a file of it is missing or damaged.
  """
  description = _description(folder)
  for name, expected in description['files'].items():
    # Names come from the file: only those that a gallery has are opened.
    if name not in (_PHOTOGRAPHS, _EMBEDDINGS, _CONTENTS, _NON_MATES, FAISS_FILE):
      raise _damaged(folder / DESCRIPTION)
    if not (folder / name).is_file() or file_sha256(folder / name) != expected:
      raise _damaged(folder / name)
  try:
    listing = json.loads((folder / _PHOTOGRAPHS).read_text('utf-8'))
    embeddings, contents, counts = (
      np.load(folder / name, mmap_mode='r', allow_pickle=False)
      for name in (_EMBEDDINGS, _CONTENTS, _NON_MATES)
    )
    groups = [person['photographs'] for person in listing['people']]
    framing = description['framing']
    stored = Stored(
      people=[str(person['name']) for person in listing['people']],
      photographs=[str(name) for group in groups for name in group],
      starts=np.cumsum([0, *map(len, groups[:-1])]),
      embeddings=embeddings,
      contents=contents,
      non_mates=rates.Rates(np.array(counts)),
      encoder={key: str(description['encoder'][key]) for key in ('name', 'sha256', 'weights')},
      framing=Framing(framing['finder'], float(framing['margin'])),
      index=description['index'],
      left_out=listing['left_out'],
      warnings=listing['warnings'],
    )
    fits = _fits(stored) and all(groups)
  # What somebody else wrote fails in numpy, json or here, each with exceptions of its own.
  except Exception as error:
    raise _damaged(folder) from error
  if not fits:
    raise _damaged(folder)
  return stored


def is_gallery(folder: pathlib.Path) -> bool:
  return (folder / DESCRIPTION).is_file()


def _description(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / DESCRIPTION
  if not path.is_file():
    raise InputError(
      f'{folder} is no gallery; make one with `python -m dfrec_jax.trace index PHOTOGRAPHS '
      f'{folder}`.'
    )
  try:
    description = json.loads(path.read_text('utf-8'))
    schema, files = description['schema'], description['files']
    if schema == SCHEMA and not {_PHOTOGRAPHS, _EMBEDDINGS, _CONTENTS, _NON_MATES} <= set(files):
      raise ValueError('files are not named')
  except Exception as error:
    raise _damaged(path) from error
  if schema != SCHEMA:
    raise InputError(
      f'{path} is of schema {schema}, and this version reads {SCHEMA}; make the gallery anew.'
    )
  return description


def _fits(stored: Stored) -> bool:
  rows = len(stored.photographs)
  embeddings = stored.embeddings
  if not rows or embeddings.ndim != 2 or embeddings.dtype != np.float32:
    return False
  if embeddings.shape[0] != rows or not embeddings.shape[1]:
    return False
  if stored.contents.shape != (rows, 32) or stored.contents.dtype != np.uint8:
    return False
  counts = stored.non_mates.counts
  if counts.shape != (2, 2 * rates.STEPS + 1) or counts.dtype != np.int64 or counts.min() < 0:
    return False
  if stored.framing.finder not in (None, 'cascade', 'mesh') or not stored.framing.margin >= 1:
    return False
  lengths = np.einsum('md,md->m', embeddings, embeddings)
  return bool((abs(lengths - 1) < _UNIT_TOLERANCE).all()) and stored.index in ('exact', 'faiss')


def _damaged(path: pathlib.Path) -> InputError:
  return InputError(
    f'{path} is damaged or not of this gallery; make it anew with `python -m dfrec_jax.trace '
    'index`.'
  )


def _write_json(path: pathlib.Path, value: Any) -> None:
  # ASCII, so that file names that are no valid Unicode survive too.
  path.write_text(json.dumps(value, indent=1) + '\n', 'ascii')
