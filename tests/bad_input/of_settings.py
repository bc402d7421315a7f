"""Settings of a run, of its data, of its growth, and how it is spread over ranks."""

import kit
from kit.growth import schedule
from kit.pipeline import launch
from kit.pipeline.options import Options
from tests.bad_input.cases import Case, settings
from tests.bad_input.things import CONFIG, DATA, HISTORY, NET
from tests.bad_input.values import OPTION_RANGES, OPTIONS, RANGES, SETTINGS, WRONG

TYPES = {SETTINGS[kind][0]: values for kind, values in WRONG.items()}
OPTION_TYPES = {name: WRONG[kind] for kind, name in OPTIONS.items()}


def grow(**given: object) -> object:
    return schedule(given, 4, 10)


def config(**given: object) -> kit.RunConfig:
    return kit.RunConfig(**{"output": None} | given)


CASES = [
    *settings("RunConfig", config, TYPES),
    *settings("RunConfig", config, RANGES, epochs=1),
    *settings("Options", Options, OPTION_TYPES),
    *settings("Options", Options, OPTION_RANGES),
    Case("RunConfig(epoch=3)", "unknown setting 'epoch'…did you mean 'epochs'", lambda: config(epoch=3)),
    Case("RunConfig(widths=256)", "unknown setting 'widths'…'width'", lambda: config(widths=256)),
    Case(
        "RunConfig(options={'widths': 256})",
        "widths=256…a list of widths",
        lambda: config(options={"widths": 256}),
    ),
    Case("RunConfig(options={'lr': 1})", "unknown option of method 'deinforeg'", lambda: config(options={"lr": 1})),
    Case("RunConfig(num_blocks=50)", "num_blocks=50…has only", lambda: kit.run(config(num_blocks=50))),
    Case("RunConfig(cuts=['nowhere'])", "cut", lambda: kit.run(config(cuts=["nowhere"], num_blocks=2))),
    Case("RunConfig(cuts='infopro')", "these cuts are published for", lambda: config(cuts="infopro")),
    Case("RunConfig(context='R5', num_blocks=4)", "only num_blocks=4", lambda: config(context="R5")),
    Case("RunConfig(noise='symmetric', noise_rate=40)", "mean 0.4", lambda: config(noise="symmetric", noise_rate=40)),
    Case("RunConfig(method='fdg', stagewise=True)", "stagewise=True", lambda: config(method="fdg", stagewise=True)),
    Case(
        "RunConfig(method='fdg', options={'beta': 2.0})",
        "beta=2.0…(0, 1]",
        lambda: config(method="fdg", options={"beta": 2.0}),
    ),
    Case("RunConfig(method='bp', grow={'at': [1]})", "does not grow", lambda: config(method="bp", grow={"at": [1]})),
    Case("RunConfig(stagewise=True, grow={'at': [1]})", "grow", lambda: config(stagewise=True, grow={"at": [1]})),
    Case("RunConfig(grow={'at': [1], 'side': ['top']})", "view", lambda: config(grow={"at": [1], "side": ["top"]})),
    Case("grow={}", "either at=[epochs] or when='plateau'", grow),
    Case("grow={'at': [1], 'when': 'plateau'}", "either at", lambda: grow(at=[1], when="plateau")),
    Case("grow={'at': ['1']}", "grow at", lambda: grow(at=["1"])),
    Case("grow={'at': 3}", "grow at=3", lambda: grow(at=3)),
    Case("grow={'at': [3, 2]}", "rising numbers of epochs", lambda: grow(at=[3, 2])),
    Case("grow={'at': [0]}", "grow at", lambda: grow(at=[0])),
    Case("grow={'at': [10]}, epochs=10", "1 to 9", lambda: grow(at=[10])),
    Case("grow={'at': [1, 2, 3, 4]}", "grow starts with 0 blocks", lambda: grow(at=[1, 2, 3, 4])),
    Case("grow={'at': [1], 'start': 4}", "max_blocks=5", lambda: grow(at=[1], start=4)),
    Case("grow={'at': [1], 'start': '2'}", "grow start='2'", lambda: grow(at=[1], start="2")),
    Case("grow={'at': [1], 'max_blocks': 1.5}", "grow max_blocks=1.5", lambda: grow(at=[1], max_blocks=1.5)),
    Case("grow={'when': 'plateu'}", "did you mean 'plateau'", lambda: grow(when="plateu")),
    Case("grow={'when': 'plateau', 'patience': 1.5}", "grow patience=1.5", lambda: grow(when="plateau", patience=1.5)),
    Case("grow={'when': 'plateau', 'min_gain': -1}", "grow min_gain=-1", lambda: grow(when="plateau", min_gain=-1)),
    Case("grow={'at': [1], 'freeze': 'all'}", "freeze", lambda: grow(at=[1], freeze="all")),
    Case("grow={'at': [1], 'frezze': 'none'}", "did you mean 'freeze'", lambda: grow(at=[1], frezze="none")),
    Case("grow={'at': [1], 'side': [1]}", "grow side", lambda: grow(at=[1], side=[1])),
    Case("grow={'at': [1], 'side': ['top', 'left']}", "grow side", lambda: grow(at=[1], side=["top", "left"])),
    Case("launch(config, num_stages=0)", "num_stages=0", lambda: launch(CONFIG, num_stages=0)),
    Case("launch(config, num_stages=9)", "num_stages=9…choose 1 to 4", lambda: launch(CONFIG, num_stages=9)),
    Case("launch(config, num_stages='2')", "num_stages='2'", lambda: launch(CONFIG, num_stages="2")),
    Case("launch(config, num_stages=True)", "num_stages=True", lambda: launch(CONFIG, num_stages=True)),
    Case("launch(config, max_restarts=-1)", "max_restarts=-1", lambda: launch(CONFIG, max_restarts=-1)),
    Case("launch(config, max_restarts='1')", "max_restarts='1'", lambda: launch(CONFIG, max_restarts="1")),
    Case("launch(config, replicas=2)", "unknown option of launch…num_replicas", lambda: launch(CONFIG, replicas=2)),
    Case("launch({'epochs': 1})", "config…RunConfig", lambda: launch({"epochs": 1})),
    Case("launch(stagewise config)", "kit.run", lambda: launch(config(method="greedy", stagewise=True))),
    Case("kit.run({'epochs': 1})", "config…RunConfig", lambda: kit.run({"epochs": 1})),
    Case("kit.run('digits')", "config='digits'", lambda: kit.run("digits")),
    Case("kit.run(config, on_epoch=3)", "on_epoch=3", lambda: kit.run(CONFIG, on_epoch=3)),
    Case("kit.fit(config, data, net)", "net=…", lambda: kit.fit(CONFIG, DATA, NET)),
    Case("kit.fit(net, config, data)", "Data", lambda: kit.fit(NET, CONFIG, DATA)),
    Case("kit.fit(net, data, {})", "config={}", lambda: kit.fit(NET, DATA, {})),
    Case("history.accuracy('tests')", "unknown split 'tests': did you mean 'test'", lambda: HISTORY.accuracy("tests")),
    Case("history.accuracy(None)", "split=None…'val' or 'test'", lambda: HISTORY.accuracy(None)),
    Case("history.last_exit('vall')", "unknown split 'vall': did you mean 'val'", lambda: HISTORY.last_exit("vall")),
    Case("History.load('nowhere')", "no run is recorded in nowhere", lambda: kit.History.load("nowhere")),
]
