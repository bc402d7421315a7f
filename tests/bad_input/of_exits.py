"""Leaving early: rules, thresholds, what is asked of a curve."""

from kit.exits import Rule, adaptive, calibrate, candidates, choose, collect, curve, exit_costs, measure
from tests.bad_input.cases import Case, settings
from tests.bad_input.things import BP, COSTS, LOGITS, NAN, NET, POINTS, X, Y

RULE = {
    "threshold": [-0.1, 1.1, "0.9", NAN, [0.5], True],
    "patience": [0, -1, 1.5, "2", None, True],
}

CASES = [
    *settings("Rule", lambda **o: Rule(**{"name": "confidence"} | o), RULE),
    *(Case(f"Rule({n!r})", "rule", lambda n=n: Rule(n)) for n in ("confidance", "", None, 3)),
    Case("Rule('patience', threshold=0.5)", "has none", lambda: Rule("patience", 0.5)),
    Case("Rule('patience-cosine', threshold=-2)", "[-1, 1]", lambda: Rule("patience-cosine", -2)),
    Case("net.adaptive(x, 'confidance')", "unknown rule 'confidance'", lambda: NET.adaptive(X, "confidance")),
    Case("net.adaptive(x, threshold=2)", "threshold=2", lambda: NET.adaptive(X, threshold=2)),
    Case("net.adaptive(x, threshold='0.5')", "threshold='0.5'", lambda: NET.adaptive(X, threshold="0.5")),
    Case("net.adaptive(x, patience=1.5)", "patience=1.5", lambda: NET.adaptive(X, "patience", patience=1.5)),
    Case("net.adaptive(empty batch)", "empty batch", lambda: NET.adaptive(X[:0], cost=COSTS)),
    Case("net.adaptive(one image)", "x[None]", lambda: NET.adaptive(X[0], cost=COSTS)),
    Case("net.adaptive(x, cost of two exits)", "cost has 2…3 exits", lambda: NET.adaptive(X, cost=[1, 2])),
    Case("net.adaptive(x, cost='flops')", "cost='flops'", lambda: NET.adaptive(X, cost="flops")),
    Case("net.adaptive(x, cost=3)", "cost=3", lambda: NET.adaptive(X, cost=3)),
    Case("adaptive(net, x, 'confidence', costs)", "rule='confidence'", lambda: adaptive(NET, X, "confidence", COSTS)),
    Case("exit_costs(net, x, 'sec')", "unknown unit 'sec'…'seconds'", lambda: exit_costs(NET, X, "sec")),
    Case("exit_costs(net, x, 'seconds', 0)", "repeats=0", lambda: exit_costs(NET, X, "seconds", 0)),
    Case("exit_costs(bp, empty batch)", "empty batch", lambda: exit_costs(BP, X[:0])),
    Case("candidates('entropi', logits)", "unknown rule", lambda: candidates("entropi", LOGITS)),
    Case("candidates('confidence', logits, 0)", "num=0", lambda: candidates("confidence", LOGITS, 0)),
    Case("candidates('confidence', logits, '9')", "num='9'", lambda: candidates("confidence", LOGITS, "9")),
    Case("curve('margn', …)", "did you mean 'margin'", lambda: curve("margn", LOGITS, Y, COSTS)),
    Case("curve with two costs", "cost…3 exits", lambda: curve("confidence", LOGITS, Y, [1, 2])),
    Case("curve with too few labels", "labels…(3,)", lambda: curve("confidence", LOGITS, Y[:3], COSTS)),
    Case("curve with one-hot labels", "labels", lambda: curve("confidence", LOGITS, LOGITS[0], COSTS)),
    Case("measure of one exit's logits", "(8, 10)…(K, N, C)", lambda: measure(Rule("confidence"), LOGITS[0], Y, COSTS)),
    Case("measure of no samples", "empty batch", lambda: measure(Rule("margin"), LOGITS[:, :0], Y[:0], COSTS)),
    Case("measure('patience') of one exit", "one exit", lambda: measure(Rule("patience"), LOGITS[:1], Y, [1.0])),
    Case("choose(points)", "want one of the two", lambda: choose(POINTS)),
    Case("choose(points, accuracy=1, cost=1)", "want one of the two", lambda: choose(POINTS, accuracy=1, cost=1)),
    Case("choose(points, accuracy=1.0)", "the best is", lambda: choose(POINTS, accuracy=1.0)),
    Case("choose(points, cost=0.1)", "the cheapest costs", lambda: choose(POINTS, cost=0.1)),
    Case("choose(points, accuracy='0.5')", "accuracy='0.5'", lambda: choose(POINTS, accuracy="0.5")),
    Case("choose(points, accuracy=nan)", "accuracy=nan", lambda: choose(POINTS, accuracy=NAN)),
    Case("choose(points, cost='1')", "cost='1'", lambda: choose(POINTS, cost="1")),
    Case("choose([], accuracy=0.5)", "points=[]", lambda: choose([], accuracy=0.5)),
    Case(
        "calibrate(net, batches, 'entrpy', …)",
        "unknown rule",
        lambda: calibrate(NET, [(X, Y)], "entrpy", COSTS, cost=2),
    ),
    Case("collect(net, [])", "no batch", lambda: collect(NET, [])),
]
