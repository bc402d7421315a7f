"""Texts in the pipeline: batches of any length and the mask pass the links, to the bits of one process."""

import pandas as pd
import pytest

import kit
from kit.methods import REGISTRY
from tests.pipeline.ranks import on_ranks, run_all
from tests.pipeline.test_exact import assert_same_state
from tests.texts import write_table

LATE = {"options": {"beta": 0.5, "flush": "end"}}  # what oneDNN's LSTM keeps of batches under way has idle bytes
METHODS = [name for name in REGISTRY if name not in ("bp", "infopro")]
CASES = {
    f"{name} lstm": {"method": name, "backbone": "lstm"} | (LATE if REGISTRY[name].delay else {}) for name in METHODS
}
CASES |= {
    f"{name} transformer": {"method": name, "backbone": "transformer"} for name in ("deinforeg", "al", "fdg", "fr")
}
CASES["context"] = {"method": "dgl", "backbone": "transformer", "context": "R2E"}
CASES["growth"] = {
    "method": "greedy", "backbone": "lstm", "views": ("first4", "after4"),
    "grow": {"at": [1], "start": 2, "max_blocks": 3, "side": ["after4"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """All cases on 2 and 3 ranks, in one start of processes; the folder of each."""
    folder = tmp_path_factory.mktemp("texts")
    common = {
        "dataset": f"text:{write_table(folder / 'texts.csv')}", "width": 0.02, "num_blocks": 3, "epochs": 2,
        "batch_size": 32, "precision": "fp32", "lr": 0.01, "backbone_options": {"depth": 2},
    }  # fmt: skip
    settings = {name: common | case for name, case in CASES.items()}
    runs = [(settings[name] | {"output": str(folder / f"{name}-{n}")}, n, {}) for name in CASES for n in ranks_of(name)]
    on_ranks(run_all, 3, folder, runs=runs, store=str(folder / "store"), dropout=False)
    return folder, settings


def ranks_of(name):
    return (2, 3) if name in ("deinforeg lstm", "fdg lstm") else (2,) if name == "growth" else (3,)


@pytest.mark.parametrize("name", CASES)
def test_many_processes_give_what_one_gives(name, finished, tmp_path):
    folder, settings = finished
    history = kit.run(kit.RunConfig(**settings[name], output=str(tmp_path)))
    for n in ranks_of(name):
        found = folder / f"{name}-{n}"
        pd.testing.assert_frame_equal(kit.History.load(found).table, history.table, check_exact=True)
        assert_same_state(tmp_path, found)
