"""Pages that are written from what they describe, at every build: signals, commands, errors, API, studies.

`write_all` writes them to docs/generated/, which is not under version control. `tests/test_docs.py` checks that nothing is left out.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SOURCE = ROOT / "src" / "lmtrace"
MISLEADS = re.compile(r"\s*(?:(?:When i|I)t misleads(?: where|:| )?)", re.DOTALL)


def write_all(folder: Path = DOCS / "generated") -> None:
    """Write every generated page; what did not change keeps its time, so that Sphinx does not read it again."""
    pages = {**signal_pages(), **command_pages(), **api_pages(), "studies.md": studies_page()}
    for old in folder.rglob("*.md"):
        if str(old.relative_to(folder)) not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# ---- signals ----
def signal_pages() -> dict[str, str]:
    """Return one page per signal that is installed, and their index."""
    from lmtrace.signals import PRESETS, available

    found = available()
    pages = {f"signals/{name}.md": signal_page(name, signal) for name, signal in found.items()}
    rows = [
        [f"[{name}](signals/{name}.md)", first_sentence(_text_of(signal)),
         ", ".join(p for p, names in PRESETS.items() if name in names or not names), str(signal.cost)]
        for name, signal in sorted(found.items())
    ]  # fmt: skip
    pages["signals.md"] = "\n".join(
        [
            "# Signals", "",
            "One page for each signal that is installed here, written from the signal itself. A signal that another package "
            "brings (entry point `lmtrace.signals`) has its page too. `lmtrace signals` prints the same list.", "",
            *table(["signal", "what it measures", "presets", "cost"], rows), "",
            "```{toctree}", ":hidden:", "", *(f"signals/{name}" for name in sorted(found)), "```", "",
        ]
    )  # fmt: skip
    return pages


def signal_page(name: str, signal: type[Any]) -> str:
    """Return the page of one signal: meaning, equations, fields with units and nulls, parameters, cost, source."""
    text = _text_of(signal)
    what, _, _ = text.partition(MISLEADS.search(text)[0]) if MISLEADS.search(text) else (text, "", "")
    lines = [f"# {name}", "", what.strip(), ""]
    if found := MISLEADS.search(text):
        rest = text[found.end() :].strip()
        where = "Where " if found[0].rstrip().endswith("where") else ""
        lines += ["## When it misleads", "", where + (rest if where else rest[:1].upper() + rest[1:]), ""]
    rows = [
        [f"`{f.metric}`", f.meaning, f.unit or "1", _range(f), f.null or "none", {"up": "higher", "down": "lower"}.get(f.better, "")]
        for f in signal.fields
    ]  # fmt: skip
    lines += ["## What it records", "", *table(["metric", "meaning", "unit", "range", "null", "better"], rows), ""]
    if equations := list(_equations(text)):
        lines += ["## Equations", ""]
        for module, doc in equations:
            lines += [f"From `{module}`:", "", doc, ""]
    documented = numpy_section(inspect.getdoc(signal) or "", "Parameters")
    rows = [[f"`{f.name}`", f"`{_default(f)}`", documented.get(f.name, "")] for f in fields(signal)]
    if rows:
        lines += ["## Parameters", "", *table(["field", "default", "meaning"], rows), ""]
    stride = (
        "every measurement" if signal.stride == 1 else f"every {signal.stride}th measurement, unless asked for more"
    )
    lines += [
        "## Cost and source",
        "",
        f"- Cost: {signal.cost}.",
        f"- Takes part in {stride}.",
        f"- Source: {signal.source}.",
    ]
    lines += [f"- Class: `{signal.__module__}.{signal.__qualname__}`.", ""]
    return "\n".join(lines)


def _text_of(signal: type[Any]) -> str:
    module = sys.modules[signal.__module__]
    # An outsider's module may hold more than its signal; then the class speaks for itself.
    own = (inspect.getdoc(signal) or "").partition("\n\nParameters\n")[0]
    return inspect.cleandoc(module.__doc__ or "") or own


def _equations(text: str) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys(re.findall(r"`(lmtrace\.numerics\.\w+)(?:\.\w+)?`", text)):
        yield name, inspect.cleandoc(importlib.import_module(name).__doc__ or "")


def _range(field: Any) -> str:
    low, high = (None if limit is None else f"{limit:g}" for limit in (field.low, field.high))
    return f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}" if high else ""


def _default(field: Any) -> str:
    value = (
        field.default_factory() if field.default is MISSING and field.default_factory is not MISSING else field.default
    )
    return "required" if value is MISSING else repr(value)


# ---- commands ----
def command_pages() -> dict[str, str]:
    """Return one page per program, with every command, argument and option."""
    import typer

    from absynth.cli import app as absynth
    from lmtrace.cli.main import app as lmtrace

    programs = {"lmtrace": lmtrace, "absynth": absynth}
    return {f"commands/{name}.md": _program(name, app, typer.main.get_command(app)) for name, app in programs.items()}


def _program(name: str, app: Any, program: Any) -> str:
    # What a parameter's type is called inside typer differs between its versions; the functions say it themselves.
    types = {c.name or c.callback.__name__: get_type_hints(c.callback) for c in app.registered_commands}
    lines = [f"# {name}: every command", "", str(program.help or ""), ""]
    for command_name, command in sorted(program.commands.items()):
        lines += [f"## {name} {command_name}", "", inspect.cleandoc(command.help or ""), ""]
        parameters = [p for p in command.params if p.name != "help"]
        arguments = [p for p in parameters if p.param_type_name == "argument"]
        options = [p for p in parameters if p.param_type_name == "option"]
        usage = [
            f"{p.metavar or p.name.upper()}" if p.required else f"[{(p.metavar or p.name.upper()).strip('[]')}]"
            for p in arguments
        ]
        usage = [*(f"{p.opts[-1]} ..." for p in options if p.required), *usage]
        lines += ["```", " ".join([name, command_name, *usage, "[OPTIONS]" if options else ""]).strip(), "```", ""]
        rows = [[f"`{p.metavar or p.name.upper()}`", "", _shown(p), p.help or ""] for p in arguments]
        hints = types[command_name]
        rows += [[" ".join(f"`{o}`" for o in p.opts), _type(hints[p.name]), _shown(p), p.help or ""] for p in options]
        lines += [*table(["", "type", "default", "meaning"], rows), ""]
    return "\n".join(lines)


def _type(hint: Any) -> str:
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    names = {bool: "", str: "text", int: "whole number", float: "number", Path: "path"}
    return names.get(kinds[0], "text, may be repeated" if get_args(kinds[0]) else str(kinds[0]))


def _shown(parameter: Any) -> str:
    value = parameter.default
    empty = value is None or value is False or "Sentinel" in type(value).__name__ or callable(value)
    return "required" if parameter.required else "" if empty else f"`{value}`"


# ---- the Python surface ----
def api_pages() -> dict[str, str]:
    """Return the reference of what `lmtrace`, `lmtrace.functional` and `absynth` export."""
    import absynth
    import lmtrace

    titles = {"lmtrace": "lmtrace", "functional": "lmtrace.functional", "absynth": "absynth"}
    modules = {"lmtrace": lmtrace, "functional": lmtrace.functional, "absynth": absynth}
    return {f"api/{name}.md": _reference(titles[name], module) for name, module in modules.items()}


def _reference(title: str, module: Any) -> str:
    lines = [f"# {title}", "", inspect.cleandoc(module.__doc__ or ""), ""]
    for name in sorted(module.__all__):
        value = getattr(module, name)
        if inspect.ismodule(value) or name.startswith("__"):
            continue
        kind = "autoclass" if inspect.isclass(value) else "autofunction" if callable(value) else "autodata"
        lines += [f"## {name}", "", "```{eval-rst}", f".. {kind}:: {title}.{name}"]
        if kind == "autoclass" and not issubclass(value, BaseException):
            lines += ["   :members:"]
            if any(base.__module__.startswith(f"{module.__name__}.") for base in value.__mro__[1:]):
                lines += ["   :inherited-members:"]  # a public class may stand on a core of its own package
        lines += ["```", ""]
    return "\n".join(lines)


# ---- errors ----
@dataclass(frozen=True)
class Message:
    """One `raise` of an error of ours: its class, its words with … for what varies, the cure, and its file."""

    kind: str
    words: str
    cure: str
    module: str


def messages(source: Path = SOURCE) -> list[Message]:
    """Return every error of lmtrace that some line raises or makes, read from the source."""
    found = []
    for path in sorted(source.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value.value
            for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets if isinstance(target, ast.Name)
        }  # fmt: skip
        module = str(path.relative_to(source).with_suffix("")).removesuffix("/__init__")
        for node in ast.walk(tree):
            kind = getattr(getattr(node, "func", None), "id", "")
            if isinstance(node, ast.Call) and kind in kinds() and node.args:
                words, *cure = (_words(argument, constants) for argument in node.args)
                found.append(Message(kind, words, cure[0] if cure else "", module))
    return found


def kinds() -> list[str]:
    """Return the names of the error classes."""
    from lmtrace import errors

    return [name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)]


def _words(node: ast.expr, constants: dict[str, Any]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join("…" if isinstance(part, ast.FormattedValue) else _words(part, constants) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _words(node.left, constants) + _words(node.right, constants)
    if isinstance(node, ast.IfExp):
        return f"{_words(node.body, constants)} / {_words(node.orelse, constants)}".strip(" /")
    return str(constants.get(getattr(node, "id", ""), "…"))


FAMILY = re.compile(r"^```\{errors\}[ ]*(.*?)$", re.MULTILINE)


def families(text: str) -> list[str]:
    """Return the modules that the families of docs/errors.md name: "text/readers" stands for all below it."""
    return [name for line in FAMILY.findall(text) for name in line.split()]


def belongs(module: str, family: str) -> bool:
    """Return whether a module is in a family."""
    return module == family or module.startswith(f"{family}/")


def error_table(names: Sequence[str], cure: str) -> str:
    """Return the messages of some modules, with their cures; `cure` is that of messages without their own."""
    found = [m for m in messages() if any(belongs(m.module, name) for name in names)]
    shown = {(m.words, m.cure): m for m in found if m.words.strip("… :,")}
    rows = [[f"{_escaped(m.words)}", f"`{m.kind}`", _escaped(m.cure.strip("…") or cure)] for m in shown.values()]
    return "\n".join(table(["message", "class", "what to do"], sorted(rows)))


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>$#])", r"\\\1", text)


# ---- studies ----
def studies_page() -> str:
    """Return the index of studies: every script with its question, and its page where it has one."""
    rows, written = [], sorted(path.stem for path in (DOCS / "studies").glob("*.md"))
    for path in sorted((ROOT / "studies").glob("[!_]*.py")):
        question = first_sentence(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
        name = f"[{path.stem}](../studies/{path.stem}.md)" if path.stem in written else path.stem
        rows.append([name, question, f"`python -m studies.{path.stem}`"])
    lines = [
        "# Studies",
        "",
        "Experiments whose answer is known, too long for a test. Each prints a verdict and fails where it is not reached.",
        "",
    ]
    lines += [*table(["study", "what it shows", "run"], rows), ""]
    if written:
        lines += ["```{toctree}", ":hidden:", "", *(f"../studies/{name}" for name in written), "```", ""]
    return "\n".join(lines)


# ---- shared ----
def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *cells]]


def first_sentence(text: str) -> str:
    """Return the first sentence of a docstring."""
    return re.split(r"(?<=[.?!])\s", " ".join(text.strip().split("\n\n")[0].split()))[0].rstrip(".")


def numpy_section(text: str, title: str) -> dict[str, str]:
    """Return name -> description of a section of a numpy docstring."""
    match = re.search(rf"^{title}\n-+\n(.*?)(?=\n\n\w+\n---|\Z)", text, re.DOTALL | re.MULTILINE)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (match[1] if match else "").splitlines():
        if line and not line[0].isspace():
            names = [name.strip() for name in line.partition(":")[0].split(",")]
        else:
            found |= {name: f"{found.get(name, '')} {line.strip()}".strip() for name in names}
    return found
