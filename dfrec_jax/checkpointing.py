"""Checkpoints: state and data iterator as one unit, and models read back from them.

A workdir holds `config.json` and `checkpoints/STEP/{state,data,metrics}`. Orbax writes beside and
renames, so that whatever is listed is complete, and writes in the background.
"""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any
import zipfile

from etils import epath
from flax import linen as nn
from flax import traverse_util
import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from dfrec_jax import calibration, sharding, trees
from dfrec_jax.errors import InputError
from dfrec_jax.model_file import is_model_file, read_model_file
from dfrec_jax.models import layers, remat
from dfrec_jax.models.dfrec import DFREC, LATER_SETTINGS, check_fields
from dfrec_jax.shipped import PRETRAINED
from dfrec_jax.train_state import TrainState

CHECKPOINTS = 'checkpoints'
CONFIG = 'config.json'
EVALUATION = 'eval'
# Of a converted checkpoint: PyTorch's tensors that no network here reads, for the way back.
UNUSED = 'unused.npz'
# Settings of the model that a run may be resumed with others of: they change no parameter.
_CHANGEABLE = (
  'dtype',
  'remat',
  'attention',
  'dropout',
  'drop_connect',
)
# The same, unless the networks have learned where the forged image is replaced.
_COMPOSITING = ('composite_dilation', 'composite_softness')


def build_model(config: ml_collections.ConfigDict | Mapping[str, Any]) -> DFREC:
  """The model of a `config.model` section.

  Raises:
    InputError: its settings do not fit each other.
  """
  settings = {**LATER_SETTINGS, **config}
  check_fields(settings)
  dtype = layers.compute_dtype('config.model.dtype', settings['dtype'])
  model = DFREC(**{**settings, 'dtype': dtype, 'remat': remat.policy_name(settings['remat'])})
  model.check_settings()
  return model


def init_variables(model: DFREC, key: jax.Array) -> Any:
  """The model's variables, boxed with logical axis names, for a batch of one."""
  params, masking = jax.random.split(key)
  image = jnp.zeros((1, model.image_size, model.image_size, 3))
  return model.init({'params': params, 'masking': masking}, image, train=False)


def differing_settings(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
  """Names of the `config.model` settings for which the same weights would mean something else."""
  stored = {**LATER_SETTINGS, **stored}
  learned = stored['refinement'] or stored['grey_surroundings']
  changeable = _CHANGEABLE + (() if learned else _COMPOSITING)
  return [name for name in given if name not in changeable and stored.get(name) != given[name]]


class Checkpointer:
  """Saves and restores a run in its workdir.

  Args:
    workdir: the run's.
    config: the run's.
    later_settings: of `config.model`, what older runs were trained with that do not name it.

  Raises:
    InputError: the workdir holds a run of another model, or cannot be written.
  """

  def __init__(
    self,
    workdir: str,
    config: ml_collections.ConfigDict,
    later_settings: Mapping[str, Any] = LATER_SETTINGS,
  ):
    self._workdir = epath.Path(workdir)
    self._config = config
    self._config_is_written = False
    self._check_same_model(later_settings)
    settings = config.checkpoint
    sign = -1 if settings.best_metric_is_low else 1
    quality = lambda metrics: sign * metrics[settings.best_metric]
    keep = preservation_policy
    options = ocp.CheckpointManagerOptions(
      best_fn=quality,
      cleanup_tmp_directories=True,
      # `best_fn` with `max_to_keep` deletes the latest step, from which a run resumes.
      preservation_policy=keep.AnyPreservationPolicy(
        [
          keep.LatestN(settings.keep_latest),
          keep.BestN(
            get_metric_fn=quality, n=settings.keep_best, keep_checkpoints_without_metrics=False
          ),
        ]
      ),
    )
    folder = _absolute(self._workdir / CHECKPOINTS)
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise InputError(f'The workdir {workdir} cannot be written: {error.strerror}.') from error
    self._manager = ocp.CheckpointManager(folder, options=options)

  def _check_same_model(self, later_settings: Mapping[str, Any]) -> None:
    path = self._workdir / CONFIG
    if path.exists():
      stored = {**later_settings, **_read_config(path)['model']}
      given = json.loads(self._config.model.to_json())
      differing = differing_settings(stored, given)
      if differing:
        was = ', '.join(f'{name}={stored.get(name)}' for name in differing)
        asked = ', '.join(f'{name}={given[name]}' for name in differing)
        raise InputError(
          f'{self._workdir} holds a model with {was}, and the configuration asks for {asked}: '
          'choose another --workdir, or the configuration that it was trained with.'
        )

  @property
  def latest_step(self) -> int | None:
    """The latest complete step; None in a fresh workdir."""
    return self._manager.latest_step()

  def save(
    self,
    state: TrainState,
    iterator: grain.DatasetIterator,
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Starts to save; returns once the values are copied off the devices.

    A step is saved once: the metrics of a later call for the same step are not recorded.
    """
    step = int(state.step)
    if step == self.latest_step:
      return
    if not self._config_is_written and jax.process_index() == 0:
      # Also of a resumed run: some settings may have changed.
      write_json(self._workdir / CONFIG, json.loads(self._config.to_json_best_effort()))
    self._config_is_written = True
    usable = metrics and metrics.get(self._config.checkpoint.best_metric) is not None
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(iterator.get_state())
      ),
      metrics=dict(metrics) if usable else None,
    )

  def restore(self, abstract: TrainState, iterator: grain.DatasetIterator) -> TrainState:
    """The latest state, where `abstract` of `plan_state` says; the iterator is set to its place."""
    args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
    try:
      restored = self._manager.restore(self.latest_step, args=args)
    except (ValueError, KeyError, FileNotFoundError) as error:
      raise InputError(
        f'Step {self.latest_step} of {self._workdir} cannot be resumed with this configuration; '
        'it is damaged, or the optimizer is another: choose another --workdir. '
        f'({type(error).__name__}: {str(error).splitlines()[0]})'
      ) from error
    iterator.set_state(restored['data'])
    return restored['state']

  def close(self) -> None:
    """Waits until what was begun is written."""
    self._manager.wait_until_finished()
    self._manager.close()


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A trained model: `model.apply(variables, ...)`, with the configuration it was trained with.

  Attributes:
    variables: the collections `params` and `batch_stats`.
    unused: PyTorch's tensors that no network here reads, nested; empty unless it was converted.
    calibration: scores of these weights in their evaluation (`calibration.make_record`); None
      where they were not evaluated.
    licence: what the file says of the use of its weights; only single files say it.
  """

  model: DFREC
  variables: Any
  config: ml_collections.ConfigDict
  step: int
  path: str
  unused: Any = dataclasses.field(default_factory=dict)
  calibration: Mapping[str, Any] | None = None
  licence: str = ''


def load_model(path: str, *, mesh: jax.sharding.Mesh | None = None) -> LoadedModel:
  """Reads a model, with its averaged (EMA) weights.

  Args:
    path: a workdir (its latest step), `WORKDIR@best`, one step, `WORKDIR/checkpoints/STEP`, a
      converted checkpoint, a single file, `.safetensors`, or `pretrained`, the model of the
      package (a workdir of that name is `./pretrained`).
    mesh: where the variables will live; the first device where None is given.

  Raises:
    InputError: there is no checkpoint.
  """
  if path == PRETRAINED or is_model_file(path):
    return _load_model_file(path, mesh)
  workdir, step = _resolve(path)
  config = ml_collections.ConfigDict(_read_config(workdir / CONFIG))
  model = build_model(config.model)
  options = ocp.CheckpointManagerOptions(read_only=True)
  with ocp.CheckpointManager(_absolute(workdir / CHECKPOINTS), options=options) as manager:
    wanted = {'ema': _abstract_variables(model, mesh)}
    args = ocp.args.Composite(
      state=ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
        partial_restore=True,
      )
    )
    try:
      restored = manager.restore(step, args=args)
      unused = _read_unused(workdir)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
      raise InputError(
        f'Step {step} of {workdir} is damaged; evaluate another step or train again. '
        f'({type(error).__name__}: {str(error).splitlines()[0]})'
      ) from error
  variables = restored['state']['ema']
  record = calibration.read_record(workdir / EVALUATION / calibration.FILE)
  record = record if calibration.of_same_weights(record, variables) else None
  return LoadedModel(model, variables, config, step, str(workdir), unused, record)


def _abstract_variables(model: DFREC, mesh: jax.sharding.Mesh | None) -> Any:
  """Shapes, types and shardings of the model's variables."""
  boxed = jax.eval_shape(lambda key: init_variables(model, key), jax.random.key(0))
  abstract = nn.unbox(boxed)
  if mesh is not None:
    shardings = sharding.parameter_shardings(boxed, mesh)
  else:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: device, abstract)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
  )


def _load_model_file(path: str, mesh: jax.sharding.Mesh | None) -> LoadedModel:
  file = read_model_file(path)
  variables, config = file.variables, ml_collections.ConfigDict(file.config)
  model = build_model(config.model)
  unused = variables.pop('unused', {})
  wanted = _abstract_variables(model, mesh)
  if differing := trees.differences(variables, wanted):
    raise InputError(f'{path} does not hold the model that it configures: {"; ".join(differing)}.')
  placed = jax.tree.map(lambda x, w: jax.device_put(x, w.sharding), variables, wanted)
  record = file.calibration
  record = record if calibration.of_same_weights(record, variables) else None
  return LoadedModel(model, placed, config, file.step, str(path), unused, record, file.licence)


def save_converted(
  path: str, config: Mapping[str, Any], variables: Mapping[str, Any], step: int = 0
) -> None:
  """Writes a folder that `load_model` reads, complete or not at all.

  Args:
    path: the folder, which must not exist.
    config: the whole configuration, as JSON has it.
    variables: NumPy arrays in the collections `params`, `batch_stats` and `unused`.
    step: what to call the checkpoint.

  Raises:
    InputError: there is such a path already.
  """
  folder = _absolute(epath.Path(path))
  if folder.exists():
    raise InputError(f'{path} exists already; name another folder.')
  beside = folder.parent / f'.{folder.name}.part'
  if beside.exists():
    beside.rmtree()
  try:
    beside.mkdir(parents=True)
    write_json(beside / CONFIG, config)
    if variables.get('unused'):
      flat = traverse_util.flatten_dict(variables['unused'], sep='/')
      with (beside / UNUSED).open('wb') as file:
        np.savez(file, **flat)
    ema = {name: variables[name] for name in ('params', 'batch_stats')}
    with ocp.CheckpointManager(beside / CHECKPOINTS) as manager:
      manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave({'ema': ema})))
      manager.wait_until_finished()
    beside.rename(folder)
  except Exception as error:
    if beside.exists():
      beside.rmtree()
    raise InputError(f'{path} cannot be written: {error}') from error


def _read_unused(workdir: epath.Path) -> dict[str, Any]:
  path = workdir / UNUSED
  if not path.exists():
    return {}
  with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
    return traverse_util.unflatten_dict(dict(arrays), sep='/')


def _resolve(path: str) -> tuple[epath.Path, int]:
  """The workdir and step that a checkpoint's path names."""
  best = str(path).endswith('@best')
  folder = epath.Path(str(path).removesuffix('@best'))
  step = None
  if folder.name.isdigit() and folder.parent.name == CHECKPOINTS:
    folder, step = folder.parent.parent, int(folder.name)
  steps = _steps(folder)
  if not steps or not (folder / CONFIG).exists():
    raise InputError(
      f'{path} holds no checkpoint: give the workdir of a training run, or '
      f'WORKDIR/{CHECKPOINTS}/STEP.'
    )
  if best:
    step = _best_step(folder)
  if step is not None and step not in steps:
    raise InputError(f'{folder} holds no step {step}; it holds {", ".join(map(str, steps))}.')
  return folder, max(steps) if step is None else step


def _steps(workdir: epath.Path) -> list[int]:
  folder = workdir / CHECKPOINTS
  if not folder.is_dir():
    return []
  options = ocp.CheckpointManagerOptions(read_only=True)
  with ocp.CheckpointManager(_absolute(folder), options=options) as manager:
    return sorted(manager.all_steps())


def _best_step(workdir: epath.Path) -> int:
  settings = _read_config(workdir / CONFIG)['checkpoint']
  sign = -1 if settings['best_metric_is_low'] else 1
  values = {}
  for step in _steps(workdir):
    path = workdir / CHECKPOINTS / str(step) / 'metrics' / 'metrics'
    if path.exists():
      metrics = json.loads(path.read_text())
      if settings['best_metric'] in metrics:
        values[step] = sign * metrics[settings['best_metric']]
  if not values:
    raise InputError(f'No checkpoint of {workdir} was evaluated, so that none is the best.')
  return max(values, key=values.get)


def _absolute(path: epath.Path) -> epath.Path:
  return path if '://' in str(path) else path.expanduser().resolve()


def _read_config(path: epath.Path) -> dict[str, Any]:
  try:
    config = json.loads(path.read_text())
  except ValueError as error:
    raise InputError(f'{path} is not the configuration of a run: {error}.') from error
  if not isinstance(config, dict) or not {'model', 'checkpoint'} <= set(config):
    raise InputError(
      f'{path} is not the configuration of a run: it lacks the section model or checkpoint.'
    )
  return config


def write_json(path: epath.Path, content: Any) -> None:
  """Writes JSON beside its place and renames it, so that no reader sees half of it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.parent / f'.{path.name}.part'
  beside.write_text(json.dumps(content, indent=2) + '\n')
  beside.replace(path)
