"""Embeddings that are there already: of an earlier gallery, or of a run that was interrupted."""

from collections.abc import Iterable, Mapping, Sequence
import json
import pathlib
import zipfile

import numpy as np

from dfrec_jax.errors import InputError
from dfrec_jax.trace import storage

_SETTINGS = 'settings.json'
_SAVED_TOGETHER = 1024


class Known:
  """Embeddings by the SHA-256 of a photograph's file, all made with the same settings.

  They are kept as `NUMBER.npz` files in a folder of work, until the gallery is written.
  """

  def __init__(self, folder: pathlib.Path, settings: Mapping[str, object]):
    """Goes on with what an interrupted run with the same settings left in the folder."""
    self._folder, self._settings = folder, dict(settings)
    self._embeddings: dict[bytes, np.ndarray] = {}
    self._unsaved: list[bytes] = []
    self._files = 0
    if not self._begun():
      return
    for path in sorted(folder.glob('*.npz')):
      self._files = int(path.stem) + 1 if path.stem.isdigit() else self._files
      try:
        with np.load(path, allow_pickle=False) as arrays:
          self._take(map(bytes, arrays['contents']), arrays['embeddings'])
      # What cannot be read is embedded again.
      except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        continue

  def read_gallery(self, folder: pathlib.Path) -> None:
    """Takes over what a gallery has, if it is intact and was made with the same settings."""
    if not storage.is_gallery(folder):
      return
    try:
      stored = storage.read(folder)
    except InputError:
      return
    encoder = {key: stored.encoder[key] for key in ('name', 'sha256')}
    if {**encoder, **stored.framing.as_dict()} == self._settings:
      self._take(map(bytes, stored.contents), stored.embeddings)

  def __contains__(self, content: bytes) -> bool:
    return content in self._embeddings

  def add(self, contents: Sequence[bytes], embeddings: np.ndarray) -> None:
    """Adds embeddings (n, D); every so often they are saved."""
    self._unsaved += [content for content in contents if content not in self._embeddings]
    self._take(contents, embeddings)
    if len(self._unsaved) >= _SAVED_TOGETHER:
      self.save()

  def embeddings(self, contents: Sequence[bytes]) -> np.ndarray:
    """(n, D) float32 of n files that are known."""
    return np.stack([self._embeddings[content] for content in contents]).astype(np.float32)

  def save(self) -> None:
    """Writes what is new, beside its place and renamed."""
    if not self._unsaved:
      return
    if not self._files:
      self._folder.mkdir(parents=True, exist_ok=True)
      (self._folder / _SETTINGS).write_text(json.dumps(self._settings), 'ascii')
    beside = self._folder / 'part'
    with beside.open('wb') as file:
      contents = np.frombuffer(b''.join(self._unsaved), np.uint8).reshape(-1, 32)
      np.savez(file, contents=contents, embeddings=self.embeddings(self._unsaved))
    beside.replace(self._folder / f'{self._files:06d}.npz')
    self._files += 1
    self._unsaved = []

  def _begun(self) -> bool:
    """Whether the folder's files were made with these settings; others are deleted."""
    try:
      if json.loads((self._folder / _SETTINGS).read_text('ascii')) == self._settings:
        return True
    except (OSError, ValueError):
      pass
    for path in self._folder.glob('*.npz'):
      path.unlink()
    return False

  def _take(self, contents: Iterable[bytes], embeddings: Iterable[np.ndarray]) -> None:
    for content, embedding in zip(contents, embeddings, strict=True):
      self._embeddings.setdefault(content, np.array(embedding, np.float32))
