"""Methods and models of one's own: registered, trained, exited and spread over processes as the kit's own are."""

import json
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kit
from kit import heads, methods
from kit.methods.registry import Registry
from kit.objective import HeadSpec, Objective
from kit.train import build, checkpoint, load_data

MARGIN = '''
"""A method in a file of one's own."""

import torch.nn.functional as F

from kit import heads
from kit.methods import register
from kit.objective import Objective


@register("margin", source="Szegedy et al. 2016")
class Margin(Objective):
    """Smoothed cross-entropy of a linear classifier at each block."""

    weights = {"margin": 1.0}

    def __init__(self, spec, margin: float = 0.1):
        super().__init__()
        self.head, self.margin = spec.classifier or heads.aux_net("0c1f", spec.shape, spec.num_classes, 64), margin

    def loss(self, h, signal):
        return {"margin": F.cross_entropy(self.head(h).float(), signal.y, label_smoothing=self.margin)}

    def readout(self, h):
        return self.head(h)
'''
SMALL = {"backbone": "mlp", "num_blocks": 2, "epochs": 1, "limit": 200, "batch_size": 32, "precision": "fp32"}


@pytest.fixture(autouse=True)
def _only_the_kits_own():
    """Leave the kit's registry to the tests that follow as it was."""
    before = set(methods.REGISTRY)
    yield
    for name in set(methods.REGISTRY) - before:
        del methods.REGISTRY[name], methods.REGISTRY.summaries[name]


@pytest.fixture
def registry():
    return Registry({name: methods.REGISTRY[name] for name in ("bp", "greedy")})


class Plain(Objective):
    """Cross-entropy again. And more."""

    weights = {"ce": 1.0}

    def __init__(self, spec: HeadSpec, aux: str = "0c1f"):
        super().__init__()
        self.head = heads.aux_net(aux, spec.shape, spec.num_classes, spec.widest)

    def loss(self, h, signal):
        return {"ce": F.cross_entropy(self.head(h).float(), signal.y)}

    def readout(self, h):
        return self.head(h)


def test_a_registered_method_is_one_of_the_kits(tmp_path, monkeypatch):
    (tmp_path / "own_margin.py").write_text(MARGIN)
    script = """
        import os, torch, kit, own_margin
        from kit import methods
        from lessons import methods_table
        if __name__ == "__main__":
            assert kit.METHODS["margin"] == "Smoothed cross-entropy of a linear classifier at each block"
            assert methods.lookup("margin").options == {"margin": 0.1}
            config = kit.RunConfig(method="margin", options={"margin": 0.5}, backbone="mlp", num_blocks=2, epochs=1,
                                   limit=200, batch_size=32, precision="fp32", output="one")
            torch.set_num_threads(1)
            one = kit.run(config)
            assert one.accuracy("test").shape == (1, 2)
            from dataclasses import replace
            many = kit.pipeline.launch(replace(config, output="many"), num_stages=2, threads=1)
            first, second = (kit.train.checkpoint.weights(folder, "step") for folder in ("one", "many"))
            assert all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()
            assert one.table.equals(many.table)
            row = next(line for line in methods_table.table("margin").splitlines() if line.startswith("| `margin`"))
            assert "Szegedy et al. 2016" in row and "to the bit" in row
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    monkeypatch.setenv("PYTHONPATH", f"{methods.__file__.rsplit('/kit/', 1)[0]}:{tmp_path}")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_ranks_config_is_read_with_its_method(tmp_path, monkeypatch):
    from kit.pipeline import rank

    (tmp_path / "own_margin_too.py").write_text(MARGIN.replace('"margin", source', '"margin_too", source'))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"method": "margin_too", "output": None}))
    with pytest.raises(ValueError, match="unknown method 'margin_too'"):
        rank._parse([str(tmp_path / "config.json")])
    config, _, _ = rank._parse([str(tmp_path / "config.json"), "--register=own_margin_too"])
    assert config.method == "margin_too"


def test_ranks_cannot_import_a_cell():
    @methods.register("of_a_cell")
    class OfACell(Plain):
        __module__ = "__main__"

    with pytest.raises(ValueError, match="method 'of_a_cell' is defined in a notebook cell or a script, which ranks"):
        kit.pipeline.launch(kit.RunConfig(**SMALL, method="of_a_cell", output=None))


def test_registering_is_a_decorator_or_a_call(registry):
    assert registry.register("plain")(Plain) is Plain
    assert registry.register("again", "in a word", "a paper", Plain) is Plain
    assert registry.summaries["plain"] == "Cross-entropy again. And more" and registry["plain"].source == "own"
    assert registry["plain"].options == {"aux": "0c1f"} == registry["again"].options
    registry.register("plain", "the cell was run again")(Plain)
    assert registry.summaries["plain"] == "the cell was run again" and len(registry) == 4


def test_a_function_that_builds_is_a_method_as_well(registry):
    def built(spec, aux="0c1f"):
        return Plain(spec, aux)

    registry.register("built")(built)
    spec = HeadSpec((4, 2, 2), 3, 8, None, 0, 2, (1, 8, 8), None)
    assert isinstance(registry["built"].build(spec), Plain)


@pytest.mark.parametrize(
    ("name", "builder", "message"),
    [
        ("greedy", Plain, "method 'greedy': that name is that of kit.methods.cross_entropy.greedy_objective"),
        ("two words", Plain, "method 'two words': that name is no single word; choose another one"),
        ("mine", type("Bare", (Objective,), {}), "mine: Bare has no loss and no readout: see kit.objective.Objective"),
        ("mine", type("Deaf", (Objective,), {"loss": Plain.loss}), "mine: Deaf has no readout"),
        ("mine", nn.Linear, "mine: Linear is no kit.objective.Objective: make it a subclass of that"),
        ("mine", lambda: None, r"its builder has to take \(spec, option=default, …\)"),
        ("mine", lambda spec, *options: None, r"its builder has to take \(spec, option=default, …\)"),
        ("mine", nn.Flatten, "mine: Flatten is no kit.objective.Objective: make it a subclass of that"),
    ],
)
def test_methods_that_cannot_be(registry, name, builder, message):
    with pytest.raises(ValueError, match=message):
        registry.register(name)(builder)
    assert set(registry) == {"bp", "greedy"} == set(registry.summaries)


def test_a_builder_that_builds_something_else_is_refused_when_it_does(registry):
    registry.register("odd", "an odd one")(lambda spec: nn.Linear(2, 2))
    with pytest.raises(ValueError, match="an odd one: Linear is no kit.objective.Objective"):
        registry["odd"].build(None)


# Models


def own_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.mark.parametrize("as_stages", [False, True])
def test_an_own_model_is_trained_and_stays_as_it_is(as_stages, tmp_path):
    model = own_model()
    before = [p.clone() for p in model.parameters()]
    config = kit.RunConfig(**SMALL | {"epochs": 6}, method="greedy", lr=5e-3, output=tmp_path)
    given = [model[:3], model[3:]] if as_stages else model
    history = kit.run(config, model=given)
    assert history.accuracy("test").shape == (6, 2) and history.last_exit("test")[-1] > 0.5
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    data = load_data(config)
    bodies = [build(config, data, model=g) for g in (model, [model[:3], model[3:]])]
    first, second = ([p for block in net for p in block.body.parameters()] for net in bodies)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), "cut or given in stages, it is one model"
    assert checkpoint.weights(tmp_path)


def test_cuts_may_be_named(tmp_path):
    config = kit.RunConfig(**SMALL, method="greedy", cuts=("2",), output=None)
    net = build(config, load_data(config), model=own_model())
    assert [sum(p.numel() for p in block.body.parameters()) for block in net] == [64 * 32 + 32, 32 * 32 + 32]


def test_models_that_cannot_be_cut_say_why():
    config = kit.RunConfig(**SMALL | {"num_blocks": 4}, method="greedy", output=None)
    data = load_data(config)
    with pytest.raises(ValueError, match="model has 2 stages, but num_blocks=4: give 2"):
        build(config, data, model=[own_model()[:3], own_model()[3:]])
    with pytest.raises(ValueError, match="num_blocks=4, but .* has only"):
        build(config, data, model=own_model())
    with pytest.raises(ValueError, match="num_blocks=4, but"):
        build(config, data, model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(ValueError, match="width and backbone_options are of the kit's backbones"):
        build(replace(config, width=0.5), data, model=own_model())
