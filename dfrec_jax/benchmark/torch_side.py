"""PyTorch's part in a comparison."""

from collections.abc import Callable, Mapping, Sequence
import copy
import functools
from typing import Any

import ml_collections
import numpy as np
import torch
import torch.nn.functional as F

from dfrec_jax.convert.torch_modules import DFREC, Partition
from dfrec_jax.convert.torch_modules.target_reconstruction import patchify, take

Arrays = Mapping[str, np.ndarray]


def device() -> str:
  return 'cuda' if torch.cuda.is_available() else 'cpu'


def about() -> dict[str, Any]:
  """Version, device and threads."""
  return {'version': torch.__version__, 'device': device(), 'threads': torch.get_num_threads()}


def _model(settings: Mapping[str, Any], dictionaries: Mapping[str, Arrays]) -> DFREC:
  model = DFREC.from_config(settings)
  model.load_checkpoint(
    {key: {k: torch.tensor(v) for k, v in tensors.items()} for key, tensors in dictionaries.items()}
  )
  torch.set_float32_matmul_precision('high')  # As JAX's default on a GPU; of no effect on a CPU.
  return model.to(device())


def _autocast(settings: Mapping[str, Any]):
  bfloat16 = settings['dtype'] == 'bfloat16'
  return torch.autocast(device(), torch.bfloat16, enabled=bfloat16)


def _images(array: np.ndarray) -> torch.Tensor:
  return torch.tensor(array, device=device()).permute(0, 3, 1, 2).float() / 255


def _finished(run: Callable[[], Any]) -> Callable[[], None]:
  def call():
    run()
    if device() == 'cuda':
      torch.cuda.synchronize()

  return call


class Recovery:
  """What `make_predict_step` answers, by the PyTorch modules."""

  def __init__(self, settings: Mapping[str, Any], dictionaries: Mapping[str, Arrays]):
    self._model = _model(settings, dictionaries).eval()
    self._settings = settings

  def runner(self, kind: str, images: np.ndarray) -> Callable[[], None]:
    """Recovers the images (B, H, W, 3) uint8 once a call."""
    model = torch.compile(self._model) if kind == 'compile' else self._model
    images = torch.tensor(images, device=device())
    return _finished(lambda: self._predict(model, images))

  def predict(self, images: np.ndarray, partition: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The pictures with the given kept and masked patches, (B, H, W, C)."""
    given = Partition(*(torch.tensor(x, dtype=torch.int64, device=device()) for x in partition))
    out = self._predict(self._model, torch.tensor(images, device=device()), given)
    return {name: x.float().cpu().numpy() for name, x in out.items()}

  @torch.inference_mode()
  def _predict(self, model, images, partition=None):
    with _autocast(self._settings):
      out = model(images.permute(0, 3, 1, 2).float() / 255, partition=partition)
    last = lambda x: x.permute(0, 2, 3, 1)
    return {
      'mask': last(out.mask),
      'composite_mask': last(out.composite_mask),
      'source_mask': last(out.source_mask),
      'score': out.class_logits.float().softmax(1)[:, 1],
      'source': last(out.source),
      'target': last(out.target_raw),
    }


class Training:
  """A training step: forward, objective, backward, clipping, AdamW, moving average."""

  def __init__(
    self, config: ml_collections.ConfigDict, dictionaries: Mapping[str, Arrays], batch: Arrays
  ):
    self._config = config
    self._model = _model(config.model, dictionaries).train()
    self._batch = {name: _images(batch[name]) for name in ('forged', 'source', 'target')}
    mask = torch.tensor(batch['mask'], device=device())
    self._batch['mask'] = mask.permute(0, 3, 1, 2).float()

  def first_step(self, partition: Sequence[np.ndarray]) -> dict[str, float]:
    """Loss and norm of the gradient with the given patches; the model stays as it is."""
    model = copy.deepcopy(self._model)
    given = Partition(*(torch.tensor(x, dtype=torch.int64, device=device()) for x in partition))
    loss = self._loss(model, given)
    loss.backward()
    return {'loss': loss.item(), 'gradient_norm': self._clip(model).item()}

  def runner(self, kind: str) -> Callable[[], None]:
    """Trains a copy of the model by one step a call."""
    model, settings = copy.deepcopy(self._model), self._config.optimizer
    run = torch.compile(model) if kind == 'compile' else model
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
      [{'params': decayed}, {'params': others, 'weight_decay': 0.0}],
      lr=settings.learning_rate,
      betas=(settings.b1, settings.b2),
      eps=settings.eps,
      weight_decay=settings.weight_decay,
    )
    kept = [x for x in model.state_dict().values() if x.is_floating_point()]
    average = [x.clone() for x in kept]

    def step():
      optimizer.zero_grad(set_to_none=True)
      self._loss(run).backward()
      self._clip(model)
      optimizer.step()
      with torch.no_grad():
        torch._foreach_lerp_(average, kept, 1 - self._config.ema_decay)

    return _finished(step)

  def _clip(self, model):
    limit = self._config.optimizer.clip_norm
    return torch.nn.utils.clip_grad_norm_(model.parameters(), limit)

  def _loss(self, model, partition=None):
    """`dfrec_jax.objective` of a batch in which all are forged and have masks, without encoders."""
    batch, weights = self._batch, self._config.loss.weights
    with _autocast(self._config.model):
      out = model(batch['forged'], guide=batch['mask'], progress=0.0, partition=partition)
    logits, mask = out.mask_logits.float(), batch['mask']
    true = take(patchify(batch['target'], self._model.patch), out.masked)
    predicted = torch.sigmoid(logits)
    overlap, sums = (
      (predicted * mask).sum((1, 2, 3)),
      predicted.sum((1, 2, 3)) + mask.sum((1, 2, 3)),
    )
    dice = 1 - (2 * overlap + 1) / (sums + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, mask)
    labels = torch.ones(len(mask), dtype=torch.int64, device=mask.device)
    terms = {
      'patch': F.mse_loss(out.target_patches.float(), true),
      'source': F.l1_loss(out.source.float(), batch['source']),
      'segmentation': entropy + dice.mean(),
      'detection': F.cross_entropy(out.class_logits.float(), labels),
    }
    return functools.reduce(lambda total, name: total + weights[name] * terms[name], terms, 0.0)
