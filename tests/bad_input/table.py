"""All wrong inputs by the room of the house that refuses them, and what came of each."""

import traceback
from pathlib import Path

from tests.bad_input import of_data, of_exits, of_losses, of_nets, of_notebooks, of_settings
from tests.bad_input.cases import Case

ROOT = Path(__file__).resolve().parents[2]
OURS = [str(ROOT / "kit"), str(ROOT / "workflow")]
ROOMS: dict[str, list[Case]] = {
    "Runs, growth and ranks": of_settings.CASES,
    "Nets, blocks and signals": of_nets.CASES,
    "Losses, heads and methods": of_losses.CASES,
    "Data, models and cuts": of_data.CASES,
    "Exits": of_exits.CASES,
    "Notebooks and experiment files": of_notebooks.CASES,
}


def fault(case: Case) -> str:
    """Return what is wrong with how the case is refused: "" where nothing is."""
    try:
        case.call()
    except (ValueError, TypeError, FileNotFoundError, AttributeError) as error:
        raiser = traceback.extract_tb(error.__traceback__)[-1].filename
        if not any(raiser.startswith(folder) for folder in OURS):
            return f"raised by {raiser}: {type(error).__name__}: {error}"
        missing = [part for part in case.words.split("…") if part not in str(error)]
        return f"{missing} is not in: {error}" if missing else ""
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"
    return "accepted"


def message(case: Case) -> str:
    """Return the refusal's own words."""
    try:
        case.call()
    except Exception as error:
        return str(error)
    return ""
