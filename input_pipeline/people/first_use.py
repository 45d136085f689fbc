"""`tfds:NAME` as a folder of people: prepared at its first use, and then there."""

import os
import pathlib

from etils import epath
import jax
import tqdm

from dfrec_jax.errors import InputError

_PREFIX = 'tfds:'
# Where prepared data sets lie, from the working directory.
_DATA = pathlib.Path('data')


def folder_of(root: epath.PathLike) -> epath.PathLike:
  """The folder that `root` stands for: itself, or `data/NAME` of `tfds:NAME`.

  That is made as `python -m input_pipeline.prepare faces --raw=tfds:NAME --out=data/NAME` does it:
  it fetches the photographs, finds their landmarks and keeps both.

  Raises:
    InputError: it is not there and cannot be made, or several processes would make it.
  """
  name = os.fspath(root)
  if not name.startswith(_PREFIX):
    return root
  folder = _DATA / name.removeprefix(_PREFIX).replace('/', '_').replace(':', '_')
  # Imported here: who has a folder needs neither.
  from input_pipeline.prepare import portraits, summary
  from input_pipeline.prepare.units import Settings

  if (folder / summary.SUMMARY).exists():
    return folder
  if jax.process_count() > 1:
    raise InputError(
      f'{name} is not prepared yet; run `python -m input_pipeline.prepare faces --raw={name} '
      f'--out={folder}` once, where all processes see the folder.'
    )
  tqdm.tqdm.write(f'Preparing {name} in {folder}, once.')
  done = portraits.prepare(Settings(dataset='faces', raw=name), folder, os.cpu_count() or 1)
  tqdm.tqdm.write(summary.as_text(done, folder))
  return folder
