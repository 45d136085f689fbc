"""Builders that turn raw downloads into ArrayRecord shards.

  builder = Ffpp(data_dir='data', settings=settings, workers=8)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=RAW))

`tfds.data_source('ffpp', data_dir='data')` reads the shards, and so does `tfds.builder` on a
machine that does not have this package.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import os
import pathlib
import shutil
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from input_pipeline.prepare import records, registry, reports, summary, work
from input_pipeline.prepare.units import Settings, Unit, UnitLog

_SHARD_BYTES = 256 << 20
_FORMAT = 'array_record'
_HOW_TO_GET = 'docs/data.md says where to ask for the data and what the folder looks like.'


class FaceSwaps(tfds.core.DatasetBuilder, skip_registration=True):
  """A set of face swaps, prepared by the module of the same name in `input_pipeline.prepare`.

  The raw files are in `manual_dir`; nothing is downloaded. Beside the shards lie `summary.json`,
  `unusable.csv`, `ignored.csv`, `checksums.tsv` (of everything that was read) and
  `contact_sheet.png`.
  """

  VERSION = tfds.core.Version('1.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = _HOW_TO_GET
  # Of downloads, of which there are none; the base class would look for them with a package that
  # TensorFlow Datasets does not install.
  url_infos: ClassVar[dict[str, Any]] = {}

  def __init__(self, *, settings: Settings | None = None, workers: int = 0, **kwargs: Any):
    """As `tfds.core.DatasetBuilder`.

    Args:
      settings: of the preparation; `raw` is replaced by the `manual_dir`.
      workers: processes; 0 works in this one.
      **kwargs: `data_dir` and so on.
    """
    super().__init__(**kwargs)
    self._settings, self._workers = settings, workers

  @property
  def work_folder(self) -> pathlib.Path:
    """Where parts lie until the shards are written."""
    return pathlib.Path(self.data_dir_root) / self.name / 'unfinished'

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self, description=self.__doc__, features=records.features(), disable_shuffling=True
    )

  def _download_and_prepare(self, dl_manager, download_config=None):
    settings = dataclasses.replace(
      self._settings or Settings(dataset=self.name, raw=''), raw=os.fspath(dl_manager.manual_dir)
    )
    listing = UnitLog(settings.raw)
    units = registry.load(settings.dataset).list_units(settings, listing)
    folder = self.work_folder
    work.open_folder(folder, settings)
    self._remove_incomplete()
    task = work.make_task(settings, folder)
    beam = {'runner': download_config.beam_runner, 'options': download_config.beam_options}
    if any(beam.values()):
      done = work.run_on_beam(units, task, folder, **beam)
    else:
      done = work.run(units, task, folder, self._workers)
    out = pathlib.Path(self.data_dir)
    total = summary.gather(settings, units, done, listing)
    if not total['examples']:
      raise summary.nothing_usable(folder, total, settings.raw)
    self.info.set_file_format(_FORMAT)
    self.info.set_splits(
      tfds.core.SplitDict([self._write_split(split, units, done) for split in total['examples']])
    )
    summary.write(out, total, self._examples_of_sheet(total))

  def _post_download_and_prepare_hook(self):
    """After the finished folder has got its name: until then the parts may be needed again."""
    self.remove_work()

  def _log_download_bytes(self):
    """The base class would tell of a download of unknown size; there is none."""

  def _log_download_done(self):
    """As above."""

  def remove_work(self):
    """Removes the parts, and what a killed run has left, where there is any."""
    shutil.rmtree(self.work_folder, ignore_errors=True)
    self._remove_incomplete()

  def _remove_incomplete(self):
    """Removes folders of shards that killed runs of this version could not finish."""
    # While this run writes its shards, its own folder is one of them.
    for path in self.work_folder.parent.glob(f'incomplete.*_{self.version}'):
      if path != pathlib.Path(self.data_dir):
        shutil.rmtree(path, ignore_errors=True)

  def _write_split(
    self, split: str, units: Sequence[Unit], done: Sequence[reports.Report]
  ) -> tfds.core.SplitInfo:
    """Joins the parts of a split into shards, in the order of the units."""
    parts = []
    for unit, report in zip(units, done, strict=True):
      path = reports.part_path(self.work_folder, unit, split)
      if path.name in report['parts']:
        parts.append((path, report['parts'][path.name]))
    shards, size = [[]], 0
    for path, part_size in parts:
      if size + part_size > _SHARD_BYTES and shards[-1]:
        shards.append([])
        size = 0
      shards[-1].append(path)
      size += part_size
    template = tfds.core.ShardedFileTemplate(
      data_dir=self.data_path, dataset_name=self.name, split=split, filetype_suffix=_FORMAT
    )
    lengths = [
      records.write_records(
        template.sharded_filepath(shard_index=i, num_shards=len(shards)),
        (record for path in shard for record in records.read_records(path)),
      )
      for i, shard in enumerate(shards)
    ]
    return tfds.core.SplitInfo(
      name=split,
      shard_lengths=lengths,
      num_bytes=sum(part_size for _, part_size in parts),
      filename_template=template,
    )

  def _examples_of_sheet(self, total: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Examples of each split, evenly spread over it."""
    for split in total['examples']:
      source = self.as_data_source(split)
      count = min(summary.SHEET_ROWS, len(source))
      for i in range(count):
        yield source[i * len(source) // count]

  def _as_dataset(self, split, decoders=None, read_config=None, shuffle_files=False):
    raise NotImplementedError('Read ArrayRecord shards with as_data_source or tfds.data_source.')


class Ffpp(FaceSwaps):
  """Face swaps of FaceForensics++, cut around the target's face."""


class MegafsFfpp(FaceSwaps):
  """Swaps of MegaFS among the people of FaceForensics++."""


class CelebaMegafs(FaceSwaps):
  """Swaps of MegaFS among photographs of CelebA-HQ."""


class FfhqE4s(FaceSwaps):
  """Swaps of E4S among photographs of FFHQ."""


BUILDERS = {builder.name: builder for builder in (Ffpp, MegafsFfpp, CelebaMegafs, FfhqE4s)}
