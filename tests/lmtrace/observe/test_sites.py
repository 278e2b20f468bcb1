import pytest
import torch
import transformers
from torch import nn

from lmtrace.errors import ModelError
from lmtrace.jobs.models import STYLES
from lmtrace.observe.flow import Layout
from lmtrace.observe.forward import default_forward
from lmtrace.observe.sites import TOTAL, embed_of, find_sites, sub_site, trace_sites, unwrap
from lmtrace_helpers import PlainModel, tiny


@pytest.mark.parametrize("style", sorted(set(STYLES) - {"t5"}))
def test_blocks_are_found_in_every_family(style, tokenizer):
    sites = find_sites(tiny(style, tokenizer))
    expected = ["embed", "block.0", "block.1"] + ([] if style == "bert" else ["final"])
    assert list(sites) == expected
    assert sites["embed"].module is sites["block.0"].module
    assert sites["embed"].when == "input"


def test_encoder_decoder_has_two_streams(tokenizer):
    sites = find_sites(tiny("t5", tokenizer))
    assert [s for s in sites if s.startswith("decoder.")] == [
        "decoder.embed", "decoder.block.0", "decoder.block.1", "decoder.final"
    ]  # fmt: skip
    assert sites["decoder.block.1"].stream == "decoder"
    assert sites["encoder.block.1"].stream == "encoder"


def test_plain_module_and_overrides():
    model = PlainModel(vocabulary=20)
    assert list(find_sites(model)) == ["embed", "block.0", "block.1", "final"]
    chosen = find_sites(model, {"block": "transformer.h", "final": "lm_head"})
    assert chosen["final"].path == "lm_head"
    assert sub_site(find_sites(model), "block.1.mlp").path == "transformer.h.1.mlp"


def test_no_blocks_is_one_line_that_says_what_to_do():
    with pytest.raises(ModelError, match=r"no list of blocks .* found in Linear.*sites="):
        find_sites(nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"has no module at 'nowhere'"):
        find_sites(PlainModel(vocabulary=20), {"block": "nowhere"})
    with pytest.raises(ModelError, match=r"not a list of blocks"):
        find_sites(PlainModel(vocabulary=20), {"block": "lm_head"})


def test_unwrap_finds_the_users_module(gpt2):
    assert unwrap(torch.compile(gpt2)) is gpt2
    assert unwrap(nn.DataParallel(gpt2)) is gpt2


def test_every_site_knows_the_embedding_of_its_stream():
    assert embed_of("block.3") == embed_of("embed") == embed_of("final") == "embed"
    assert embed_of("encoder.block.0") == "encoder.embed"
    assert embed_of("decoder.final") == embed_of("decoder.embed") == "decoder.embed"


def test_an_override_that_names_no_part_of_a_model_is_an_error():
    with pytest.raises(ModelError, match="'blocks' names no part.*sites="):
        find_sites(PlainModel(10), {"blocks": "transformer.h"})


# By the flow of data

WORDS = 40
TINY = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 40, "pad_token_id": 0, "bos_token_id": 2}


def traced(model, *, second=False, overrides=None):
    """Return the sites as two trial passes on random tokens show them."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for size, length, target in ((2, 8, 6), (3, 7, 5)):
        inputs = {"input_ids": torch.randint(5, WORDS, (size, length), generator=generator)}
        if second:
            inputs["decoder_input_ids"] = torch.randint(5, WORDS, (size, target), generator=generator)
        batches.append(inputs)
    model.eval()
    with torch.no_grad():
        return trace_sites(model, lambda inputs: default_forward(model, inputs), tuple(batches), overrides)


class Block(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return x + torch.tanh(self.inner(self.norm(x)))


class Stack(nn.Module):
    """An embedding, what `blocks` says, a norm that is registered before the blocks, and a head larger than the blocks."""

    def __init__(self, **parts):
        super().__init__()
        self.emb = nn.Embedding(WORDS, 24)
        self.before = nn.LayerNorm(24)
        self.last = nn.LayerNorm(24)
        self.heads = nn.ModuleList([nn.Linear(24, WORDS) for _ in range(5)])
        for name, part in parts.items():
            setattr(self, name, part)

    def walk(self, x):
        raise NotImplementedError

    def forward(self, input_ids):
        return self.heads[0](self.last(self.walk(self.before(self.emb(input_ids)))))


class InSequence(Stack):
    def walk(self, x):
        return self.body(x)


class ByName(Stack):
    def walk(self, x):
        for name in ("early", "middle", "late"):
            x = self.body[name](x)
        return x


class Numbered(Stack):
    def walk(self, x):
        return self.stage3(self.stage2(self.stage1(x)))


class Twice(Stack):
    def walk(self, x):
        for _ in range(3):
            x = self.body(x)
        return x


class Halves(Stack):
    """Mixers and feed-forward parts in two lists beside each other."""

    def walk(self, x):
        for mix, feed in zip(self.mixers, self.feeds):
            x = feed(mix(x))
        return x


@pytest.mark.parametrize(
    ("model", "paths"),
    [
        (InSequence(body=nn.Sequential(Block(), Block())), ["body.0", "body.1"]),
        (ByName(body=nn.ModuleDict({n: Block() for n in ("early", "middle", "late")})),
         ["body.early", "body.middle", "body.late"]),
        (Numbered(stage1=Block(), stage2=Block(), stage3=Block()), ["stage1", "stage2", "stage3"]),
        (Twice(body=Block()), ["body", "body", "body"]),
        (Halves(mixers=nn.ModuleList([Block(), Block()]), feeds=nn.ModuleList([Block(), Block()])),
         ["feeds.0", "feeds.1"]),
    ],
    ids=["Sequential", "ModuleDict", "numbered attributes", "looped", "two lists"],
)  # fmt: skip
def test_blocks_are_the_repeated_modules_on_the_residual_path(model, paths):
    found = traced(model)
    blocks = [f"block.{i}" for i in range(len(paths))]
    assert list(found.sites) == ["embed", *blocks, "final"]
    assert [found.sites[name].path for name in blocks] == paths
    assert found.sites["final"].path == "last"
    assert not found.lost


def test_a_looped_block_has_a_site_for_every_time():
    found = traced(Twice(body=Block()))
    assert [found.sites[f"block.{i}"].call for i in range(3)] == [0, 1, 2]
    assert {found.sites[f"block.{i}"].calls for i in range(3)} == {3}


def test_a_norm_of_the_embeddings_is_not_the_final_one():
    config = transformers.MvpConfig(
        vocab_size=WORDS, d_model=24, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=40, decoder_ffn_dim=40, max_position_embeddings=32, pad_token_id=0,
    )  # fmt: skip
    found = traced(transformers.MvpForConditionalGeneration(config), second=True)
    assert list(found.sites) == [
        "encoder.embed", "encoder.block.0", "decoder.embed", "decoder.block.0", "decoder.block.1"
    ]  # fmt: skip


def test_streams_are_told_apart_by_what_they_read():
    part = transformers.RobertaConfig(vocab_size=WORDS, num_hidden_layers=2, max_position_embeddings=40, **TINY)
    reader = transformers.RobertaConfig(
        vocab_size=WORDS,
        num_hidden_layers=3,
        max_position_embeddings=40,
        is_decoder=True,
        add_cross_attention=True,
        **TINY,
    )
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(part, reader)
    config.decoder_start_token_id, config.pad_token_id = 2, 0
    found = traced(transformers.EncoderDecoderModel(config), second=True)
    assert found.sites["encoder.block.1"].path == "encoder.encoder.layer.1"
    assert found.sites["decoder.block.2"].path == "decoder.roberta.encoder.layer.2"
    assert (found.sites["encoder.embed"].stream, found.sites["decoder.embed"].stream) == ("encoder", "decoder")


def test_a_norm_that_is_used_at_both_ends_is_final_at_its_last_call():
    class Shared(InSequence):
        def forward(self, input_ids):
            return self.heads[0](self.last(self.walk(self.last(self.emb(input_ids)))))

    final = traced(Shared(body=nn.Sequential(Block(), Block()))).sites["final"]
    assert (final.path, final.call, final.calls) == ("last", 1, 2)


def test_hidden_and_residual_are_summed():
    class Pairwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.inner = nn.LayerNorm(24), nn.Linear(24, 24)

        def forward(self, hidden, rest=None):
            rest = hidden if rest is None else hidden + rest
            return self.inner(self.norm(rest)), rest

    class Fused(Stack):
        def walk(self, x):
            rest = None
            for block in self.body:
                x, rest = block(x, rest)
            return x + rest

    model = Fused(body=nn.ModuleList([Pairwise() for _ in range(3)]))
    found = traced(model)
    assert {found.sites[f"block.{i}"].entry for i in range(3)} == {TOTAL}
    pair = (torch.ones(1, 2, 24), torch.full((1, 2, 24), 2.0))
    assert torch.equal(found.sites["block.0"].pick(pair), torch.full((1, 2, 24), 3.0))


def test_two_tensors_that_are_no_sum_are_not_guessed():
    class Reversible(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.g = nn.Linear(24, 24), nn.Linear(24, 24)

        def forward(self, a, b):
            a = a + self.f(b)
            return a, b + self.g(a)

    class Reversed(Stack):
        def walk(self, x):
            a = b = x
            for block in self.body:
                a, b = block(a, b)
            return torch.cat([a, b], dim=2)[..., ::2]

    found = traced(Reversed(body=nn.ModuleList([Reversible() for _ in range(3)])))
    assert "which is the residual stream cannot be told" in found.lost["block.1"]


@pytest.mark.parametrize("axes", [(1, 0, 2), (0, 2, 1), (2, 0, 1)])
def test_layouts_are_recognised_whatever_the_order(axes):
    class Turned(InSequence):
        def walk(self, x):
            inverse = [axes.index(i) for i in range(3)]
            return self.body(x.permute(inverse)).permute(axes)

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.5))

        def forward(self, x):
            return x * self.scale

    found = traced(Turned(body=nn.Sequential(Scale(), Scale(), Scale())))
    assert found.sites["block.1"].layout == Layout(axes)


def test_positions_in_front_of_the_tokens_and_behind_them_are_left_out():
    class Prompted(InSequence):
        def walk(self, x):
            prompt = self.before(self.emb.weight[:3]).expand(len(x), -1, -1)
            behind = torch.zeros(len(x), 20 - x.shape[1], 24)
            return self.body(torch.cat([prompt, x, behind], dim=1))[:, 3 : 3 + x.shape[1]]

    found = traced(Prompted(body=nn.Sequential(Block(), Block())))
    assert found.sites["block.1"].layout == Layout(skip=3, padded=True)


def test_shorter_streams_and_several_streams_are_lost_with_a_reason_and_nothing_else():
    class Streams(InSequence):
        def walk(self, x):
            return self.body(torch.stack([x, 2 * x], dim=2)).mean(dim=2)

    found = traced(Streams(body=nn.Sequential(Block(), Block())))
    assert set(found.lost) == {"embed", "block.0", "block.1"}
    assert all("several streams side by side" in why for why in found.lost.values())


def test_a_model_without_repeated_modules_has_no_sites_and_says_so():
    class Recurrent(Stack):
        def walk(self, x):
            return self.body(x)[0]

    found = traced(Recurrent(body=nn.LSTM(24, 24, 2, batch_first=True)))
    assert not found.sites
    assert "no module is repeated along its residual stream" in found.reason


def test_other_libraries_words_name_the_same_parts():
    model = ByName(body=nn.ModuleDict({n: Block() for n in ("early", "middle", "late")}))
    found = traced(model, overrides={"layers": "body", "ln_final": "heads.0"})
    assert found.sites["final"].path == "heads.0"
    assert found.sites["block.2"].path == "body.late"
