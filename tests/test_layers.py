"""Who may import whom: DESIGN.md's table, enforced on the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "accel"
BASE = {"core", "unfinished"}
NETS = BASE | {"kernels"}
MAY_IMPORT = {
    "core": set(),
    "unfinished": set(),
    "kernels": BASE,
    "text": BASE,
    "weights": BASE,
    "video": NETS,
    "nn": NETS,
    "sampling": NETS,
    "provenance": NETS,
    "models": BASE | {"nn", "weights", "text"},
    "faces": NETS | {"nn", "weights"},
    "training": NETS | {"video", "text", "weights", "nn", "sampling", "models", "faces"},
    "pipelines": NETS | {"text", "weights", "video", "nn", "sampling",
                  "provenance", "models", "faces", "training"},
    "cluster": BASE | {"pipelines"},
    "server": BASE | {"pipelines"},
    "cli": BASE | {"pipelines", "cluster", "server"},
}  # fmt: skip


def package_of(module: str) -> str:
    """`accel.kernels.crop` -> `kernels`; `accel` itself -> ``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> list[tuple[int, str]]:
    """Every accel module that a file imports, with the line; relative imports are refused."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, a.name) for a in node.names if a.name.startswith("accel")]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute in this project"
            if node.module == "accel":
                found += [(node.lineno, f"accel.{a.name}") for a in node.names]
            elif (node.module or "").startswith("accel."):
                found.append((node.lineno, node.module))
    return found


def violations(root: Path) -> list[str]:
    wrong = []
    for path in sorted(root.rglob("*.py")):
        here = path.relative_to(root).parts[0].removesuffix(".py")
        if here in ("__init__", "__main__"):
            continue
        if here not in MAY_IMPORT:
            wrong.append(f"{path}: package {here} has no row in the import table")
            continue
        for line, module in imports(path):
            there = package_of(module)
            if there in ("", "_native", "__version__", here) or there in MAY_IMPORT[here]:
                continue
            wrong.append(f"{path.relative_to(root.parent)}:{line}: {here} may not import {there}")
    return wrong


def test_every_package_imports_only_what_its_row_names():
    assert not violations(ROOT), "\n" + "\n".join(violations(ROOT))


def test_a_violation_is_found(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "bad.py").write_text("from accel.video.frame import Frame\n")
    assert violations(tmp_path)[0].endswith("kernels may not import video")


def test_relative_imports_are_refused(tmp_path):
    (tmp_path / "core.py").write_text("from . import video\n")
    with pytest.raises(AssertionError, match="absolute"):
        violations(tmp_path)
