"""Everything that one accelerator is asked, in one call and within a time."""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

from dfrec_jax.benchmark import tables

_LEAST = 20.0  # Seconds, with less of which left nothing more begins.


@dataclasses.dataclass(frozen=True)
class Item:
  """One call of the benchmark, a process of its own.

  Attributes:
    name: of its folder.
    flags: of the call, besides the common ones.
    share: of the time that is left, what it may take.
  """

  name: str
  flags: tuple[str, ...]
  share: float


# The most important first: what the time cuts off is the end.
ITEMS = (
  Item('train', ('--what=train', '--trace', '--noparts'), 0.4),
  Item('recover', ('--what=recover', '--trace', '--noparts'), 0.3),
  # Their whole is among the compiled programs already.
  Item('train_parts', ('--what=train',), 0.4),
  Item('recover_parts', ('--what=recover',), 0.3),
  Item('peer_train', ('--what=train', '--peer=torch'), 0.6),
  Item('peer_recover', ('--what=recover', '--published', '--peer=torch'), 0.95),
)
BATCH = 64
_REMAT = '--config.model.remat'


def run(
  config: str,
  output: str | os.PathLike,
  *,
  budget: float,
  batch: int = BATCH,
  flags: Sequence[str] = (),
  peer_flags: Sequence[str] = (),
  start: Callable[..., Any] = subprocess.run,
) -> list[dict[str, Any]]:
  """Runs the items one after the other, and writes `suite.json` after each.

  `config.model.remat` is `none` unless `flags` say otherwise, since PyTorch's side of a comparison
  keeps all of its activations too.

  Args:
    config: as given to `--config`.
    output: folder; each item has one in it, and a `log.txt`.
    budget: seconds for all of them.
    batch: examples a step.
    flags: of the command line, for every item: `--config.FIELD=VALUE`, `--repeats=N` and so on.
    peer_flags: for those that compare with PyTorch.
    start: starts a process.

  Returns:
    For each item `name`, `status` (`done`, `failed`, `stopped` for want of time, `left out`),
    `seconds` and the `command`.
  """
  folder, end, found = pathlib.Path(output), time.monotonic() + budget, []
  if not any(flag.partition('=')[0] == _REMAT for flag in flags):
    flags = [f'{_REMAT}=none', *flags]
  for item in ITEMS:
    left = end - time.monotonic()
    command = [
      sys.executable, '-m', 'dfrec_jax.benchmark', f'--config={config}', f'--batch={batch}',
      f'--output={folder / item.name}', f'--compilation_cache={folder / "programs"}',
      *item.flags, *flags, *(peer_flags if '--peer=torch' in item.flags else ()),
    ]  # fmt: skip
    begun = time.monotonic()
    status = (
      'left out' if left < _LEAST else _start(start, command, item.share * left, folder, item)
    )
    entry = {'name': item.name, 'status': status, 'seconds': time.monotonic() - begun}
    found.append(entry | {'command': command})
    tables.write_json(folder / 'suite.json', found)
    print(f'{item.name}: {status} after {entry["seconds"]:.0f} s', flush=True)
  return found


def _start(start, command, seconds, folder, item) -> str:
  log = folder / item.name / 'log.txt'
  log.parent.mkdir(parents=True, exist_ok=True)
  # Else JAX takes most of the memory, and PyTorch finds none.
  environment = os.environ | {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
  with log.open('w') as file:
    try:
      done = start(command, stdout=file, stderr=subprocess.STDOUT, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired:
      return 'stopped'
  return 'done' if done.returncode == 0 else 'failed'
