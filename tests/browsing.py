"""A headless Chromium for tests of pages; they are skipped where there is none."""

from collections.abc import Iterator
import contextlib
import dataclasses
import io
import shutil
from typing import Any

from PIL import Image
import pytest

_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')


@dataclasses.dataclass(frozen=True)
class Window:
  """A page of the browser.

  Attributes:
    page: of playwright.
    complaints: errors and warnings of the console, and exceptions of scripts.
    requests: addresses that the page asked for, `data:` ones left out.
  """

  page: Any
  complaints: list[str]
  requests: list[str]


@contextlib.contextmanager
def open_window(width: int = 1280, height: int = 900) -> Iterator[Window]:
  """A fresh page in a browser of its own."""
  playwright = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed.')
  path = next(filter(None, map(shutil.which, _NAMES)), None)
  if path is None:
    pytest.skip('There is no Chromium.')
  with playwright.sync_playwright() as driver:
    options = ['--no-sandbox', '--disable-gpu']
    browser = driver.chromium.launch(executable_path=path, args=options)
    page = browser.new_page(viewport={'width': width, 'height': height})
    complaints, requests = [], []
    page.on(
      'console',
      lambda said: complaints.append(said.text) if said.type in ('error', 'warning') else None,
    )
    page.on('pageerror', lambda error: complaints.append(str(error)))
    page.on(
      'request',
      lambda asked: None if asked.url.startswith('data:') else requests.append(asked.url),
    )
    yield Window(page, complaints, requests)
    browser.close()


def unloaded_images(frame: Any) -> list[str]:
  """Alternative texts of a page's or frame's images that cannot be shown."""
  return frame.evaluate("""async () => {
    const broken = [];
    for (const image of document.images) {
      image.loading = 'eager';
      await image.decode().catch(() => {});
      if (!image.complete || image.naturalWidth === 0) broken.push(image.alt || image.outerHTML);
    }
    return broken;
  }""")


def shown_colour(locator: Any, across: float) -> tuple[int, int, int]:
  """The colour of an element on the screen, at a share of its width, halfway down."""
  with Image.open(io.BytesIO(locator.screenshot())) as shot:
    return shot.convert('RGB').getpixel((int(across * shot.width), shot.height // 2))
