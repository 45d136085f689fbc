"""Labeled Faces in the Wild (Huang et al. 2007), fetched from where TensorFlow Datasets has it."""

import functools
import hashlib
import http.client
import pathlib
import shutil
import tarfile
import urllib.request

import tqdm

from dfrec_jax.errors import InputError

# As `checksums.tsv` of TensorFlow Datasets' `lfw` has them.
URL = 'https://ndownloader.figshare.com/files/5976018'
SIZE = 180_566_744
SHA256 = '055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0'
_CHUNK = 1 << 20
_TIMEOUT = 60  # Seconds without an answer.


def fetch(folder: pathlib.Path) -> pathlib.Path:
  """The folder of `PERSON/PHOTO.jpg`, in `folder`; downloads it at the first call.

  Raises:
    InputError: it cannot be fetched, or is not what it should be.
  """
  photographs = folder / 'lfw'
  if photographs.is_dir():
    return photographs
  folder.mkdir(parents=True, exist_ok=True)
  archive, unpacked = folder / 'lfw.tgz', folder / 'lfw.unfinished'
  try:
    if not archive.exists():
      _download(folder / 'lfw.tgz.unfinished', archive)
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(archive) as tar:
      _extract(tar, unpacked)
    (unpacked / 'lfw').rename(photographs)
  except (OSError, http.client.HTTPException, tarfile.TarError, EOFError) as error:
    raise InputError(
      f'LFW cannot be fetched from {URL} ({error}); try again, or give --raw a folder of '
      'PERSON/PHOTO.jpg that you have.'
    ) from error
  shutil.rmtree(unpacked)
  archive.unlink()
  return photographs


def _extract(tar: tarfile.TarFile, folder: pathlib.Path):
  """The archive's files; `extractall` has no filter of what leads outside before Python 3.11.4."""
  for member in filter(tarfile.TarInfo.isfile, tar):
    path = folder / member.name
    if not path.resolve().is_relative_to(folder.resolve()):
      raise tarfile.TarError(f'{member.name} leads out of the archive')
    path.parent.mkdir(parents=True, exist_ok=True)
    with tar.extractfile(member) as content, path.open('wb') as file:
      shutil.copyfileobj(content, file)


def _download(part: pathlib.Path, path: pathlib.Path):
  digest = hashlib.sha256()
  # Some servers refuse whoever gives no name, or Python's.
  request = urllib.request.Request(URL, headers={'User-Agent': 'dfrec_jax'})
  with (
    urllib.request.urlopen(request, timeout=_TIMEOUT) as answer,
    open(part, 'wb') as file,
    tqdm.tqdm(total=SIZE, unit='B', unit_scale=True, desc='LFW') as bar,
  ):
    for chunk in iter(functools.partial(answer.read, _CHUNK), b''):
      digest.update(chunk)
      file.write(chunk)
      bar.update(len(chunk))
  if digest.hexdigest() != SHA256:
    raise OSError(f'{part.stat().st_size} bytes with another checksum than its')
  part.rename(path)
