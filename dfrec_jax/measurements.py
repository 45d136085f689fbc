"""From recovered examples to `metrics.json` and its table (definitions: DESIGN of the metrics)."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dfrec_jax import metrics, programs
from dfrec_jax.encoders.registry import FrozenEncoder
from dfrec_jax.errors import InputError
from dfrec_jax.recovery import Recovery
from input_pipeline.transforms import resize

PRISTINE = 'pristine'
# Name in metrics.json -> heading and format of the printed table.
COLUMNS = {
  'source_identity': ('source id', '.3f'),
  'target_identity': ('target id', '.3f'),
  'target_psnr': ('PSNR', '.2f'),
  'target_psnr_masked': ('in mask', '.2f'),
  'target_ssim': ('SSIM', '.3f'),
  'mask_iou': ('mask IoU', '.3f'),
  'mask_f1': ('mask F1', '.3f'),
  'auc': ('AUC', '.3f'),
  'accuracy': ('accuracy', '.3f'),
  'examples': ('examples', 'd'),
}
# Figures that are a mean over examples; the others describe a set of them.
_MEANS = tuple(name for name in COLUMNS if name not in ('auc', 'accuracy', 'examples'))
_EMBED_BATCH = 32
# Sides, in pixels, that an encoder sees photographs at: one compilation each, however many sizes
# the data has. Encoders sample their own, smaller input from these without averaging.
_EMBED_SIDES = (112, 160, 224, 256)


class Embedder:
  """Identity embeddings of images of any size, stretched to the nearest of a few square sizes.

  It computes on one device of this process: each process has images of its own.
  """

  def __init__(self, encoder: FrozenEncoder):
    if encoder.embed is None:
      raise InputError(f'The encoder {encoder.name} embeds no identity; name a face encoder.')
    self._mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:1]), ('data',))
    self._here = jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec())
    self._params = jax.device_put(encoder.params, self._here)
    self._embed = programs.jit(lambda params, x: encoder.embed(params, x.astype(np.float32) / 255))

  def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Embeddings (n, D) of n images (H, W, 3) uint8."""
    by_side = defaultdict(list)
    for i, image in enumerate(images):
      side = max(image.shape[:2])
      by_side[min(_EMBED_SIDES, key=lambda known, side=side: abs(known - side))].append(i)
    result = [None] * len(images)
    for side, indices in by_side.items():
      for start in range(0, len(indices), _EMBED_BATCH):
        chunk = indices[start : start + _EMBED_BATCH]
        batch = np.zeros((_EMBED_BATCH, side, side, 3), np.uint8)
        batch[: len(chunk)] = [resize(images[i], side) for i in chunk]
        with jax.set_mesh(self._mesh):
          embeddings = self._embed(self._params, jax.device_put(batch, self._here))
        for i, embedding in zip(chunk, np.asarray(embeddings), strict=False):
          result[i] = embedding
    return np.stack(result)


def measure(
  examples: Sequence[Mapping[str, Any]],
  recovered: Sequence[Recovery],
  embed: Callable[[Sequence[np.ndarray]], np.ndarray] | None,
) -> list[dict[str, Any]]:
  """One row an example: its attack, label and score, each figure and, as `copy_NAME`, copying's."""
  rows = []
  for example, r in zip(examples, recovered, strict=True):
    true_mask = np.asarray(example['mask'], np.float32)[..., 0]
    forged, target = example['forged'], example['target']
    row = {'attack': example['attack'], 'label': int(example['label']), 'score': r.score}
    for prefix, image in (('', r.target), ('copy_', forged)):
      row[f'{prefix}target_psnr'] = metrics.psnr(image, target)
      row[f'{prefix}target_psnr_masked'] = metrics.psnr(image, target, true_mask)
      row[f'{prefix}target_ssim'] = metrics.ssim(image, target)
    overlap = metrics.mask_overlap(r.mask, true_mask) if example['has_mask'] else (np.nan,) * 2
    row['mask_iou'], row['mask_f1'] = overlap
    rows.append(row)
  if embed is not None and rows:
    kinds = ('source', 'target')
    true = {kind: embed([e[kind] for e in examples]) for kind in kinds}
    found = {kind: embed([getattr(r, kind) for r in recovered]) for kind in kinds}
    copied = embed([e['forged'] for e in examples])
    for i, row in enumerate(rows):
      for kind in kinds:
        row[f'{kind}_identity'] = metrics.cosine(found[kind][i], true[kind][i])
        row[f'copy_{kind}_identity'] = metrics.cosine(copied[i], true[kind][i])
  return rows


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
  """The content of `metrics.json` from one row an example.

  `all` and the attacks are means over forged examples; their AUC and accuracy are over these and
  the pristine ones.
  """
  forged = [row for row in rows if row['label'] == 1]
  pristine = [row for row in rows if row['label'] == 0]
  groups = {'all': forged}
  for attack in sorted({row['attack'] for row in forged}):
    groups[attack] = [row for row in forged if row['attack'] == attack]
  groups[PRISTINE] = pristine
  recovered = {}
  copy = {}
  for name, group in groups.items():
    judged = group if name == PRISTINE else group + pristine
    scores = np.array([row['score'] for row in judged])
    labels = np.array([row['label'] for row in judged])
    recovered[name] = {
      **{metric: _mean(group, metric) for metric in _MEANS},
      'auc': _finite(metrics.roc_auc(scores, labels)),
      'accuracy': _finite(np.mean((scores > 0.5) == (labels == 1)) if len(scores) else np.nan),
      'examples': len(group),
    }
    copy[name] = {
      **{metric: _mean(group, f'copy_{metric}') for metric in _MEANS},
      # Copying tells nothing of masks and forgeries.
      'auc': None,
      'accuracy': None,
      'examples': len(group),
    }
  # Nobody was pasted into a pristine photograph.
  for table in (recovered, copy):
    table[PRISTINE]['source_identity'] = None
  return {'recovered': recovered, 'copy': copy}


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
  values = [row[name] for row in rows if name in row and np.isfinite(row[name])]
  return float(np.mean(values)) if values else None


def _finite(value: float) -> float | None:
  return float(value) if np.isfinite(value) else None


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
  """Header and rows of text: every group, recovered and copied."""
  header = ['', *(heading for heading, _ in COLUMNS.values())]
  rows = []
  for group, values in result['recovered'].items():
    for kind, figures_ in (('recovered', values), ('copy', result['copy'][group])):
      cells = [
        '-' if figures_.get(name) is None else format(figures_[name], style)
        for name, (_, style) in COLUMNS.items()
      ]
      rows.append([f'{group}: {kind}', *cells])
  return header, rows


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table of strings, its columns aligned."""
  widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
  line = lambda row: '  '.join(
    cell.ljust(width) if i == 0 else cell.rjust(width)
    for i, (cell, width) in enumerate(zip(row, widths, strict=True))
  )
  return '\n'.join([line(header), '-' * len(line(header)), *map(line, rows)])
