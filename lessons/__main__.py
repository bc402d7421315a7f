"""`python -m lessons copy FOLDER`: the notebooks, to open and change as one likes."""

import argparse
import sys

from lessons.shipped import copy_lessons


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m lessons", description="Take the lessons out of the package.")
    copy = parser.add_subparsers(required=True, metavar="copy").add_parser(
        "copy", help="copy the notebooks into FOLDER"
    )
    copy.add_argument("folder", metavar="FOLDER")
    folder = parser.parse_args(arguments).folder
    try:
        copied = copy_lessons(folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(copied)} notebooks are in {folder}; open them with: jupyter lab {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
