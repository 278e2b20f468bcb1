from __future__ import annotations

import numpy as np
import pytest
import torch

from lmtrace.errors import ConfigError
from lmtrace.probing.edges import candidates
from lmtrace.probing.label_sets import SETS, coarsen
from lmtrace.probing.linear import linear_probe
from lmtrace.signals.probe import Probe
from lmtrace.testing import check_signal
from lmtrace.text.panel import LabelLayer, Panel
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.tokenizer import WordTokenizer
from probe_views import PlantedTruth, PlantedView, by, planted_activations, word_panel


@pytest.fixture(scope="module")
def panel():
    return word_panel()


@pytest.fixture(scope="module")
def activations(panel):
    return planted_activations(panel)


def measure(signal, panel, activations, **rest):
    records = list(signal.measure(PlantedView(panel, activations, **rest)))
    fields = {f.metric: f for f in signal.fields}
    for record in records:
        record.check(fields)
    assert len({(r.metric, r.site, r.label, r.split) for r in records}) == len(records)
    return records


def test_a_label_that_the_word_decides_has_no_contextual_gain(panel, activations):
    records = measure(Probe(labels="upos", split="sentence"), panel, activations)
    at = {"label": "upos", "split": "sentence"}
    assert by(records, "accuracy", site="embed", **at).value > 0.8
    assert by(records, "contextual", site="block.0", **at).value == 0.0
    gain = by(records, "gain_over_embed", site="block.0", **at)
    # More features that say nothing more cost a few points on 300 words; they never gain any.
    assert -0.08 < gain.value < 0.02
    assert not [r for r in records if r.metric == "gain_over_embed" and r.site == "embed"]
    # A random class per type is learned about as well: the probe has learned words, not parts of speech.
    assert abs(by(records, "selectivity", site="embed", **at).value) < 0.15


def test_the_discriminant_is_chosen_by_name_and_says_what_it_chose(panel, activations):
    default = measure(Probe(labels="upos"), panel, activations)
    chosen = measure(Probe(labels="upos", kind="discriminant"), panel, activations)
    assert not [r for r in default if r.metric in ("penalty", "iterated")]
    for at in ({"split": split, "site": site} for split in ("sentence", "lexical") for site in ("embed", "block.0")):
        assert by(chosen, "penalty", label="upos", **at).value > 0
        assert by(chosen, "iterated", label="upos", **at).value in (0.0, 1.0)
    at = {"label": "upos", "split": "sentence", "site": "embed"}
    assert by(chosen, "accuracy", **at).value > by(default, "accuracy", **at).value - 0.05


def test_the_lexical_split_shows_that_it_was_the_dictionary(panel, activations):
    records = measure(Probe(labels="upos"), panel, activations)
    assert {r.split for r in records} == {"sentence", "lexical"}
    lexical = by(records, "accuracy", site="embed", label="upos", split="lexical")
    assert lexical.value < 0.5


def test_a_label_of_the_word_before_is_a_contextual_gain(panel, activations):
    records = measure(Probe(labels="role"), panel, activations)
    at = {"label": "role", "split": "sentence"}
    embed, block = (by(records, "accuracy", site=s, **at) for s in ("embed", "block.0"))
    assert abs(embed.value - embed.null) < 0.15
    assert block.value > 0.8
    assert by(records, "contextual", site="block.0", **at).value == 1.0
    gain = by(records, "gain_over_embed", site="block.0", **at)
    assert gain.value == pytest.approx(block.value - embed.value)
    assert gain.stderr < embed.stderr + block.stderr
    # The first word of a sentence has no role: it is neither learned from nor judged.
    assert block.n < panel.num_words / 3


def test_the_signal_gives_what_the_function_gives(panel):
    # Without twins, which the signal keeps together and the function knows nothing of.
    once = [panel.sentences[i] for i in np.unique(panel.sentence_twins)]
    panel = Panel.from_annotated(once, panel.tokenizer)
    activations = planted_activations(panel)
    layer = panel.labels("role")
    rows = layer.codes >= 0
    # The signal splits the whole panel, the function only the labelled words: here they hold the same sentences.
    expected = linear_probe(
        activations["block.0"][torch.as_tensor(rows)],
        layer.codes[rows],
        panel.word_sentence[rows],
        panel.word_types[rows],
    )
    records = measure(Probe(labels="role"), panel, activations)
    at = {"label": "role", "split": "sentence", "site": "block.0"}
    found = by(records, "accuracy", **at)
    assert (found.value, found.stderr, found.null, found.n) == (
        expected.accuracy,
        expected.stderr,
        expected.majority,
        expected.n_test,
    )
    assert by(records, "control_accuracy", **at).value == expected.control_accuracy
    assert by(records, "selectivity", **at).stderr == expected.selectivity_stderr
    assert by(records, "macro_f1", **at).value == expected.macro_f1.value
    f1 = by(records, "f1", site="block.0", label="role=X", split="sentence")
    assert (f1.value, f1.n) == (expected.f1["0"].value, expected.f1["0"].n)
    assert by(records, "confidence", **at).value == pytest.approx(expected.confidence)


def test_the_control_task_is_due_now_and_then_and_at_the_end(panel, activations):
    view = PlantedView(panel, activations)
    signal, due = Probe(labels="role", control=3), []
    for view.step in range(6):
        view.last = view.step == 5
        due.append(any(r.metric == "selectivity" for r in signal.measure(view)))
    assert due == [True, False, False, True, False, True]


def test_no_statistic_sees_words_without_a_label(panel, activations):
    broken = {name: x.clone() for name, x in activations.items()}
    outside = torch.as_tensor(panel.labels("role").codes < 0)
    for x in broken.values():
        x[outside] = torch.nan
    assert measure(Probe(labels="role"), panel, broken) == measure(Probe(labels="role"), panel, activations)


def test_activations_that_are_not_finite_are_missing_at_that_site_only(panel, activations):
    broken = dict(activations, **{"block.0": torch.full_like(activations["block.0"], torch.inf)})
    records = measure(Probe(labels="role"), panel, broken)
    assert by(records, "accuracy", site="block.0").missing == "activations that are not finite"
    assert by(records, "accuracy", site="embed").value is not None


def test_instances_share_the_statistics_of_a_site(panel, activations):
    view = PlantedView(panel, activations)
    first = list(Probe(labels="role", control=0).measure(view))
    num = len(view.cache)
    again = list(Probe(labels="role", kind="lda", control=0).measure(view))
    assert len(view.cache) == num == 2
    assert {r.metric for r in first} == {r.metric for r in again}


def test_gain_over_step_0_compares_the_same_words(panel, activations):
    view = PlantedView(panel, {"block.0": torch.randn(panel.num_words, 16, generator=torch.Generator().manual_seed(0))})
    signal = Probe(labels="role")
    start = list(signal.measure(view))
    assert not [r for r in start if r.metric == "gain_over_start"]
    later = PlantedView(panel, {"block.0": activations["block.0"]}, step=100, memory=view.memory)
    records = list(signal.measure(later))
    gain = by(records, "gain_over_start", site="block.0")
    assert gain.value == pytest.approx(by(records, "accuracy").value - by(start, "accuracy").value)


def test_probes_of_other_steps_are_applied_unchanged(panel, activations):
    signal = Probe(labels="role", keep_at=(0, 10))
    view = PlantedView(panel, {"block.0": activations["block.0"]})
    start = list(signal.measure(view))
    same = PlantedView(panel, {"block.0": activations["block.0"]}, step=10, memory=view.memory)
    records = list(signal.measure(same))
    applied = by(records, "transfer", split="sentence@0")
    assert applied.value == pytest.approx(by(start, "accuracy").value, abs=0.004)
    # The same information in other directions: a probe fitted now reads it, the old one does not.
    turn = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(1)))[0]
    turned = PlantedView(panel, {"block.0": activations["block.0"] @ turn}, step=20, memory=view.memory)
    records = list(signal.measure(turned))
    assert by(records, "accuracy").value > 0.8
    for step in (0, 10):
        assert by(records, "transfer", split=f"sentence@{step}").value < 0.7


def test_description_length_is_measured_on_request(panel, activations):
    records = measure(Probe(labels="role", bits=True, control=0), panel, activations)
    ratio = {site: by(records, "codelength", site=site).value for site in ("embed", "block.0")}
    assert ratio["block.0"] < 0.6 < ratio["embed"]


def test_an_edge_is_read_from_the_word_and_its_head(panel, activations):
    at = {"site": "embed", "label": "governor"}
    alone, edge = (
        by(measure(Probe(labels="governor", pair=pair, control=0), panel, activations), "accuracy", **at)
        for pair in ("", "head")
    )
    assert alone.value < 0.65
    assert edge.value > 0.8
    assert edge.n == int((panel.heads >= 0)[np.isin(panel.word_sentence, _test_sentences(panel))].sum())


def test_which_predicate_governs_an_argument():
    rng = np.random.default_rng(0)
    sentences = []
    for i in range(150):  # v a a v a a, each argument belongs to either verb
        owner = rng.choice(["1", "4"], 6)
        owner[[0, 3]] = ["1", "4"]
        words = tuple(f"{'v' if j in (0, 3) else 'a'}{rng.integers(20)}" for j in range(6))
        role = tuple(None if j in (0, 3) else "Agent" for j in range(6))
        labels = {"predicate": tuple(owner), "role": role}
        sentences.append(AnnotatedSentence(tokens=words, labels=labels, sent_id=str(i)))
    tokenizer = WordTokenizer.from_words(sorted({t for s in sentences for t in s.tokens}))
    panel = Panel.from_annotated(sentences, tokenizer, size=150, seed=0)
    layer = panel.labels("predicate")
    places = np.array([int(n) for n in layer.names])[layer.codes] - 1
    rows, heads, right = candidates(panel, layer)
    assert len(rows) == 150 * 4 * 2
    assert right.mean() == 0.5
    assert ((places[rows] == panel.word_position[heads]) == right.astype(bool)).all()
    code = rng.standard_normal((panel.num_sentences, 6, 12))
    clause = torch.as_tensor(code[panel.word_sentence, places]).float()  # shared by a verb and its arguments
    noise = torch.as_tensor(rng.standard_normal(clause.shape)).float()
    records = measure(Probe(pair="predicate"), panel, {"embed": noise, "block.0": clause + 0.2 * noise})
    assert by(records, "accuracy", site="block.0").value > 0.9
    assert abs(by(records, "accuracy", site="embed").value - 0.5) < 0.12
    assert by(records, "contextual", site="block.0").value == 1.0
    assert by(records, "f1", site="block.0", label="predicate=yes").value > 0.9
    one = word_panel()
    (record,) = measure(Probe(pair="predicate"), one, planted_activations(one))
    assert record.missing == "the panel has none of the layers predicate"
    with pytest.raises(ConfigError, match="asks of the layer 'predicate'"):
        Probe(pair="predicate", labels="role")


def _test_sentences(panel):
    from lmtrace.probing.splits import held_out

    return np.unique(panel.word_sentence[held_out(panel, "sentence", 0)])


def test_nothing_to_read_is_missing_with_its_reason(activations):
    panel = word_panel()
    records = measure(Probe(labels=("same", "role")), panel, activations)
    assert by(records, "accuracy", label="same").missing.startswith("only one class (one)")
    single = word_panel(num_sentences=1)
    (record,) = measure(Probe(labels="role"), single, planted_activations(single))
    assert "1 sentence cannot be split" in record.missing
    bare = Probe(labels=())
    (record,) = measure(bare, panel, activations)
    assert "the panel has none of the layers" in record.missing


def test_the_ceiling_comes_from_the_truth(panel, activations):
    records = [
        *Probe(labels="role").measure(PlantedView(panel, activations)),
    ]
    assert not [r for r in records if r.metric == "ceiling"]
    view = PlantedView(panel, activations, truth=PlantedTruth(ceilings={"role": 0.93}))
    view.panel = _with_truth(panel)
    records = list(Probe(labels=("role", "upos")).measure(view))
    assert by(records, "ceiling").value == 0.93
    assert by(records, "ceiling").label == "role"


def _with_truth(panel):
    import copy

    other = copy.copy(panel)
    other.truth = PlantedTruth()
    return other


def test_label_sets_make_layers_coarser(panel):
    layer = LabelLayer("upos", np.array([0, 1, 2, -1, 3]), ("AUX", "NOUN", "PUNCT", "VERB"))
    basic = coarsen(layer, "upos/basic")
    assert basic.names == ("NOUN", "OTHER", "VERB")
    assert [basic.names[c] if c >= 0 else None for c in basic.codes] == ["VERB", "NOUN", "OTHER", None, "VERB"]
    assert set(SETS["upos", "basic"].values()) | {"OTHER"} == set(
        ["NOUN", "VERB", "ADJ", "ADV", "PREP", "DET", "CONJ", "OTHER"]
    )
    roles = set(["AGENT", "PATIENT", "ACTION", "LOCATION", "RELATION", "CONNECTOR", "RESULT"])
    assert set(SETS["role", "basic"].values()) == roles
    added = set(["MOTION", "COMMUNICATION", "CHANGE", "DESTINATION", "TIME", "PROPERTY", "MANNER"])
    assert set(SETS["role", "detailed"].values()) == roles | added


def test_wrong_parameters_are_told():
    with pytest.raises(ConfigError, match="kind is 'svm'"):
        Probe(kind="svm")
    with pytest.raises(ConfigError, match="no label set 'role/coarse'"):
        Probe(labels="role/coarse")
    with pytest.raises(ConfigError, match="keep_at works with linear probes"):
        Probe(kind="mlp", keep_at=(0,))


def test_contract_on_a_model(panel):
    from lmtrace_helpers import PlainModel

    model = PlainModel(len(panel.tokenizer))
    records = check_signal(Probe(), model, panel)
    assert {r.site for r in records} >= {"embed", "block.0", "block.1", "final"}
    assert all(r.missing is None for r in records if r.metric == "accuracy")
