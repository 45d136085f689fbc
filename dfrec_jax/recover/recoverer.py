"""A checkpoint made ready to recover any number of face crops."""

from collections.abc import Sequence
import dataclasses
import functools
import threading
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from dfrec_jax import programs
from dfrec_jax.calibration import Calibration, weights_sha256
from dfrec_jax.checkpointing import LoadedModel, load_model
from dfrec_jax.errors import InputError
from dfrec_jax.recover.crops import middle_square
from dfrec_jax.recover.finding import smallest_useful
from dfrec_jax.recovery import for_recovery, where_source_is_residual
from dfrec_jax.resolution import mask_to_photograph, to_photograph
from dfrec_jax.shipped import PRETRAINED
from input_pipeline.prepare.tracks import cut
from input_pipeline.transforms import resize

_DEFAULT_MARGIN = 1.45  # Of checkpoints older than the setting, which were all trained with it.
_UNCALIBRATED_THRESHOLD = 0.5
_LARGEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Recovered:
  """What was recovered from one face crop, at the crop's own resolution.

  Attributes:
    source: (H, W, 3) uint8, estimate of who was pasted.
    target: (H, W, 3) uint8, estimate of who was covered: the mean over the draws.
    mask: (H, W) float32 in [0, 1], where the source's face was pasted.
    score: of being forged, in [0, 1].
    false_alarm_rate: share of the evaluation's pristine photographs that score at least as high;
      None where the checkpoint is not calibrated.
    swapped: whether the score reaches the threshold. Below it source and target mean nothing.
    spread: (H, W) float32, standard deviation of the target over the draws, in grey levels (0 to
      255), the mean over the channels; zero of a single draw.
    instability: mean spread inside the mask, in grey levels; None of a single draw.
  """

  source: np.ndarray
  target: np.ndarray
  mask: np.ndarray
  score: float
  false_alarm_rate: float | None
  swapped: bool
  spread: np.ndarray
  instability: float | None


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What the model says of one crop, at the model's resolution (h, w).

  Attributes:
    seen: (h, w, 3) in [0, 1], the crop as the model saw it.
    source: (h, w, 3) in [0, 1].
    target: (h, w, 3) in [0, 1], the mean over the draws, before compositing.
    mask, composite_mask, source_mask: (h, w, 1) in [0, 1].
    spread: (h, w, 1), standard deviation of the target over the draws, mean over the channels.
    score, false_alarm_rate, swapped: as in `Recovered`.
  """

  seen: np.ndarray
  source: np.ndarray
  target: np.ndarray
  mask: np.ndarray
  composite_mask: np.ndarray
  source_mask: np.ndarray
  spread: np.ndarray
  score: float
  false_alarm_rate: float | None
  swapped: bool


class Recoverer:
  """Recovers face crops; see `load`. Threads may share it.

  Attributes:
    image_size: side of the model's images, in pixels.
    margin: side of a crop in units of the face oval's larger side.
    threshold: score from which a face counts as swapped.
    false_alarms: share of pristine evaluation photographs that may reach the threshold; None where
      it is not from the calibration.
    batch_size, draws: crops computed together, masking keys for each.
    calibration: scores of an evaluation, None where the checkpoint was not evaluated.
    checkpoint: path, step, sha256, size, image_size and calibration, as in results.json.
  """

  def __init__(
    self,
    loaded: LoadedModel,
    *,
    batch_size: int = 8,
    draws: int = 4,
    threshold: float | None = None,
    false_alarms: float = 0.05,
  ):
    for name, number in (('batch_size', batch_size), ('draws', draws)):
      _check(name, number, _whole(number) and number >= 1, 'a whole number, at least 1')
    _check('false_alarms', false_alarms, _within(false_alarms, 0, 1), '0 to 1')
    _check('threshold', threshold, threshold is None or _within(threshold, 0, 1), '0 to 1')
    self._model, self._variables = for_recovery(loaded.model, loaded.variables)
    self.image_size = loaded.model.image_size
    self.margin = float(loaded.config.get('data', {}).get('margin', _DEFAULT_MARGIN))
    self.batch_size, self.draws = batch_size, draws
    self.calibration = Calibration.of(loaded.calibration)
    calibrated = threshold is None and self.calibration is not None
    self.false_alarms = false_alarms if calibrated else None
    if calibrated:
      threshold = self.calibration.threshold(false_alarms)
    self.threshold = _UNCALIBRATED_THRESHOLD if threshold is None else float(threshold)
    self.checkpoint: dict[str, Any] = {
      'path': loaded.path,
      'step': loaded.step,
      'sha256': weights_sha256(loaded.variables),
      'size': loaded.model.size,
      'image_size': self.image_size,
      'calibration': self.calibration.summary() if self.calibration else None,
    }
    self._program, self._lock = None, threading.Lock()

  @property
  def smallest_face(self) -> float:
    """Larger side of the smallest face's oval that is worth looking for, in pixels."""
    return smallest_useful(self.image_size, self.margin)

  def compile(self) -> None:
    """Compiles the model, once; otherwise the first recovery does."""
    with self._lock:
      if self._program is not None:
        return
      shape = (self.batch_size, self.image_size, self.image_size, 3)
      images = jax.ShapeDtypeStruct(shape, np.uint8)
      seed = jax.ShapeDtypeStruct((), np.uint32)
      predict = programs.jit(functools.partial(_predict, self._model, self.draws))
      # On accelerators products would be rounded, and kernels chosen by the clock. The mesh says
      # that other devices have no part in it, so that how many there are changes no result.
      with jax.set_mesh(self._mesh()), jax.default_matmul_precision('highest'):
        lowered = predict.lower(self._variables, images, seed)
      gpu = jax.default_backend() == 'gpu'
      self._program = lowered.compile({'xla_gpu_deterministic_ops': True} if gpu else None)

  def _mesh(self) -> jax.sharding.Mesh:
    """Where the variables are: the mesh that they were loaded for, else their only device."""
    where = jax.tree.leaves(self._variables)[0].sharding
    if isinstance(where, jax.sharding.NamedSharding):
      return where.mesh
    return jax.sharding.Mesh(list(where.device_set), ('data',))

  def recover(self, images: Sequence[np.ndarray] | np.ndarray, *, seed: int = 0) -> list[Recovered]:
    """Recovers crops of faces.

    Args:
      images: any number of (H, W, 3) uint8 crops, also of different sizes. The model sees squares:
        a crop that is none is continued at its shorter sides.
      seed: of the masking keys, 0 to 2^32 - 1; every image gets the same ones.

    Returns:
      One result for each, which does not depend on the others.

    Raises:
      InputError: an image of another shape or type, a seed out of range, or a batch that does not
        fit into the device's memory.
    """
    for number, image in enumerate(images):
      _check_image(number, image)
    results = []
    for start in range(0, len(images), self.batch_size):
      given = images[start : start + self.batch_size]
      batch = [_made_square(image) for image in given]
      predictions = self.predict([self.shrink(image) for image in batch], seed=seed)
      recovered = map(self.enlarge, batch, predictions)
      results += [_cut_like(r, image) for r, image in zip(recovered, given, strict=True)]
    return results

  def shrink(self, image: np.ndarray) -> np.ndarray:
    """A crop (H, W, 3) uint8 at the model's size."""
    return resize(image, self.image_size)

  def predict(self, images: Sequence[np.ndarray], *, seed: int = 0) -> list[Prediction]:
    """What the model says of at most `batch_size` images of its own size."""
    check_seed(seed)
    self.compile()
    batch = np.zeros((self.batch_size, self.image_size, self.image_size, 3), np.uint8)
    batch[: len(images)] = images
    try:
      out = jax.device_get(self._program(self._variables, batch, np.uint32(seed)))
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      raise InputError(
        f'{self.batch_size} faces at once do not fit into memory; choose a smaller batch size.'
      ) from error
    return [
      self._prediction(batch[i], {k: v[i] for k, v in out.items()}) for i in range(len(images))
    ]

  def enlarge(self, image: np.ndarray, prediction: Prediction) -> Recovered:
    """What was recovered from a crop (H, W, 3) uint8, at its own resolution."""
    model, p = self._model, prediction
    weight = p.composite_mask if model.composite else None
    restore = functools.partial(to_photograph, image, p.seen)
    inside = p.mask.sum()
    return Recovered(
      source=restore(p.source, residual=where_source_is_residual(model, p.source_mask)),
      target=restore(p.target, residual=model.target_residual, weight=weight),
      mask=mask_to_photograph(p.mask, image),
      score=p.score,
      false_alarm_rate=p.false_alarm_rate,
      swapped=p.swapped,
      spread=mask_to_photograph(p.spread, image) * 255,
      instability=float((p.spread * p.mask).sum() / max(inside, 1e-6) * 255)
      if self.draws > 1
      else None,
    )

  def _prediction(self, image: np.ndarray, out: dict[str, np.ndarray]) -> Prediction:
    score = float(out.pop('score'))
    return Prediction(
      **out,
      seen=image.astype(np.float32) / 255,
      score=score,
      false_alarm_rate=self.calibration and self.calibration.false_alarm_rate(score),
      swapped=score >= self.threshold,
    )


def _check_image(number: int, image: Any) -> None:
  if not isinstance(image, np.ndarray):
    raise InputError(f'Image {number} is a {type(image).__name__}; give a NumPy array.')
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
    raise InputError(
      f'Image {number} is of type {image.dtype} and shape {image.shape}; give uint8 of '
      '(height, width, 3).'
    )


def _made_square(image: np.ndarray) -> np.ndarray:
  return cut(image, middle_square(image), max(image.shape))


def _cut_like(recovered: Recovered, image: np.ndarray) -> Recovered:
  """What was recovered from a picture made square, where the picture is."""
  height, width = image.shape[:2]
  square = middle_square(image)
  inner = np.s_[-square.top : height - square.top, -square.left : width - square.left]
  arrays = {
    field.name: value[inner]
    for field in dataclasses.fields(recovered)
    if isinstance(value := getattr(recovered, field.name), np.ndarray)
  }
  return dataclasses.replace(recovered, **arrays)


def _predict(model, draws, variables, images, seed):
  """ISM and SIRM once, the TIRM for each masking key.

  The program applies the model once for each key, and the compiler finds that ISM and SIRM, which
  do not depend on it, are the same computation. It takes less time and memory than `vmap`.
  """
  forged = images.astype(jnp.float32) / 255

  def draw(key):
    outputs = model.apply(variables, forged, train=False, rngs={'masking': key})
    score = jax.nn.softmax(outputs.class_logits)[:, 1]
    shared = {
      'source': outputs.source,
      'mask': outputs.mask,
      'composite_mask': outputs.composite_mask,
      'source_mask': outputs.source_mask,
      'score': score,
    }
    return shared, outputs.target_raw

  drawn = [draw(key) for key in jax.random.split(jax.random.key(seed), draws)]
  shared, targets = drawn[0][0], jnp.stack([target for _, target in drawn])  # (draws, B, h, w, 3)
  spread = targets.std(0, ddof=1) if draws > 1 else jnp.zeros_like(targets[0])
  if model.composite:  # Where the photograph is kept nothing varies.
    spread = spread * shared['composite_mask']
  return {**shared, 'target': targets.mean(0), 'spread': spread.mean(-1, keepdims=True)}


def check_seed(seed: int) -> None:
  """Raises an InputError for a seed that is no whole number or out of range."""
  valid = _whole(seed) and 0 <= seed <= _LARGEST_SEED
  _check('seed', seed, valid, f'a whole number, 0 to {_LARGEST_SEED}')


def _whole(value: Any) -> bool:
  return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _within(value: Any, low: float, high: float) -> bool:
  return isinstance(value, (int, float, np.number)) and low <= value <= high


def _load_quietly(checkpoint: str) -> LoadedModel:
  """Without Orbax's warnings that a checkpoint is only read, which is meant."""
  before = logging.get_verbosity()
  logging.set_verbosity(min(before, logging.ERROR))
  try:
    return load_model(checkpoint)
  finally:
    logging.set_verbosity(before)


def _check(name: str, value: Any, valid: bool, allowed: str) -> None:
  if not valid:
    raise InputError(f'{name} is {value}; it must be {allowed}.')


def load(
  checkpoint: str = PRETRAINED,
  *,
  batch_size: int = 8,
  draws: int = 4,
  threshold: float | None = None,
  false_alarms: float = 0.05,
) -> Recoverer:
  """Makes a checkpoint ready; the first recovery, or `compile`, compiles it.

  Args:
    checkpoint: whatever `checkpointing.load_model` reads; by default the model of the package.
    batch_size: crops computed together.
    draws: masking keys for each crop; their mean is the target, their spread its stability.
    threshold: score from which a face counts as swapped; None takes it from the calibration, 0.5
      where there is none.
    false_alarms: share of pristine evaluation photographs that may reach the threshold.

  Raises:
    InputError: there is no such checkpoint, or a setting is out of range.
  """
  return Recoverer(
    _load_quietly(checkpoint),
    batch_size=batch_size,
    draws=draws,
    threshold=threshold,
    false_alarms=false_alarms,
  )
