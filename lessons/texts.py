"""Lesson 9: what each exit says of a text, gradients by layer, and the box to type a text in."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import ipywidgets as w
import numpy as np
import pandas as pd
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from kit import exits
from kit.data.tokens import UNKNOWN
from kit.measure.probes import gradient_profile, stages
from lessons import widgets
from lessons.method_looks import label_lines, looks
from lessons.style import Picture, marked_lines, panels, percent, styled, whole_numbers

RIGHT, WRONG = "#00735c", "#b00020"


def references(data) -> dict[str, float]:
    """Return the test accuracy of two that know no order of words: the most frequent class, and a bag of words.

    The second is scikit-learn's logistic regression on the logarithms of how often each word stands in a text; it
    reads as many words of a text as the nets do.
    """
    from sklearn.linear_model import LogisticRegression

    (x, y), (test, truth) = ((_counts(part.images, len(data.words)), part.labels) for part in (data.train, data.test))
    bag = LogisticRegression(max_iter=300).fit(x, y).score(test, truth)
    return {"most frequent class": float((truth == y.mode().values).double().mean()), "bag of words": float(bag)}


def _counts(tokens: Tensor, num_words: int) -> Tensor:
    found = torch.zeros(len(tokens), num_words).scatter_add_(1, tokens.long(), torch.ones(tokens.shape))
    return found[:, 1:].log1p()  # without the padding


def layer_gradients(net, x: Tensor, y: Tensor) -> pd.DataFrame:
    """Return step, depth, metric, value: the gradient norm of each layer of a kit net for one batch, all its weights.

    Layer 1 is the word vectors. A classifier at the end, which only some methods have there, is left out.
    """
    rows = gradient_profile(net, x, y)
    rows = rows[~rows["layer"].str.contains("classifier")]
    place = {name: depth for depth, name in enumerate(stages(net), 1)}
    depth = rows["layer"].str.extract(r"(blocks\.\d+\.body\.\d+)")[0].map(place)
    norms = rows["value"].pow(2).groupby(depth).sum().pow(0.5)
    return pd.DataFrame({"step": 0, "depth": norms.index, "metric": "gradient", "value": norms.to_numpy()})


@styled
def shares_by_exit(rows: pd.DataFrame, by: str, lines: Mapping[str, float] | None = None) -> Picture:
    """Draw a share of every exit against its depth: a panel for each value of `by`, a line per method.

    `rows` has the columns block, value, method and `by`; `lines` are shares by name, drawn level in every panel.
    """
    figure, axes = panels(rows[by].nunique(), height=4.6, sharey=True)
    for panel, (name, own) in zip(axes, rows.groupby(by, sort=False), strict=True):
        marked_lines(panel, own, "block", named=False)
        for dash, (line, value) in zip((":", "--"), (lines or {}).items(), strict=False):
            panel.axhline(value, color="0.45", ls=dash, lw=1.5, zorder=0)
            if panel is axes[0]:
                panel.annotate(line, (1, value), (0, 3), va="bottom", ha="left", color="0.35", fontsize="small",
                               textcoords="offset points")  # fmt: skip
        panel.set(title=name, xlabel="exit (1: word vectors)", ylabel="share of the texts")
        whole_numbers(panel.xaxis)
        percent(panel.yaxis, decimals=0)
    axes[0].set_ylim(0)
    label_lines(axes[-1], looks(rows["method"]))
    return figure


def told(net, data, tokens: Tensor, rule: exits.Rule) -> pd.DataFrame:
    """Return what a net says of texts `tokens` (B, T), a row each: words, exit, answers, sure and weighty.

    `exit` is the one it leaves at by `rule`, from 1; `answers` are the classes that the exits name, `sure` their
    probabilities, and `weighty` the word without which the answer would be least probable at that exit.
    """
    rows = []
    for row in tokens:
        length = max(1, int((row != 0).sum()))
        row = row[:length]
        without = row.repeat(length, 1)
        without.fill_diagonal_(UNKNOWN)
        logits = torch.stack(net.predict(torch.cat([row[None], without]).to(net.device))).cpu()
        left, shares = int(exits.leaving(rule, logits[:, :1])), logits.softmax(2)
        sure, answers = shares[:, 0].max(1)
        weighty = data.words[row[shares[left, 1:, answers[left]].argmin()]]
        names = [data.classes[k] for k in answers]
        rows.append((" ".join(data.words[k] for k in row), left + 1, names, sure.tolist(), weighty))
    return pd.DataFrame(rows, columns=["words", "exit", "answers", "sure", "weighty"])


@styled
def sentences(rows: pd.DataFrame, truth: Sequence[str]) -> Picture:
    """Draw texts, a row each: what they are, and what each exit says and how sure it is; where a text leaves is framed.

    `rows` are those of `told`, `truth` their classes.
    """
    num_exits = len(rows["sure"].iloc[0])
    figure = Picture(figsize=(9.6, 0.63 * len(rows) + 0.4))
    panel = figure.add_axes((0.005, 0, 0.99, 1), xlim=(0, 1), ylim=(len(rows), -0.6))
    panel.axis("off")
    wide = 0.52 / num_exits
    for k in range(num_exits):
        panel.text(0.48 + (k + 0.5) * wide, -0.3, f"exit {k + 1}", ha="center", va="center", fontweight="bold")
    for y, (row, true) in enumerate(zip(rows.itertuples(), truth, strict=True)):
        shown = textwrap.shorten(row.words, 108, placeholder=" …")
        panel.text(0, y + 0.36, textwrap.fill(shown, 60), va="center", fontsize=9.5, linespacing=1.0)
        panel.text(0, y + 0.84, f"{true}; counts most: {row.weighty}", va="center", fontsize=9.5, color="0.4")
        for k, (answer, sure) in enumerate(zip(row.answers, row.sure, strict=True)):
            seen = k < row.exit
            box = Rectangle((0.483 + k * wide, y + 0.06), wide - 0.006, 0.88, fc="#0173b2", alpha=0.6 * sure * seen)
            panel.add_patch(box)
            if k + 1 == row.exit:
                panel.add_patch(Rectangle(box.xy, wide - 0.006, 0.88, fill=False, ec="black", lw=2.5))
            mark = " ✓" if answer == true else ""
            ink = (RIGHT if answer == true else WRONG) if seen else "0.7"
            panel.text(box.xy[0] + wide / 2, y + 0.5, f"{answer}\n{sure:.0%}{mark}", ha="center", va="center",
                       color=ink, fontsize=9.5)  # fmt: skip
    said = [f"'{textwrap.shorten(r.words, 60)}' is {t}, leaves at exit {r.exit} as {r.answers[r.exit - 1]}, "
            f"{r.sure[r.exit - 1]:.0%} sure" for r, t in zip(rows.itertuples(), truth, strict=True)]  # fmt: skip
    figure.about = "what each exit says of texts: " + "; ".join(said)
    return figure


@styled
def answers_to(net, data, text: str, threshold: float) -> Picture:
    """Draw how probable each exit holds each class for a text, a panel per exit, and where the text would leave.

    It leaves at the first exit that is sure enough: whose largest probability is at least `threshold`. The words above
    are those that the net reads; one that it does not know is a question mark.
    """
    tokens = data.encode([text])
    shares = [logits[0].softmax(0).cpu().numpy() for logits in net.predict(tokens.to(net.device))]
    left = next((k for k, own in enumerate(shares) if own.max() >= threshold), len(shares) - 1)
    figure = Picture(figsize=(9.6, 4.4))  # laid out by hand: drawn at each letter that is typed
    axes = figure.subplots(1, len(shares), sharex=True, sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.16, right=0.965, bottom=0.1, top=0.79, wspace=0.08)
    for k, (panel, own) in enumerate(zip(axes, shares, strict=True)):
        best = int(own.argmax())
        colours = np.where(np.arange(len(own)) == best, "#de8f05" if k == left else "#0173b2", "0.75")
        panel.barh(range(len(own)), own, color=colours)
        panel.set_title(f"exit {k + 1}{': leaves' if k == left else ''}\n{data.classes[best]}, {own[best]:.0%}")
        panel.title.set(fontsize="small", fontweight="bold" if k == left else "normal")
        panel.set(xlim=(0, 1), yticks=range(len(own)), yticklabels=data.classes)
        panel.set_xticks([0, 0.5], ["0", "50 %"], fontsize="small")
    axes[0].invert_yaxis()
    read = " ".join(data.words[number] for number in tokens[0])
    figure.suptitle("read as: " + textwrap.shorten(read, 80, placeholder=" …"), fontsize="small", y=0.97)
    return figure


def sentence_box(net, data, text: str, threshold: float = 0.8) -> widgets.Explorer | Picture:
    """Return the box to type a text in, with `text` to begin with, and each exit's answer under it: `answers_to`.

    Headless, the answers to `text` in its place.
    """
    return widgets.figure_explorer(
        lambda text, threshold: answers_to(net, data, text, threshold),
        text=w.Text(text, description="your text", layout=w.Layout(width="620px")),
        threshold=w.FloatSlider(threshold, min=0.1, max=1.0, step=0.05, description="sure enough", **widgets.SLIDER),
    )
