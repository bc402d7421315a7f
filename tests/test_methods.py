"""What every method of the registry has to keep: isolation, transparency, independence of where a block runs."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kit
from kit.methods import REGISTRY

AT_ONCE = [name for name, method in REGISTRY.items() if not method.delay]  # the others: tests/test_delayed.py
DECOUPLED = [name for name, method in REGISTRY.items() if not method.one_loss]
SMALL = {
    "deinforeg": {"widths": (16, 16, 16)},
    "scpl": {"widths": (16, 16)},
    "al": {"code": 6, "hidden": 16},
    "infopro": {"pixels": torch.sigmoid, "weights": (1, 1, 1, 1)},
}


def batch(size=8):
    torch.manual_seed(3)
    return torch.randn(size, 3, 8, 8), torch.arange(size) % 4


def stages(dropout=0.0):
    torch.manual_seed(0)
    widths = [3, 6, 8, 8, 8]
    convs = [
        nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.Dropout(dropout))
        for i, o in zip(widths[:-1], widths[1:], strict=True)
    ]
    convs[-1] = nn.Sequential(*convs[-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return convs


def make(method, dropout=0.0, **settings):
    return kit.decouple(stages(dropout), method, 4, batch()[0], **(SMALL.get(method, {}) | settings))


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", AT_ONCE)
@pytest.mark.parametrize("k", range(4))
def test_isolation(method, k):
    """Block k's step changes block k, and leaves every other block without a gradient and unchanged."""
    net = make(method)
    if k >= len(net):
        pytest.skip("backprop has one block")
    signal = net.signal(*batch())
    for block in net.blocks[:k]:
        signal = block.next_signal(signal, block(signal))
    before = [snapshot(block) for block in net]
    out = net[k].step(signal)
    assert not out.h.requires_grad
    assert out.h.grad_fn is None
    for j, block in enumerate(net):
        assert same(before[j], snapshot(block)) == (j != k)
        if j != k:
            assert all(p.grad is None for p in block.parameters())


@pytest.mark.parametrize("method", AT_ONCE)
def test_a_blocks_loss_reaches_all_of_its_body_and_nothing_before_it(method):
    net = make(method)
    signal = net.signal(*batch())
    for block in net:
        h, terms = block.losses(signal)
        total = sum(weight * terms[name] for name, weight in block.objective.weights.items())
        for other in net:
            gradients = torch.autograd.grad(total, list(other.body.parameters()), retain_graph=True, allow_unused=True)
            assert [g is not None for g in gradients] == [other is block] * len(gradients)
        signal = block.next_signal(signal, h)


def test_probes_of_backprop_learn_and_never_teach():
    net = make("bp")
    assert len(net) == 1
    assert net.num_exits == 4
    _, terms = net[0].losses(net.signal(*batch()))
    for k in range(3):
        watched = torch.autograd.grad(terms[f"probe{k}"], list(net[0].body.parameters()), allow_unused=True)
        assert all(g is None for g in watched)
    before = snapshot(net[0].probes)
    net.step(*batch())
    assert not same(before, snapshot(net[0].probes))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=5e-4)),
        ("adamw", lambda p: torch.optim.AdamW(p, 0.1, weight_decay=5e-4)),
        ("adam", lambda p: torch.optim.Adam(p, 0.1, weight_decay=5e-4)),
        ("nadam", lambda p: torch.optim.NAdam(p, 0.1, weight_decay=5e-4, decoupled_weight_decay=True)),
    ],
)
def test_transparency(name, plain):
    """One block with cross-entropy is plain PyTorch, bit for bit, whether or not classifiers watch its cuts."""
    x, y = batch()
    model = nn.Sequential(*stages())
    optimizer = plain(model.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    one = kit.decouple([nn.Sequential(*stages())], "greedy", 4, x, optimizer=name, lr=0.1, weight_decay=5e-4)
    watched = make("bp", optimizer=name, lr=0.1, weight_decay=5e-4)
    for net in (one, watched):
        for _ in range(5):
            net.step(x, y)
    expected = [*model.state_dict().values()]
    own = [*one[0].body.state_dict().values(), *one[0].objective.state_dict().values()]
    own_watched = [*watched[0].body.state_dict().values(), *watched[0].objective.state_dict().values()]
    for a, b, c in zip(expected, own, own_watched, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("method", AT_ONCE)
def test_one_block_runs(method):
    net = kit.decouple([nn.Sequential(*stages())], method, 4, batch()[0], **SMALL.get(method, {}))
    net.step(*batch())
    assert [logits.shape for logits in net.predict(batch()[0])] == [(8, 4)]


@pytest.mark.parametrize("method", DECOUPLED)
def test_where_a_block_runs_does_not_matter(method):
    """Blocks stepped one batch behind each other, with other random draws in between, end with the same bits."""
    x, y = batch()
    together, apart = make(method, dropout=0.5), make(method, dropout=0.5)
    for _ in range(3):
        together.step(x, y)
    queues = [[apart.signal(x, y)] * 3, [], [], []]
    for k, block in enumerate(apart):
        for signal in queues[k]:
            torch.rand(7)
            out = block.step(signal)
            if k + 1 < len(apart):
                queues[k + 1].append(out)
    assert same(snapshot(together), snapshot(apart))


def test_dropout_draws_anew_at_each_step_and_leaves_the_global_generator_alone():
    net = make("greedy", dropout=0.5)
    signal = net.signal(*batch())
    state = torch.get_rng_state()
    first, again = net[0].losses(signal)[0], net[0].losses(signal)[0]
    assert torch.equal(first, again)
    net[0].num_steps += 1
    assert not torch.equal(first, net[0].losses(signal)[0])
    assert torch.equal(state, torch.get_rng_state())


def test_heads_start_alike_whatever_the_number_of_blocks_before_them_costs():
    torch.manual_seed(1)
    a = make("dgl")
    torch.manual_seed(2)
    b = make("dgl")
    assert same(snapshot(a), snapshot(b))
    assert not same(snapshot(a), snapshot(make("dgl", seed=1)))


def test_predict_leaves_mode_and_statistics_alone():
    net = make("deinforeg").train()
    before = snapshot(net)
    logits = net.predict(batch()[0])
    assert net.training
    assert same(before, snapshot(net))
    assert all(not answer.requires_grad and answer.dtype == torch.float32 for answer in logits)


def test_step_frees_the_graph_and_the_gradients():
    net = make("deinforeg")
    net.step(*batch())
    assert all(p.grad is None for p in net.parameters())
    assert all(term.grad_fn is None for block in net for term in block.last_terms.values())


def test_unmerged_classifier_sends_no_gradient_into_the_block():
    net = kit.decouple(stages(), "deinforeg", 4, batch()[0], classifier="unmerge", widths=(16, 16, 16))
    _, terms = net[0].losses(net.signal(*batch()))
    gradients = torch.autograd.grad(terms["ce"], list(net[0].body.parameters()), retain_graph=True, allow_unused=True)
    assert all(g is None for g in gradients)
    merged = make("deinforeg")
    _, terms = merged[0].losses(merged.signal(*batch()))
    assert all(g is not None for g in torch.autograd.grad(terms["ce"], list(merged[0].body.parameters())))


def test_al_meets_the_label_half_way_and_answers_on_its_way_back():
    """Two blocks against the formulas written out: t_k = tanh(g t_{k-1}), two squared errors, b then r_2 then r_1."""
    net = make("al")
    (x, y), signal, before = batch(), net.signal(*batch()), F.one_hot(batch()[1], 4).float()
    for block in net.blocks[:2]:
        own = block.objective
        h, terms = block.losses(signal)
        code = torch.tanh(before @ own.encoder[0].weight.T + own.encoder[0].bias)
        assert torch.allclose(terms["association"], ((own.bridge(h) - code) ** 2).mean())
        assert torch.allclose(terms["decoding"], ((own.decoder(code) - before) ** 2).mean())
        labels = [*own.encoder.parameters(), *own.decoder.parameters()]
        assert torch.autograd.grad(terms["association"], labels, retain_graph=True, allow_unused=True) == (None,) * 4
        body = list(block.body.parameters())
        assert set(torch.autograd.grad(terms["decoding"], body, allow_unused=True)) == {None}
        signal, before = block.next_signal(signal, h), code.detach()
        assert torch.equal(signal.target, before)
        assert not signal.target.requires_grad
    net.eval()
    visit_one, visit_two, *_ = net.walk(net.signal(x, y))
    one, two = visit_one.logits(), visit_two.logits()
    first, second = net[0].objective, net[1].objective
    assert torch.allclose(one, first.decoder(first.bridge(net[0](net.signal(x, y)))))
    back = second.decoder(second.bridge(net[1](visit_one.after)))
    assert torch.allclose(two, first.decoder(back), atol=1e-6)


def test_weights_scale_the_terms():
    """With every weight but the classifier's at zero, DeInfoReg is cross-entropy through the projector."""
    x, y = batch()
    weights = {"invariance": 0.0, "variance": 0.0, "covariance": 0.0, "ce": 1.0}
    net = kit.decouple(stages(), "deinforeg", 4, x, widths=(16, 16, 16), weights=weights, optimizer="sgd")
    twin = copy.deepcopy(net[0])
    optimizer = torch.optim.SGD(twin.parameters(), 1e-3, momentum=0.9)
    F.cross_entropy(twin.readout(twin(net.signal(x, y))), y).backward()
    optimizer.step()
    net[0].step(net.signal(x, y))
    torch.testing.assert_close(snapshot(net[0]), snapshot(twin), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "deinforge"}, "unknown method 'deinforge': did you mean 'deinforeg'"),
        ({"method": "deinforeg", "varient": "paper"}, "unknown option.*'deinforeg'.*'varient'.*did you mean 'variant'"),
        ({"method": "greedy", "optimizer": "adamm"}, "unknown optimizer 'adamm'"),
        ({"method": "greedy", "precision": "fp23"}, "unknown precision 'fp23': did you mean 'fp32'"),
        ({"method": "deinforeg", "classifier": "merged"}, "unknown classifier 'merged': did you mean 'merge'"),
        ({"method": "predsim", "beta": 99}, r"beta=99.*share in \[0, 1\]"),
        ({"method": "scpl", "temperature": 0}, "temperature=0.*positive"),
        ({"method": "dgl", "aux": "9c9f"}, "unknown auxiliary net '9c9f'"),
        ({"method": "greedy", "context": "E9"}, "unknown context 'E9': choose none, E .*R1"),
        ({"method": "infopro"}, r"infopro reconstructs images.*\(3, 8, 8\).*pixels=.*data.denormalize"),
        ({"method": "infopro", "task": "contrasts"}, "unknown task 'contrasts': did you mean 'contrast'"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        kit.decouple(stages(), num_classes=4, example=batch()[0], **settings)


def test_bf16_nets_train_and_answer_in_fp32():
    net = make("deinforeg", precision="bf16")
    signal = net[0].step(net.signal(*batch()))
    assert signal.h.dtype == torch.bfloat16
    assert signal.h.is_contiguous(memory_format=torch.channels_last)
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert all(term.dtype == torch.float32 for term in net[0].last_terms.values())


def test_scpls_classifier_only_watches():
    net = make("scpl")
    _, terms = net[0].losses(net.signal(*batch()))
    gradients = torch.autograd.grad(terms["ce"], list(net[0].body.parameters()), allow_unused=True, retain_graph=True)
    assert all(g is None for g in gradients)
    assert all(g is not None for g in torch.autograd.grad(terms["contrast"], list(net[0].body.parameters())))


def test_predsim_weighs_its_terms_by_beta():
    net = make("predsim", beta=0.75, similarity="flat")
    assert net[0].objective.weights == {"ce": 0.25, "similarity": 0.75}
    signal = net.signal(*batch())
    h, terms = net[0].losses(signal)
    rows = net[0].objective.net(h).flatten(1)
    assert rows.shape == (8, h[0].numel())
    torch.testing.assert_close(terms["similarity"], kit.losses.invariance(rows, signal.y, 4))


CONTEXTS = ["E", "R1", "R2", "R1E", "R3E"]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("method", DECOUPLED)
def test_every_method_trains_with_every_context_in_isolation(method, context):
    net = make(method, context=context)
    signal = net.signal(*batch())
    for k, block in enumerate(net):
        before = [snapshot(other) for other in net]
        assert (block.context is None) == (k == 0)
        signal = block.step(signal)
        for other, old in zip(net, before, strict=True):
            assert same(old, snapshot(other)) == (other is not block)
    assert len(net.predict(batch()[0])) == 4


@pytest.mark.parametrize(
    ("context", "method", "x", "depth"),
    [
        ("none", "greedy", [0, 0, 0, 0], [0, 0, 0, 0]),
        ("E", "greedy", [1, 1, 1, 0], [0, 0, 0, 0]),
        ("R1", "greedy", [0, 0, 0, 0], [1, 1, 1, 0]),
        ("R2E", "greedy", [1, 1, 1, 0], [0, 1, 2, 0]),  # E reads the input
        ("none", "infopro", [1, 1, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_only_what_a_later_block_asks_for_is_kept(context, method, x, depth):
    net = make(method, context=context)
    signal = net.signal(*batch())
    for k, block in enumerate(net):
        signal = block.step(signal)
        assert (signal.x is not None) == bool(x[k])
        assert len(signal.context) == depth[k]


def test_context_adds_what_its_encoders_make_of_earlier_signals():
    net = make("greedy", context="R1E", context_options={"reads": "received"}).eval()
    signal = net.signal(*batch())
    first = net[0](signal)
    second = net[0].next_signal(signal, first)
    third = net[1].next_signal(second, net[1](second))
    assert torch.equal(third.x, signal.x)
    assert torch.equal(third.context[0], first)
    own = net[2].context
    expected = third.h + own.image(signal.x) + own.earlier[0](first)
    torch.testing.assert_close(own(third), expected)


def test_infopro_weighs_from_its_first_to_its_last_value():
    net = make("infopro", weights=(4, 0, 2, 1))
    assert [block.objective.weights for block in net] == [
        {"ce": 0.0, "reconstruction": 4.0},
        {"ce": 0.5, "reconstruction": 3.0},
        {"ce": 1.0, "reconstruction": 2.0},
        {"ce": 1.0},
    ]


def test_infopro_reconstructs_the_input_it_was_given():
    net = make("infopro")
    signal = net.signal(*batch())
    h, terms = net[0].losses(signal)
    images = net[0].objective.decoder(h)
    assert images.shape == signal.x.shape
    expected = F.binary_cross_entropy(images, signal.x.sigmoid())
    torch.testing.assert_close(terms["reconstruction"], expected)
