"""What the explorers share: controls above a picture, and errors that become a sentence below it."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ipywidgets as w
from matplotlib.figure import Figure

DPI = 80


def headless() -> bool:
    """Say whether nobody is there to move a slider: `kit.notebook` sets KIT_HEADLESS."""
    return bool(os.environ.get("KIT_HEADLESS"))


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """Return `figure` as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


class Explorer(w.VBox):
    """Controls, and under them what `content` holds and a line that says what is going on.

    Callbacks made with `guarded` never raise: what goes wrong is said in the line, and every control stays alive.
    Where JavaScript is absent, the picture `still` stands for the explorer.
    """

    def __init__(self, controls: Sequence[w.Widget], content: Sequence[w.Widget]):
        self.controls = list(controls)
        self.bar = w.FloatProgress(0, min=0, max=1, layout=w.Layout(width="220px", visibility="hidden"))
        self.message = w.HTML()
        self.still = b""
        row = w.Box(self.controls, layout=w.Layout(flex_flow="row wrap", align_items="center"))
        super().__init__([row, w.HBox([self.bar, self.message]), *content])

    def guarded(self, callback: Callable[[], None]) -> Callable[..., None]:
        """Return `callback` as an observer or a click handler that says what went wrong."""

        def safe(*_: object) -> None:
            try:
                self.say("")
                callback()
            except Exception as error:  # whatever it is: a student gets a sentence, and may go on
                kind = "" if isinstance(error, ValueError | FileNotFoundError) else f"{type(error).__name__}: "
                self.say(f"{kind}{error}", wrong=True)

        return safe

    def say(self, text: str, wrong: bool = False) -> None:
        """Put a line under the controls."""
        colour, sign = ("#b00020", "⚠ ") if wrong else ("inherit", "")
        self.message.value = text and f'<span style="color:{colour}">{sign}{html.escape(text)}</span>'

    @contextmanager
    def busy(self, text: str) -> Iterator[w.FloatProgress]:
        """Say that something takes a while; give the progress bar, 0 to 1; controls rest until it is over."""
        self.bar.value, self.bar.layout.visibility = 0, "visible"
        self.say(text)
        before = [control.disabled for control in self.controls]
        for control in self.controls:
            control.disabled = True
        try:
            yield self.bar
            self.say("")
        finally:
            for control, disabled in zip(self.controls, before, strict=True):
                control.disabled = disabled
            self.bar.layout.visibility = "hidden"

    def _repr_mimebundle_(self, **kwargs: object) -> object:
        """Send the still picture along, for pages without JavaScript."""
        from base64 import b64encode

        bundle = super()._repr_mimebundle_(**kwargs)
        data, *metadata = bundle if isinstance(bundle, tuple) else (bundle,)
        if data and self.still:
            data = {**data, "image/png": b64encode(self.still).decode()}
        return (data, *metadata) if metadata else data


class PictureExplorer(Explorer):
    """An explorer of one picture: `figure`, drawn anew when one of `redrawing` (None: any of the controls) moves."""

    def __init__(self, controls: Sequence[w.Widget], redrawing: Sequence[w.Widget] | None = None):
        self.picture = w.Image(format="png", layout=w.Layout(max_width="100%", object_fit="contain"))
        super().__init__(controls, [self.picture])
        for control in self.controls if redrawing is None else redrawing:
            control.observe(self.guarded(self.draw), "value")

    def figure(self) -> Figure:
        """Return the figure as the controls stand."""
        raise NotImplementedError

    def draw(self) -> None:
        """Show the figure as the controls stand."""
        self.picture.value = self.still = png(self.figure())
