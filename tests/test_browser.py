"""A student's morning: JupyterLab in a real browser, run all cells, move a slider, press a button.

Screenshots are kept in runs/browser/. Skipped, with the reason, where there is no Chromium.
"""

import io
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from kit.parameters import read_parameters

ROOT = Path(__file__).parent.parent
SHOTS = ROOT / "runs/browser"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MINUTE = 60_000
ONE_PICTURE = [  # notebook, slider and key; Home: all leave at the first exit, however little the net has learnt
    ("03_label_noise", "epoch", "ArrowLeft"),
    ("04_dynamic_expansion", "epoch", "ArrowLeft"),
    ("05_adaptive_inference", "threshold", "Home"),
    ("07_delayed_gradients", "modules", "ArrowLeft"),
]

FIGURES = {  # the figures of every lesson, its explorer's left out
    "01_gradient_flow": 7,
    "02_per_block_accuracy": 2,
    "03_label_noise": 8,
    "04_dynamic_expansion": 5,
    "05_adaptive_inference": 3,
    "06_local_losses_and_context": 5,
    "07_delayed_gradients": 7,
    "08_pipeline_throughput": 4,
    "09_text": 5,
    "explore_embeddings": 3,
}
SEEN = """image => {
    const [a, b] = [image.getBoundingClientRect(), image.closest('.jp-Notebook').getBoundingClientRect()];
    return {width: a.width, height: a.height, natural: image.naturalWidth, alt: image.alt,
            room: b.height, right: b.right - a.right};
}"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
    )
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if not found:
        pytest.skip("no Chromium on this machine: apt-get install chromium, as root")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a free port of this machine, with quick copies of the notebooks; gives its address by notebook."""
    folder = tmp_path_factory.mktemp("lab")
    for name in FIGURES:
        quick_copy(ROOT / f"notebooks/{name}.ipynb", folder / f"{name}.ipynb", folder / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {k: v for k, v in os.environ.items() if k != "KIT_HEADLESS"} | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    news = folder / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    log = (folder / "lab.log").open("w")
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, folder / "lab.log")
        yield lambda name: f"http://127.0.0.1:{port}/lab/workspaces/{name}/tree/{name}.ipynb?token={token}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def quick_copy(notebook, copy, output):
    """Write `notebook` with `quick = True` and its own output folder."""
    read, declared = nbformat.read(notebook, 4), read_parameters(notebook)
    assert {"quick", "output"} <= set(declared)
    place = next(i for i, cell in enumerate(read.cells) if "parameters" in cell.metadata.get("tags", []))
    small = "; width = 0.0625" if "width" in declared and declared["width"].default == 0.25 else ""
    small += "; epochs, grow_epochs = 1, 2" if "grow_epochs" in declared else ""
    read.cells.insert(place + 1, nbformat.v4.new_code_cell(f"quick, output = True, {str(output)!r}{small}"))
    nbformat.write(read, copy)


def wait_for(address, server, log, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.poll() is None, f"JupyterLab ended:\n{log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise TimeoutError(f"JupyterLab does not answer:\n{log.read_text()[-2000:]}")


@pytest.fixture
def page(browser, request):
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    opened.set_default_timeout(MINUTE)
    yield opened
    SHOTS.mkdir(parents=True, exist_ok=True)
    opened.screenshot(path=SHOTS / f"{request.node.name}_end.png")
    opened.close()


def run_all(page, address):
    """Open the notebook, run every cell, and wait for the last one's widget."""
    page.goto(address)
    page.locator(".jp-Notebook").wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator('.jp-Notebook-ExecutionIndicator:not([data-status="idle"])').wait_for()
    idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    idle.wait_for(timeout=10 * MINUTE)
    page.wait_for_timeout(500)
    explorer = page.locator(".jp-OutputArea-output .widget-box, .jp-OutputArea-output .widget-vbox").last
    if explorer.count():
        explorer.scroll_into_view_if_needed()
    page.wait_for_timeout(500)


def no_errors(page):
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    assert page.get_by_text("Traceback (most recent call last)").count() == 0
    assert page.get_by_text("⚠").count() == 0


def pixels(locator):
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def changed(locator, before, page, seconds=30, least=0.002):
    """Wait until more than `least` of the figure's pixels look different; return how many."""
    share, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        now = pixels(locator)
        share = 1.0 if now.shape != before.shape else float((abs(now - before).sum(2) > 30).mean())
        if share > least:
            page.wait_for_timeout(300)
            return share
        page.wait_for_timeout(200)
    raise AssertionError(f"the figure did not change: {share:.2%} of its pixels")


def look_at_figures(page, name):
    """Look at every figure as JupyterLab shows it: there, in words too, whole on the screen, and not shrunk."""
    assert page.get_by_text("<Figure size").count() == page.get_by_text("<Picture size").count() == 0
    figures = page.locator(".jp-OutputArea-output.jp-RenderedHTML img")
    assert figures.count() == FIGURES[name]
    (SHOTS / name).mkdir(parents=True, exist_ok=True)
    for k in range(figures.count()):
        figures.nth(k).scroll_into_view_if_needed()
        figures.nth(k).screenshot(path=SHOTS / name / f"figure_{k + 1}.png")
        seen = figures.nth(k).evaluate(SEEN)
        assert len(seen["alt"]) > 60, (name, k, seen)
        assert 0 < seen["height"] <= seen["room"] and seen["right"] >= 0, (name, k, seen)
        assert seen["width"] >= 0.8 * seen["natural"] > 0, (name, k, seen)
    page.locator(".jp-OutputArea-output").last.scroll_into_view_if_needed()


def slider(page, description):
    """Return the handle of the ipywidgets slider of that name."""
    return page.locator(".widget-slider", has_text=description).last.locator(".noUi-handle")


def shot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def test_gradient_flow(page, lab):
    run_all(page, lab("01_gradient_flow"))
    figure = page.locator(".widget-image").last
    shot(page, "gradient_explorer_1_opened")
    before = pixels(figure)
    slider(page, "layers").press("ArrowRight")
    changed(figure, before, page)
    shot(page, "gradient_explorer_2_slider")
    before = pixels(figure)
    page.get_by_role("button", name="Train").last.click()
    changed(figure, before, page)
    page.get_by_text("after 20 training steps").or_(
        page.locator(".widget-button:not([disabled])", has_text="Train")
    ).last.wait_for()
    shot(page, "gradient_explorer_3_trained")
    no_errors(page)
    look_at_figures(page, "01_gradient_flow")
    code = page.locator(".jp-CodeCell .jp-Cell-inputWrapper").last
    assert code.is_visible()
    page.locator(".kit-hide-code").check()
    assert not code.is_visible() and figure.is_visible()


def test_explore_embeddings(page, lab):
    run_all(page, lab("explore_embeddings"))
    figure = page.locator(".widget-html", has=page.locator("svg")).last
    shot(page, "embedding_explorer_1_opened")
    before = pixels(figure)
    slider(page, "block").press("ArrowRight")
    changed(figure, before, page)
    shot(page, "embedding_explorer_2_slider")
    before = pixels(figure)
    page.get_by_role("button", name="Next mistake").last.click()
    changed(figure, before, page, least=0.0005)  # a ring has moved
    card = page.locator(".widget-image").last
    beside, here = card.bounding_box(), figure.bounding_box()
    assert beside["x"] >= here["x"] + here["width"] and beside["y"] < here["y"] + here["height"], "beside the map"
    shot(page, "embedding_explorer_3_button")
    before = pixels(figure)
    figure.locator(".kit-dot circle").nth(5).hover(force=True)
    changed(figure, before, page)
    shot(page, "embedding_explorer_4_hover")
    no_errors(page)
    look_at_figures(page, "explore_embeddings")


def test_text(page, lab):
    run_all(page, lab("09_text"))
    figure, box = page.locator(".widget-image").last, page.locator(".widget-text input").last
    shot(page, "sentence_box_1_opened")
    before = pixels(figure)
    box.fill("")
    box.press_sequentially("close the socket", delay=50)
    changed(figure, before, page)
    shot(page, "sentence_box_2_typed")
    before = pixels(figure)
    slider(page, "sure enough").press("Home")  # all is sure enough: the text leaves at the first exit
    changed(figure, before, page, least=0.0005)
    shot(page, "sentence_box_3_slider")
    no_errors(page)
    look_at_figures(page, "09_text")


@pytest.mark.parametrize(("name", "control", "key"), ONE_PICTURE)
def test_explorers_of_one_picture(page, lab, name, control, key):
    run_all(page, lab(name))
    figure = page.locator(".widget-image").last
    shot(page, f"{name}_1_opened")
    before = pixels(figure)
    slider(page, control).press(key)
    changed(figure, before, page)
    shot(page, f"{name}_2_slider")
    no_errors(page)
    look_at_figures(page, name)


@pytest.mark.parametrize("name", ["02_per_block_accuracy", "06_local_losses_and_context", "08_pipeline_throughput"])
def test_figures_of_the_others(page, lab, name):
    run_all(page, lab(name))
    no_errors(page)
    look_at_figures(page, name)
