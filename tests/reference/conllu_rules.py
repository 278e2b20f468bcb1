"""The format rules of CoNLL-U (universaldependencies.org/format.html), checked line by line."""

import re
import unicodedata

UPOS = set(
    [
        "ADJ",
        "ADP",
        "ADV",
        "AUX",
        "CCONJ",
        "DET",
        "INTJ",
        "NOUN",
        "NUM",
        "PART",
        "PRON",
        "PROPN",
        "PUNCT",
        "SCONJ",
        "SYM",
        "VERB",
        "X",
    ]
)
DEPRELS = set(
    [
        "acl",
        "advcl",
        "advmod",
        "amod",
        "appos",
        "aux",
        "case",
        "cc",
        "ccomp",
        "clf",
        "compound",
        "conj",
        "cop",
        "csubj",
        "dep",
        "det",
        "discourse",
        "dislocated",
        "expl",
        "fixed",
        "flat",
        "goeswith",
        "iobj",
        "list",
        "mark",
        "nmod",
        "nsubj",
        "nummod",
        "obj",
        "obl",
        "orphan",
        "parataxis",
        "punct",
        "reparandum",
        "root",
        "vocative",
        "xcomp",
    ]
)
FEATURE = re.compile(r"[A-Z][A-Za-z0-9]*(\[[a-z0-9]+\])?=[A-Z0-9][A-Za-z0-9]*(,[A-Z0-9][A-Za-z0-9]*)*")


def faults(text):
    """Return every breach of the rules as (line number, what)."""
    found = []
    if not text.endswith("\n\n") or text.endswith("\n\n\n"):
        found.append((0, "ends with exactly one empty line"))
    if "\r" in text or unicodedata.normalize("NFC", text) != text:
        found.append((0, "LF line ends and NFC"))
    sent_ids, line_number = set(), 0
    for block in text[:-2].split("\n\n") if text.strip() else []:
        lines = block.split("\n")
        comments = [line for line in lines if line.startswith("#")]
        rows = [line.split("\t") for line in lines[len(comments) :]]

        def bad(i, what, start=line_number):
            found.append((start + i + 1, what))

        if any(line.startswith("#") for line in lines[len(comments) :]):
            bad(0, "comments before words")
        ids = [line for line in comments if re.match(r"# sent_id = \S", line)]
        texts = [line.removeprefix("# text = ") for line in comments if line.startswith("# text = ")]
        if len(ids) != 1 or ids[0] in sent_ids or "/" in ids[0]:
            bad(0, "one unique sent_id")
        sent_ids.update(ids)
        if len(texts) != 1:
            bad(0, "one text")
        heads, built = {}, ""
        for i, cells in enumerate(rows):
            at = len(comments) + i
            if len(cells) != 10 or any(cell == "" or cell != cell.strip(" ") or "  " in cell for cell in cells):
                bad(at, "ten columns, no stray spaces")
                continue
            number, form, lemma, upos, xpos, feats, head, deprel, deps, misc = cells
            if number != str(i + 1):
                bad(at, "IDs 1, 2, 3, ...")
            if any(" " in cell for cell in (number, upos, xpos, feats, head, deprel, deps, misc)):
                bad(at, "no space in this column")
            if upos not in UPOS:
                bad(at, "UPOS")
            if feats != "_":
                names = [pair.split("=")[0] for pair in feats.split("|")]
                if not all(FEATURE.fullmatch(pair) for pair in feats.split("|")):
                    bad(at, "FEATS pairs")
                if names != sorted(names, key=str.lower) or len(set(names)) != len(names):
                    bad(at, "FEATS sorted and unique")
            if not re.fullmatch(r"0|[1-9]\d*", head) or not 0 <= int(head) <= len(rows) or int(head) == i + 1:
                bad(at, "HEAD")
            else:
                heads[i + 1] = int(head)
            if (
                (deprel == "root") != (head == "0")
                or deprel.split(":")[0] not in DEPRELS
                or not re.fullmatch(r"[a-z]+(:[a-z]+)?", deprel)
            ):
                bad(at, "DEPREL")
            pairs = misc.split("|") if misc != "_" else []
            if any(not re.fullmatch(r"[^=|\s]+=[^|\s]+", pair) for pair in pairs) or len(set(pairs)) != len(pairs):
                bad(at, "MISC pairs")
            built += form + ("" if "SpaceAfter=No" in pairs else " ")
            if lemma == "_" and form != "_":
                bad(at, "LEMMA")
        if texts and built.rstrip(" ") != texts[0]:
            bad(0, "text is the words with SpaceAfter")
        if list(heads.values()).count(0) != 1:
            bad(0, "one root")
        for start in heads:
            seen, word = set(), start
            while word and word not in seen:
                seen.add(word)
                word = heads.get(word, 0)
            if word:
                bad(0, "no cycles")
        line_number += len(lines) + 1
    return found
