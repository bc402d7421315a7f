"""What the benchmarks share: their command line, rows, and the JSON file."""

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def arguments(doc: str, name: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a short look, not a result")
    parser.add_argument("--out", type=Path, default=ROOT / f"benchmarks/results/{name}.json", help="the JSON file")
    return parser


def row(case: str, metric: str, values: list[float], unit: str) -> dict:
    """Return one row: the median of `values`, with their number and range."""
    return {
        "case": case,
        "metric": metric,
        "value": statistics.median(values),
        "unit": unit,
        "n": len(values),
        "min": min(values),
        "max": max(values),
    }


def write(path: Path, name: str, settings: dict, rows: list[dict]) -> None:
    """Write the result with the code's revision, versions and machine, whole or not at all; say where."""
    from kit.files import atomic
    from kit.train.record import versions

    found = versions()
    result = {"name": name, "revision": found.pop("revision"), "versions": found, "machine": machine()}
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(result | {"settings": settings, "rows": rows}, indent=1) + "\n")
    print(f"written to {path}")


def machine() -> str:
    """Return processor and number of cores, e.g. `Intel(R) Xeon(R) Processor, 2 cores`."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores"
