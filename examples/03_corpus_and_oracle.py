"""A language whose truth is known: generate it, check it, and ask its oracle.

Run: python examples/03_corpus_and_oracle.py
"""

from __future__ import annotations

from pathlib import Path

import absynth


def main(folder: Path = Path("runs/examples/03"), sentences: int = 20_000) -> absynth.Corpus:
    """Write a corpus and print what is exactly known of it."""
    grammar = absynth.Grammar.preset("tiny", strength=0.8, zipf=absynth.Zipf(alpha=1.2, q=2.7))
    corpus = absynth.generate(grammar, n=sentences, seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    corpus.save(folder / "corpus.parquet")

    sentence = next(s for s in corpus if len(s.tokens) > 4)
    for word, upos, role, head in zip(
        sentence.tokens, sentence.labels["upos"], sentence.labels["role"], sentence.heads, strict=True
    ):
        print(f"  {word:<12} {upos:<6} {role or '-':<12} head {head}")
    print(f"  {sentence.logical_form}\n")

    oracle = absynth.Oracle(grammar)
    print(f"No model can have a lower loss than {oracle.entropy_rate(unit='nats'):.4f} nats per token.")
    ceiling = oracle.ceiling("role", corpus[:500])
    print(
        f"Roles: at best {ceiling.prefix:.1%} right from the words so far, {ceiling.sentence:.1%} from the whole sentence."
    )
    wrong = [sentence.tokens[-1], *sentence.tokens[:-1]]
    diagnosis = oracle.parse(wrong).diagnosis
    print(f"'{' '.join(wrong)}': {'accepted' if diagnosis is None else diagnosis.message}")
    alpha = absynth.describe(corpus, scored=0).zipf["noun"]
    print(f"Zipf exponent of nouns: asked 1.2, measured {alpha.alpha:.3f} ± {alpha.stderr:.3f}")
    return corpus


if __name__ == "__main__":
    main()
