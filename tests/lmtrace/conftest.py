"""A small annotated language, its tokenizer, panels and tiny models of every family."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import tiny

NOUNS = [f"noun{i}" for i in range(12)]
VERBS = [f"verb{i}" for i in range(8)]
ADJECTIVES = [f"adj{i}" for i in range(6)]


@dataclass
class Sentence:
    tokens: list[str]
    labels: dict[str, list[str | None]]
    heads: list[int] = field(default_factory=list)
    deprels: list[str] = field(default_factory=list)


def toy_sentence(rng: np.random.Generator) -> Sentence:
    """[adj] noun verb [adj] noun, with part of speech and role."""
    tokens, upos, role, heads, deprels = [], [], [], [], []

    def phrase(name: str) -> int:
        if rng.random() < 0.5:
            tokens.append(str(rng.choice(ADJECTIVES)))
            upos.append("ADJ"), role.append(None), heads.append(len(tokens) + 1), deprels.append("amod")
        tokens.append(str(rng.choice(NOUNS)))
        upos.append("NOUN"), role.append(name), heads.append(-1), deprels.append("nsubj" if name == "Agent" else "obj")
        return len(tokens) - 1

    first = phrase("Agent")
    tokens.append(str(rng.choice(VERBS)))
    verb = len(tokens)
    upos.append("VERB"), role.append("Action"), heads.append(0), deprels.append("root")
    second = phrase("Patient")
    heads[first] = heads[second] = verb
    return Sentence(tokens, {"upos": upos, "role": role}, heads, deprels)


@pytest.fixture(scope="session")
def sentences() -> list[Sentence]:
    rng = np.random.default_rng(0)
    return [toy_sentence(rng) for _ in range(200)]


@pytest.fixture(scope="session")
def tokenizer(sentences: list[Sentence]) -> WordTokenizer:
    return WordTokenizer.from_corpus(sentences)


@pytest.fixture(scope="session")
def panel(sentences: list[Sentence], tokenizer: WordTokenizer) -> Panel:
    return Panel.from_annotated(sentences[:120], tokenizer, size=120, seed=0)


@pytest.fixture
def gpt2(tokenizer: WordTokenizer) -> torch.nn.Module:
    return tiny("gpt2", tokenizer)
