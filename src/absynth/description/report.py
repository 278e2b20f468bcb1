"""`Description` as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from absynth.description.quality import Description, Shares


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
