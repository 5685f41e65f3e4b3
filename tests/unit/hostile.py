"""What an attacker or a broken medium may put where crfs reads."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

# Everything that json.loads can return, including what no honest writer produces.
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**400, max_value=10**401)
    | st.floats()
    | st.text(max_size=20)
)
json_values: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
_VISIBLE = st.characters(blacklist_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"))
printable = st.text(_VISIBLE | st.just(" "), max_size=20)
# Text as it comes from a file that need not be UTF-8.
file_text = st.binary(max_size=200).map(lambda raw: raw.decode(errors="surrogateescape"))


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each place in parsed JSON."""
    found = [here]
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        found += paths(inner, (*here, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], fresh: Any) -> Any:
    """A copy of parsed JSON with another value in one place."""
    if not path:
        return fresh
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], fresh)
    return copy
