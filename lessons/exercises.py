"""Exercises that check themselves: `check("01.2", answer)` says right, or where to look, and gives nothing away.

Ranges hold over seeds: they are wider than what changes from seed to seed, and narrower than the mistakes they tell
from a right answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from operator import sub

from kit.errors import check_name


@dataclass(frozen=True)
class Exercise:
    """What is asked for, in words; and what is wrong with an answer: a hint, or None for a right one."""

    asks: str
    wrong: Callable[[object], str | None]


def between(asks: str, low: float, high: float, below: str, above: str = "") -> Exercise:
    """A number from `low` to `high`, with a hint for those below and one for those above, if that is another."""

    def wrong(answer: object) -> str | None:
        value = float(answer)
        return below if value < low or not isfinite(value) else (above or below) if value > high else None

    return Exercise(asks, wrong)


def one(asks: str, right: object, hint: str) -> Exercise:
    """One of several things, by name or number; upper and lower case are the same."""
    return Exercise(asks, lambda answer: None if str(answer).strip().lower() == str(right).lower() else hint)


def larger(asks: str, hint: str, by: float = 0.0) -> Exercise:
    """A pair of numbers of which the second is larger, by more than `by`."""
    return Exercise(asks, lambda pair: None if sub(*map(float, pair)) < -by else hint)


EXERCISES = {
    "01.1": between(
        "a number of layers", 16, 20,
        "there the first layer's gradient is still more than a thousandth: look at deeper networks",
        "there it is far less than a thousandth already: the curve falls by about 0.6 a layer, so go back a few",
    ),
    "01.2": between(
        "the alignment, a number", 0.999, 1.001,
        "less than backprop's own: is the method greedy, and num_blocks=1? What is the last block's loss then?",
        "a cosine cannot be more than 1",
    ),
    "01.3": larger(
        "a pair: how often the last exit is right with remembered statistics, and with the batch's own",
        "the batch's own statistics should help: in train() mode no averages are used. Which of the two is which?",
    ),
    "02.1": one(
        "the name of a method", "bp",
        "not that one: whose training does not know of the cuts at all? Compare last exits over num_blocks",
    ),
    "02.2": between(
        "how many times fewer weights the projectors have", 35, 55,
        "count the objectives' parameters of all blocks at both widths: layers between two wide ones shrink twice",
        "that is too many: the last block's classifier and the first layer of a projector shrink only once",
    ),
    "02.3": one(
        "the number of an exit", 1,
        "its answers change: block 2's step changes block 2, and what it hands on. Who comes before?",
    ),
    "03.1": larger(
        "a pair: share of wrong labels that DeInfoReg's last exit learns by heart, symmetric and instance noise",
        "the other way round? Which wrong labels contradict their neighbours less?",
    ),
    "03.2": between(
        "how many validation images somebody would have to label", 300, 600,
        "more: the validation images are the share val_fraction of limit (of the defaults, not of quick)",
        "fewer: only the validation images need clean labels, not those that are trained on",
    ),
    "03.3": between(
        "the difference of the two test accuracies, as a share", -0.04, 0.04,
        "that is more than two seeds differ: are both one layer wide alike, with the same noise and epochs?",
    ),
    "04.1": between(
        "by how much the test accuracy of the last frozen exit changes after the new block has joined", -1e-9, 1e-9,
        "a frozen block's answers do not change at all: take the exit before the new one, at the epoch of joining",
    ),
    "04.2": one(
        "the number of the exits that keep their answers", 1,
        "an exit keeps its answers if nothing before it has changed: which of them lie before the new block?",
    ),
    "04.3": between(
        "the last exit's test accuracy less that of the best exit before it", -1.0, 0.03,
        "accuracies are shares: that is no difference of two of them",
        "that is much: is it the *best* of the exits before, at the last epoch?",
    ),
    "05.1": larger(
        "a pair: share of the FLOPs saved with two blocks, and with four",
        "with more places to leave more is saved: were both chosen on validation, for the last exit's accuracy?",
    ),
    "05.2": larger(
        "a pair: share of the FLOPs that the noisy net saves with the clean net's threshold, and with its own",
        "its own threshold should save more: noise made it less sure, so what is sure enough for it?",
    ),
    "05.3": between(
        "the first exit's share of the last one's measured time, for single images", 0.0, 0.95,
        "a time is not negative",
        "that would save nothing: divide the first of exit_costs(…, 'seconds') by the last",
    ),
    "06.1": larger(
        "a pair: share of the image read behind the middle block without reconstruction, and with it",
        "reconstruction should keep more of the image: weights are (0, 1, 0, 1) without, and None with it",
    ),
    "06.2": one(
        "what adds more weights here: encoders or decoders", "encoders",
        "count again, at the default width, over all blocks: block.context of R1E, and objective.decoder of InfoPro",
    ),
    "06.3": between(
        "training seconds one after another, over those at once", 0.4, 2.5,
        "every block takes as many steps either way: are both of the same epochs? Sum train_seconds",
    ),
    "07.1": between(
        "backprop's accuracy less that of FDG with its best β, both at half the rate", 0.04, 0.115,
        "not that: do both learn at half the rate? Which β of the four answers best, by the mean over seeds?",
    ),
    "07.2": larger(
        "a pair: accuracy of four modules at the best of their rates, and of one module at the best of its",
        "each at the best of its own rates, with β = 1: which of the two waits for no gradient?", by=0.02,
    ),
    "07.3": larger(
        "a pair: module 1's mean cosine in the first 40 steps without warm-up, and with it",
        "weights that move slowly leave a late gradient fresher: with which of the two do they, at first?", by=0.05,
    ),
    "08.1": one(
        "the number of the slower block", 1,
        "weights are not time: which block sees the larger maps?",
    ),
    "08.2": between(
        "how many times slower than the others the slowest may be", 1.9, 2.2,
        "there the decoupled pipeline is still ahead of what 1F1B does with even blocks: make it slower",
        "there it is behind already: compare with 1F1B's speed-up of even blocks, about 8.4",
    ),
    "08.3": between(
        "the speed-up of 1F1B over that of the decoupled pipeline, at 4 ranks with 32 micro-batches", 0.87, 0.96,
        "more than that: with K ranks and m micro-batches, m of m + K - 1 rounds are work",
        "a gap is left: with K ranks and m micro-batches, K - 1 rounds are waiting",
    ),
    "09.1": between(
        "by how much the first exit's accuracy changes", -0.004, 0.004,
        "less change than that: are all words still there, and the zeros still behind them? What does a mean see?",
    ),
    "09.2": between(
        "the largest difference of a probability", 0.0, 1e-4,
        "a difference is not negative: take its absolute value",
        "less than that: are the numbers before the padding the same, and the padding zeros?",
    ),
    "09.3": larger(
        "a pair: how often the first exit is right with 100 words, and with all",
        "words help: which of the two is which, and are both first exits, of nets trained alike?",
    ),
    "embeddings.1": between(
        "share of corrupted labels among the 'wrong' answers", 0.5, 1.0,
        "more than that: at the last epoch, of deinforeg's last exit: run.noisy where answer and label differ",
        "a share is at most 1",
    ),
    "embeddings.2": larger(
        "a pair: share of corrupted, and of clean labels repeated at the last epoch",
        "clean labels are learnt first: which of the two is which?",
    ),
    "embeddings.3": one(
        "on which map distances between clusters mean something: pca or tsne", "pca",
        "that map gives every cluster about the same size, and gaps that change with the number of neighbours",
    ),
    "10.1": larger(
        "a pair: how often the last exit is right without, and with the other half",
        "the other half should help: is side='bottom' in grow, and views=('top', 'bottom') in the data?",
    ),
    "10.2": between(
        "how many numbers fewer each block trains", 320, 320,
        "more: one prototype of 32 numbers for each of ten classes",
        "fewer: only the prototypes are fixed, not the projection",
    ),
}  # fmt: skip
"""Every exercise of the lessons, by lesson and number."""


def hint(key: str, answer: object) -> str | None:
    """Return what is wrong with the answer to an exercise, or None for a right one. ValueError for an unknown key."""
    check_name("exercise", key, EXERCISES)
    exercise = EXERCISES[key]
    if answer is None or answer is ...:
        return f"no answer yet. Asked for is {exercise.asks}"
    try:
        return exercise.wrong(answer)
    except (TypeError, ValueError):
        return f"{answer!r} cannot be read as an answer. Asked for is {exercise.asks}"


def check_answer(key: str, answer: object) -> None:
    """Say whether `answer` to the exercise `key`, such as "01.2", is right, or where to look."""
    print(f"{key}: {wrong}" if (wrong := hint(key, answer)) else f"✓ {key}: right")
