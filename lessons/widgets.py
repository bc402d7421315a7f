"""What the explorers share: controls above a picture, and errors that become a sentence below them."""

from __future__ import annotations

import html
import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import ipywidgets as w
from IPython.display import HTML

from lessons.style import Picture

DPI = 80
SLIDER = {"style": {"description_width": "initial"}, "continuous_update": False}
"""Settings of a slider that shows all of its name, and draws when it is let go of."""


def headless() -> bool:
    """Say whether nobody is there to move a slider: `kit.notebook` sets KIT_HEADLESS."""
    return bool(os.environ.get("KIT_HEADLESS"))


def hide_code() -> HTML | None:
    """Return a box to tick that hides the code of the notebook, for a class; headless nothing, as no one is there."""
    if headless():
        return None
    return HTML(
        '<label><input type="checkbox" class="kit-hide-code"> hide the code</label><style>'
        ".jp-Notebook:has(.kit-hide-code:checked) .jp-CodeCell .jp-Cell-inputWrapper{display:none}</style>"
    )


def figure_explorer(figure: Callable[..., Picture], **controls: w.ValueWidget) -> Explorer | Picture:
    """Return `figure(NAME=value, …)` under `controls` NAME=widget, drawn anew whenever one of them moves.

    Pictures drawn before are shown again, so `figure` has to be a pure function. Headless, the figure as the controls
    stand comes in the explorer's place.
    """
    if headless():
        return figure(**{name: control.value for name, control in controls.items()})
    picture = picture_box()
    explorer = Explorer(list(controls.values()), [picture])
    drawn = lru_cache(128)(lambda **values: figure(**values).png(DPI))

    def show(**values: object) -> None:
        picture.value = explorer.still = drawn(**values)

    w.interactive_output(explorer.guarded(show), controls)
    return explorer


def picture_box(width: str = "100%") -> w.Image:
    """Return the widget that a PNG is shown in, `width` wide at the most."""
    return w.Image(format="png", layout=w.Layout(max_width=width, object_fit="contain"))


class Explorer(w.VBox):
    """Controls, and under them a line that says what is going on and what `content` holds.

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

    def guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Return `callback` as an observer or a click handler that says what went wrong; it gets keywords only."""

        def safe(*_: object, **values: object) -> None:
            try:
                self.say("")
                callback(**values)
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
        bundle = super()._repr_mimebundle_(**kwargs)
        data, *metadata = bundle if isinstance(bundle, tuple) else (bundle,)
        if data and self.still:
            data = {**data, "image/png": b64encode(self.still).decode()}
        return (data, *metadata) if metadata else data
