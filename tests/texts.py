"""Small texts that tests learn from."""

import random
from pathlib import Path

TOPICS = {
    "cooking": ["boil", "butter", "flour", "oven", "salt", "simmer", "spoon", "stir", "sugar", "whisk"],
    "sailing": ["anchor", "boat", "deck", "harbour", "mast", "sail", "tide", "wave", "wind", "wreck"],
    "sewing": ["button", "cloth", "fold", "hem", "needle", "pin", "seam", "stitch", "thread", "zip"],
}
COMMON = ["a", "and", "first", "in", "it", "of", "on", "the", "then", "to", "with"]


def write_table(file: Path, count: int = 240) -> Path:
    """Write a CSV of made-up texts of 2 to 24 words, with a title each and its topic as label."""
    draw, rows = random.Random(0), ["title,text,label"]
    for k in range(count):
        topic = [*TOPICS][k % 3]
        words = [draw.choice(TOPICS[topic] if draw.random() < 0.4 else COMMON) for _ in range(draw.randint(2, 24))]
        rows.append(f"{draw.choice(TOPICS[topic])} {draw.choice(COMMON)},{' '.join(words)},{topic}")
    file.write_text("\n".join(rows) + "\n")
    return file
