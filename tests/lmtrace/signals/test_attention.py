"""The signal attention on a model whose heads are hand-made: previous token, uniform, induction, dependency."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

import lmtrace
from lmtrace.errors import ConfigError
from lmtrace.observe.instrument import Instrument
from lmtrace.signals.attention import Attention
from lmtrace.text.panel import Panel
from lmtrace_helpers import PlainModel, tiny
from planted_view import find


class Handmade(PlainModel):
    """Returns the maps of four hand-made heads per block; block 1 has them in reverse order."""

    def __init__(self, vocabulary: int, heads_of: dict[tuple[int, ...], list[int]] | None = None) -> None:
        super().__init__(vocabulary, length=64)
        self.config = SimpleNamespace(_attn_implementation="sdpa")
        self.heads_of = heads_of or {}

    def set_attn_implementation(self, name: str) -> None:
        self.config._attn_implementation = name

    def forward(self, input_ids, attention_mask=None, output_attentions=False):
        assert not output_attentions or self.config._attn_implementation == "eager"
        logits = super().forward(input_ids)
        maps = torch.stack([self.heads(row, mask) for row, mask in zip(input_ids.tolist(), attention_mask.tolist())])
        return SimpleNamespace(logits=logits, attentions=(maps, maps.flip(1)) if output_attentions else None)

    def heads(self, ids: list[int], mask: list[int]) -> torch.Tensor:
        n = len(ids)
        previous, uniform, induction, dependency = torch.zeros(4, n, n)
        real = ids[: sum(mask)]
        looks = self.heads_of.get(tuple(real), [-1] * len(real))
        for q in range(n):
            uniform[q, : q + 1] = 1 / (q + 1)
            previous[q, max(0, q - 1)] = 1
            before = [k for k in range(q) if ids[k] == ids[q]]
            induction[q, before[-1] + 1 if before else 0] = 1
            dependency[q, looks[q] if q < len(looks) and looks[q] >= 0 else 0] = 1
        return torch.stack([previous, uniform, induction, dependency])


def tree_heads(panel: Panel) -> dict[tuple[int, ...], list[int]]:
    """Ids of a sequence -> for every token the earlier one at the other end of its first edge; panel words are one token."""
    found = {}
    for s, ids in enumerate(panel.encoder.ids):
        looks = [-1] * len(ids)
        words = np.flatnonzero(panel.word_sentence == s)
        for w in words:
            if panel.heads[w] >= 0:
                a, b = sorted((w, int(panel.heads[w])))
                looks[panel.encoder.word_first[b] - panel.encoder.offsets[s]] = int(
                    panel.encoder.word_first[a] - panel.encoder.offsets[s]
                )
        found[tuple(ids.tolist())] = looks
    return found


@pytest.fixture(scope="module")
def records(panel, tokenizer):
    model = Handmade(len(tokenizer), tree_heads(panel))
    found = Instrument(model, panel, [Attention(period=10)], on_error="raise").measure(0)
    return [r for r in found if r.signal == "attention"]


PREVIOUS, EVEN, INDUCTION, DEPENDENCY = range(4)


def test_arrays_are_heads_by_blocks(records):
    for record in records:
        if record.array is not None:
            assert record.array.shape == (4, 2)
            np.testing.assert_allclose(record.array[:, 1], record.array[::-1, 0])


def test_hand_made_heads_read_as_what_they_are(records):
    def head(metric: str) -> np.ndarray:
        return find(records, f"{metric}_heads").array[:, 0]

    assert head("previous")[PREVIOUS] == pytest.approx(1)
    assert head("entropy")[[PREVIOUS, INDUCTION, DEPENDENCY]] == pytest.approx(0, abs=1e-6)
    assert head("distance")[PREVIOUS] == pytest.approx(1)
    assert head("induction")[INDUCTION] == pytest.approx(1)
    assert head("induction")[PREVIOUS] == pytest.approx(0)
    assert head("dependency_right")[DEPENDENCY] > 0.6  # a word with two edges finds one of them
    assert head("dependency_right")[DEPENDENCY] > head("dependency_right")[EVEN]
    for metric in ("entropy", "distance", "previous", "first", "self", "same_token", "dependency"):
        assert head(metric)[EVEN] == pytest.approx(find(records, f"{metric}_heads").null, rel=1e-5), metric


def test_dependency_edges_one_by_one(records, panel):
    """The neighbouring word and the tree head, counted by hand."""
    looks, edges, neighbours, found = tree_heads(panel), 0, 0, 0
    for s, ids in enumerate(panel.encoder.ids):
        first = panel.encoder.word_first - panel.encoder.offsets[s]
        for w in np.flatnonzero(panel.word_sentence == s):
            if panel.heads[w] >= 0:
                a, b = sorted((int(w), int(panel.heads[w])))
                edges += 1
                neighbours += b - a == 1
                found += looks[tuple(ids.tolist())][first[b]] == first[a]
    record = find(records, "dependency_right_heads")
    assert record.n == edges
    assert record.null == pytest.approx(neighbours / edges)
    assert record.array[DEPENDENCY, 0] == pytest.approx(found / edges)


def test_numbers_per_block_are_the_best_head_or_the_mean(records):
    for metric, of in (("previous", np.max), ("induction", np.max), ("entropy", np.mean), ("first", np.mean)):
        array = find(records, f"{metric}_heads").array
        for block in (0, 1):
            assert find(records, metric, site=f"block.{block}").value == pytest.approx(of(array[:, block]))
    assert find(records, "first", site="block.0").stderr > 0
    assert find(records, "induction", site="block.0").null == pytest.approx(
        np.mean([1 / (q + 1) for q in range(11, 21)])
    )


def test_standard_errors_are_those_of_sequences(gpt2, panel):
    found = Instrument(gpt2, panel, [Attention()], on_error="raise").measure(0)
    record = find(found, "previous", site="block.1", signal="attention")
    assert 0 < record.stderr < 0.05
    assert record.n == sum(len(ids) - 1 for ids in panel.encoder.ids)


@pytest.mark.parametrize("style", ["gpt2", "llama", "bert", "t5"])
def test_maps_do_not_depend_on_padding(style, panel, tokenizer):
    """One sequence at a time gives the same sums as batches of many lengths."""
    model = tiny(style, tokenizer)
    instrument = Instrument(model, panel, [Attention()], on_error="raise")
    whole = {(r.metric, r.site, r.split): r for r in instrument.measure(0) if r.signal == "attention"}
    import lmtrace.observe.instrument as module

    original = module.batch_size_for
    try:
        module.batch_size_for = lambda *args, **kwargs: 1
        single = {(r.metric, r.site, r.split): r for r in instrument.measure(0) if r.signal == "attention"}
    finally:
        module.batch_size_for = original
    for key, record in whole.items():
        if record.value is not None:
            assert single[key].value == pytest.approx(record.value, abs=1e-4), key


def test_the_model_is_left_as_it_was(panel, tokenizer):
    model = tiny("gpt2", tokenizer)
    Instrument(model, panel, [Attention()], on_error="raise").measure(0)
    assert model.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks for module in model.modules())
    ids = torch.tensor([[3, 4, 5]])
    model.set_attn_implementation("eager")
    assert len(model(ids, output_attentions=True).attentions) == 2  # capturing can still be installed
    model.set_attn_implementation("sdpa")


def test_models_without_maps_give_the_reason(panel, tokenizer):
    found = Instrument(PlainModel(len(tokenizer)), panel, [Attention()]).measure(0)
    reasons = {r.missing for r in found if r.signal == "attention"}
    assert len(reasons) == 1
    assert "has no set_attn_implementation" in reasons.pop()


def test_maps_that_are_not_finite_are_a_reason(panel, tokenizer):
    model = tiny("gpt2", tokenizer)
    with torch.no_grad():
        model.transformer.h[1].attn.c_attn.bias[0] = torch.nan
    found = [r for r in Instrument(model, panel, [Attention()], on_error="raise").measure(0) if r.signal == "attention"]
    assert {r.missing for r in found if r.metric in ("entropy", "entropy_heads")} == {"maps that are not finite"}


def test_an_eager_attention_that_is_not_the_models_own_is_refused_and_changes_no_other_number(
    panel, tokenizer, tmp_path
):
    class Careless(Handmade):
        """Its eager attention forgets the mask."""

        def forward(self, input_ids, attention_mask=None, output_attentions=False):
            output = super().forward(input_ids, attention_mask, output_attentions)
            if self.config._attn_implementation == "eager":
                output.logits = output.logits + output.logits.mean(dim=1, keepdim=True)
            return output

    model = Careless(len(tokenizer))
    first = lmtrace.analyze(model, panel, run=tmp_path / "first", signals="output")
    second = lmtrace.analyze(model, panel, run=tmp_path / "second", signals="output,attention")
    loss = [run.series(signal="output", metric="loss", label=None).values.item() for run in (first, second)]
    assert loss[0] == pytest.approx(loss[1], abs=1e-6)
    reasons = {r.missing for r in second.records() if r.signal == "attention"}
    assert len(reasons) == 1
    assert "eager attention is not the model's own: its logits differ by" in reasons.pop()


def test_panels_without_trees_or_roles_give_the_reason(sentences, tokenizer, gpt2):
    plain = [SimpleNamespace(tokens=s.tokens, labels={"upos": s.labels["upos"]}) for s in sentences[:40]]
    bare = Panel.from_annotated(plain, tokenizer, size=40, seed=0)
    found = Instrument(gpt2, bare, [Attention()], on_error="raise").measure(0)
    assert find(found, "dependency").missing == "the panel has no dependency heads"
    assert find(found, "same_role_heads").missing == "the panel has no layer 'role'"
    assert find(found, "same_role").missing == "the panel has no layer 'role'"


def test_masked_models_have_no_induction_heads(panel, tokenizer):
    found = Instrument(tiny("bert", tokenizer), panel, [Attention()], on_error="raise").measure(0)
    assert find(found, "induction").missing == "only models that read from left to right have induction heads"


def test_same_role_words(sentences, tokenizer, panel):
    both = [SimpleNamespace(tokens=s.tokens, labels={"role": s.labels["upos"]}) for s in sentences[:40]]
    nouns = Panel.from_annotated(both, tokenizer, size=40, seed=0)
    found = Instrument(Handmade(len(tokenizer)), nouns, [Attention()], on_error="raise").measure(0)
    expected, count = 0.0, 0
    codes = nouns.labels("role").codes
    for s in range(nouns.num_sentences):
        words = np.flatnonzero(nouns.word_sentence == s)
        for w in words:
            same = [v for v in words if v < w and codes[v] == codes[w]]
            if same:
                count += 1
                expected += len(same) / (nouns.encoder.word_first[w] - nouns.encoder.offsets[s] + 1)
    record = find(found, "same_role_heads")
    assert record.n == count
    assert record.array[EVEN, 0] == pytest.approx(expected / count, rel=1e-5)


def test_wrong_settings_are_errors():
    with pytest.raises(ConfigError, match="num_sequences and period must be at least 2, got 16 and 1"):
        Attention(period=1)


# Each map at the block whose attention made it

SMALL = {
    "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3
}  # fmt: skip


def entropies(model, panel):
    """Return site -> value or reason of the attention's entropy, and what was said."""
    instrument = Instrument(model, panel, [Attention()])
    found = [r for r in instrument.measure(0) if r.signal == "attention" and r.metric == "entropy"]
    return {r.site: r.missing or r.value for r in found}, instrument.notes, found


def test_a_hybrid_has_maps_at_the_blocks_with_attention_and_a_reason_at_the_others(panel, tokenizer):
    config = transformers.Lfm2Config(
        vocab_size=len(tokenizer), num_hidden_layers=3, num_key_value_heads=2,
        layer_types=["conv", "full_attention", "conv"], **SMALL,
    )  # fmt: skip
    found, _, _ = entropies(transformers.Lfm2ForCausalLM(config), panel)
    assert isinstance(found["block.1"], float)
    assert "no module of this block gives attention weights" in found["block.0"]
    assert "no module of this block gives attention weights" in found["block.2"]


def test_a_head_that_looks_everywhere_alike_but_at_a_sink_is_the_null(panel, tokenizer):
    config = transformers.MiMoV2FlashConfig(
        vocab_size=len(tokenizer), num_hidden_layers=2, num_key_value_heads=2, head_dim=8, v_head_dim=8, swa_head_dim=8,
        swa_v_head_dim=8, swa_num_attention_heads=4, swa_num_key_value_heads=2, n_routed_experts=2, num_experts_per_tok=1,
        moe_intermediate_size=8, sliding_window=64, **SMALL,
    )  # fmt: skip
    model = transformers.MiMoV2FlashForCausalLM(config)
    sinks = [p for name, p in model.named_parameters() if "sink" in name]
    assert sinks
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "q_proj" in name:
                p.zero_()
            if "sink" in name:
                p.fill_(2.0)
    _, notes, records = entropies(model, panel)
    for record in records:
        assert record.value == pytest.approx(record.null, rel=1e-5)
    assert [kind for kind, _, _ in notes] == ["sinks"]


class Mixed(PlainModel):
    """Blocks whose attention gives maps of 4 heads, scores before the softmax, and maps of 2 heads."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__(vocabulary, layers=3)
        self.config = SimpleNamespace(_attn_implementation="sdpa")
        for block, heads in zip(self.transformer["h"], (4, 3, 2)):
            block.look = Looking(heads, weights=heads != 3)
            block.forward = lambda x, block=block: x + 0.1 * block.look(x)[0]

    def set_attn_implementation(self, name: str) -> None:
        self.config._attn_implementation = name

    def forward(self, input_ids, attention_mask=None, output_attentions=False):
        return super().forward(input_ids)


class Looking(torch.nn.Module):
    def __init__(self, heads: int, weights: bool) -> None:
        super().__init__()
        self.heads, self.weights = heads, weights

    def forward(self, x):
        scores = (x @ x.transpose(1, 2))[:, None].expand(-1, self.heads, -1, -1) - 5
        future = torch.ones(scores.shape[-2:]).triu(1).bool()
        maps = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
        return (maps[:, 0] @ x, maps if self.weights else scores)


def test_a_block_with_scores_costs_its_own_maps_and_heads_may_differ_in_number(panel, tokenizer):
    found, _, _ = entropies(Mixed(len(tokenizer)), panel)
    assert isinstance(found["block.0"], float)
    assert isinstance(found["block.2"], float)
    assert "no weights" in found["block.1"]
    arrays = [
        r for r in Instrument(Mixed(len(tokenizer)), panel, [Attention()]).measure(0) if r.metric == "first_heads"
    ]
    assert {r.site: r.array.shape for r in arrays} == {"block.0": (4, 1), "block.2": (2, 1)}


def test_a_switch_that_does_nothing_is_helped_and_put_back(panel, tokenizer):
    config = transformers.FalconConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, new_decoder_architecture=True,
        num_kv_heads=1, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    model = transformers.FalconForCausalLM(config)
    before = model.config._attn_implementation
    found, _, _ = entropies(model, panel)
    assert all(isinstance(value, float) for value in found.values())
    assert model.config._attn_implementation == before
