"""From a folder of known people to a gallery: everything embedded, once."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import dataclasses
import os
import pathlib
import shutil

import numpy as np
import tqdm

from dfrec_jax.errors import InputError
from dfrec_jax.trace import listing, people_search, rates, storage
from dfrec_jax.trace.embedding import FaceEncoder
from dfrec_jax.trace.framing import FaceReader, Framing
from dfrec_jax.trace.known import Known
from input_pipeline.prepare.faces import rivals

_BATCH = 32


@dataclasses.dataclass(frozen=True)
class _Read:
  """A photograph that was read: its content's hash, and its face or why there is none."""

  content: bytes = b''
  face: np.ndarray | None = None
  reason: str = ''


def build(
  folder: str | os.PathLike,
  out: str | os.PathLike,
  encoder: FaceEncoder,
  framing: Framing,
  *,
  index: str = 'auto',
  progress: bool = False,
) -> storage.Stored:
  """Embeds a folder of known people and writes the gallery.

  Args:
    folder: `PERSON/PHOTOGRAPH` files, or photographs, each then a person of its own.
    out: the gallery's folder. One that is there is replaced, and what it has of the same
      photographs, encoder and framing is kept, as is the work of an interrupted run.
    encoder: embeds the faces.
    framing: how faces are found in the photographs.
    index: `exact`, `faiss`, or `auto`: faiss for more than `people_search.MANY_PEOPLE`.
    progress: whether to show a bar.

  Returns:
    What was written.

  Raises:
    InputError: no photograph can be used, `out` is no gallery or lies in the way, or faiss is
      missing. The message is one sentence; nothing is lost.
  """
  folder, out = pathlib.Path(folder), pathlib.Path(out)
  found = listing.list_people(folder)
  if index == 'auto':
    people = len({person for person, _ in found.photographs})
    index = 'faiss' if people > people_search.MANY_PEOPLE else 'exact'
  if index == 'faiss':
    people_search.import_faiss()
  _check_place(folder, out)
  place = pathlib.Path(os.path.abspath(out))
  work = place.with_name(f'.{place.name}.part')
  known = Known(work, {**_identity(encoder), **framing.as_dict()})
  known.read_gallery(out)
  names = [name for _, name in found.photographs]
  with tqdm.tqdm(total=len(names), unit='photograph', disable=not progress) as bar:
    try:
      read = list(_embedded(folder, names, encoder, framing, known, bar.update))
    finally:
      known.save()
  stored = _gather(folder, found, read, known, encoder, framing, index)
  _replace(stored, place, work)
  return stored


def _identity(encoder: FaceEncoder) -> dict[str, str]:
  return {'name': encoder.name, 'sha256': encoder.sha256}


def _check_place(folder: pathlib.Path, out: pathlib.Path) -> None:
  here, there = folder.resolve(), out.resolve()
  if here == there or here in there.parents or there in here.parents:
    raise InputError(
      f'The gallery {out} and the photographs in {folder} lie in one another; name another place '
      'for the gallery.'
    )
  if out.exists() and not storage.is_gallery(out):
    raise InputError(f'{out} exists and is no gallery; name another place for it.')


def _embedded(
  folder: pathlib.Path,
  names: Sequence[str],
  encoder: FaceEncoder,
  framing: Framing,
  known: Known,
  done: Callable[[int], object],
) -> Iterator[_Read]:
  """Reads photographs in order; the embeddings of their faces go into `known`."""
  reader = FaceReader(framing)
  chunks = [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]
  read = lambda chunk: [_read(folder, name, reader, known) for name in chunk]
  # One thread reads ahead while this one embeds.
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    ahead = pool.submit(read, chunks[0])
    for following in [*chunks[1:], []]:
      batch = ahead.result()
      ahead = pool.submit(read, following)
      new = {r.content: r.face for r in batch if r.face is not None}
      if new:
        known.add(list(new), encoder(list(new.values())))
      done(len(batch))
      yield from (dataclasses.replace(r, face=None) for r in batch)


def _read(folder: pathlib.Path, name: str, reader: FaceReader, known: Known) -> _Read:
  path = folder / name
  try:
    found = reader.read(path, known)
  except InputError as error:
    return _Read(reason=str(error))
  if found.faces is None:
    return _Read(found.content)
  if not found.faces:
    return _Read(reason=f'No face was found in {path}; cut it out, or give another photograph.')
  if rivals(found.faces, found.faces[0]):
    return _Read(reason=f'{path} shows several faces as large; cut out the one that is meant.')
  return _Read(found.content, found.faces[0].pixels)


def _gather(
  folder: pathlib.Path,
  found: listing.Listing,
  read: Sequence[_Read],
  known: Known,
  encoder: FaceEncoder,
  framing: Framing,
  index: str,
) -> storage.Stored:
  left_out = [
    {'photograph': name, 'reason': r.reason}
    for (_, name), r in zip(found.photographs, read, strict=True)
    if r.reason
  ]
  left_out += [
    {'photograph': name, 'reason': f'{folder / name} is no photograph by its name.'}
    for name in found.others
  ]
  kept = [
    (person, name, r.content)
    for (person, name), r in zip(found.photographs, read, strict=True)
    if not r.reason
  ]
  if not kept:
    raise InputError(
      f'None of the {len(read)} photographs in {folder} can be used; the first: '
      f'{left_out[0]["reason"]}'
    )
  people = sorted({person for person, _, _ in kept})
  number = {person: i for i, person in enumerate(people)}
  person_of = np.array([number[person] for person, _, _ in kept])
  embeddings = known.embeddings([content for _, _, content in kept])
  starts = np.searchsorted(person_of, np.arange(len(people)))
  templates = storage.templates(embeddings, starts)
  return storage.Stored(
    people=people,
    photographs=[name for _, name, _ in kept],
    starts=starts,
    embeddings=embeddings,
    contents=np.frombuffer(b''.join(content for _, _, content in kept), np.uint8).reshape(-1, 32),
    non_mates=rates.measure(embeddings, person_of, templates),
    encoder={**_identity(encoder), 'weights': encoder.weights},
    framing=framing,
    index=index,
    left_out=left_out,
    warnings=_twins(kept),
  )


def _twins(kept: Sequence[tuple[str, str, bytes]]) -> list[str]:
  """Sentences on files that are in the gallery under several people's names."""
  first, warnings = {}, []
  for person, name, content in kept:
    other, photograph = first.setdefault(content, (person, name))
    if other != person:
      warnings.append(
        f'{photograph} and {name} are one file under two names: if they are one person, the '
        'false-match rates come out too high.'
      )
  return warnings


def _replace(stored: storage.Stored, out: pathlib.Path, work: pathlib.Path) -> None:
  """Writes the gallery beside its place and renames it."""
  new, old = work / 'new', work / 'old'
  for folder in (new, old):
    shutil.rmtree(folder, ignore_errors=True)
  new.mkdir(parents=True)
  storage.write(stored, new)
  if out.exists():
    out.rename(old)
  new.rename(out)
  shutil.rmtree(work)
