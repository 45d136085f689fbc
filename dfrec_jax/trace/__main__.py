"""Traces faces among known people: python -m dfrec_jax.trace index|query (docs/tracing.md).

python -m dfrec_jax.trace index GALLERY OUT [--encoder-weights=FILE]
python -m dfrec_jax.trace query OUT IMAGE... [--top=5] [--json]
"""

import argparse
import signal
import sys

from dfrec_jax.errors import InputError
from dfrec_jax.recover import command_line
from dfrec_jax.recover.wording import printable
from dfrec_jax.shipped import FACE_ENCODER

_CAUTION = (
  'A similarity is no identification: a list always has a first place, also when the person is '
  'not in the gallery.'
)
_LEGEND = (
  'Similarity: 1 is the same. False matches: how many pairs of different people in the gallery are '
  'at least as similar. Best by chance: how many people who are not in the gallery get a first '
  'place at least as similar. Both are measured on the photographs of the gallery; of recovered '
  'faces chance may do more.'
)
_SHOWN = 20


def index(arguments: argparse.Namespace) -> int:
  from dfrec_jax.trace import embedding, indexing

  shipped = FACE_ENCODER if arguments.encoder == 'mobilefacenet' else ''
  encoder = embedding.FaceEncoder(arguments.encoder, arguments.encoder_weights or shipped)
  stored = indexing.build(
    arguments.gallery,
    arguments.out,
    encoder,
    _framing(arguments),
    index=arguments.index,
    progress=sys.stderr.isatty(),
  )
  sentences = [left['reason'] for left in stored.left_out] + list(stored.warnings)
  for sentence in sentences[:_SHOWN]:
    print(printable(sentence))
  if len(sentences) > _SHOWN:
    print(f'And {len(sentences) - _SHOWN:,} more, in photographs.json of the gallery.')
  figures = stored.non_mates.summary()
  words = (
    f'{arguments.out}: {len(stored.photographs):,} photographs of {len(stored.people):,} people; '
    f'{len(stored.left_out):,} left out.'
  )
  if figures['pairs']:
    words += (
      f' Different people are {figures["mean"]:.3f} similar on average and {figures["largest"]:.3f}'
      f' at most, over {figures["pairs"]:,} pairs.'
    )
  print(printable(words))
  return 0


def query(arguments: argparse.Namespace) -> int:
  from dfrec_jax.trace import gallery as galleries
  from dfrec_jax.trace import querying

  gallery = galleries.Gallery.load(arguments.gallery, encoder_weights=arguments.encoder_weights)
  framing = gallery.framing
  if arguments.already_cropped or arguments.finder or arguments.margin:
    framing = _framing(arguments)
  entries = []
  for entry in querying.query(gallery, arguments.images, framing, arguments.top):
    entries.append(entry)
    if not arguments.json:
      print('\n'.join(printable(line) for line in querying.lines(entry)))
  if arguments.json:
    print(querying.as_json(gallery, framing, arguments.top, entries))
  else:
    print(f'\n{_LEGEND} {_CAUTION}')
  return 0 if any(entry['status'] == 'done' for entry in entries) else 1


def _framing(arguments: argparse.Namespace):
  from dfrec_jax.trace.framing import MARGIN, Framing

  if arguments.already_cropped:
    return Framing(None, arguments.margin or MARGIN)
  return Framing(arguments.finder or 'cascade')


def _margin(text: str) -> float:
  value = float(text)
  if not 1 <= value <= 10:
    raise argparse.ArgumentTypeError(f'{text} is not between 1 and 10')
  return value


def _count(text: str) -> int:
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError(f'{text} is not 1 or more')
  return value


def _add_framing(parser: argparse.ArgumentParser, default: str) -> None:
  parser.add_argument(
    '--finder', choices=['cascade', 'mesh'], help=f'of faces in the photographs; {default}'
  )
  parser.add_argument(
    '--already-cropped', action='store_true', help='the photographs are crops of one face each'
  )
  parser.add_argument(
    '--margin',
    type=_margin,
    help="of such crops: their side in units of the face oval's larger side; 1.45",
  )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m dfrec_jax.trace',
    description='Traces faces among known people.',
    epilog=_CAUTION,
  )
  commands = parser.add_subparsers(dest='command', required=True)
  make = commands.add_parser('index', help='a folder of known people into a gallery')
  make.add_argument('gallery', metavar='GALLERY', help='PERSON/PHOTOGRAPH files, or photographs')
  make.add_argument('out', metavar='OUT', help='folder to write')
  make.add_argument('--encoder', default='mobilefacenet', help='name of a face encoder')
  make.add_argument(
    '--encoder-weights',
    default='',
    metavar='FILE',
    help=f'its weights; of mobilefacenet the small one of the package, {FACE_ENCODER}',
  )
  make.add_argument(
    '--index',
    choices=['auto', 'exact', 'faiss'],
    default='auto',
    help='auto: faiss for more than a million people',
  )
  _add_framing(make, 'cascade')
  search = commands.add_parser('query', help='the nearest people for photographs')
  search.add_argument('gallery', metavar='INDEX', help='what index wrote')
  search.add_argument(
    'images', metavar='IMAGE', nargs='+', help='photographs, folders of them, or patterns'
  )
  search.add_argument('--top', type=_count, default=5, help='how many people; 5')
  search.add_argument('--json', action='store_true', help='machine-readable')
  search.add_argument(
    '--encoder-weights', metavar='FILE', help='where they are now; else where they were'
  )
  _add_framing(search, 'as the gallery')
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs a command; returns its exit status."""
  parser = _parser()
  arguments = parser.parse_args(argv)
  if arguments.margin and not arguments.already_cropped:
    parser.error('--margin is of crops: give --already-cropped too')
  if arguments.finder and arguments.already_cropped:
    parser.error('--already-cropped needs no --finder')
  command_line.use_cache(command_line.CACHE)
  try:
    return {'index': index, 'query': query}[arguments.command](arguments)
  except (InputError, OSError) as error:
    print(f'Error: {printable(str(error))}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    words = '; the same command goes on from here' if arguments.command == 'index' else ''
    print(f'Interrupted{words}.', file=sys.stderr)
    return 130


if __name__ == '__main__':
  # What was embedded is saved when a run is ended.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  sys.exit(main())
