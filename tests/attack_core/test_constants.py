"""The numbers that decide how an attack behaves are fields with a sentence each, and no module's constants."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.support.paths import ROOT

ALLOWED = {"MOST", "SSIM_WINDOW", "ONE_BACKWARD"}
"""A bound on what users may ask for, two definitions of how answers are scored, and one of how work is counted."""
NAMES = ("Limits", "Check", "Search", "Rule", "Settings", "Weights", "StandIns", "Network")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / "attack_core").rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def is_number(node: ast.expr) -> bool:
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(is_one_number(part) for part in parts)


def is_one_number(node: ast.expr) -> bool:
    match node:
        case ast.BinOp():
            return is_one_number(node.left) or is_one_number(node.right)
        case ast.UnaryOp():
            return is_one_number(node.operand)
        case ast.Call():
            return ast.unparse(node.func).startswith("math.")
        case _:
            return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def test_no_module_has_a_number_of_its_own() -> None:
    found = [
        f"{where}: {ast.unparse(node.targets[0])}"
        for where, module in modules()
        for node in module.body
        if isinstance(node, ast.Assign) and is_number(node.value)
    ]
    assert [name for name in found if name.split(": ")[1] not in ALLOWED] == []


def test_every_number_that_no_sweep_file_sets_is_described() -> None:
    described = 0
    for where, module in modules():
        for node in module.body:
            if not isinstance(node, ast.ClassDef) or node.bases or not node.name.endswith(NAMES):
                continue
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if not isinstance(field, ast.AnnAssign) or field.value is None:
                    continue
                if not is_number(field.value):
                    continue
                says = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert says, f"{where}: {node.name}.{ast.unparse(field.target)}"
                described += 1
    assert described > 50
