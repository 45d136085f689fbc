"""Many processes as one program: who they are, and how they find each other."""

from collections.abc import Mapping
import os

from absl import flags, logging
import jax

from dfrec_jax.errors import InputError

# Flag -> environment variable that says the same.
VARIABLES = {
  'coordinator_address': 'JAX_COORDINATOR_ADDRESS',
  'num_processes': 'JAX_NUM_PROCESSES',
  'process_id': 'JAX_PROCESS_ID',
}
_FLAGS = ', '.join(f'--{name}' for name in VARIABLES)


def define_flags() -> None:
  """Defines what `start_from_flags` reads."""
  flags.DEFINE_bool(
    'distributed', False, 'Join the other hosts of a TPU pod or cluster, as JAX detects them.'
  )
  flags.DEFINE_string(
    'coordinator_address', None, 'HOST:PORT of process 0, where processes are not detected.'
  )
  flags.DEFINE_integer('num_processes', None, 'How many processes there are.')
  flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0.')


def start_from_flags() -> None:
  """`start` with what the command line and the environment say."""
  given = {name: flags.FLAGS[name].value for name in VARIABLES}
  start(detect=flags.FLAGS.distributed, **given)


def start(
  *,
  detect: bool = False,
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  environment: Mapping[str, str] = os.environ,
) -> None:
  """Joins the other processes, if there are any; before anything else asks JAX for devices.

  Whatever is given expressly, as an argument or in the environment, is used as it is. With `detect`
  JAX fills in the rest: on Cloud TPU, under SLURM, Open MPI's `mpirun` and, where the package
  `kubernetes` is installed, in the pods of a Kubernetes job. If nothing is given and `detect` is
  false, this process is alone.

  Args:
    detect: find out from the machine what is not given.
    coordinator_address: HOST:PORT of process 0, which all can reach.
    num_processes: how many there are.
    process_id: which this is, from 0.
    environment: where `VARIABLES` are looked up.

  Raises:
    InputError: what is given does not suffice or is wrong, or nobody was found.
  """
  given = {
    'coordinator_address': coordinator_address,
    'num_processes': num_processes,
    'process_id': process_id,
  }
  for name, variable in VARIABLES.items():
    if given[name] is None and environment.get(variable):
      given[name] = _value(name, variable, environment[variable])
  missing = [name for name, value in given.items() if value is None]
  if len(missing) == len(given) and not detect:
    return
  if missing and not detect:
    raise InputError(
      f'Of several processes each needs {_FLAGS}; {", ".join(missing)} is missing: give it, or '
      '--distributed to have it detected.'
    )
  if not missing:
    _check(**given)
  _join(given, detect=bool(missing))


def _value(name: str, variable: str, text: str) -> str | int:
  if name == 'coordinator_address':
    return text
  try:
    return int(text)
  except ValueError as error:
    raise InputError(f'{variable} is {text!r}; it must be a whole number.') from error


def _check(coordinator_address: str, num_processes: int, process_id: int) -> None:
  host, _, port = coordinator_address.rpartition(':')
  if not host or not port.isdigit():
    raise InputError(
      f'--coordinator_address is {coordinator_address!r}; it is HOST:PORT of process 0, such as '
      '10.0.0.2:8476.'
    )
  if not 0 <= process_id < num_processes:
    raise InputError(
      f'--process_id is {process_id} of --num_processes {num_processes}; they are numbered from 0 '
      f'to {num_processes - 1}.'
    )


def _join(given: Mapping[str, str | int | None], *, detect: bool) -> None:
  method = None if detect else 'deactivate'
  try:
    jax.distributed.initialize(**given, cluster_detection_method=method)
  except (ValueError, TypeError, KeyError, OSError) as error:
    raise InputError(
      f'--distributed found no cluster here (Cloud TPU, SLURM, Open MPI, Kubernetes): give '
      f'{_FLAGS}. ({_first_line(error)})'
    ) from error
  except RuntimeError as error:
    where = given['coordinator_address'] or 'the coordinator that was detected'
    raise InputError(
      f'The processes did not find each other at {where}: start all of them within five minutes, '
      f'with that address open between them. ({_first_line(error)})'
    ) from error
  logging.info('Process %d of %d.', jax.process_index(), jax.process_count())


def _first_line(error: Exception) -> str:
  return f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'
