"""Grammars from plain data and from TOML. Nothing is filled in silently: an unknown key is an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from absynth.errors import AbsynthError
from absynth.rules.checks import reshared
from absynth.rules.frames import Construction, Frame, add_frames
from absynth.rules.lexicon import Zipf
from absynth.rules.presets import preset

G = TypeVar("G")

_TOP = (
    "preset",
    "name",
    "seed",
    "surface",
    "plural",
    "past",
    "ambiguity",
    "strength",
    "clusters",
    "zipf",
    "sizes",
    "levels",
    "shares",
    "frames",
)


def parameters(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a grammar from its `to_dict` output, or from the content of a grammar file.

    With ``preset`` the named preset is the base: ``sizes`` are merged into its sizes, ``frames`` are added to its
    frames (the
    shares of the others are scaled to make room), everything else replaces. ``default`` stands for all other
    categories.

    Raises
    ------
    AbsynthError
        For an unknown key or a value of the wrong type or range.
    """
    _table("grammar", spec)
    _known("grammar", spec, _TOP)
    settings: dict[str, Any] = {}
    if "preset" in spec:
        settings = preset(spec["preset"])
    settings |= {
        key: spec[key] for key in ("name", "seed", "surface", "plural", "past", "ambiguity", "levels") if key in spec
    }
    if "levels" in spec and spec["levels"] is not None:
        _table("levels", spec["levels"])
    for key, kind in (("strength", float), ("clusters", int)):
        if key in spec:
            value = spec[key]
            settings[key] = (
                {_default(k): v for k, v in value.items()} if isinstance(value, Mapping) else _as(kind, key, value)
            )
    if "zipf" in spec:
        settings["zipf"] = _zipf(spec["zipf"])
    if "sizes" in spec:
        _table("sizes", spec["sizes"])
        settings["sizes"] = {**settings.get("sizes", {}), **spec["sizes"]}
    if "frames" in spec:
        _table("frames", spec["frames"])
        new = tuple(_frame(name, value) for name, value in spec["frames"].items())
        settings["frames"] = add_frames(settings["frames"], new) if "preset" in spec else new
    if "shares" in spec:
        settings["frames"] = reshared(settings.get("frames", ()), spec["shares"])
    for key in ("sizes", "frames"):
        if key not in settings:
            raise AbsynthError(key, None, f'a table [{key}], or preset = "small"')
    return settings


def read_toml(path: str | Path, build: Callable[[Mapping[str, Any]], G]) -> G:
    """Read a grammar file.

    Parameters
    ----------
    build
        Makes the grammar of the file's content; the errors it raises name a field, to which the line is added here.

    Raises
    ------
    AbsynthError
        With file and line where the file cannot be read, is not TOML, or does not describe a grammar.
    """
    import tomllib  # only now: few grammars are read from a file, all load this module

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AbsynthError(str(path), str(error), "a readable TOML file in UTF-8") from error
    try:
        spec = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        where = f"{path}:{found.group(1)}" if found else str(path)
        raise AbsynthError(where, str(error), "valid TOML") from error
    try:
        return build(spec)
    except AbsynthError as error:
        line = _line_of(text, error.field)
        where = f"{path}:{line}" if line else str(path)
        raise AbsynthError(f"{where}: {error.field}", error.value, error.allowed) from error


def to_toml(spec: Mapping[str, Any]) -> str:
    """Return what `to_dict` of a grammar gives as TOML; reading it gives an equal grammar."""

    def text(value: Any) -> str:
        # JSON strings, numbers and lists of them are TOML as well.
        return json.dumps(value, ensure_ascii=False)

    def key(name: str) -> str:
        return name if re.fullmatch(r"[A-Za-z0-9_]+", name) else text(name or "default")

    def table(name: str, values: Mapping[str, Any]) -> list[str]:
        return ["", f"[{name}]", *(f"{key(k)} = {text(v)}" for k, v in values.items())]

    lines = [f"{name} = {text(spec[name])}" for name in ("name", "seed", "surface", "plural", "past", "ambiguity")]
    for name in ("sizes", "strength", "clusters", "levels"):
        if spec[name] is not None:
            lines += table(name, spec[name])
    for name, law in spec["zipf"].items():
        lines += table(f"zipf.{key(name)}", law)
    for name, frame in spec["frames"].items():
        lines += table(f"frames.{name}", {k: frame[k] for k in ("verb", "core", "share")})
        if frame["optional"]:
            lines += table(f"frames.{name}.optional", frame["optional"])
        for construction in frame["constructions"]:
            lines += ["", f"[[frames.{name}.constructions]]", *(f"{k} = {text(v)}" for k, v in construction.items())]
    return "\n".join(lines) + "\n"


def _line_of(text: str, field: str) -> int | None:
    """Return the line (from 1) where a field such as "frames.motion.goal.pattern" is set; None when it is nowhere.

    Walks the file's tables in order and keeps the line whose path matches the longest part of the field.
    """
    want = field.split(".")
    here: list[str] = []
    best, best_line = 0, None
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?", line)
        setting = re.match(r"\s*([A-Za-z0-9_\-\".:]+)\s*=\s*(.*)", line)
        paths: list[list[str]] = []
        if header:
            here = [part.strip().strip('"') for part in header.group(1).split(".")]
            paths.append(here)
        elif setting:
            key = setting.group(1).strip('"')
            if here and here[-1] == "constructions" and key == "name":
                here = [*here[:-1], "constructions", setting.group(2).strip().strip("\"'")]
                paths.append([part for part in here if part != "constructions"])
            paths.append([part for part in here if part != "constructions"] + key.split("."))
            paths += [paths[-1] + [inner] for inner in re.findall(r"([A-Za-z0-9_\-]+)\s*=", setting.group(2))]
        for path in paths:
            same = 0
            while same < min(len(path), len(want)) and path[same] == want[same]:
                same += 1
            if same == len(path) and same > best:
                best, best_line = same, number
        if header and text.splitlines()[number - 1].lstrip().startswith("[["):
            here = [part for part in here if part != "constructions"] + ["constructions"]
    return best_line


def _default(key: str) -> str:
    return "" if key == "default" else key


def _table(field: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise AbsynthError(field, value, "a table")


def _known(field: str, table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in table:
        if key not in keys:
            raise AbsynthError(f"{field}.{key}" if field != "grammar" else key, key, f"one of {', '.join(keys)}")


def _as(kind: type, field: str, value: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise AbsynthError(
            field, value, f"a {'number' if kind is float else 'whole number' if kind is int else 'text'}"
        )
    return value


def _zipf(value: Any) -> dict[str, Zipf]:
    _table("zipf", value)
    if set(value) <= {"alpha", "q"}:
        value = {"": value}
    elif {"alpha", "q"} & set(value):
        shared = {key: value[key] for key in ("alpha", "q") if key in value}
        value = {
            "": shared,
            **{k: {**shared, **v} if isinstance(v, Mapping) else v for k, v in value.items() if k not in shared},
        }
    result = {}
    for name, law in value.items():
        field = f"zipf.{name}" if name else "zipf"
        _table(field, law)
        _known(field, law, ("alpha", "q"))
        result[_default(name)] = Zipf(**{key: _as(float, f"{field}.{key}", number) for key, number in law.items()})
    return result


def _frame(name: str, value: Any) -> Frame:
    field = f"frames.{name}"
    _table(field, value)
    _known(field, value, ("verb", "core", "optional", "share", "constructions"))
    for key in ("verb", "core", "share", "constructions"):
        if key not in value:
            raise AbsynthError(f"{field}.{key}", None, "this key is needed")
    if not isinstance(value["core"], (list, tuple)):
        raise AbsynthError(f"{field}.core", value["core"], "a list of roles")
    if not isinstance(value["constructions"], (list, tuple)):
        raise AbsynthError(f"{field}.constructions", value["constructions"], "a list of tables")
    _table(f"{field}.optional", value.get("optional", {}))
    constructions = []
    for i, item in enumerate(value["constructions"]):
        _table(f"{field}.constructions", item)
        where = f"{field}.{item.get('name', i)}"
        _known(where, item, ("name", "level", "pattern", "weight"))
        for key in ("name", "level", "pattern"):
            if key not in item:
                raise AbsynthError(f"{where}.{key}", None, "this key is needed")
            _as(str, f"{where}.{key}", item[key])
        constructions.append(
            Construction(
                name=item["name"],
                level=item["level"],
                pattern=item["pattern"],
                weight=_as(float, f"{where}.weight", item.get("weight", 1.0)),
            )
        )
    return Frame(
        name=name,
        verb=_as(str, f"{field}.verb", value["verb"]),
        core=tuple(_as(str, f"{field}.core", role) for role in value["core"]),
        optional=dict(value.get("optional", {})),
        share=_as(float, f"{field}.share", value["share"]),
        constructions=tuple(constructions),
    )
