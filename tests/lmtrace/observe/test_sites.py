import pytest
import torch
from torch import nn

from lmtrace.errors import ModelError
from lmtrace.jobs.models import STYLES
from lmtrace.observe.sites import embed_of, find_sites, sub_site, unwrap
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
