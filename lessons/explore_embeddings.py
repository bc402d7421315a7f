"""The embedding explorer: a map of what a block makes of the images, with every image under the pointer."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path

import ipywidgets as w
import matplotlib.image
import numpy as np

from kit.measure import representations
from lessons import embedding_figures, widgets
from lessons.embeddings import Embeddings, read_runs
from lessons.style import Picture, pixels

WIDTH = 440
"""Pixels that the map takes on the page: beside it the card of an image has its place, on a screen of 1280 too."""


def embedding_explorer(runs: Mapping[str, Embeddings] | str | Path):
    """Return the explorer of `runs` (name → embeddings), or of the runs in a folder; headless, the static figure.

    A folder that holds none is said in the explorer; headless it raises what `embeddings.read_runs` raises.
    """
    if widgets.headless():
        name, run = next(iter((runs if isinstance(runs, Mapping) else read_runs(runs)).items()))
        epoch, block = run.recorded_epochs[-1], run.exits[0]
        return draw_map(run, f"{name}: block {block}, epoch {epoch}", epoch, block)
    return EmbeddingExplorer(runs)


class EmbeddingExplorer(widgets.Explorer):
    """Choose run, block, epoch and projection; point at a dot, or step through the images, to see what it is."""

    def __init__(self, runs: Mapping[str, Embeddings] | str | Path):
        wide = {"style": {"description_width": "initial"}}
        given = isinstance(runs, Mapping)
        self.runs, self.quiet, self.cache = {}, False, {}
        self.folder = w.Text("" if given else str(runs), description="folder", layout=w.Layout(width="420px"))
        self.open_button = w.Button(description="Open", icon="folder-open")
        self.run = w.Dropdown(options=[], description="run")
        self.block = w.SelectionSlider(options=["–"], description="block")
        self.epoch = w.SelectionSlider(options=["–"], description="epoch")
        self.projection = w.Dropdown(options=[("PCA", "pca"), ("t-SNE", "tsne")], description="projection")
        self.neighbours = w.BoundedIntText(
            30, min=2, max=10_000, description="neighbours", layout=w.Layout(width="170px")
        )
        self.colour = w.Dropdown(options=list(embedding_figures.COLOURINGS), description="colour")
        self.point = w.IntSlider(0, min=0, max=1, description="image", **wide)
        self.next_button = w.Button(description="Next mistake", icon="forward")
        self.map = w.HTML(layout=w.Layout(width=f"{WIDTH + 10}px"))
        self.card = widgets.picture_box("330px")
        looks = [self.run, self.block, self.epoch, self.projection, self.neighbours, self.colour, self.point]
        opening = [] if given else [self.folder, self.open_button]
        content = w.Box([self.map, self.card], layout=w.Layout(flex_flow="row wrap", align_items="center"))
        super().__init__([*opening, *looks, self.next_button], [content])
        self.run.observe(self.guarded(self.adapt), "value")
        for control in looks[1:]:
            control.observe(self.guarded(self.draw), "value")
        self.open_button.on_click(self.guarded(self.open_folder))
        self.next_button.on_click(self.guarded(self.next_mistake))
        self.guarded(lambda: self.show(runs) if given else self.open_folder())()

    def open_folder(self) -> None:
        """Show the runs of the folder that the text names."""
        self.show(read_runs(self.folder.value.strip() or "."))

    def show(self, runs: Mapping[str, Embeddings]) -> None:
        """Show these runs."""
        if not runs:
            raise ValueError("there are no runs to show")
        self.cache.clear()
        self.runs = dict(runs)
        with self.moving():
            self.run.options = list(self.runs)
            self.run.value = self.run.options[0]
        self.adapt()

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Draw nothing while the explorer moves several of its own controls."""
        self.quiet = True
        try:
            yield
        finally:
            self.quiet = False

    def adapt(self) -> None:
        """Fit the sliders to the chosen run, and draw."""
        if self.quiet:
            return
        run = self.chosen()
        with self.moving():
            for slider, values, usual in (
                (self.block, run.exits, run.exits[0]),
                (self.epoch, run.recorded_epochs, run.recorded_epochs[-1]),
            ):
                value = slider.value if slider.value in values else usual
                slider.options = values
                slider.value = value
            self.point.max = len(run.labels) - 1
            self.thumbnails = [thumbnail(image) for image in run.images]
        self.draw()

    def chosen(self) -> Embeddings:
        """Return the run that the menu names."""
        if self.run.value not in self.runs:
            raise ValueError("no run is open: name the folder of a finished run and press Open")
        return self.runs[self.run.value]

    def draw(self) -> None:
        """Show the map and the image as the controls say; pictures drawn before are shown again."""
        if self.quiet:
            return
        run, epoch, block, i = self.chosen(), self.epoch.value, self.block.value, self.point.value
        name, projection, colour = self.run.value, self.projection.value, self.colour.value
        points = self.projected(run, epoch, block)
        neighbours = self.neighbours.value if projection == "tsne" else None
        if (key := ("map", name, epoch, block, projection, neighbours, colour)) not in self.cache:
            figure = draw_map(run, f"{name}: block {block}, epoch {epoch}", epoch, block, projection, colour, points)
            self.cache[key] = (figure.png(widgets.DPI), spots_on_page(figure, points))
        self.still, spots = self.cache[key]
        if (key := ("card", name, epoch, i)) not in self.cache:
            logits = [run.logits[epoch, number][i] for number in run.exits]
            figure = embedding_figures.exit_probabilities(
                run.images[i], logits, int(run.labels[i]), run.classes, bool(run.noisy[i])
            )
            self.cache[key] = figure.png(widgets.DPI)
        self.map.value = hover_map(self.still, spots, self.cards(run, epoch), i)
        self.card.value = self.cache[key]

    def projected(self, run: Embeddings, epoch: int, block: int) -> np.ndarray:
        """Return the map's points (N, 2), computed once for each choice."""
        method, neighbours = self.projection.value, self.neighbours.value
        key = (self.run.value, epoch, block, method, neighbours if method == "tsne" else None)
        if key not in self.cache:
            z = run.features[epoch, block]
            if method == "tsne":
                with self.busy("computing t-SNE: this takes a few seconds the first time …"):
                    self.cache[key] = representations.project(z, method, neighbours)
            else:
                self.cache[key] = representations.project(z, method)
        return self.cache[key]

    def cards(self, run: Embeddings, epoch: int) -> list[tuple[str, str, str]]:
        """Return, for every image, its picture, its label, and what each exit answers."""
        answers = np.stack([run.logits[epoch, number].argmax(1) for number in run.exits], axis=1)
        labels = [
            run.classes[label] + (" (corrupted)" if bad else "")
            for label, bad in zip(run.labels, run.noisy, strict=True)
        ]
        said = [" ".join(run.classes[answer] for answer in row) for row in answers]
        return list(zip(self.thumbnails, labels, said, strict=True))

    def next_mistake(self) -> None:
        """Go on to the next image that the chosen block gets wrong."""
        run = self.chosen()
        wrong = np.flatnonzero(run.logits[self.epoch.value, self.block.value].argmax(1) != run.labels)
        if not len(wrong):
            raise ValueError(f"block {self.block.value} makes no mistake on these {len(run.labels)} images")
        later = wrong[wrong > self.point.value]
        self.point.value = int(later[0] if len(later) else wrong[0])


def draw_map(
    run: Embeddings,
    title: str,
    epoch: int,
    block: int,
    projection: str = "pca",
    colour: str = "class",
    points: np.ndarray | None = None,
) -> Picture:
    """Draw the map of one block at one epoch; `points` (N, 2) are those of its projection, where they are known."""
    if points is None:
        points = representations.project(run.features[epoch, block], projection)
    predictions = run.logits[epoch, block].argmax(1)
    title = f"{title}: {(predictions == run.labels).mean():.0%} right"
    return embedding_figures.embedding_map(
        points, run.labels, run.classes, predictions, run.noisy, colour, projection, title
    )


def spots_on_page(figure: Picture, points: np.ndarray) -> np.ndarray:
    """Return where `points` (N, 2) of the first axes are in `figure`, in pixels of the page from the top left."""
    scale = WIDTH / figure.bbox.width
    return (figure.axes[0].transData.transform(points) - (0, figure.bbox.height)) * (scale, -scale)


def hover_map(picture: bytes, spots: np.ndarray, cards: list[tuple[str, str, str]], marked: int) -> str:
    """Return HTML: a map, a ring around the marked point, and a card that appears over the point under the pointer.

    It takes no JavaScript, only CSS. `spots` are the points' pixels.
    """
    height = round(WIDTH * embedding_figures.MAP[1] / embedding_figures.MAP[0])
    dots = "".join(_dot(x, y, *card) for (x, y), card in zip(spots, cards, strict=True))
    x, y = spots[marked]
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="11" fill="none" stroke="black" stroke-width="3"/>'
    style = (
        ".kit-card{visibility:hidden;pointer-events:none} .kit-dot:hover .kit-card{visibility:visible}"
        ".kit-dot:hover circle{stroke:black;stroke-width:2} .kit-dot text{font:13px sans-serif;fill:black}"
    )
    return (
        f'<div style="position:relative;width:{WIDTH}px;height:{height}px">'
        f'<img style="width:100%;height:100%" src="data:image/png;base64,{b64encode(picture).decode()}">'
        f'<svg viewBox="0 0 {WIDTH} {height}" style="position:absolute;inset:0;overflow:visible">'
        f"<style>{style}</style>{ring}{dots}</svg></div>"
    )


def _dot(x: float, y: float, image: str, label: str, said: str) -> str:
    wide = max(150, 74 + 7 * max(len(label) + 6, len(said)))
    left, top = min(x + 12, WIDTH - wide), max(y - 76, 0)
    return (
        f'<g class="kit-dot"><circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="transparent" pointer-events="all"/>'
        f'<g class="kit-card" transform="translate({left:.0f} {top:.0f})">'
        f'<rect width="{wide}" height="68" rx="5" fill="white" stroke="black"/>'
        f'<image href="{image}" x="4" y="4" width="60" height="60" style="image-rendering:pixelated"/>'
        f'<text x="72" y="22">label {escape(label)}</text><text x="72" y="42">exits answer</text>'
        f'<text x="72" y="60">{escape(said)}</text></g></g>'
    )


def thumbnail(image: np.ndarray) -> str:
    """Return an image (C, H, W) in [0, 1] as a PNG in a data address."""
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels(image), cmap="gray_r", vmin=0, vmax=1, format="png")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
