"""Write docs/images/page.png: the page as a recorded minute shows it (`make picture`).

It records the running stack, opens the recording in Debian's Chromium, and takes its picture.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = Path(__file__).parent / "images" / "page.png"
MAX_BYTES = 300_000
_SIZE = {"width": 1440, "height": 900}


def draw(recording: Path, target: Path) -> None:
    """Take the picture of a recording. SystemExit says what is missing."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium here: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("no Playwright here: `make page-setup`")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=_SIZE, color_scheme="light")
        page.goto(recording.resolve().as_uri())
        page.get_by_text("recorded").wait_for()
        page.locator(".box[data-box=scorer]").click()
        page.wait_for_timeout(12_000)
        target.parent.mkdir(exist_ok=True)
        page.screenshot(path=target)
        browser.close()
    if (size := target.stat().st_size) > MAX_BYTES:
        sys.exit(f"{target} has {size:,} bytes: at most {MAX_BYTES:,} are kept here")


def main() -> None:
    """Record the running stack, or take a recording, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recording", type=Path, help="as `whiteboard record` writes it")
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    if given.recording:
        draw(given.recording, TARGET)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recording.html"
        command = ["record", "--seconds", str(given.seconds), "--file", str(file)]
        subprocess.run([sys.executable, "-m", "services.cli.main", *command], check=True)
        draw(file, TARGET)


if __name__ == "__main__":
    main()
