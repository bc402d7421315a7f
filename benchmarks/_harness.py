"""What the benchmarks share: their command line, rows, and the JSON file."""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

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


def begin(out: Path, given: dict, columns: Sequence[str]) -> set[tuple]:
    """Return the cells, by `columns`, that the CSV has; SystemExit if they were done as another than `given` says."""
    from kit.train.record import versions

    out.parent.mkdir(parents=True, exist_ok=True)
    described = out.with_suffix(".json")
    if out.exists():
        before = json.loads(described.read_text())
        if {name: before[name] for name in given} != json.loads(json.dumps(given)):
            raise SystemExit(f"error: {out} holds runs of other settings (see {described}); choose another --out")
        return set(pd.read_csv(out, keep_default_na=False)[[*columns]].itertuples(index=False, name=None))
    described.write_text(json.dumps(given | {"versions": versions(), "machine": machine()}, indent=1) + "\n")
    return set()


def add(out: Path, found: dict, columns: Sequence[str]) -> None:
    """Put a row into the CSV, whole or not at all."""
    from kit.files import atomic

    rows = pd.DataFrame([found])
    if out.exists():
        rows = pd.concat([pd.read_csv(out, keep_default_na=False), rows])
    with atomic(out) as temporary:
        rows.sort_values([*columns]).to_csv(temporary, index=False, float_format="%.5g")
    print(found, flush=True)


def trained(net, loaded, config) -> tuple[list[float], list[float]]:
    """Train; return the accuracy of every exit on validation, and on test."""
    import kit
    from kit.train.run import evaluate

    kit.fit(net, replace(loaded, test=loaded.val), config)  # the test samples, in every epoch, would cost the most
    return evaluate(net, loaded, "val"), evaluate(net, loaded, "test")
