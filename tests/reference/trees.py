"""What a dependency tree must be."""


def check_tree(heads):
    """Fail unless the heads (1-based, 0 the root) are one projective tree."""
    assert heads.count(0) == 1
    for i in range(1, len(heads) + 1):
        seen, at = set(), i
        while at:
            assert at not in seen, "a cycle"
            seen.add(at)
            at = heads[at - 1]
    arcs = [(min(i, h), max(i, h)) for i, h in enumerate(heads, start=1) if h]
    assert not [1 for a, b in arcs for c, d in arcs if a < c < b < d], "crossing arcs"
