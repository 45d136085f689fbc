"""The demo, as its command runs it, in a browser; and what it needs."""

import contextlib
import importlib
import json
import pathlib
import re
import select
import socket
import subprocess
import sys
import urllib.request

from flax import linen as nn
import jax
import numpy as np
from PIL import Image
import pytest

from configs import common
from dfrec_jax import checkpointing, demo, model_file
from dfrec_jax.errors import InputError
from tests import browsing

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATIENCE = 240  # seconds, ample for a slow machine
# Gradio says this of its own components.
HARMLESS = {'Method not implemented.'}


def save_checkpoint(path):
  """A tiny model that has learnt nothing and takes every face for swapped."""
  config = common.base()
  config.model.update(size='test', image_size=32)
  model = checkpointing.build_model(config.model)
  init = lambda key: checkpointing.init_variables(model, key)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: rng.uniform(0.1, 0.3, leaf.shape).astype(leaf.dtype),
    nn.unbox(jax.eval_shape(init, jax.random.key(0))),
  )
  variables['params']['ism']['class_head']['bias'] = np.array([-1e4, 1e4], np.float32)
  settings = json.loads(config.to_json_best_effort())
  model_file.write_model_file(str(path), variables, settings, step=0)


def free_port():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


@contextlib.contextmanager
def serving(*arguments):
  """Runs the command; gives the address that it says."""
  command = [sys.executable, '-m', 'dfrec_jax.demo', f'--port={free_port()}', *arguments]
  process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
  try:
    assert select.select([process.stdout], [], [], PATIENCE)[0], 'It did not start.'
    said = process.stdout.readline()
    yield re.search(r'http://127\.0\.0\.1:\d+/', said)[0]
  finally:
    process.terminate()
    process.wait(PATIENCE)


def shown_share(page):
  """The share of the picture as dropped, left of the slider's line, in per cent."""
  style = page.locator('#slider img').nth(1).get_attribute('style')
  return float(re.search(r'clip-path: inset\(.* ([\d.]+)%\)', style)[1])


@pytest.mark.slow
def test_in_a_browser(tmp_path):
  pytest.importorskip('gradio')
  save_checkpoint(tmp_path / 'tiny.safetensors')
  picture = tmp_path / "fa ce ${1+1} {{x}} <b>'.jpg"
  Image.effect_noise((48, 48), 40).convert('RGB').save(picture)
  (tmp_path / 'bad.jpg').write_text('no picture')
  with (
    browsing.open_window() as window,
    serving(f'--checkpoint={tmp_path / "tiny.safetensors"}', '--already-cropped') as address,
  ):
    page = window.page
    page.goto(address)
    page.set_input_files('input[type=file]', [picture, tmp_path / 'bad.jpg'], timeout=60_000)
    page.wait_for_selector('#report iframe', timeout=PATIENCE * 1000)
    report = page.locator('#report iframe').element_handle().content_frame()
    report.wait_for_selector('.slider input')
    # Gradio leaves out some signs of the names; the folders that it puts them into do not show.
    names = [name.strip() for name in report.locator('.summary .name').all_inner_texts()]
    assert names[0].endswith("b'.jpg") and '/' not in names[0] and names[1] == 'bad.jpg'
    assert report.locator('.summary .tag').all_inner_texts() == [
      'Scores as swapped',
      'Not examined',
    ]
    assert 'bad.jpg' in report.locator('.failures').inner_text()
    assert browsing.unloaded_images(report) == []
    report.locator('.slider input').fill('20')
    assert report.locator('.stage').first.evaluate('x => x.style.getPropertyValue("--at")') == '20%'

    before = shown_share(page)
    handle = page.locator('#slider .slider-wrap')
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    middle = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 12, middle[1], steps=4)
    page.mouse.up()
    page.wait_for_timeout(300)
    assert before == 50 and shown_share(page) < before

    assert set(window.complaints) <= HARMLESS
    assert {re.match(r'(blob:)?(http://[^/]+/)', url)[2] for url in window.requests} == {address}
    policy = urllib.request.urlopen(address).headers['content-security-policy']
    assert policy.startswith("default-src 'self'")


def test_without_gradio_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  with pytest.raises(InputError, match=r"pip install -e '\.\[demo\]'"):
    demo.import_gradio()


def test_gradio_tells_the_outside_nothing(monkeypatch):
  pytest.importorskip('gradio')
  monkeypatch.delenv('GRADIO_ANALYTICS_ENABLED', raising=False)
  demo.import_gradio()
  assert not importlib.import_module('gradio.analytics').analytics_enabled()


def test_folders_of_dropped_files_are_not_shown():
  folder = '/tmp/x "y"/ä'
  results = {
    'inputs': [
      {'input': f'{folder}/a.jpg', 'error': f'The image {folder}/a.jpg is empty.'},
      {'input': '/tmp/other/b.jpg', 'error': None},
    ]
  }
  assert demo._as_dropped(results) == {
    'inputs': [
      {'input': 'a.jpg', 'error': 'The image a.jpg is empty.'},
      {'input': 'b.jpg', 'error': None},
    ]
  }
