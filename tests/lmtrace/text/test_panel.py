from types import SimpleNamespace

import numpy as np
import pytest

from lmtrace.errors import ConfigError, DataError
from lmtrace.text.panel import Panel
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.sequences import encode_causal
from lmtrace.text.tokenizer import WordTokenizer
from text_corpora import english, fast_tokenizer, toy


@pytest.fixture(scope="module")
def word_panel():
    corpus = toy(60)
    return Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus, targets=True), size=20)


def test_causal_panel_predicts_every_word_and_the_end(word_panel):
    panel, tokenizer = word_panel, word_panel.tokenizer
    row = 0
    for i, sentence in enumerate(panel.sentences):
        assert panel.encoder.ids[i].tolist() == [2, *tokenizer.encode(sentence.tokens), 3]
        for position, word in enumerate((*sentence.tokens, "</s>")):
            assert tokenizer.words[panel.predictions.target[row]] == word
            assert panel.predictions.sentence[row] == i
            assert panel.predictions.position[row] == position
            expected = panel.word_offsets[i] + position if position < len(sentence) else -1
            assert panel.predictions.word[row] == expected
            assert panel.predictions.first[row]
            row += 1
    assert row == len(panel.predictions) == panel.num_words + panel.num_sentences
    assert panel.num_tokens == panel.num_words + 2 * panel.num_sentences


def test_word_rows_point_at_their_tokens(word_panel):
    flat = np.concatenate(word_panel.encoder.ids)
    words = [word_panel.type_names[t] for t in word_panel.word_types]
    assert [word_panel.tokenizer.words[i] for i in flat[word_panel.encoder.word_last]] == words
    assert np.array_equal(word_panel.encoder.word_first, word_panel.encoder.word_last)


def test_panel_and_training_tokenize_alike():
    for tokenizer in (WordTokenizer.from_corpus(english()), fast_tokenizer("gpt2"), fast_tokenizer("t5")):
        panel = Panel.from_annotated(english(), tokenizer, max_length=12)
        assert [ids.tolist() for ids in panel.encoder.ids] == encode_causal(english(), tokenizer, max_length=12)


@pytest.mark.parametrize("objective", ["causal", "masked", "seq2seq"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_hold_every_prediction_once_at_its_column(word_panel, objective, side):
    panel = word_panel.with_objective(objective)
    seen, sequences = [], []
    for batch in panel.batches(7, padding_side=side):
        sequences += batch.sequences.tolist()
        seen += batch.index.tolist()
        ids = batch.input_ids if objective != "seq2seq" else batch.decoder_input_ids
        mask = batch.attention_mask if objective != "seq2seq" else batch.decoder_attention_mask
        assert np.array_equal(batch.targets, panel.predictions.target[batch.index])
        assert np.array_equal(batch.sequences[batch.predict_row], panel.predictions.sentence[batch.index])
        assert np.all(mask[batch.predict_row, batch.predict_column] == 1)
        for row, column, index in zip(batch.predict_row, batch.predict_column, batch.index, strict=True):
            real = ids[row][mask[row] == 1]
            at = column - int(np.argmax(mask[row]))
            if objective == "masked":
                assert real[at] == panel.tokenizer.mask_token_id
            elif at + 1 < len(real):  # the logits of a column are those of the next input
                assert real[at + 1] == panel.predictions.target[index]
            else:
                assert panel.predictions.target[index] == panel.tokenizer.eos_token_id
        assert (batch.position_ids is None) == (side == "right")
        if batch.position_ids is not None:
            for row in range(len(batch.sequences)):
                real = batch.position_ids[row][batch.attention_mask[row] == 1]
                assert np.array_equal(real, np.arange(len(real)))
    assert sorted(sequences) == list(range(panel.num_sentences))
    assert sorted(seen) == list(range(len(panel.predictions)))


def test_batches_of_some_sequences(word_panel):
    batches = list(word_panel.batches(2, indices=[5, 3, 9]))
    assert sorted(np.concatenate([b.sequences for b in batches]).tolist()) == [3, 5, 9]


def test_both_padding_sides_give_the_losses_of_single_sentences():
    torch = pytest.importorskip("torch")
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = fast_tokenizer("gpt2")
    panel = Panel.from_annotated(english(), tokenizer)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=16, n_layer=1, n_head=2)
    ).eval()

    def losses(size, side):
        out = np.zeros(len(panel.predictions))
        for b in panel.batches(size, padding_side=side):
            t = {k: torch.as_tensor(getattr(b, k)) for k in ("input_ids", "attention_mask")}
            if b.position_ids is not None:
                t["position_ids"] = torch.as_tensor(b.position_ids)
            with torch.no_grad():
                logits = model(**t).logits.double()
            picked = logits[torch.as_tensor(b.predict_row), torch.as_tensor(b.predict_column)].log_softmax(-1)
            out[b.index] = -picked[torch.arange(len(b.targets)), torch.as_tensor(b.targets)].numpy()
        return out

    alone = losses(1, "right")
    assert np.abs(losses(5, "right") - alone).max() < 1e-5
    assert np.abs(losses(5, "left") - alone).max() < 1e-5


def test_masked_panel_masks_words_only_and_keeps_them_across_panels():
    tokenizer = fast_tokenizer("bert")
    panel = Panel.from_annotated(english(), tokenizer, objective="masked")
    plain = panel.with_objective("seq2seq").encoder.ids
    per_sentence = np.bincount(panel.predictions.sentence, minlength=panel.num_sentences)
    assert per_sentence.min() >= 1
    row = 0
    for masked, full, n in zip(panel.masked_ids, plain, per_sentence, strict=True):
        assert (masked[0], masked[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        columns = np.flatnonzero(masked == tokenizer.mask_token_id)
        assert np.array_equal(np.flatnonzero(masked != full), columns)
        assert np.array_equal(full[columns], panel.predictions.target[row : row + n])
        assert n == max(1, round(0.15 * (len(full) - 2)))
        row += n
    again = Panel.from_annotated(english(), tokenizer, objective="masked")
    assert again.hash == panel.hash
    assert Panel.from_annotated(english(), tokenizer, objective="masked", seed=1).hash != panel.hash


def test_masking_without_a_mask_token_is_an_error():
    with pytest.raises(DataError, match="no mask token"):
        Panel.from_annotated(english(), fast_tokenizer("gpt2"), objective="masked")


def test_seq2seq_answers_with_the_logical_form_where_it_can_be_encoded(word_panel):
    panel = word_panel.with_objective("seq2seq")
    assert panel.target == "logical form"
    noun, verb = panel.sentences[0].tokens[:2]
    words = panel.tokenizer.convert_ids_to_tokens
    assert words(panel.decoder.ids[0]) == ["<s>", "e", "(", verb, ",", noun, ")"]
    first = panel.predictions.sentence == 0
    assert words(panel.predictions.target[first]) == ["e", "(", verb, ",", noun, ")", "</s>"]
    assert np.all(panel.predictions.word == -1)
    assert np.all(panel.decoder.word_first == -1)
    assert np.all(panel.encoder.word_first >= 0)
    assert panel.truth is None
    assert "objective is seq2seq" in panel.truth_reason


def test_seq2seq_answers_with_the_sentence_otherwise():
    corpus = toy(10)
    panel = Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus), objective="seq2seq", decoder_start_id=0)
    assert panel.target == "sentence"
    assert panel.decoder.ids[0].tolist() == [0, *panel.encodings[0].ids]
    flat = np.concatenate(panel.decoder.ids)
    words = [panel.type_names[t] for t in panel.word_types]
    assert panel.tokenizer.convert_ids_to_tokens(flat[panel.decoder.word_last]) == words
    assert panel.predictions.word.max() == panel.num_words - 1


def test_long_sentences_are_cut_without_a_wrong_number():
    corpus = english()
    tokenizer = WordTokenizer.from_corpus(corpus)
    panel = Panel.from_annotated(corpus, tokenizer, max_length=5)
    for i, sentence in enumerate(panel.sentences):
        rows = panel.word_sentence == i
        kept = min(len(sentence), 4)
        assert (panel.encoder.word_first[rows] >= 0).sum() == (kept if len(sentence) > 3 else len(sentence))
        whole = len(sentence) + 2 <= 5
        assert (panel.encoder.ids[i][-1] == tokenizer.eos_token_id) == whole
        assert len(panel.encoder.ids[i]) <= 5
    cut = panel.encoder.word_first < 0
    assert cut.any()
    for layer in panel.layers:
        assert np.all(panel.labels(layer).codes[cut] == -1)
    assert panel.describe()["cut_words"] == int(cut.sum())


def test_a_word_that_loses_a_token_is_cut():
    sentence = AnnotatedSentence(tokens=("the", "qqwwzzxxvv"), labels={"upos": ("DET", "X")})
    panel = Panel.from_annotated([sentence], fast_tokenizer("gpt2"), max_length=6)
    assert panel.encoder.word_last[1] == -1
    assert panel.labels("upos").codes.tolist() == [0, -1]
    assert panel.labels("upos").names == ("DET",)
    assert len(panel.encoder.ids[0]) == 6
    assert panel.prediction_codes("upos")[-1] == -1
    assert panel.predictions.word[-1] == 1
    assert not panel.predictions.first[-1]


def test_without_special_tokens_the_first_token_is_not_predicted():
    bare = SimpleNamespace(
        is_fast=True, bos_token_id=None, eos_token_id=None, unk_token_id=None, pad_token_id=None, mask_token_id=None
    )

    class Bare:
        is_fast = True

        def __call__(self, texts, **kwargs):
            spans = [[(i, i + 1) for i in range(len(t)) if t[i] != " "] for t in texts]
            return {"input_ids": [[ord(t[a]) for a, _ in s] for t, s in zip(texts, spans)], "offset_mapping": spans}

        def __len__(self):
            return 256

        def __getattr__(self, name):
            return getattr(bare, name)

    panel = Panel.from_annotated([AnnotatedSentence(tokens=("ab", "c"))], Bare())
    assert panel.encoder.ids[0].tolist() == [97, 98, 99]
    assert panel.predictions.target.tolist() == [98, 99]
    assert panel.predictions.word.tolist() == [0, 1]
    assert panel.predictions.first.tolist() == [False, True]
    assert panel.predictions.position.tolist() == [0, 1]
    (batch,) = panel.batches(4)
    assert batch.predict_column.tolist() == [0, 1]


def test_labels_heads_and_sentence_labels_are_rows_of_words():
    panel = Panel.from_annotated(english(), fast_tokenizer("gpt2"))
    words = [panel.type_names[t] for t in panel.word_types]
    upos = panel.labels("upos")
    assert [upos.names[c] == "PUNCT" for c in upos.codes] == [w in ".,!" for w in words]
    complexity = panel.labels("complexity")
    lengths = np.bincount(panel.word_sentence)
    assert [complexity.names[c] == "simple" for c in complexity.codes] == [lengths[s] < 5 for s in panel.word_sentence]
    expected = np.where(panel.word_position == 0, -1, np.arange(panel.num_words) - 1)
    assert np.array_equal(panel.heads, expected)
    position = panel.labels("position")
    buckets = [position.names[c] for c in position.codes[panel.word_sentence == 1]]
    assert buckets[:9] == [
        "0",
        "1",
        "2",
        "3",
        *["4-7"] * 4,
        "8-15",
    ]


def test_frequency_bands_come_from_the_training_counts_where_given():
    sentence = AnnotatedSentence(tokens=("a", "b", "c", "new"))
    counts = {"a": 1000, **{f"x{i}": 500 for i in range(10)}, "b": 400, **{f"y{i}": 300 for i in range(90)}, "c": 1}
    panel = Panel.from_annotated([sentence], WordTokenizer(["a"]), frequencies=counts)
    layer = panel.labels("frequency")
    assert [layer.names[c] for c in layer.codes] == ["rank 1-10", "rank 11-100", "rank 101-1000", "unseen"]
    own = Panel.from_annotated([sentence], WordTokenizer(["a"])).labels("frequency")
    assert own.names == ("rank 1-10",)


def test_a_panel_keeps_the_hash_that_it_had_before_bands_were_called_ranks():
    sentences = [AnnotatedSentence(tokens=tuple("abca")), AnnotatedSentence(tokens=("d", "a"))]
    panel = Panel.from_annotated(sentences, WordTokenizer(list("abcd")))
    assert panel.hash == "dee50fb8a3dfdfb8be88ad82671c4846"


def test_one_sentence_one_class_and_empty_sentences():
    sentences = [AnnotatedSentence(tokens=()), *english()[:1], AnnotatedSentence(tokens=())]
    panel = Panel.from_annotated(sentences, WordTokenizer(["dog"]), size=5)
    assert (panel.num_sentences, panel.skipped) == (1, 2)
    assert panel.labels("complexity").names == ("medium",)
    assert panel.describe()["skipped"] == 2
    with pytest.raises(DataError, match="the panel is empty: 2 sentences, 2 of them without words"):
        Panel.from_annotated([sentences[0], sentences[2]], WordTokenizer(["dog"]))
    with pytest.raises(DataError, match="the panel is empty"):
        Panel.from_annotated([], WordTokenizer(["dog"]))


def test_the_sample_is_seeded_and_in_order():
    corpus = toy(60)
    tokenizer = WordTokenizer.from_corpus(corpus)
    a, b = (Panel.from_annotated(corpus, tokenizer, size=10, seed=3) for _ in range(2))
    assert a.hash == b.hash
    assert a.sentences == b.sentences
    where = [next(i for i, s in enumerate(corpus) if s is sentence) for sentence in a.sentences]
    assert where == sorted(where)
    streamed = Panel.from_annotated((s for s in corpus), tokenizer, size=10, seed=3)
    assert streamed.hash == a.hash
    assert Panel.from_annotated(corpus, tokenizer, size=10, seed=4).hash != a.hash


def test_the_hash_sees_ids_labels_policy_and_objective():
    sentences, tokenizer = english(), WordTokenizer.from_corpus(english())
    base = Panel.from_annotated(sentences, tokenizer)
    changed = [
        AnnotatedSentence(tokens=s.tokens, labels={"upos": s.labels["upos"][::-1]}, info=s.info) for s in sentences
    ]
    other = {
        Panel.from_annotated(sentences, tokenizer, policy="first").hash,
        Panel.from_annotated(sentences, tokenizer, objective="masked").hash,
        Panel.from_annotated(sentences, tokenizer, layers=["upos"]).hash,
        Panel.from_annotated(sentences, WordTokenizer(["x", *tokenizer.words])).hash,
        Panel.from_annotated(changed, tokenizer).hash,
        base.hash,
    }
    assert len(other) == 6
    assert base.with_objective("masked").with_objective("causal").hash == base.hash


def test_unknown_layers_name_those_there_are(word_panel):
    message = r"no label layer 'upso'. It has: category, construction, frequency, position"
    with pytest.raises(DataError, match=message):
        word_panel.labels("upso")
    with pytest.raises(DataError, match=message):
        Panel.from_annotated(toy(5), word_panel.tokenizer, layers=["upso"])
    panel = Panel.from_annotated(toy(5), word_panel.tokenizer, layers=["category"])
    assert panel.layers == ("category",)


def test_low_coverage_is_an_error():
    class Deaf:
        is_fast, bos_token_id, eos_token_id, unk_token_id = True, None, 0, None

        def __call__(self, texts, **kwargs):
            return {"input_ids": [[1]] * len(texts), "offset_mapping": [[(0, 3)]] * len(texts)}

        def __len__(self):
            return 2

    with pytest.raises(DataError, match=r"only \d+\.\d% of the panel's words reach a token of Deaf"):
        Panel.from_annotated(english(), Deaf())
    panel = Panel.from_annotated(english(), Deaf(), min_coverage=0.1)
    assert panel.coverage == pytest.approx(5 / panel.num_words)
    assert np.all(panel.labels("upos").codes[panel.encoder.word_first < 0] == -1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"objective": "casual"}, "objective is 'casual'"), ({"policy": "middle"}, "policy is 'middle'"),
     ({"size": 0}, "size is 0"), ({"max_length": 2}, "max_length is 2")],
)  # fmt: skip
def test_wrong_settings(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        Panel.from_annotated(english(), WordTokenizer(["a"]), **kwargs)


def test_description_is_plain_data(word_panel):
    import json

    described = json.loads(json.dumps(word_panel.describe()))
    assert described["layers"]["category"] == ["noun", "verb"]
    assert described["truth"] == "exact"
    assert described["num_words"] == word_panel.num_words


def test_the_longest_sequence_is_that_of_either_stream():
    corpus = toy(20)
    panel = Panel.from_annotated(corpus, WordTokenizer.from_corpus(corpus, targets=True), size=20)
    assert panel.longest == max(map(len, panel.encoder.ids))
    seq = panel.with_objective("seq2seq")
    assert seq.longest == max(map(len, seq.decoder.ids)) > max(map(len, seq.encoder.ids))


def test_what_depends_on_the_panel_alone_is_made_once(word_panel):
    made = []
    for _ in range(2):
        assert word_panel.once(("test", 1), lambda: made.append(1) or len(made)) == 1
    assert word_panel.once(("test", 2), lambda: made.append(1) or len(made)) == 2
    masked = word_panel.with_objective("masked")
    assert masked.once(("test", 1), lambda: "its own") == "its own"
