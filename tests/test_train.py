"""Runs end to end on real digits: reproducible, resumable after anything, and clear about what cannot be."""

import multiprocessing
import random
import signal
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

import kit
from kit.data import Data, Split
from kit.train import build, checkpoint, load_data
from kit.train.run import Run, evaluate

SETTINGS = dict(
    backbone="mlp",
    backbone_options={"depth": 4, "norm": "batch", "hidden": 32},
    method="deinforeg",
    options={"widths": [32, 32, 32]},
    num_blocks=2,
    epochs=3,
    batch_size=64,
    precision="fp32",
    lr=1e-2,
    augment="shift",
)


def config(folder=None, **changes):
    return kit.RunConfig(**(SETTINGS | changes), output=folder and str(folder))


def assert_same_weights(a, b, kind="step"):
    mine, theirs = (checkpoint.weights(folder, kind) for folder in (a, b))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def run_of(folder, kind="step"):
    """Return what the newest checkpoint in `folder` keeps of the run itself."""
    return checkpoint.load(checkpoint.latest(folder, kind), ["run"])[0]


def test_a_run_learns_digits_and_repeats_itself(tmp_path):
    settings = {"augment": "none", "epochs": 8}
    first = kit.run(config(tmp_path / "a", **settings))
    again = kit.run(config(tmp_path / "b", **settings))
    pd.testing.assert_frame_equal(first.table, again.table, check_exact=True)
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    assert first.best()["test"] > 0.85
    other = kit.run(config(seed=1, **settings | {"epochs": 1}))
    assert not other.table.equals(first.table[first.table["epoch"] == 1])


def test_the_record_on_disk_is_the_record(tmp_path):
    history = kit.run(config(tmp_path))
    loaded = kit.History.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.table, history.table)
    assert loaded.config.items() >= config().identity().items()
    assert loaded.versions["torch"] == torch.__version__.split("+")[0]
    assert set(history.table["metric"]) == {"invariance", "variance", "covariance", "ce", "accuracy"}
    assert history.table["block"].min() == 1
    assert history.costs["value"].gt(0).all()
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == {".lock"}, "a draft was left"


def test_noise_is_the_same_for_every_method_and_seed_and_its_realised_rate_is_recorded(tmp_path):
    noise = {"noise": "symmetric", "noise_rate": 0.4, "noisy_val": True, "epochs": 1}
    history = kit.run(config(tmp_path, **noise))
    first = load_data(config(**noise))
    for change in ({"seed": 5}, {"method": "bp", "options": {}}, {"num_blocks": 1}):
        again = load_data(config(**noise | change))
        assert torch.equal(again.train.labels, first.train.labels) and torch.equal(again.train.noisy, first.train.noisy)
    assert history.noise == {"train": first.train.noisy.double().mean(), "val": first.val.noisy.double().mean()}
    assert kit.History.load(tmp_path).noise == history.noise
    assert kit.run(config(epochs=1)).noise == {}


def test_a_finished_run_is_not_run_again(tmp_path):
    first = kit.run(config(tmp_path))
    before = _stamp(tmp_path)
    assert kit.run(config(tmp_path)).table.equals(first.table)
    assert _stamp(tmp_path) == before


def run_with_one_thread(settings):
    torch.set_num_threads(1)
    kit.run(kit.RunConfig(**settings))


@pytest.mark.slow
def test_killed_five_times_and_started_again_it_ends_the_same(tmp_path):
    """kill -9 at a random moment after training began, five times over: same weights, same table."""
    processes = multiprocessing.get_context("forkserver")  # imports are paid for once
    changes = {"epochs": 16, "checkpoint_steps": 3}
    undisturbed = kit.run(config(tmp_path / "whole", **changes))
    folder, draw = tmp_path / "killed", random.Random(7)
    settings = SETTINGS | changes | {"output": str(folder)}
    kills = 0
    while kills < 5:
        process = processes.Process(target=run_with_one_thread, args=(settings,))
        process.start()
        stamp = _stamp(folder)
        while _stamp(folder) == stamp and process.is_alive():  # it is past loading once it writes a checkpoint
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.25))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"it ended before it was killed, with {process.exitcode}"
        kills += 1
    assert run_of(folder)["position"][0] < 16, "the kills came too late to test anything"
    run_with_one_thread(settings)
    assert_same_weights(tmp_path / "whole", folder)
    pd.testing.assert_frame_equal(kit.History.load(folder).table, undisturbed.table, check_exact=True)
    assert run_of(tmp_path / "whole", "best")["epoch"] == run_of(folder, "best")["epoch"]
    assert_same_weights(tmp_path / "whole", folder, "best")


def _stamp(folder):
    path = checkpoint.latest(folder)
    return path and (path.name, path.stat().st_mtime_ns)


def test_dropout_and_optimizer_state_go_on_within_an_epoch(tmp_path):
    """Stopped in the middle of an epoch by an error, with dropout and momentum on, a run goes on where it was."""
    changes = {"checkpoint_steps": 5, "method": "greedy", "options": {}, "optimizer": "sgd", "lr": 0.05}
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    loaded = load_data(config())

    def net():
        net = build(config(**changes), loaded)
        net[0].body[0] = nn.Sequential(net[0].body[0], nn.Dropout(0.3))
        return net

    kit.fit(net(), loaded, config(whole, **changes))
    stopping = net()

    def interrupt(block, signal):
        if block.num_steps == 28:
            raise KeyboardInterrupt

    stopping[0].register_step_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        kit.fit(stopping, loaded, config(folder, **changes))
    assert run_of(folder)["position"] == [1, 5]
    kit.fit(net(), loaded, config(folder, **changes))
    assert_same_weights(whole, folder)
    assert kit.History.load(folder).table.equals(kit.History.load(whole).table)


def test_best_weights_are_those_of_the_best_epoch_and_not_the_last(tmp_path, monkeypatch):
    """With validation accuracies .5, .9, .6, the weights kept are those that the second epoch ended with."""
    accuracies, snapshots = iter([0.5, 0.5, 0.9, 0.9, 0.6, 0.6]), []

    def measured(run, split):
        snapshots.append({name: value.clone() for name, value in run.net.state_dict().items()})
        return [next(accuracies)] * run.net.num_exits

    monkeypatch.setattr(Run, "_accuracy", measured)
    kit.run(config(tmp_path, checkpoint_steps=4))
    best = checkpoint.weights(tmp_path)
    assert run_of(tmp_path, "best")["epoch"] == 2
    assert all(torch.equal(best[name], value) for name, value in snapshots[2].items())
    assert not all(torch.equal(best[name], value) for name, value in snapshots[4].items())


def test_best_is_chosen_on_validation_only():
    rows = [(1, 1, "val", 1, "accuracy", 0.6), (1, 1, "val", 2, "accuracy", 0.9), (1, 1, "test", 1, "accuracy", 0.99)]
    rows += [(1, 1, "test", 2, "accuracy", 0.5)]
    assert kit.History({}, {}, rows).best() == {"epoch": 1, "block": 2, "val": 0.9, "test": 0.5}


def test_evaluation_counts_by_hand():
    loaded = load_data(config())
    net = build(config(), loaded)
    x, y = next(loaded.batches("test", len(loaded.test)))
    expected = [(logits.argmax(1) == y).double().mean().item() for logits in net.predict(x)]
    assert evaluate(net, loaded, "test") == pytest.approx(expected)


def tiny(train=8, val=4, test=4, num_classes=2):
    def split(n):
        return Split(torch.randint(0, 255, (n, 1, 8, 8), dtype=torch.uint8), torch.arange(n) % num_classes)

    classes = tuple(map(str, range(num_classes)))
    return Data("tiny", split(train), split(val), split(test), (1, 8, 8), classes, torch.zeros(1), torch.ones(1))


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"batch_size": 1}, {}, "batch_size=1 .*at least 2 images"),
        ({}, {"val": 0}, "val split of tiny is empty"),
        ({}, {"num_classes": 3}, "tiny has 3 classes, but the net answers 2"),
    ],
)
def test_fit_refuses(changes, data, message, tmp_path):
    settings = config(tmp_path / "run", **changes)
    with pytest.raises(ValueError, match=message):
        kit.fit(build(settings, tiny()), tiny(**data), settings)
    assert not (tmp_path / "run").exists()


def test_labels_outside_the_classes(tmp_path):
    data = tiny()
    data.train.labels[3] = 7
    with pytest.raises(ValueError, match="tiny, train labels: 7 at position .*0 to 1"):
        kit.fit(build(config(), tiny()), data, config(tmp_path / "run"))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    loaded, settings = tiny(), config(tmp_path, epochs=4)
    net = build(settings, loaded)

    def poison(module, inputs, output):
        return output * float("nan") if net[0].num_steps == 3 and net.training else output

    net[1].objective.projector.register_forward_hook(poison)
    with pytest.raises(FloatingPointError, match=r"block 2: its loss term 'invariance' became nan in epoch 3.*kept in"):
        kit.fit(net, loaded, settings)
    assert run_of(tmp_path)["position"] == [2, 0]
    assert all(torch.isfinite(v).all() for v in checkpoint.weights(tmp_path, "step").values())


@pytest.fixture
def begun(tmp_path):
    """A folder with a checkpoint."""
    kit.run(config(tmp_path, epochs=1))
    return tmp_path


def damage(folder, change, file="block1.pt"):
    """Change a file of the newest checkpoint by `change`, a function from bytes to bytes; return its path."""
    path = checkpoint.latest(folder) / file
    path.write_bytes(change(path.read_bytes()))
    return path


def flip_a_bit_of_a_weight(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"", "cannot be read as a checkpoint.*Nothing was changed"),
        (lambda content: b"not a checkpoint", "cannot be read as a checkpoint.*Nothing was changed"),
        (lambda content: b"PK\x03\x04 cut off", "cannot be read as a checkpoint.*Nothing was changed"),
        (lambda content: content[:-1000], "cannot be read as a checkpoint"),
        (flip_a_bit_of_a_weight, "cannot be read as a checkpoint.*checksum"),
    ],
)
@pytest.mark.parametrize("file", ["run.pt", "block1.pt"])
def test_a_damaged_checkpoint_is_refused_and_left(begun, file, change, message):
    path = damage(begun, change, file)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        kit.run(config(begun, epochs=1))
    assert path.read_bytes() == before


def test_foreign_checkpoint(begun):
    torch.save({"weights": torch.ones(3)}, checkpoint.latest(begun) / "run.pt")
    with pytest.raises(ValueError, match="not a checkpoint of this kit"):
        kit.run(config(begun, epochs=1))


class Intruder:
    """Unpickled, it writes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("file", ["run.pt", "block0.pt"])
def test_code_in_a_checkpoint_is_refused_and_not_run(begun, file):
    mark = begun / "was-here"
    torch.save({"format": checkpoint.FORMAT, "module": Intruder(mark)}, checkpoint.latest(begun) / file)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        kit.run(config(begun, epochs=1))
    assert not mark.exists()


def test_checkpoint_of_another_config(begun):
    before = _stamp(begun)
    with pytest.raises(ValueError, match="other settings: epochs=1 there, 2 now, net=.*, seed=0 there, 5 now"):
        kit.run(config(begun, epochs=2, seed=5))
    assert _stamp(begun) == before


def test_own_data_and_nets_are_not_taken_for_each_other(tmp_path, monkeypatch):
    """With a folder of their name, other labels or another net is an error; with none, nothing is kept."""
    monkeypatch.chdir(tmp_path)
    loaded = load_data(config())
    random_labels = replace(loaded, train=Split(loaded.train.images, loaded.train.labels.roll(1)))
    settings = replace(config(epochs=1), output="auto")
    kit.fit(build(settings, loaded), loaded, settings)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [settings.name]
    other = build(replace(settings, seed=1), loaded)
    for net, data, what in ((build(settings, loaded), random_labels, "data"), (other, loaded, "net")):
        with pytest.warns(UserWarning, match=f"nothing of this run is kept on disk: its {what} did not come from"):
            kit.fit(net, data, settings)
        named = replace(settings, output=str(tmp_path / "runs" / settings.name))
        with pytest.raises(ValueError, match=f"belongs to a run with other settings: {what}="):
            kit.fit(net, data, named)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [settings.name]


def test_the_number_format_of_a_run_that_goes_on_is_that_it_began_with(begun):
    (run,) = checkpoint.load(checkpoint.latest(begun), ["run"])
    torch.save(run | {"computed": {"precision": "bf16", "threads": 1}}, checkpoint.latest(begun) / "run.pt")
    with pytest.raises(ValueError, match="was computed in bf16, and precision='fp32' is fp32 on this machine"):
        kit.run(config(begun, epochs=1))
    torch.save(run | {"computed": {"precision": "fp32", "threads": 7}}, checkpoint.latest(begun) / "run.pt")
    with pytest.warns(UserWarning, match="computed with 7 threads, and goes on with 1: .*not be bit for bit"):
        kit.run(config(begun, epochs=1))


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another run is writing into"):
        kit.run(config(tmp_path))


def test_runs_of_other_settings_have_other_folders():
    names = {kit.RunConfig(**(SETTINGS | change)).folder for change in ({}, {"seed": 1}, {"lr": 0.1}, {"epochs": 4})}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "fashon-mnist"}, "unknown dataset 'fashon-mnist': did you mean 'fashion-mnist'"),
        ({"backbone": "vgg-papr"}, "unknown backbone 'vgg-papr': did you mean 'vgg-paper'"),
        ({"method": "deinforge"}, "unknown method 'deinforge': did you mean 'deinforeg'"),
        ({"options": {"width": 3}}, "unknown option.*'width'.*did you mean 'widths'"),
        ({"optimizer": "admaw"}, "unknown optimizer 'admaw': did you mean 'adamw'"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin': did you mean 'cosine'"),
        ({"precision": "fp16"}, "unknown precision 'fp16': did you mean '"),
        ({"augment": "flop"}, "unknown augmentation 'flop'"),
        ({"noise": "symetric", "noise_rate": 0.2}, "unknown noise 'symetric': did you mean 'symmetric'"),
        ({"noise": "symmetric", "noise_rate": 20}, r"noise_rate=20, but a rate is a fraction in \[0, 1\]; .*0.2"),
        ({"noise_rate": 0.2}, "noise_rate=0.2 with noise='none' would change nothing"),
        ({"val_fraction": 1.5}, "val_fraction=1.5.*between 0 and 1"),
        ({"num_blocks": 0}, "num_blocks=0.*at least 1"),
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": -1}, "epochs=-1, but it has to be a whole number of at least 1"),
        ({"epochs": "3"}, "epochs='3', but it has to be a whole number"),
        ({"stagewise": "False"}, "stagewise='False', but it has to be True or False"),
        ({"lr": "0.1"}, "lr='0.1', but it has to be a positive number"),
        ({"cuts": 3}, "cuts=3, but it has to be a text, or a list"),
        ({"seed": None}, "seed=None, but it has to be a whole number"),
        ({"warmup_epochs": 4}, "warmup_epochs=4, but it has to be between 0 and epochs"),
        ({"lr": -1}, "lr=-1.*positive"),
        ({"cuts": "param"}, "unknown cuts 'param': did you mean 'params'"),
        ({"context": "E3"}, "unknown context 'E3'"),
        ({"device": "cpuu"}, "device='cpuu'"),
        ({"device": "cuda:99"}, "device='cuda:99', but PyTorch sees"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        kit.RunConfig(**(SETTINGS | changes))


def test_an_unknown_setting_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown setting 'epoch': did you mean 'epochs'"):
        kit.RunConfig(epoch=3)


def test_more_blocks_than_places(tmp_path):
    with pytest.raises(ValueError, match=r"num_blocks=40, but .*choose 1 to \d+"):
        kit.run(config(tmp_path / "run", num_blocks=40))
    assert not (tmp_path / "run").exists()


def test_a_finished_run_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KIT_HEADLESS", "1")  # else a bar stands for it where another test has imported ipykernel
    config = kit.RunConfig(backbone="mlp", method="greedy", context="E", num_blocks=2, epochs=1, limit=100,
                           output=tmp_path / "run")  # fmt: skip
    kit.run(config)
    assert "greedy + E  epoch   1/1" in capsys.readouterr().out
    kit.run(config)
    assert capsys.readouterr().out.strip() == "greedy + E  finished before: all 1 epochs are in its folder"
