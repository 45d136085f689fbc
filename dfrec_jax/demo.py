"""A page on this machine: drop photographs or videos, see what was recovered, and the report.

  python -m dfrec_jax.demo [--checkpoint=CKPT]

It needs the extra `demo` (Gradio), whose analytics, history and links to the outside are off; the
browser is told to ask nobody but this server. What is dropped is deleted when the demo ends.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import functools
import html
import importlib
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
from typing import Any

from absl import logging
from PIL import Image

from dfrec_jax.checkpointing import write_json
from dfrec_jax.errors import InputError
from dfrec_jax.recover import command_line, wording
from dfrec_jax.recover.outputs import RESULTS
from dfrec_jax.recover.photographs import read_photograph
from dfrec_jax.recover.report import write_report

# What a browser may load: this server's own files, and nothing from elsewhere.
_POLICY = (
  "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; "
  "base-uri 'self'; form-action 'self'"
)
_SHOWN_SIDE = 1600  # of the pictures behind the slider, in pixels
_FONTS = ('system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'Liberation Sans', 'sans-serif')
# Gradio's component for HTML fills in templates; braces and dollars must not look like one.
_NO_TEMPLATE = str.maketrans({sign: f'&#{ord(sign)};' for sign in '${}'})
_WELCOME = """# Recover faces from face swaps

Drop photographs or videos below. They are examined on this machine and sent nowhere.
**Every recovered face is an estimate of a model, never proof of identity.**
Unusual characters of file names are lost on the way; the report tells files apart by SHA-256."""
_CAPTION = (
  'Left of the line as dropped, right of it restored with the recovered target: an estimate.'
)
_NO_PAIR = (
  'In no photograph a swap was found, so there is nothing to compare; the report says more.'
)

_ARCHIVE = 'everything'

# (paths, folder to write) -> what results.json holds
Examine = Callable[[Sequence[str], pathlib.Path], Mapping[str, Any]]


def import_gradio() -> Any:
  """Gradio, with everything that it would tell the outside switched off.

  Raises:
    InputError: it is not installed.
  """
  os.environ.update(
    GRADIO_ANALYTICS_ENABLED='False', HF_HUB_DISABLE_TELEMETRY='1', HF_HUB_OFFLINE='1'
  )
  try:
    return importlib.import_module('gradio')
  except ImportError as error:
    raise InputError(
      "The demo needs Gradio; install the extra: pip install -e '.[demo]'."
    ) from error


def build_page(examine: Examine, folder: pathlib.Path) -> Any:
  """The page, as `gradio.Blocks`.

  Args:
    examine: recovers from files, and writes images, `results.json` and `report.html`.
    folder: for what it writes, a new folder within it for each time that files are dropped.
  """
  gr = import_gradio()

  def show(paths: list[str] | None):
    hidden = gr.update(visible=False)
    if not paths:
      return [], hidden, '', hidden, '', hidden
    out = pathlib.Path(tempfile.mkdtemp(dir=folder))
    try:
      results = examine(paths, out)
    except InputError as error:
      raise gr.Error(str(error), print_exception=False) from error
    pairs = _pairs(results, out)
    files = _write(_as_dropped(results), out)
    choices = [(name, number) for number, (name, *_) in enumerate(pairs)]
    pick = gr.update(choices=choices, value=0 if pairs else None, visible=len(pairs) > 1)
    caption = _CAPTION if pairs else _NO_PAIR
    return (
      pairs,
      pick,
      caption,
      slide(pairs, 0),
      _frame(files[0]),
      gr.update(value=files, visible=True),
    )

  def slide(pairs: Sequence[tuple[str, str, str]], number: int):
    return gr.update(value=pairs[number][1:] if pairs else None, visible=bool(pairs))

  with gr.Blocks(analytics_enabled=False, title='Recover faces from face swaps') as page:
    pairs = gr.State([])
    gr.Markdown(_WELCOME)
    dropped = gr.File(label='Photographs or videos', file_count='multiple', height=180)
    pick = gr.Dropdown(label='Picture', visible=False)
    caption = gr.Markdown()
    slider = gr.ImageSlider(
      show_label=False,
      visible=False,
      interactive=False,
      buttons=['fullscreen'],
      elem_id='slider',
    )
    report = gr.HTML(elem_id='report', padding=False)
    files = gr.File(label='To keep', visible=False, interactive=False, file_count='multiple')
    shown = [pairs, pick, caption, slider, report, files]
    dropped.change(show, dropped, shown, api_visibility='private', concurrency_limit=1)
    pick.input(slide, [pairs, pick], slider, api_visibility='private')
  return page


def _pairs(results: Mapping[str, Any], out: pathlib.Path) -> list[tuple[str, str, str]]:
  """Name, picture as dropped and picture restored of each image in which a swap was found."""
  pairs = []
  for entry in results['inputs']:
    if entry['kind'] == 'image' and 'restored' in entry['files']:
      restored = out / entry['files']['restored']
      places = [restored.with_name(f'{name}-shown.jpg') for name in ('dropped', 'restored')]
      with Image.open(restored) as picture:
        _save_shown(picture, places[1])
      _save_shown(Image.fromarray(read_photograph(entry['input']).pixels), places[0])
      name = wording.printable(pathlib.PurePath(entry['input']).name)
      pairs.append((name, *map(str, places)))
  return pairs


def _save_shown(picture: Image.Image, path: pathlib.Path) -> None:
  picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
  picture.convert('RGB').save(path, quality=92)


def _as_dropped(results: Mapping[str, Any]) -> Mapping[str, Any]:
  """The results with the names of the files alone, not the folders that they were put into."""
  text = json.dumps(results)
  for entry in results['inputs']:
    folder = json.dumps(f'{pathlib.PurePath(entry["input"]).parent}{os.sep}')[1:-1]
    text = text.replace(folder, '')
  return json.loads(text)


def _write(results: Mapping[str, Any], out: pathlib.Path) -> list[str]:
  """Writes the report and `results.json`; returns their paths, and that of an archive of all."""
  write_json(out / RESULTS, results)
  report = write_report(results, out)
  # The report names pictures and videos, which are deleted when the demo ends.
  everything = shutil.make_archive(str(out.with_name(f'{out.name}-{_ARCHIVE}')), 'zip', out)
  return [str(report), str(out / RESULTS), everything]


def _frame(report: str) -> str:
  """The report in a frame that cannot reach the page around it."""
  page = html.escape(pathlib.Path(report).read_text('utf-8')).translate(_NO_TEMPLATE)
  style = 'width: 100%; height: 85vh; border: 1px solid #d8dde3; background: #fff'
  return f'<iframe title="Report" sandbox="allow-scripts" style="{style}" srcdoc="{page}"></iframe>'


class _Policy:
  """Sends the content security policy with every answer (ASGI middleware)."""

  def __init__(self, app: Callable):
    self._app = app

  async def __call__(self, scope, receive, send):
    async def send_with_policy(message):
      if message['type'] == 'http.response.start':
        headers = [*message.get('headers', ()), (b'content-security-policy', _POLICY.encode())]
        message = {**message, 'headers': headers}
      await send(message)

    await self._app(scope, receive, send_with_policy)


def serve(examine: Examine, *, host: str, port: int, open_browser: bool = False) -> None:
  """Serves the page until SIGINT or SIGTERM; then deletes what was dropped and recovered.

  Args:
    examine: recovers from files into a folder.
    host, port: where to listen.
    open_browser: whether to show the page at once.

  Raises:
    InputError: Gradio is not installed, or the port is taken.
  """
  with tempfile.TemporaryDirectory(prefix='dfrec_jax-demo-') as folder:
    os.environ['GRADIO_TEMP_DIR'] = folder
    gr = import_gradio()
    from starlette.middleware import Middleware

    page = build_page(examine, pathlib.Path(folder))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
      _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        quiet=True,
        prevent_thread_lock=True,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        run_history=False,
        footer_links=[],
        theme=gr.themes.Base(font=_FONTS, font_mono=('ui-monospace', 'monospace')),
        app_kwargs={'middleware': [Middleware(_Policy)]},
      )
    except OSError as error:
      raise InputError(f'Port {port} of {host} cannot be used; choose another --port.') from error
    print(f'Open {address} in a browser; Ctrl-C ends it.', flush=True)
    page.block_thread()


def run(arguments: argparse.Namespace) -> None:
  """Does what the command line says.

  Raises:
    InputError: one sentence on what is wrong with the arguments.
  """
  import_gradio()
  # Here, since it takes seconds and a wrong flag should not.
  from dfrec_jax.recover.examine import examine

  loaded = command_line.load(arguments)
  loaded['recoverer'].compile()
  serve(
    functools.partial(examine, **loaded),
    host=arguments.host,
    port=arguments.port,
    open_browser=arguments.open,
  )


def _parser() -> argparse.ArgumentParser:
  parser = command_line.parser('python -m dfrec_jax.demo', __doc__)
  add = parser.add_argument
  add('--host', default='127.0.0.1', help='address to listen on; 127.0.0.1, this machine alone')
  add('--port', type=int, default=7860, help='to listen on; 7860')
  add('--open', action='store_true', help='show the page in a browser at once')
  return parser


def main() -> None:
  arguments = _parser().parse_args()
  logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant.
  try:
    run(arguments)
  except (InputError, OSError) as error:
    sys.exit(f'Error: {error}')
  except KeyboardInterrupt:
    print('Stopped.', file=sys.stderr)
    sys.exit(130)


if __name__ == '__main__':
  main()
