"""Exercises check themselves: a right answer gets a tick, a wrong one a hint that does not give it away."""

import re
from pathlib import Path

import nbformat
import pytest

from lessons import check
from lessons.exercises import EXERCISES, hint

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"
ANSWERS = {  # a right one, and a wrong one
    "01.1": (18, 25), "01.2": (1.0, 0.4), "01.3": ((0.1, 0.25), (0.25, 0.1)),
    "02.1": ("BP", "greedy"), "02.2": (44.9, 16), "02.3": (1, 3),
    "03.1": ((0.16, 0.7), (0.7, 0.16)), "03.2": (500, 2500), "03.3": (0.01, 0.2),
    "04.1": (0.0, 0.03), "04.2": (1, 2), "04.3": (-0.02, 0.5),
    "05.1": ((0.2, 0.5), (0.5, 0.2)), "05.2": ((0.32, 0.51), (0.51, 0.32)), "05.3": (0.2, 1.0),
    "06.1": ((0.2, 0.3), (0.3, 0.2)), "06.2": ("encoders", "decoders"), "06.3": (1.1, 5),
    "07.1": (0.078, 0.13), "07.2": ((0.85, 0.94), (0.94, 0.85)), "07.3": ((0.2, 0.5), (0.5, 0.2)),
    "08.1": (1, 2), "08.2": (2.0, 1.2), "08.3": (0.917, 0.73),
    "09.1": (0.0, -0.1), "09.2": (3e-7, 0.02), "09.3": ((0.2, 0.3), (0.3, 0.2)),
    "embeddings.1": (0.9, 0.2), "embeddings.2": ((0.1, 0.9), (0.9, 0.1)), "embeddings.3": ("PCA", "tsne"),
    "10.1": ((0.8, 0.95), (0.95, 0.8)), "10.2": (320, 32),
}  # fmt: skip


@pytest.mark.parametrize("key", EXERCISES)
def test_right_and_wrong_answers(key, capsys):
    right, wrong = ANSWERS[key]
    check(key, right)
    assert capsys.readouterr().out == f"✓ {key}: right\n"
    check(key, wrong)
    said = capsys.readouterr().out
    assert said.startswith(f"{key}: ") and "✓" not in said and len(said) > 20
    numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", hint(key, wrong))
    assert isinstance(right, tuple) or key == "02.3" or str(right) not in numbers, (
        "a hint does not give the answer away"
    )


def test_an_answer_that_is_none_is_no_answer():
    assert hint("01.1", None) == "no answer yet. Asked for is a number of layers"
    assert hint("01.1", "deep") == "'deep' cannot be read as an answer. Asked for is a number of layers"
    assert hint("01.3", 0.3).startswith("0.3 cannot be read as an answer. Asked for is a pair")
    assert hint("01.2", float("nan")) is not None
    with pytest.raises(ValueError, match="unknown exercise '1.1': did you mean"):
        hint("1.1", 3)


def test_every_exercise_has_its_cell_and_its_solution():
    def asked(folder):
        sources = [c.source for path in sorted(folder.glob("*.ipynb")) for c in nbformat.read(path, 4).cells]
        return set(re.findall(r'check\("([\w.]+)"', "\n".join(sources)))

    assert asked(NOTEBOOKS) == asked(NOTEBOOKS / "solutions") == set(EXERCISES)
