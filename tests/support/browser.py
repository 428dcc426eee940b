"""A real headless browser, if this machine has one: pictures of a page, and what it measures."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 120.0
DESK, PHONE = (1200, 1600), (390, 1600)  # pixels


def browser() -> str:
    """Return the browser's path; skip the test where there is none. MMSR_BROWSER names another."""
    named = os.environ.get("MMSR_BROWSER")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)}")
    return found


def run_browser(*flags: str) -> str:
    """Run the browser once; return what it prints on standard output."""
    common = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    command = [browser(), *common, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return done.stdout


def screenshot(page: Path, picture: Path, size: tuple[int, int], *, dark: bool = False) -> None:
    """Draw the top of a page as a window of that size shows it."""
    scheme = 0 if dark else 1
    run_browser(
        f"--window-size={size[0]},{size[1]}",
        f"--blink-settings=preferredColorScheme={scheme}",
        f"--screenshot={picture}",
        page.as_uri(),
    )


PROBE = """<script>
addEventListener('load', () => {
  const root = document.documentElement, own = document.createElement('pre');
  const small = [...document.querySelectorAll('p, td, th, dd, li')].filter(
    e => e.textContent.trim() && parseFloat(getComputedStyle(e).fontSize) < 12).length;
  own.id = 'probe';
  own.textContent = JSON.stringify({
    wide: root.scrollWidth, window: innerWidth, small: small,
    figures: [...document.querySelectorAll('figure svg')].map(
      e => [e.getBoundingClientRect().width, e.getBBox().height])});
  document.body.append(own);
});
</script>"""


def measured(page: Path, size: tuple[int, int]) -> str:
    """Return as JSON how wide the laid-out page is, what is too small to read, and its figures.

    The page's own policy forbids scripts, so the probe goes into a copy without it.
    """
    text = page.read_text(encoding="utf-8")
    assert "Content-Security-Policy" in text
    begin = text.index('<meta http-equiv="Content-Security-Policy"')
    end = text.index(">", begin) + 1
    copy = page.with_name(f"probed-{page.name}")
    copy.write_text(
        (text[:begin] + text[end:]).replace("</body>", f"{PROBE}</body>"), encoding="utf-8"
    )
    dom = run_browser(f"--window-size={size[0]},{size[1]}", "--dump-dom", copy.as_uri())
    return dom.split('<pre id="probe">')[1].split("</pre>")[0]
