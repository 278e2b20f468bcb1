"""`Description`: what `describe` found, as data and as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Shares:
    """Requested and measured shares of a sentence-level label.

    Attributes
    ----------
    requested
        Name -> share by the grammar's law; None when there is no grammar.
    counts
        Name -> sentences.
    chi_square, degrees, p
        Pearson's goodness of fit, cells with fewer than 5 expected sentences pooled; None with a reason in `note`.
    """

    requested: dict[str, float] | None
    counts: dict[str, int]
    chi_square: float | None = None
    degrees: int | None = None
    p: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Exponent:
    """Zipf exponent of a category's words.

    Attributes
    ----------
    requested, q
        The law p(rank) proportional to (rank + q)^-alpha; requested is None when there is no grammar.
    alpha, stderr
        Maximum likelihood given the ranks and q, standard error from the Fisher information; None with a reason in
        `note`.
    tokens, words
        What it rests on.
    """

    requested: float | None
    q: float
    alpha: float | None
    stderr: float | None
    tokens: int
    words: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Entropy:
    """Mean surprisal and mean entropy under the grammar's oracle, bits per token, end of sentence included.

    Attributes
    ----------
    surprisal, entropy, structural, lexical
        Means over tokens. Surprisal estimates entropy without bias, so they agree within errors.
    difference_stderr
        Standard error of surprisal - entropy, over sentences.
    by_position
        Mean entropy after 0, 1, 2, ... words, over sentences that get so far.
    sentences
        How many were scored (the first ones).
    """

    surprisal: float
    entropy: float
    structural: float
    lexical: float
    difference_stderr: float
    by_position: tuple[float, ...]
    sentences: int


@dataclass(frozen=True, slots=True)
class Description:
    """What `describe` found. `str()` is readable, `to_dict()` is plain data.

    Attributes
    ----------
    sentences, tokens, types
        Sizes.
    shares
        "frame", "level", "construction" -> requested against measured.
    zipf
        Category -> exponent.
    entropy
        None without an oracle.
    lengths
        Words -> sentences; `length_by_level`: level -> mean number of words.
    distances
        Words between a dependent and its head (1: neighbours) -> tokens, roots left out.
    duplicates
        Sentences that occur before in the corpus.
    coverage
        Category -> (words seen, words of the grammar); None for the second without a grammar.
    ngrams
        n -> {"tokens", "types", "once"}; counted within sentences.
    roles
        Role -> category -> tokens.
    provenance
        As in the corpus.
    """

    sentences: int
    tokens: int
    types: int
    shares: dict[str, Shares]
    zipf: dict[str, Exponent]
    entropy: Entropy | None
    lengths: dict[int, int]
    length_by_level: dict[str, float]
    distances: dict[int, int]
    duplicates: int
    coverage: dict[str, tuple[int, int | None]]
    ngrams: dict[int, dict[str, int]]
    roles: dict[str, dict[str, int]]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return render(self)


def render(d: Description) -> str:
    """Return tables, widest line about 100 characters."""
    facts = [
        f"{d.sentences:,} sentences, {d.tokens:,} tokens, {d.types:,} types, "
        f"{d.tokens / d.sentences:.2f} words per sentence"
    ]
    facts.append(f"duplicates {d.duplicates:,} ({d.duplicates / d.sentences:.2%})")
    if d.provenance:
        facts.append(", ".join(f"{key} {value}" for key, value in d.provenance.items()))
    parts = ["\n".join(facts)]
    parts += [_shares(name, shares) for name, shares in d.shares.items()]
    if d.zipf:
        rows = [
            [
                name,
                _number(z.requested, 3),
                _number(z.alpha, 3),
                _number(z.stderr, 3),
                f"{z.tokens:,}",
                f"{z.words:,}",
                z.note,
            ]
            for name, z in d.zipf.items()
        ]
        parts.append(
            "Zipf exponents (maximum likelihood)\n"
            + _table(["category", "requested", "measured", "error", "tokens", "words", ""], rows)
        )
    if d.entropy is not None:
        e = d.entropy
        z = (e.surprisal - e.entropy) / e.difference_stderr if e.difference_stderr > 0 else 0.0
        parts.append(
            f"Entropy, bits per token with the end of sentence (first {e.sentences:,} sentences)\n"
            f"  mean surprisal {e.surprisal:.4f}   mean entropy {e.entropy:.4f}   "
            f"difference {e.surprisal - e.entropy:+.4f} ± {e.difference_stderr:.4f} (z {z:+.2f})\n"
            f"  structural {e.structural:.4f}   lexical {e.lexical:.4f}\n"
            f"  by position: {' '.join(f'{value:.2f}' for value in e.by_position)}"
        )
    counted = [f"  lengths: {' '.join(f'{n}:{k:,}' for n, k in d.lengths.items())}"]
    if d.length_by_level:
        counted.append(
            "  mean length by level: " + ", ".join(f"{name} {value:.2f}" for name, value in d.length_by_level.items())
        )
    if d.distances:
        mean = sum(n * k for n, k in d.distances.items()) / sum(d.distances.values())
        counted.append(
            f"  dependency distance: mean {mean:.2f}; " + " ".join(f"{n}:{k:,}" for n, k in d.distances.items())
        )
    parts.append("Lengths (words:sentences)\n" + "\n".join(counted))
    rows = [[str(n), f"{c['tokens']:,}", f"{c['types']:,}", f"{c['once']:,}"] for n, c in d.ngrams.items()]
    parts.append("n-grams within sentences\n" + _table(["n", "tokens", "types", "once"], rows))
    if d.coverage:
        rows = [
            [name, f"{seen:,}", "" if total is None else f"{total:,}"] for name, (seen, total) in d.coverage.items()
        ]
        parts.append("Words seen\n" + _table(["category", "seen", "of"], rows))
    if d.roles:
        categories = list(dict.fromkeys(name for row in d.roles.values() for name in row))
        rows = [
            [role, *(f"{row[name]:,}" if name in row else "" for name in categories)] for role, row in d.roles.items()
        ]
        parts.append("Role by category (tokens)\n" + _table(["role", *categories], rows))
    return "\n\n".join(parts)


def _shares(name: str, shares: Shares) -> str:
    total = sum(shares.counts.values())
    rows = []
    for value, count in shares.counts.items():
        requested = None if shares.requested is None else shares.requested.get(value, 0.0)
        rows.append([value, _number(requested, 4), f"{count / total:.4f}", f"{count:,}"])
    test = (
        ""
        if shares.p is None
        else f": chi-square {shares.chi_square:.1f}, {shares.degrees} degrees, p = {shares.p:.3f}"
    )
    return f"{name.capitalize()} shares{test}{f' ({shares.note})' if shares.note else ''}\n" + _table(
        [name, "requested", "measured", "sentences"], rows
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
