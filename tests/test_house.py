"""The design as a test: each rule reads the source and names what breaks it; beside it is text that it must flag."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
Sources = dict[str, str]  # path from the repository's root -> text
Rule = Callable[[Sources], list[str]]  # -> one line for each breach

# ---------------------------------------------------------------------------------------------------- reading the tree

TEXT = {".py", ".md", ".toml", ".txt", ".cfg", ".sh"}
NAMED = {"Makefile", "NOTICE", "run", ".gitignore"}
SKIP = {"runs", "demo", "build", "dist", "results", "__pycache__", "bundled"}


@functools.cache
def sources() -> Sources:
    """All text of the repository but this file, whose mutations break every rule on purpose."""
    out = {}
    for top in sorted(ROOT.iterdir()):
        hidden = top.name.startswith(".") and top.name not in {".ci", ".gitignore"}
        if hidden or top.name in SKIP or top.name.endswith(".egg-info"):
            continue
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            parts = set(path.relative_to(ROOT).parts)
            text = path.suffix in TEXT or path.name in NAMED
            if path.is_file() and text and not parts & (SKIP - {"demo", "build"}):
                out[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    out.pop("tests/test_house.py")
    return out


@functools.cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def python(tree: Sources, *tops: str) -> Iterator[tuple[str, ast.Module]]:
    for path, text in tree.items():
        if path.endswith(".py") and (not tops or path.split("/")[0] in tops):
            yield path, parsed(text)


def at(path: str, node: ast.AST) -> str:
    return f"{path}:{getattr(node, 'lineno', 1)}"


def dotted(node: ast.AST) -> str:
    """`torch.load` for the expression torch.load; "" for what is not a plain chain of names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return ""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def command_name(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """The verb that a function of cli.py is, from its `@app.command("name")`."""
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and dotted(decorator.func) == "app.command":
            given = [a.value for a in decorator.args if isinstance(a, ast.Constant)]
            return str(given[0]) if given else function.name.replace("_", "-")
    return None


def verbs_of(tree: Sources) -> set[str]:
    found = {command_name(function) for function in functions(parsed(tree.get("tessella/cli.py", "")))}
    return {name for name in found if name}


def only_for_types(tree: ast.Module) -> set[ast.AST]:
    """The nodes below `if TYPE_CHECKING:`: they are never run."""
    out: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING"):
            out |= {inner for statement in node.body for inner in ast.walk(statement)}
    return out


def imports(path: str, tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Absolute dotted names, with the imported name at the end: `from ..models import vit` -> tessella.models.vit."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            prefix = [*start, *(node.module.split(".") if node.module else [])]
            yield from ((".".join([*prefix, alias.name]), node) for alias in node.names)


# ------------------------------------------------------------------------------------------------------- who may import

LEAVES = {"errors", "config", "durable"}
OBJECT = {"models", "data", "weights", "card", "runtime", "metrics"}
ROOMS = {"models", "weights", "data", "objectives", "training", "runtime", "metrics", "explainers", "retrieval"} | {
    "exporters", "server", "report", "recipes", "build", "card", "parallel", "verbs",
    "notebook"
}  # fmt: skip
MAY = {
    "errors": set(), "config": {"errors"}, "durable": {"errors", "config"}, "parallel": set(), "card": LEAVES,
    "notebook": {"errors"},
    "tensorfile": LEAVES, "models": LEAVES | {"card"}, "data": LEAVES | {"card"},
    "weights": LEAVES | {"models", "card", "tensorfile"},
    "objectives": LEAVES | {"models", "parallel", "card"},
    "training": LEAVES | {"objectives.objective", "parallel", "tensorfile"},
    "runtime": LEAVES | {"models", "data", "weights", "card", "notebook"}, "metrics": LEAVES | {"parallel", "card"},
    "explainers": LEAVES | OBJECT, "retrieval": LEAVES | OBJECT, "exporters": LEAVES | OBJECT,
    "server": LEAVES | {"runtime", "retrieval", "explainers"}, "report": LEAVES | {"metrics", "explainers", "card"},
    "recipes": LEAVES | {"build", "models", "data", "objectives", "training", "metrics"},
    "build": LEAVES | (ROOMS - {"verbs", "recipes", "server", "report", "build", "notebook"}), "verbs": LEAVES | ROOMS,
    "cli": LEAVES | {"verbs"}, "": LEAVES | {"verbs", "runtime"}, "__main__": {"cli"},
}  # fmt: skip
MAY_SIDEWAYS = {room: {room} for room in MAY if room not in {"objectives", "recipes"}}


def import_directions(tree: Sources) -> list[str]:
    """DESIGN section 3: never upward, never sideways between objectives, and no room that the table does not know."""
    out = []
    for path, module in python(tree, "tessella"):
        parts = path.removesuffix(".py").split("/")[1:]
        room = "" if parts == ["__init__"] else parts[0]
        if room not in MAY:
            out.append(f"{path}: no such room in the design")
            continue
        allowed = MAY[room] | MAY_SIDEWAYS.get(room, set())
        if room == "objectives":
            allowed = allowed | {f"objectives.{name}" for name in ("objective", "losses", "lighten")}  # no methods
        for name, node in imports(path, module):
            ours, _, target_name = name.partition(".")
            target = target_name.split(".")
            known = ours == "tessella" and target[0] in MAY and target[0]
            if known and not {target[0], ".".join(target[:2])} & allowed:
                out.append(f"{at(path, node)}: {room or '__init__'} must not import {'.'.join(target[:2])}")
    return out


def recipes_import_configs(tree: Sources) -> list[str]:
    """A recipe returns a Run: it needs the classes that hold settings, and nothing that does the work."""
    out = []
    for path, module in python({p: t for p, t in tree.items() if p.startswith("tessella/recipes/")}):
        for name, node in imports(path, module):
            room, last = [*name.split("."), ""][1], name.split(".")[-1]
            ours = name.startswith("tessella.") and room not in {"build", "recipes", *LEAVES}
            if ours and not re.search(r"(Config|Source|preset|classifier)$", last):
                out.append(f"{at(path, node)}: {last} is not a class of settings")
    return out


CORE = {"torch", "numpy", "PIL", "simplejpeg", "safetensors", "rich", "typer", "click", "tessella"}
CORE_INSIDE = {"torchvision"}  # always installed, but takes a second to import


def optional_imports(tree: Sources) -> list[str]:
    """Only the core may be imported when a file is; the rest inside a function which says what to install."""
    out = []
    known = CORE | set(sys.stdlib_module_names)
    for path, module in python(tree, "tessella"):
        homes: dict[ast.AST, ast.AST] = {}
        for function in functions(module):
            homes |= dict.fromkeys(ast.walk(function), function)
        for name, node in imports(path, module):
            top, home = name.split(".")[0], homes.get(node)
            if top in known or node in only_for_types(module):
                continue
            if home is None:
                out.append(f"{at(path, node)}: import {top} inside the function that needs it")
            elif top not in CORE_INSIDE and "pip install" not in ast.unparse(home):
                out.append(f"{at(path, node)}: {top} may be missing; say which `pip install` mends it")
    return out


def light_leaves(tree: Sources) -> list[str]:
    """What the command line and the leaves load at once: `tessella --help` must not wait for torch."""
    light = {
        f"tessella/{name}.py"
        for name in ("__init__", "__main__", "cli", "errors", "config", "durable", "card", "notebook")
    }
    return [
        f"{at(path, node)}: {name} in a file that must stay light"
        for path, module in python(tree, "tessella")
        if path in light
        for name, node in imports(path, module)
        if name.split(".")[0] in {"torch", "torchvision", "numpy", "PIL"} and node not in only_for_types(module)
    ]


# -------------------------------------------------------------------------------------------------------------- budgets

DATA_ONLY = {"presets.py", "catalog.py"}


def file_length(tree: Sources) -> list[str]:
    out = []
    for path, text in tree.items():
        most = 1000 if path.split("/")[-1] in DATA_ONLY else 350 if path.endswith("training/trainer.py") else 600
        if path.endswith(".py") and text.count("\n") > most:
            out.append(f"{path}: {text.count(chr(10))} lines, at most {most}")
    return out


def function_length(tree: Sources) -> list[str]:
    """60 lines; 100 for `train`, for one `forward` of a file, and for a function that is one big match."""
    out = []
    for path, module in python(tree, "tessella", "bench", "scripts", "tests"):
        forwards = 0
        for function in functions(module):
            lines = (function.end_lineno or 0) - function.lineno + 1
            if lines <= 60:
                continue
            forwards += function.name == "forward"
            special = function.name == "train" or (function.name == "forward" and forwards == 1)
            most = 100 if special or any(isinstance(s, ast.Match) for s in function.body) else 60
            if lines > most:
                out.append(f"{at(path, function)}: {function.name} has {lines} lines, at most {most}")
    return out


def parameter_count(tree: Sources) -> list[str]:
    """At most 6 beside self. A command's parameters are its options on the command line, so those are not counted."""
    out = []
    for path, module in python(tree, "tessella", "bench"):
        for function in functions(module):
            a = function.args
            names = [x.arg for x in [*a.posonlyargs, *a.args, *a.kwonlyargs] if x.arg not in {"self", "cls"}]
            command = path == "tessella/cli.py" and command_name(function)
            if len(names) + (a.vararg is not None) > 6 and not command:
                out.append(f"{at(path, function)}: {function.name} takes {len(names)} parameters; make them a config")
    return out


# ---------------------------------------------------------------------------------------------------------------- names

BANNED = {"utils", "util", "misc", "common", "helper", "helpers", "base", "core", "manager"}
ONE_WORD = {  # the word that the project uses instead
    "embed_dim": "width", "hidden_dim": "width", "hidden_size": "width", "num_heads": "heads", "n_heads": "heads",
    "num_layers": "depth", "n_layers": "depth", "img_size": "image_size",
    "num_classes": "classes", "n_classes": "classes",
}  # fmt: skip


def file_names(tree: Sources) -> list[str]:
    return [
        f"{path}: say what it holds" for path in tree if path.endswith(".py") and set(re.split(r"[/_.]", path)) & BANNED
    ]


def class_names(tree: Sources) -> list[str]:
    end = re.compile(r"(Module|Wrapper|Meta|Manager|Helper|Helpers|Utils|Base|Core|Misc)$|^(Base|Abstract)[A-Z]")
    return [
        f"{at(path, node)}: {node.name}; a class says what a thing is"
        for path, module in python(tree, "tessella", "bench")
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef) and end.search(node.name)
    ]


def one_word_per_thing(tree: Sources) -> list[str]:
    """width, depth, heads, image_size, classes; other people's words only where their files are read."""
    out = []
    for path, module in python(tree, "tessella"):
        if path.startswith("tessella/weights/"):
            continue
        names = [(a.arg, a) for a in ast.walk(module) if isinstance(a, ast.arg)]
        names += [
            (n.target.id, n)
            for n in ast.walk(module)
            if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
        ]
        out += [f"{at(path, node)}: {name} is called {ONE_WORD[name]} here" for name, node in names if name in ONE_WORD]
    return out


def first_line(tree: Sources) -> list[str]:
    """Each file begins by saying what idea it holds."""
    return [
        f"{path}: the first line says what idea the file holds"
        for path, module in python(tree, "tessella", "bench", "scripts", "tests", "examples")
        if module.body and not (ast.get_docstring(module) or "").split("\n")[0].strip()
    ]


# ---------------------------------------------------------------------------------------------------------------- style


def silent_except(tree: Sources) -> list[str]:
    """No bare except, and no `except Exception` whose body does nothing."""
    out = []
    for path, module in python(tree):
        for node in ast.walk(module):
            if not isinstance(node, ast.ExceptHandler):
                continue
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type] if node.type else []
            broad = any(dotted(kind) in {"Exception", "BaseException"} for kind in kinds)
            words = [s.value if isinstance(s, ast.Expr) else s for s in node.body]
            idle = all(isinstance(word, (ast.Pass, ast.Continue, ast.Constant)) for word in words)
            if node.type is None or (broad and idle):
                out.append(f"{at(path, node)}: an error is swallowed")
    return out


def swallowed_keywords(tree: Sources) -> list[str]:
    return [
        f"{at(path, function)}: {function.name}(**{function.args.kwarg.arg}) accepts any spelling"
        for path, module in python(tree, "tessella")
        for function in functions(module)
        if function.args.kwarg and (not function.name.startswith("_") or function.name == "__init__")
    ]


def no_hasattr(tree: Sources) -> list[str]:
    """A module may be asked (`hasattr(os, "fork")` is a question about the platform), an object not."""
    out = []
    for path, module in python(tree, "tessella"):
        modules = {alias.name for node in module.body if isinstance(node, ast.Import) for alias in node.names}
        for name, node in calls(module):
            if name == "hasattr" and dotted(node.args[0]) not in modules:
                out.append(f"{at(path, node)}: hasattr; give the class the attribute")
    return out


def trainer_asks_no_kind(tree: Sources) -> list[str]:
    """training/ knows objectives by their contract alone, and parameters not by their names."""
    out = []
    for path, module in python({p: t for p, t in tree.items() if p.startswith("tessella/training/")}):
        for name, node in calls(module):
            if name in {"isinstance", "issubclass"} and "objective" in ast.unparse(node).lower():
                out.append(f"{at(path, node)}: {ast.unparse(node)} asks which objective this is")
        for node in ast.walk(module):
            asked = node.subject if isinstance(node, ast.Match) else node
            kind_of = isinstance(node, (ast.Match, ast.Compare, ast.Subscript)) and ast.unparse(asked)
            if kind_of and re.search(r"type\(\S*objective|objective\.__class__", kind_of):
                out.append(f"{at(path, node)}: {kind_of} asks which objective this is")
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(r"\S*blocks?\.\S*", node.value)
            ):
                out.append(f"{at(path, node)}: {node.value!r} parses a parameter's name; ask the tower's depth_of")
    return out


def unfinished(tree: Sources) -> list[str]:
    out = [
        f"{at(path, node)}: NotImplementedError; use an abstract method or do it"
        for path, module in python(tree)
        for node in ast.walk(module)
        if isinstance(node, ast.Name) and node.id == "NotImplementedError"
    ]
    for path, text in tree.items():
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
                out.append(f"{path}:{number}: {line.strip()}")
    return out


def machine_paths(tree: Sources) -> list[str]:
    """No path that exists on one machine only, in code or in prose."""
    path_of_a_machine = re.compile(r"(?<![\w.~/$}\])-])/(work|root|opt|home|mnt|Users|tmp)(?=[/\"'`\s,;:)]|$)")
    return [
        f"{path}:{number}: {line.strip()}"
        for path, text in tree.items()
        for number, line in enumerate(text.splitlines(), 1)
        if path_of_a_machine.search(line)
    ]


def registry_hosts(tree: Sources) -> list[str]:
    """Where packages come from is the user's setting; constraints.txt holds name==version and nothing else."""
    host = re.compile(
        r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|index-url|find-links|trusted-host|(docker|quay|ghcr)\.io"
    )
    out = [
        f"{path}:{number}: {line.strip()}"
        for path, text in tree.items()
        for number, line in enumerate(text.splitlines(), 1)
        if host.search(line)
    ]
    pins = tree.get("constraints.txt", "").splitlines()
    return out + [f"constraints.txt: {p}" for p in pins if p and not re.fullmatch(r"#.*|[a-z0-9.-]+==[\w.]+", p)]


def unsafe_loading(tree: Sources) -> list[str]:
    """Nothing read from a file is ever run: no pickle, no eval."""
    out = []
    banned = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "_pickle"}
    for path, module in python(tree, "tessella", "bench", "examples"):
        for name, node in imports(path, module):
            if name.split(".")[0] in banned:
                out.append(f"{at(path, node)}: {name} runs what it reads")
        for name, node in calls(module):
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in {"torch.load", "torch.serialization.load"} and given.get("weights_only") != "True":
                out.append(f"{at(path, node)}: torch.load without weights_only=True")
            if name in {"eval", "exec", "torch.save"} or given.get("allow_pickle") == "True":
                out.append(f"{at(path, node)}: {name}; safetensors and JSON hold all that we write")
    return out


# -------------------------------------------------------------------------------------------------------- documentation


def links(tree: Sources) -> list[str]:
    """Files that a page links to, and files that the tour and the status page name, exist."""
    out = []
    for path, text in tree.items():
        if not path.endswith(".md") or path == "docs/design.md":
            continue
        folder = path.rpartition("/")[0]
        found = [(folder, t) for t in re.findall(r"\]\((?!\w+:|#)([^)#]+)", text)]
        if path in {"docs/tour.md", "docs/status.md"}:
            named = re.compile(r"`(?:[^`\n]* )?((?:tessella|docs|tests|bench)/[\w./]+\.\w+)(?= |::|`)")
            found += [("", t) for t in named.findall(text)]
        for start, target in found:
            parts: list[str] = []
            for part in [*start.split("/"), *target.split("/")]:
                parts = parts[:-1] if part == ".." else parts + [part] * (part not in {"", "."})
            name = "/".join(parts)
            if (
                name not in tree
                and not any(known.startswith(f"{name}/") for known in tree)
                and not (ROOT / name).exists()
            ):
                out.append(f"{path}: there is no {target}")
    return out


def tour_is_five_files(tree: Sources) -> list[str]:
    named = re.findall(r"^\d+\. .*?`(tessella/[\w/]+\.py)`", tree.get("docs/tour.md", ""), re.MULTILINE)
    return [] if len(set(named)) == 5 else [f"docs/tour.md: {len(set(named))} files in its numbered list, not 5"]


def verb_pages(tree: Sources) -> list[str]:
    """One page for each verb and no other; each begins with a command of that verb."""
    pages = {p.split("/")[-1][:-3]: t for p, t in tree.items() if re.fullmatch(r"docs/verbs/\w+\.md", p)}
    out = [f"docs/verbs/{verb}.md: no page, or no verb of that name" for verb in sorted(verbs_of(tree) ^ set(pages))]
    for verb, text in pages.items():
        if not re.match(
            rf"# .*\n+```sh\n(?:.*\n)*?(torchrun .*-m )?tessella {verb}\b", text.split("\n```\n")[0] + "\n"
        ):
            out.append(f"docs/verbs/{verb}.md: begins with a command, ```sh and `tessella {verb} ...`")
    return out


# --------------------------------------------------------------- every rule, what it must flag and what it must not

Case = tuple[Rule, Sources, Sources]  # rule, a tree that breaks it, the nearest tree that keeps it


def lines(n: int, start: str = "x = 1") -> str:
    return f'"""Idea."""\n{start}\n' + "    y = 1\n" * (n - 2)


def one(path: str, bad: str, good: str) -> tuple[Sources, Sources]:
    return {path: bad}, {path: good}


LIB, TRAINER = "tessella/models/vit.py", "tessella/training/trainer.py"
CASES: list[Case] = [
    (import_directions, *one(LIB, "from ..data import loader", "from ..card import Card")),
    (import_directions, *one(LIB, "from tessella.training import ema", "from .layers import Mlp")),
    (import_directions, *one(LIB, "from .. import build", "from .. import card")),
    (import_directions, *one("tessella/objectives/dino.py", "from .mae import MAE", "from .objective import Losses")),
    (import_directions, *one("tessella/recipes/mae.py", "from .dino import run", "from ..build import Run")),
    (import_directions, *one(TRAINER, "from ..objectives.classify import Classify",
                             "from ..objectives.objective import Objective")),
    (import_directions, *one(TRAINER, "def f():\n    from ..models import vit", "import tessella.parallel")),
    (import_directions, *one("tessella/explainers/map.py", "from ..retrieval import index", "from ..runtime import x")),
    (import_directions, *one("tessella/parallel.py", "from .errors import BadInput", "import torch")),
    (import_directions, *one("tessella/config.py", "from .card import Card", "from .errors import BadInput")),
    (import_directions, *one("tessella/cli.py", "from .runtime.model import Model", "from .verbs import train")),
    (import_directions, {"tessella/shed/tool.py": "x = 1"}, {"tessella/data/tool.py": "x = 1"}),
    (recipes_import_configs, *one("tessella/recipes/mae.py", "from ..models.vit import ViT",
                                  "from ..models.vit import ViTConfig")),
    (optional_imports, *one(LIB, "import timm", "import torch")),
    (optional_imports, *one(LIB, "import torchvision", "def f():\n    import torchvision")),
    (optional_imports, *one(LIB, "def f():\n    import timm", "def f():\n    try:\n        import timm\n"
                            "    except ImportError:\n        raise BadInput('pip install timm')")),
    (light_leaves, *one("tessella/card.py", "def f():\n    import torch", "import json")),
    (light_leaves, *one("tessella/__init__.py", "from torch import nn", "if TYPE_CHECKING:\n    from torch import nn")),
    (file_length, *one(LIB, lines(601), lines(600))),
    (file_length, *one("tessella/models/presets.py", lines(1001), lines(1000))),
    (file_length, *one(TRAINER, lines(351), lines(350))),
    (function_length, *one(LIB, lines(62, "def f():"), lines(61, "def f():"))),
    (function_length, *one(LIB, lines(102, "def train():"), lines(101, "def train():"))),
    (function_length, *one(LIB, lines(62, "def forward():") * 2, lines(62, "def forward():") + lines(61, "def f():"))),
    (parameter_count, *one(LIB, "def f(self, a, b, c, d, e, f, g): ...", "def f(self, a, b, c, d, e, f): ...")),
    (parameter_count, *(one("tessella/cli.py", "def f(a, b, c, d, e, f, g): ...",
                            "@app.command()\ndef f(a, b, c, d, e, f, g): ..."))),
    (parameter_count, *one(LIB, "def f(a, b, c, *, d, e, f, g): ...", "def f(a, b, c, *, d, e, f): ...")),
    (file_names, {"tessella/data/image_utils.py": ""}, {"tessella/data/image.py": ""}),
    (file_names, {"tessella/core/vit.py": ""}, {LIB: ""}),
    (class_names, *one(LIB, "class ViTWrapper: ...", "class ViT: ...")),
    (class_names, *one(LIB, "class BaseViT: ...", "class Basement: ...")),
    (one_word_per_thing, *one(LIB, "def f(num_heads): ...", "def f(heads): ...")),
    (one_word_per_thing, *one(LIB, "class C:\n    embed_dim: int", "class C:\n    width: int")),
    (first_line, *one(LIB, "x = 1", '"""One idea."""\nx = 1')),
    (silent_except, *one(LIB, "try: x\nexcept: raise", "try: x\nexcept OSError: raise")),
    (silent_except, *one(LIB, "try: x\nexcept Exception: pass", "try: x\nexcept Exception: raise")),
    (silent_except, *one(LIB, "try: x\nexcept (OSError, Exception): ...", "try: x\nexcept FileNotFoundError: pass")),
    (swallowed_keywords, *one(LIB, "def f(**kw): ...", "def f(*, kw): ...")),
    (swallowed_keywords, *one(LIB, "class A:\n    def __init__(self, **kw): ...", "def _f(**kw): ...")),
    (no_hasattr, *one(LIB, "import os\nhasattr(x, 'y')", "import os\nhasattr(os, 'y')")),
    (trainer_asks_no_kind, *one(TRAINER, "isinstance(objective, DINO)", "isinstance(loss, dict)")),
    (trainer_asks_no_kind, *one(TRAINER, "type(objective).__name__ == 'A'", "f'{type(objective).__name__}'")),
    (trainer_asks_no_kind, *one("tessella/training/optim.py", "name.startswith('blocks.')", "tower.depth_of(name)")),
    (unfinished, *one(LIB, "raise NotImplementedError", "raise ValueError")),
    (unfinished, *one("README.md", "TODO: more", "to do")),
    (machine_paths, *one("README.md", "see /work/shared", "see ../shared/work")),
    (machine_paths, *one(LIB, "open('/home/me/x')", "open(home / 'x')")),
    (registry_hosts, *one("Makefile", "pip install --extra-index-url x", "pip install x")),
    (registry_hosts, *one("constraints.txt", "torch @ file:x.whl", "torch==2.15.0\n# why")),
    (unsafe_loading, *one(LIB, "import pickle", "import json")),
    (unsafe_loading, *one(LIB, "torch.load(p)", "torch.load(p, weights_only=True)")),
    (unsafe_loading, *one(LIB, "torch.load(p, weights_only=False)", "model.eval()")),
    (unsafe_loading, *one(LIB, "numpy.load(p, allow_pickle=True)", "numpy.load(p)")),
    (links, *one("docs/log.md", "[x](absent.md)", "[x](log.md) [y](../Makefile) [z](https://example.org)")),
    (links, *one("docs/status.md", "`pytest tests/absent.py -k x`", "`pytest tests/test_house.py::test_y`")),
    (links, *one("docs/tour.md", "`tessella/absent.py`", "`tessella/errors.py`")),
    (tour_is_five_files, {"docs/tour.md": "1. `tessella/a.py`\n"},
     {"docs/tour.md": "".join(f"{i}. Read `tessella/f{i}.py`: why\n" for i in range(1, 6))}),
    (verb_pages, *one("tessella/cli.py", "@app.command('list')\ndef list_(): ...", "def list_(): ...")),
    (verb_pages, {"docs/verbs/train.md": "# train\n\n```sh\ntessella train\n```\n"}, {}),
    (verb_pages, *({"tessella/cli.py": "@app.command()\ndef f(): ...",
                    "docs/verbs/f.md": f"# f\n\n{start}```sh\ntessella f\n```\n"} for start in ("Prose.\n\n", ""))),
]  # fmt: skip
RULES = list(dict.fromkeys(case[0] for case in CASES))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps_the_rule(rule: Rule) -> None:
    breaches = rule(sources())
    assert not breaches, "\n" + "\n".join(breaches)


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{CASES[n][0].__name__}-{n}")
def test_the_rule_sees_a_breach(number: int) -> None:
    rule, bad, good = CASES[number]
    assert rule(bad), "the rule is blind to this"
    assert not rule(good), "the rule flags what is allowed"


def test_every_rule_of_this_file_is_tried() -> None:
    returning = {
        n for n, f in globals().items() if callable(f) and getattr(f, "__annotations__", {}).get("tree") == "Sources"
    }
    assert returning - {"python", "verbs_of"} == {rule.__name__ for rule in RULES}


def test_the_tree_is_read() -> None:
    """The rules above prove nothing if `sources` misses the files."""
    tree = sources()
    assert {"README.md", "Makefile", ".ci/run", "pyproject.toml", "tessella/errors.py", "tests/conftest.py"} <= set(
        tree
    )
    assert not any(".venv" in path for path in tree)
