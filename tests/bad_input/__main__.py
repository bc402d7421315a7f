"""`python -m tests.bad_input`: print what is refused, and with which words, as Markdown."""

from tests.bad_input.table import ROOMS, message


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


for room, cases in ROOMS.items():
    print(f"\n## {room}: {len(cases)}\n\n| Given | Must say | Says |\n| --- | --- | --- |")
    for case in cases:
        print(f"| `{cell(case.given)}` | {cell(case.words)} | {cell(message(case))} |")
