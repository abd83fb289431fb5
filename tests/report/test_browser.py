"""The page as a browser lays it out."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable
from html import escape
from pathlib import Path

import pytest

from camtrap_batch.report import ReportData, render

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom"),
)
_WIDTHS = (390, 768, 1200)
_MEASURE = """<script>
document.querySelectorAll('details').forEach(part => part.open = true);
parent.document.title += ` ${document.documentElement.scrollWidth}/${innerWidth}`;
</script>"""


def test_page_does_not_scroll_sideways(make_data: Callable[..., ReportData], tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(_BROWSERS)} is installed")
    long = "a-name-of-a-file-without-a-space/" * 5
    data = make_data(classes=40, status_examples=[("corrupt", long, long, long)], run_folder=long)
    data = dataclasses.replace(data, job_name=long, versions={long: "1"}, notes={long: 1})
    html = render(data).replace("default-src 'none'", "script-src 'unsafe-inline'")
    page = escape(html.replace("</body>", _MEASURE + "</body>"))
    # in frames, because a window has a least width
    frames = [f'<iframe width="{width}" height="900" srcdoc="{page}"></iframe>' for width in _WIDTHS]
    file = tmp_path / "frames.html"
    file.write_text("<!doctype html><title>widths</title>" + "".join(frames))
    command = [browser, *_OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    (found,) = re.findall(r"<title>widths([^<]*)</title>", dom)
    assert sorted(found.split()) == sorted(f"{width}/{width}" for width in _WIDTHS)
