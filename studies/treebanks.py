"""Are treebanks read word for word? Every `.conllu` file below a folder, against a reader of a few lines that shares no code.

Compared are words, lemmas, both tags, heads, relations and every feature; and the text against `# text`, character by character.
Files that are refused are printed with their reason, and are no differences.

    python -m studies.treebanks FOLDER
"""

from __future__ import annotations

import argparse
import gzip
import lzma
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lmtrace.errors import DataError
from lmtrace.text.readers import read
from lmtrace.text.sentences import AnnotatedSentence

OPEN = {".gz": gzip.open, ".xz": lzma.open}
FIELDS = ("form", "lemma", "upos", "xpos", "head", "deprel", "features")


def plain(path: Path) -> Iterator[tuple[str | None, list[list[str]]]]:
    """Yield (`# text`, the columns of the words) of every sentence: split at empty lines, then at tabs."""
    with OPEN.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
        text, rows = None, []
        for line in [*file, "\n"]:
            if line.startswith("# text = "):
                text = line[len("# text = ") :].rstrip("\r\n")
            elif line.strip() and not line.startswith("#"):
                columns = line.rstrip("\r\n").split("\t")
                if columns[0].isdigit():
                    rows.append(columns)
            elif not line.strip() and rows:
                yield text, rows
                text, rows = None, []


def differences(sentence: AnnotatedSentence, text: str | None, rows: list[list[str]]) -> Counter[str]:
    """Return how many words differ, by field, and whether the text does."""
    found: Counter[str] = Counter()
    if len(sentence) != len(rows):
        return Counter(words=1)
    for i, columns in enumerate(rows):
        features = dict(part.split("=", 1) for part in columns[5].split("|") if part != "_")
        read_features = {name: sentence.labels.get(name, (None,) * len(rows))[i] for name in features}
        ours = {
            "form": sentence.tokens[i],
            "lemma": _label(sentence, "lemma", i),
            "upos": _label(sentence, "upos", i),
            "xpos": _label(sentence, "xpos", i),
            "head": "_" if sentence.heads is None else str(sentence.heads[i]),
            "deprel": _shown(sentence.deprels[i] if sentence.deprels else None),
            "features": read_features,
        }
        theirs = dict(zip(FIELDS, (*columns[1:5], *columns[6:8], features), strict=True))
        found.update(field for field in FIELDS if ours[field] != theirs[field])
    if text is not None and sentence.text != text.rstrip():
        found["text"] += 1
    return found


def _label(sentence: AnnotatedSentence, layer: str, i: int) -> str:
    return _shown(sentence.labels[layer][i] if layer in sentence.labels else None)


def _shown(value: str | None) -> str:
    return "_" if value is None else value


def main() -> None:
    """Compare every file, print what differs, and fail where a word does."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    total: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    for path in sorted(p for p in folder.rglob("*") if ".conllu" in p.suffixes and p.suffix in (".conllu", *OPEN)):
        try:
            corpus = read(path)
        except DataError as error:
            counted["refused"] += 1
            print(f"refused: {error}")
            continue
        found: Counter[str] = Counter()
        for sentence, (text, rows) in zip(corpus, plain(path), strict=True):
            found += differences(sentence, text, rows)
            counted["words"] += len(rows)
        counted.update(files=1, sentences=len(corpus))
        total += found
        if found:
            print(f"{path.name}: {dict(found)}")
    print(f"{dict(counted)}; differences: {dict(total) or 'none'}")
    if sum(total.values()) > total["text"] or not counted["files"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
