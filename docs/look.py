"""`python -m docs.look [FOLDER]`: look at the built site in a real browser; keep a picture of every lesson in FOLDER.

Every figure of a lesson's run must be seen on its page, with a text; the search must find a method; nothing that a page
asks of the site may be missing.
"""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from threading import Thread

import nbformat
from playwright.sync_api import Page, sync_playwright

from docs.build import LESSONS, ROOT, SITE

BROWSERS = "chromium", "chromium-browser", "google-chrome"
SOUGHT = "DeInfoReg"
SEEN = "images => images.map(i => ({natural: i.naturalWidth, width: i.getBoundingClientRect().width, alt: i.alt}))"


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def figures(executed: Path) -> int:
    """Count the figures that a lesson's run left: outputs that hold an image."""
    outputs = [o for c in nbformat.read(executed, 4).cells for o in c.get("outputs", ())]
    shown = [o["data"] for o in outputs if "data" in o]
    return sum("image/png" in data or "<img" in data.get("text/html", "") for data in shown)


def look(page: Page, site: str, shots: Path) -> list[str]:
    """Open every page of the site at address `site`; return what is wrong."""
    faults: list[str] = []
    page.on("response", lambda r: r.status >= 400 and r.url.startswith(site) and faults.append(f"{r.status} {r.url}"))
    page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
    for file in sorted(SITE.rglob("*.html")):
        page.goto(f"{site}/{file.relative_to(SITE)}")
        executed = LESSONS / f"{file.stem}.ipynb"
        if file.parent != SITE / "lessons":
            continue
        seen = page.locator(".cell_output img").evaluate_all(SEEN)
        good = [image for image in seen if image["natural"] > 0 and image["width"] > 0 and image["alt"]]
        expected = figures(executed)
        print(f"{file.stem}: {len(good)} figures", flush=True)
        if not len(good) == len(seen) == expected:
            faults.append(f"{file.stem}: {expected} figures ran, {len(seen)} are shown, {len(good)} of them well")
        page.screenshot(path=shots / f"{file.stem}.png", full_page=True)
    lessons = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    faults += [f"{name}: no page" for name in sorted(lessons - {p.stem for p in (SITE / "lessons").glob("*.html")})]
    page.goto(f"{site}/search.html?q={SOUGHT}")
    page.locator("#search-results li a").first.wait_for(timeout=20_000)
    found = page.locator("#search-results li a").count()
    print(f"search for {SOUGHT}: {found} pages")
    page.screenshot(path=shots / "search.png")
    return faults


def main(folder: str = "runs/site") -> int:
    shots = Path(folder)
    shots.mkdir(parents=True, exist_ok=True)
    chromium = next((path for name in BROWSERS if (path := which(name))), None)
    if not chromium:
        print("error: no Chromium on this machine: apt-get install chromium, as root", file=sys.stderr)
        return 2
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(SITE)))
    Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        faults = look(page, f"http://127.0.0.1:{server.server_port}", shots)
        browser.close()
    server.shutdown()
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
