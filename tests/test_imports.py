"""Who imports whom: every room imports only the rooms below it, in no circle, and no file is too long to read."""

import ast
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

from tests.support.app_server import ROOT

ROOMS = {  # what each room may import beside itself
    "processing": (),
    "metrics": ("processing",),
    "modeling.parts": ("metrics", "processing"),
    "modeling.training": ("modeling.parts", "metrics", "processing"),
    "modeling.vilt": ("modeling.training", "modeling.parts", "metrics", "processing"),
    "modeling.writing": ("modeling.training", "modeling.parts", "metrics", "processing"),
    "modeling.blip2": ("modeling.writing", "modeling.training", "modeling.parts", "metrics", "processing"),
    "modeling.vlm": ("modeling.writing", "modeling.training", "modeling.parts", "metrics", "processing"),
    "modeling.blip2_model": ("modeling.blip2",),  # the names of modules in adapters of version 0.1
    "modeling.blip2_starter": ("modeling.blip2",),
    "modeling.families": ("modeling.vilt", "modeling.blip2", "modeling.vlm", "modeling.parts"),
    "modeling.asking": ("modeling.families", "modeling.training", "modeling.parts", "metrics", "processing"),
    "modeling.hub": ("modeling.training", "modeling.parts", "metrics", "processing"),
    "modeling.predictor": ("modeling.asking", "processing"),
    "modeling.probe": ("modeling.asking", "modeling.predictor", "metrics", "processing"),
    "modeling.evaluate": ("modeling.training", "modeling.parts", "processing"),
    "modeling.publish": ("modeling.hub", "modeling.training", "processing"),
    "spaces_app": (
        "modeling.predictor",
        "modeling.asking.heat_maps",
        "modeling.asking.regions",
        "modeling.families",
        "modeling.hub",
        "modeling.parts",
        "metrics",
        "processing",
    ),
    "train": ("modeling", "metrics", "processing"),
    "medical_vqa": ("processing",),  # it imports the module of a command when that is called
    "benchmarks": ("train", "modeling", "metrics", "processing", "tests.support"),
}
# A family is an argument of theirs.
TYPING_EXCEPTIONS = {(f"modeling.training.{name}", "modeling.families") for name in ("evaluation", "summary")}
LONGEST = 400  # lines of a file


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FOLDERS = ("processing", "metrics", "modeling", "spaces_app", "benchmarks", "tests")
FILES = [
    ROOT / "medical_vqa.py",
    ROOT / "train.py",
    *(file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))),
]
MODULES = {module_name(file): file for file in FILES}


def imports_of(module: str) -> tuple[set[str], set[str]]:
    """The modules of the project that a module imports wherever in its file, and those only for annotations."""
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    blocks = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    typing_nodes = {id(node) for block in blocks for statement in block.body for node in ast.walk(statement)}
    run, typing = set(), set()
    for node in ast.walk(tree):
        names = set()
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            whole_names = {f"{source}.{alias.name}" for alias in node.names}
            names = {name if name in MODULES else source for name in whole_names}
        (typing if id(node) in typing_nodes else run).update(
            name for name in names if name.partition(".")[0] in ("medical_vqa", "train", *FOLDERS)
        )
    return run, typing


FOUND = {module: imports_of(module) for module in MODULES}
IMPORTS = {module: run for module, (run, _) in FOUND.items()}
TYPING_IMPORTS = {module: typing for module, (_, typing) in FOUND.items()}


def is_inside(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room):
    modules = [module for module in MODULES if is_inside(module, room)]
    assert modules, f"there is no {room}"
    for module in modules:
        for imported in IMPORTS[module] | TYPING_IMPORTS[module]:
            if imported in IMPORTS[module] or (module, imported) not in TYPING_EXCEPTIONS:
                assert any(is_inside(imported, other) for other in (room, *ROOMS[room])), (
                    f"{module} imports {imported}"
                )


def test_every_module_belongs_to_a_room():
    packages = {"modeling"}  # holds rooms only, and sets the threads of torch before them
    rooms = [*ROOMS, "tests"]
    assert not [name for name in MODULES.keys() - packages if not any(is_inside(name, room) for room in rooms)]
    assert IMPORTS["modeling"] == {"processing"}


def test_imported_modules_exist():
    for module in MODULES:
        assert not (IMPORTS[module] | TYPING_IMPORTS[module]) - MODULES.keys(), module


def test_modules_import_each_other_in_no_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_a_circle_would_be_found():
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).prepare()


def test_no_file_is_longer_than_a_reader_takes_in():
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


def test_data_and_figures_need_no_torch():
    modules = ("processing", "processing.images", "processing.data", "metrics", "metrics.report")
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_torch_reads_how_its_threads_wait_from_what_is_imported_before_it():
    script = "import os, processing; print(os.environ.get('GOMP_SPINCOUNT'))"
    for chosen, expected in (({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_WAIT"))}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment | chosen, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
    for module in ("train", "modeling"):
        imported = [
            node
            for node in ast.parse(MODULES[module].read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imported]
        assert next(name for name in names if name.partition(".")[0] not in sys.stdlib_module_names) == "processing"


def test_no_module_that_windows_lacks_is_imported_at_the_start_outside_of_benchmarks():
    unix_only = {"fcntl", "grp", "pwd", "resource", "syslog", "termios"}
    for file in FILES:
        if file.relative_to(ROOT).parts[0] not in ("benchmarks", "tests"):
            nodes = ast.parse(file.read_text(encoding="utf-8")).body
            names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
            names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
            assert not names & unix_only, file
