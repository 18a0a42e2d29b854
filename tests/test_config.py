"""Settings: written down and read back they are the same; every mistake is one line that names the key."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.build import Run
from tessella.config import decode, encode, flatten, merge, nearest, nested, override, parse_value, read_plain, typed
from tessella.data.source import DataConfig
from tessella.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Leaf:
    number: int = 3
    share: float = 0.5
    kind: Literal["a", "b", 2] = "a"
    maybe: float | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[str, ...] = ()
    flag: bool = False
    named: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Other:
    text: str = "x"


@dataclass(frozen=True, kw_only=True)
class Tree:
    left: Leaf = field(default_factory=Leaf)
    either: Leaf | Other | None = None
    path: str


finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=5).filter(
    lambda s: s != "type"
)
leaves = st.builds(
    Leaf, number=st.integers(), share=finite, kind=st.sampled_from(["a", "b", 2]), maybe=st.none() | finite,
    pair=st.tuples(finite, finite), many=st.lists(st.text(), max_size=3).map(tuple), flag=st.booleans(),
    named=st.dictionaries(names, st.integers(), max_size=2),
)  # fmt: skip
trees = st.builds(Tree, left=leaves, either=st.none() | leaves | st.builds(Other, text=st.text()), path=st.text())


@settings(max_examples=100, deadline=None)
@given(trees)
def test_there_and_back(tree: Tree) -> None:
    assert decode(Tree, encode(tree)) == tree
    assert decode(Tree, json.loads(json.dumps(encode(tree)))) == tree, "through JSON, where tuples are lists"


@settings(max_examples=100, deadline=None)
@given(trees)
def test_flat_and_nested(tree: Tree) -> None:
    plain = encode(replace(tree, left=replace(tree.left, named={})))
    if isinstance(tree.either, Leaf):
        plain["either"]["named"] = {"x": 1}
    plain["left"].pop("named")
    assert nested(flatten(plain)) == plain


@settings(max_examples=100, deadline=None)
@given(trees, trees)
def test_everything_overridden_is_the_other(one: Tree, other: Tree) -> None:
    one, other = (replace(t, left=replace(t.left, named={}), either=None) for t in (one, other))
    over = {k: v for k, v in flatten(encode(other)).items() if not k.endswith("type") and v != {}}
    assert override(one, [over])[0] == other
    assert override(one, [{}]) == (one, {})


def tree(**more: Any) -> Tree:
    return Tree(path="p", **more)


def test_later_sources_win(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('path = "from a"\n[left]\nnumber = 1\nshare = 1\n')
    (tmp_path / "b.json").write_text('{"left": {"number": 2}}')
    found, origins = override(tree(), [tmp_path / "a.toml", tmp_path / "b.json", {"left.kind": "b"}])
    assert found == Tree(path="from a", left=Leaf(number=2, share=1.0, kind="b"))
    a, b = str(tmp_path / "a.toml"), str(tmp_path / "b.json")
    assert origins == {"path": a, "left.share": a, "left.number": b, "left.kind": "given"}
    reverse, _ = override(tree(), [{"left.number": 7}, tmp_path / "b.json"])
    assert reverse.left.number == 2


def test_toml_and_dots_say_the_same() -> None:
    assert nested({"left.number": 1, "left.pair": [1, 2]}) == tomllib.loads("[left]\nnumber = 1\npair = [1, 2]\n")


def test_another_type_starts_afresh() -> None:
    """The fields of one class are not those of the next."""
    start = tree(either=Leaf(number=9))
    assert override(start, [{"either.number": 5}])[0].either == Leaf(number=5)
    assert override(start, [{"either.type": "Other"}])[0].either == Other()
    assert override(start, [{"either": None}])[0].either is None
    assert merge({"type": "Leaf", "number": 9}, {"type": "Leaf", "share": 1}) == {
        "type": "Leaf",
        "number": 9,
        "share": 1,
    }


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"left.numbr": 1}, "run.left has no key 'numbr'; did you mean 'number'?"),
    "far from all": ({"zzz": 1}, "run has no key 'zzz'; there are either, left, path"),
    "text for a number": ({"left.number": "three"}, "run.left.number is 'three'; expected int"),
    "float for an int": ({"left.number": 1.5}, "run.left.number is 1.5; expected int"),
    "bool for an int": ({"left.number": True}, "run.left.number is True; expected int"),
    "bool for a float": ({"left.share": True}, "run.left.share is True; expected float"),
    "int for a bool": ({"left.flag": 1}, "run.left.flag is 1; expected bool"),
    "none": ({"left.share": None}, "run.left.share is None; expected float"),
    "literal": ({"left.kind": "c"}, "run.left.kind is 'c'; expected one of 'a', 'b', 2"),
    "literal of another type": ({"left.kind": 2.0}, "run.left.kind is 2.0; expected one of 'a', 'b', 2"),
    "union": ({"left.maybe": "x"}, "run.left.maybe is 'x'; expected float or None"),
    "too many": ({"left.pair": [1, 2, 3]}, "run.left.pair is [1, 2, 3]; expected tuple"),
    "inside a list": ({"left.pair": [1, "x"]}, "run.left.pair[1] is 'x'; expected float"),
    "inside many": ({"left.many": ["x", 1]}, "run.left.many[1] is 1; expected str"),
    "inside a table": ({"left.named": {"k": "v"}}, "run.left.named.k is 'v'; expected int"),
    "nan": ({"left.share": float("nan")}, "run.left.share is nan; expected a finite number"),
    "which class": ({"either.type": "Lefa"}, "run.either.type is 'Lefa'; choose one of Leaf, Other"),
    "no class": ({"either.number": 1}, "run.either.type is None; choose one of Leaf, Other"),
    "a number for a tree": ({"left": 3}, "run.left is 3; expected Leaf"),
    "below a leaf": ({"left.number.x": 3}, "run.left.number is {'x': 3}; expected int"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_its_key(name: str) -> None:
    over, said = MISTAKES[name]
    with pytest.raises(BadInput) as error:
        override(tree(), [over])
    assert str(error.value) == said


def test_a_missing_key_is_named() -> None:
    with pytest.raises(BadInput, match=r"^x lacks path$"):
        decode(Tree, {"type": "Tree"}, "x")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [("absent.toml", None, "cannot be read"), ("a.toml", "x = ", "is not valid TOML"), ("a.json", "{", "valid JSON"),
     ("b.json", "[1]", "holds no table"), ("b.toml", b"\xff\xfe", "is not valid TOML")],
)  # fmt: skip
def test_a_file_that_cannot_be_used(name: str, text: str | bytes | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput, match=re.escape(name)) as error:
        read_plain(tmp_path / name)
    assert said in str(error.value) and "\n" not in str(error.value)


@settings(max_examples=100, deadline=None)
@given(st.none() | st.booleans() | st.integers() | finite | st.lists(st.integers() | st.text(), max_size=3))
def test_values_read_as_python_writes_them(value: Any) -> None:
    found = parse_value(repr(value))
    assert found == value and type(found) is type(value)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_some_value(text: str) -> None:
    parse_value(text)


def test_nearest_says_what_there_is() -> None:
    assert nearest("vit_b61", ["vit_b16", "vit_t16"]) == "; did you mean 'vit_b16'?"
    assert nearest("q", ["b", "a"]) == "; there are a, b"


def test_no_settings_class_has_a_field_called_type() -> None:
    """Its name would be lost: "type" is what a class is written under."""
    seen: set[type] = set()

    def walk(value: Any) -> None:
        if dataclasses.is_dataclass(value):
            seen.add(type(value))
            assert "type" not in {f.name for f in dataclasses.fields(value)}
            for f in dataclasses.fields(value):
                walk(getattr(value, f.name))

    run = Run(data=DataConfig(path="p"))
    walk(run)
    assert len(seen) > 6
    assert decode(Run, json.loads(json.dumps(encode(run)))) == run


def test_none_as_a_word_where_it_is_one() -> None:
    """`--data.augment.crop none` reads as None, but means the choice of that name."""
    hint = Literal["pad", "none"]
    assert decode(hint, parse_value("none")) == "none"
    assert decode(hint | None, parse_value("none")) is None
    with pytest.raises(BadInput):
        decode(Literal["pad", "resized"], None)


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [(str, "2024", "2024"), (str, "007", "007"), (str, "1e3", "1e3"), (str, "true", "true"), (str, "none", "none"),
     (str, "'2024'", "2024"), (str | None, "2024", "2024"), (str | None, "none", None), (int, "2024", 2024),
     (float, "3e-4", 3e-4), (int | Literal["auto"], "64", 64), (int | Literal["auto"], "auto", "auto"),
     (int | str, "64", 64), (bool, "true", True), (tuple[float, ...], "(0.9, 0.95)", (0.9, 0.95))],
)  # fmt: skip
def test_what_was_typed_is_read_by_its_field(hint: Any, text: str, value: Any) -> None:
    found = decode(hint, typed(text))
    assert found == value and type(found) is type(value)


def test_a_typed_dict_is_merged_as_one_of_a_file() -> None:
    run, _ = override(Run(data=DataConfig(path="p")), [{"train": typed("{'steps': 7}"), "folder": typed("2024")}])
    assert (run.train.steps, run.folder, run.train.lr) == (7, "2024", Run(data=DataConfig(path="p")).train.lr)
    with pytest.raises(BadInput, match=r"run\.train\.steps is 'many'; expected int"):
        override(run, [{"train.steps": typed("many")}])


def test_a_tag_that_is_no_text_is_refused() -> None:
    from tessella.models.architecture import ClassifierConfig

    with pytest.raises(BadInput, match=r"pool\.type"):
        decode(ClassifierConfig, {"pool": {"type": ["PoolConfig"]}})
