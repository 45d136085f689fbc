"""absl's parser of command lines, whose errors are one sentence."""

import pathlib
import sys

from absl import flags


def parse_flags(argv: list[str]) -> list[str]:
  """For `app.run(main, flags_parser=parse_flags)`; also where a configuration raised the error."""
  for argument, following in zip(argv[1:], [*argv[2:], ''], strict=True):
    name, given, value = argument.partition('=')
    value = value if given else following
    path = pathlib.Path(value.partition(':')[0])
    if name.lstrip('-') == 'config' and not path.is_file():
      known = ', '.join(sorted({p.stem for p in path.parent.glob('*.py')} - {'__init__', 'common'}))
      sys.exit(f'Error: there is no configuration {path}; {path.parent} holds: {known or "none"}.')
  try:
    return flags.FLAGS(argv)
  except AttributeError as error:
    sys.exit(f'Error: --config.FIELD names no field of the configuration: {error}.')
  except (flags.Error, ValueError, TypeError) as error:
    # An error of a configuration arrives wrapped in its traceback, as text.
    last = [line for line in str(error).splitlines() if line.strip()][-1].strip()
    sys.exit(f'Error: {last.removeprefix("dfrec_jax.errors.InputError: ")}')
