"""Texts under the same loop: every method, isolation, padding that changes nothing, growth, context, early exits."""

import pytest
import torch
from torch import nn

import kit
from kit.backbones.sequences import BiLSTM, Encoder
from kit.measure import costs
from kit.methods import REGISTRY
from kit.shapes import real_mean
from kit.train import build
from tests.texts import write_table

TEXTUAL = [name for name in REGISTRY if name != "infopro"]
LOCAL = [name for name in TEXTUAL if not REGISTRY[name].one_loss]
MODELS = {"lstm": {"depth": 2}, "transformer": {"depth": 2, "heads": 3}}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return f"text:{write_table(tmp_path_factory.mktemp('texts') / 'texts.csv')}"


@pytest.fixture(scope="module")
def data(texts):
    return kit.load_data(texts, max_tokens=20)


def config(dataset, model, method="greedy", **more):
    own = {"width": 0.05, "optimizer": "adam", "lr": 0.01, "precision": "fp32", "num_blocks": 3, "output": None}
    own["backbone_options"] = MODELS[model]
    return kit.RunConfig(
        dataset=dataset, max_tokens=20, backbone=model, method=method,
        **own | {"epochs": 1, "batch_size": 32} | more,
    )  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", TEXTUAL)
def test_every_method_learns_texts(method, model, texts, data):
    history = kit.fit(build(given := config(texts, model, method, epochs=6), data), data, given)
    accuracy = history.table.query("split == 'test' and metric == 'accuracy'")["value"]
    assert len(accuracy) == 18 and accuracy.max() > 0.5  # a third would be chance


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", LOCAL)
def test_a_blocks_loss_reaches_its_own_weights_only(method, model, texts, data):
    net = build(config(texts, model, method), data)
    x, y = next(data.batches("train", 16, epoch=0))
    for visit in net.walk(net.signal(x, y), losses=True):
        own = {id(p) for p in visit.block.parameters()}
        everyone = [p for p in net.parameters() if p.requires_grad]
        total = visit.block.objective.total(visit.terms)
        found = torch.autograd.grad(total, everyone, retain_graph=True, allow_unused=True)
        reached = {id(p) for p, gradient in zip(everyone, found, strict=True) if gradient is not None}
        assert reached and reached <= own
        assert any(id(p) in reached for p in visit.block.body.parameters())


@pytest.mark.parametrize("model", MODELS)
def test_one_block_is_backprop_of_the_plain_model(model, texts, data):
    """A net of one block takes the steps that PyTorch's own loop takes with the same model."""
    given = config(texts, model, "bp", num_blocks=1, optimizer="sgd", lr=0.1, backbone_options=MODELS[model] | (
        {"dropout": 0.0} if model == "transformer" else {}))  # fmt: skip
    net, plain = build(given, data), build(given, data)
    whole = nn.ModuleList([plain[0].body, plain[0].objective])
    optimizer = torch.optim.SGD(whole.parameters(), 0.1, 0.9)
    for x, y in data.batches("train", 32, epoch=0):
        net.step(x, y)
        logits = plain[0].readout(plain[0](plain.signal(x, y)))
        torch.nn.functional.cross_entropy(logits, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    for one, other in zip(net.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_padding_changes_nothing(model, precision, texts, data):
    """Alone, padded to twice the length and among longer texts: the same logits at every exit."""
    net = build(config(texts, model, context="R1E", precision=precision), data)
    x, y = next(data.batches("train", 32, epoch=0))
    net.step(x, y)
    batch, _ = next(data.batches("test", 40))
    longer = nn.functional.pad(batch, (0, 0 if model == "transformer" else batch.shape[1]))
    together = net.predict(longer[:, :20] if model == "transformer" else longer)
    close = {"rtol": 1e-5, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.02, "atol": 0.02}
    for k, row in enumerate(batch[:6]):
        alone = row[row != 0][None]
        assert alone.shape[1] < 20 or k
        for single, among in zip(net.predict(alone), together, strict=True):
            torch.testing.assert_close(single[0], among[k], **close)


def test_features_are_those_of_the_paper(texts, data):
    """Word vectors and Transformer layers: the mean of real words; LSTMs: the mean of the two last hidden states."""
    x, y = next(data.batches("train", 8, epoch=0))
    mask, lengths = x != 0, (x != 0).sum(1)
    net = build(config(texts, "lstm"), data)
    words, first, last = net.walk(net.signal(x, y))
    by_hand = torch.stack([h[:n].mean(0) for h, n in zip(words.h, lengths, strict=True)])
    torch.testing.assert_close(words.feature(), by_hand)
    layer = first.block.body[0].layer1
    for k, n in enumerate(lengths.tolist()):
        own = words.h[k : k + 1, :n]
        (_, (ahead, _)), (_, (back, _)) = layer.ahead(own), layer.back(own.flip(1))
        torch.testing.assert_close(first.feature()[k], (ahead + back)[0, 0] / 2)
    assert last.feature() is last.h and last.h.shape == (8, 15)
    transformer = build(config(texts, "transformer"), data)
    _, first, _ = transformer.walk(transformer.signal(x, y))
    torch.testing.assert_close(first.feature(), real_mean(first.h, mask))


def test_a_text_without_words_is_answered(texts, data):
    for model in MODELS:
        net = build(config(texts, model), data)
        assert all(logits.isfinite().all() for logits in net.predict(torch.zeros(2, 5, dtype=torch.int64)))
        assert all(logits.isfinite().all() for logits in net.predict(data.encode(["", "!!!", "zyzzyva quux"])))


@pytest.mark.parametrize("method", ["deinforeg", "fdg"])
def test_an_interrupted_run_ends_as_one_never_stopped(method, texts, data, tmp_path):
    class Stop(Exception):
        pass

    def stop(epoch, net):
        if epoch == 2:
            raise Stop

    given = dict(epochs=3, checkpoint_steps=2)
    whole = kit.run(config(texts, "lstm", method, **given, output=str(tmp_path / "whole")))
    cut = config(texts, "lstm", method, **given, output=str(tmp_path / "cut"))
    with pytest.raises(Stop):
        kit.run(cut, stop)
    assert kit.run(cut).table.equals(whole.table)


def test_blocks_join_with_words_that_come_later(texts):
    grow = {"at": [1], "start": 2, "max_blocks": 3, "freeze": "earlier", "side": ["after4"]}
    given = config(texts, "lstm", "dgl", views=("first4", "after4"), grow=grow, epochs=2)
    data = kit.load_data(given)
    x, _ = next(data.batches("train", 8, epoch=0))
    assert x["x"].shape[1] <= 4 < x["after4"].shape[1]
    net = build(given, data)
    kit.fit(net, data, given)
    assert len(net) == 3 and net[2].context.name == "after4" and net[0].frozen
    one = {name: view[:1] for name, view in x.items()}
    torch.testing.assert_close(net.predict(x)[-1][:1], net.predict(one)[-1], rtol=1e-5, atol=1e-5)


def test_exits_are_left_early_and_cost_less(texts, data):
    net = build(given := config(texts, "transformer", epochs=8), data)
    kit.fit(net, data, given)
    x, _ = next(data.batches("test", 40))
    logits, left, cost = net.adaptive(x, "confidence", 0.6)
    answers = net.predict(x)
    assert 0 < (left == 0).sum() < len(x) and cost[left == 0].max() < cost.max()
    for k in range(len(x)):
        torch.testing.assert_close(logits[k], answers[left[k]][k], rtol=1e-4, atol=1e-5)


def test_flops_of_fused_layers_are_counted():
    """By hand, 2 a multiply-add: an LSTM's eight products a word and way, a Transformer layer's and its attention's."""
    x, mask = torch.randn(1, 20, 30), torch.ones(1, 20, dtype=torch.bool)
    lstm, encoder = BiLSTM(30, 30).eval(), Encoder(30, 6, 120, 0.0, batch_first=True).eval()
    with torch.no_grad():
        assert costs.flops(lambda: lstm(x, mask)) == 20 * 2 * 8 * 2 * 30 * 30
        assert costs.flops(lambda: encoder(x, mask)) == 20 * (2 * (4 * 30 * 30 + 2 * 30 * 120) + 2 * 2 * 20 * 30)
        before = lstm(x, mask), encoder(x, mask)
    assert torch.backends.mha.get_fastpath_enabled() and torch.backends.mkldnn.enabled and before[0].isfinite().all()


class OwnReader(nn.Module):
    """A model of one's own that reads words and a mask, plain PyTorch inside."""

    def __init__(self, num_words, num_classes):
        super().__init__()
        self.embed = nn.Embedding(num_words, 12)
        self.first, self.second = nn.Linear(12, 12), nn.GRU(12, 12, batch_first=True)
        self.answer = nn.Linear(12, num_classes)

    def forward(self, tokens, mask):
        real = mask.unsqueeze(2).float()
        h = self.embed(tokens)
        h = torch.tanh(self.first(h)) * real
        h, _ = self.second(h)
        return self.answer((h * real).sum(1) / real.sum(1))


def test_a_model_of_ones_own_that_reads_a_mask_is_cut(texts, data):
    torch.manual_seed(0)
    model = OwnReader(len(data.words), 3)
    x, y = next(data.batches("train", 16, epoch=0))
    stages = kit.split(model, None, x, at=["embed", "first"])
    h, mask = x, x != 0
    for stage in stages:
        h = stage(h, mask) if stage.takes_mask else stage(h)
    assert torch.equal(h, model(x, mask))
    net = kit.decouple(stages, "deinforeg", 3, x, precision="fp32")
    before = [p.clone() for p in net.parameters()]
    net.step(x, y)
    assert all(not torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True) if p.grad is None)
    assert [visit.feature().shape for visit in net.walk(net.signal(x))] == [(16, 12)] * 3
    given = config(texts, "lstm", width=1.0, backbone_options={})
    kit.fit(build(given, data, model=model), data, given)


def test_what_makes_no_sense_on_texts_is_refused(texts, data):
    for method, options, words in [
        ("infopro", {}, r"infopro reconstructs images.*decoder='none'"),
        ("predsim", {"unsupervised": "reconstruction"}, "whose length differs"),
    ]:
        with pytest.raises(ValueError, match=words):
            build(config(texts, "lstm", method, options=options), data)
    build(config(texts, "lstm", "infopro", options={"decoder": "none"}), data).step(
        *next(data.batches("train", 16, epoch=0))
    )
    with pytest.raises(ValueError, match="reads images, and .* has texts: take lstm or transformer"):
        build(kit.RunConfig(dataset=texts, backbone="resnet20", output=None), data)
    with pytest.raises(ValueError, match="reads texts, and digits has images"):
        build(kit.RunConfig(backbone="lstm", output=None), kit.load_data("digits"))
    with pytest.raises(ValueError, match="heads=7 do not divide the width hidden=300"):
        build(config(texts, "transformer", backbone_options={"heads": 7}), data)
