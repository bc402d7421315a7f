"""`python -m tests.bad_input`: print what is refused, and with which words, as Markdown, then how many and what is not.

Exits with 1 where an input is accepted, ends raw, or is refused in other words.
"""

import sys

from tests.bad_input.table import ROOMS, fault, message


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


faults = []
for room, cases in ROOMS.items():
    print(f"\n## {room}: {len(cases)}\n\n| Given | Must say | Says |\n| --- | --- | --- |")
    for case in cases:
        print(f"| `{cell(case.given)}` | {cell(case.words)} | {cell(message(case))} |")
        faults += [f"- `{case.given}`: {wrong}" for wrong in [fault(case)] if wrong]
count = sum(map(len, ROOMS.values()))
print(f"\n{count} wrong inputs, {count - len(faults)} refused in clear words, {len(faults)} not", *faults, sep="\n")
sys.exit(bool(faults))
