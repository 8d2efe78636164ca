"""The layers hold: arrows go down only, and the project's own files keep to what a user's machine has."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "prompts": set(),
    "operators": {"prompts"},
    "pipelines": {"operators", "prompts", "manifests"},
    "fgclip2_train": set(),
}
LAUNCHER = "pipelines/train.py"
"""The one file that starts the trainer, on Ray's processes; data and trainer meet nowhere else but in the shards."""
OURS = {"prompts", "operators", "pipelines", "fgclip2_train", "demo", "manifests", "benchmarks", "tests"}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names & OURS


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_what_lies_below(layer):
    wrong = {
        str(file.relative_to(ROOT)): upward
        for file in (ROOT / layer).rglob("*.py")
        if (upward := imported(file) - MAY_IMPORT[layer] - {layer})
    }
    assert wrong.pop(LAUNCHER, {"fgclip2_train"}) == {"fgclip2_train"}
    assert not wrong


def test_pinned_lists_and_sources_name_no_registry_and_no_place_of_one_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    words = ["pypi" + ".org", "files.python" + "hosted", "index" + "-url", "/wor" + "k/main", "/ro" + "ot/"]
    found = []
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".txt", ".j2", ".css", "") and path.is_file():
            text = path.read_text(errors="replace")
            found += [f"{name}: {word}" for word in words if word in text]
    assert not found
