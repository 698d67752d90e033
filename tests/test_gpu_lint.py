"""The step's code makes the host wait for a GPU in the functions below and nowhere else.

The pretended GPU (tests/pretended_gpu) counts the waits of a run; this test reads all lines, also those that
no run reaches.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "hbt_dist"
#: Settings hold no tensors.
FILES = [file for file in ROOT.glob("contrastive/*.py") if file.name != "settings.py"]
FILES += [ROOT / "training/deepspeed/engine.py", ROOT / "training/step.py"]
#: Methods of a tensor that make the host wait, or copy to a GPU from pageable memory.
METHODS = {"item", "tolist", "cpu", "cuda", "nonzero", "unique", "masked_select", "repeat_interleave"}
#: The same of torch, with a device.
FACTORIES = {"tensor", "as_tensor"}
#: Builtins that download a tensor's number.
BUILTINS = {"float", "bool"}

#: "file:function" -> why it waits. An entry without a wait must go.
ALLOWED = {
    "contrastive/chunks.py:plan_chunks": "chunks by tokens on several ranks: once per step",
    "contrastive/gather.py:check_equal_slices": "once, at the start",
    "contrastive/layout.py:rows_of_columns": "does not wait: the number of repeats is known on the host",
    "contrastive/row_losses.py:kernel_error": "once, at the start",
    "contrastive/step.py:contrastive_step": "a learned temperature: once per step",
    "contrastive/figures.py:mean_figures": "the figures of the step: once per step",
    "contrastive/step.py:_check_replay": "the first step only",
    "contrastive/world.py:all_max": "once, at the start",
    "training/deepspeed/engine.py:step": "the norm of the gradient: once per step",
    "training/deepspeed/engine.py:_full_gradients_fit": "once, at the start",
    "training/step.py:summed_figures": "code-switched batches: once per step",
}


def waits(tree: ast.AST, function: str = "") -> Iterator[tuple[str, int, str]]:
    """Yield the enclosing function, line and text of each call that makes the host wait."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call) and _waits(node):
            yield function, node.lineno, ast.unparse(node)
        name = node.name if isinstance(node, ast.FunctionDef) else function
        yield from waits(node, name)


def _waits(call: ast.Call) -> bool:
    match call.func:
        case ast.Name(id=name):
            first = ast.unparse(call.args[0]) if call.args else ""
            return name in BUILTINS and not first.startswith(("np.", "'", '"', "getattr("))
        case ast.Attribute(value=ast.Name(id="np")):
            return False
        case ast.Attribute(value=ast.Name(id="torch"), attr=name) if name in FACTORIES:
            return any(keyword.arg == "device" for keyword in call.keywords)
        case ast.Attribute(attr=name):
            return name in METHODS
    return False


def test_only_functions_of_the_list_wait_for_a_gpu() -> None:
    lines = [
        (f"{file.relative_to(ROOT).as_posix()}:{function}", line, text)
        for file in FILES
        for function, line, text in waits(ast.parse(file.read_text("utf-8")))
    ]
    refused = [
        f"{function}, line {line}: {text}" for function, line, text in lines if function not in ALLOWED
    ]
    assert not refused, "\n".join(refused)
    assert sorted(ALLOWED.keys() - {function for function, *_ in lines}) == []


def test_waits_are_seen() -> None:
    code = (
        "def f():\n  x.item(); float(x.sum()); x[0].cpu().numpy(); x.unique(); x.cuda()\n"
        "  torch.tensor([1], device=d); torch.as_tensor(a, device=d)\n"
        "  np.unique(x); float('inf'); torch.tensor([1]); move(x, d); x.float()\n"
    )
    assert [(function, line) for function, line, _ in waits(ast.parse(code))] == [("f", 2)] * 5 + [
        ("f", 3)
    ] * 2
