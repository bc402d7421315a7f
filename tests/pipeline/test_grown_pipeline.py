"""A net that grows over several processes: what one process gives, to the bit."""

import pandas as pd
import pytest

import kit
from tests.pipeline.ranks import on_ranks, run_all
from tests.pipeline.test_exact import SETTINGS, assert_same_state, state_of

GROWING = SETTINGS | {
    "method": "greedy",
    "context": "R2E",
    "epochs": 4,
    "limit": 300,
    "grow": {"at": [1, 2], "freeze": "earlier"},
    "checkpoint_steps": 2,
}
CASES = {
    "at": GROWING,
    "need": GROWING | {"grow": {"when": "plateau", "patience": 1, "min_gain": 0.5}},
    "side": GROWING | {"backbone": "resnet20", "backbone_options": {}, "width": 0.25, "augment": "none",
                       "views": ["top", "bottom"], "grow": {"at": [2], "side": "bottom"}, "limit": 100},
}  # fmt: skip
RUNS = [("at", 2), ("at", 4), ("need", 2), ("side", 2)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("growth")
    runs = [(CASES[name] | {"output": str(folder / f"{name}-{stages}")}, stages, {}) for name, stages in RUNS]
    on_ranks(run_all, 4, folder, runs=runs, store=str(folder / "store"), dropout=False)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_grown_pipeline_gives_what_one_process_gives(name, finished, tmp_path):
    history = kit.run(kit.RunConfig(**CASES[name], output=str(tmp_path)))
    assert history.accuracy("val").notna().sum(axis=1).nunique() > 1, "it did not grow"
    for stages in (stages for case, stages in RUNS if case == name):
        folder = finished / f"{name}-{stages}"
        pd.testing.assert_frame_equal(kit.History.load(folder).table, history.table, check_exact=True)
        assert_same_state(tmp_path, folder)
    assert len(state_of(tmp_path)[0]) > 2


def test_more_stages_than_the_net_will_ever_have_blocks():
    with pytest.raises(ValueError, match="num_stages=4, .*only 3 blocks"):
        kit.pipeline.launch(kit.RunConfig(**GROWING | {"grow": {"at": [1], "start": 2}}), num_stages=4)
