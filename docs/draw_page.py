"""Write docs/recording.html and docs/images/page.png: a recorded minute of the page, and a picture.

`make picture` records the running stack, which should have traffic, opens the recording in
Debian's Chromium, and takes its picture.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
RECORDING, PICTURE = FOLDER / "recording.html", FOLDER / "images" / "page.png"
MAX_BYTES = {RECORDING: 600_000, PICTURE: 300_000}
_WIDTH, _HEIGHT = 1440, 900


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
        page = browser.new_page(color_scheme="light")
        page.set_viewport_size({"width": _WIDTH, "height": _HEIGHT})
        page.goto(recording.resolve().as_uri())
        page.get_by_text("recorded").wait_for()
        page.locator(".box[data-box=scorer]").click()
        page.wait_for_timeout(12_000)
        target.parent.mkdir(exist_ok=True)
        page.screenshot(path=target)
        browser.close()


def main() -> None:
    """Record the running stack and take the picture, or only the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="take the recording that is there")
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    if not given.again:
        command = ["record", "--seconds", str(given.seconds), "--file", str(RECORDING)]
        subprocess.run([sys.executable, "-m", "services.cli.main", *command], check=True)
    draw(RECORDING, PICTURE)
    for file, most in MAX_BYTES.items():
        if (size := file.stat().st_size) > most:
            sys.exit(f"{file} has {size:,} bytes: at most {most:,} are kept here")


if __name__ == "__main__":
    main()
