"""Model folders that are cut, incomplete, of another tool, or with odd settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.odd_inputs.case import CANDIDATES, MAP, MODEL, QUESTIONS, Case, Content, benchmark

RIGHT = {"questions": 2, "candidates": 4, "map": MAP}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1340616616\n"


def model(*options: str, name: str = MODEL, **files: Content) -> Case:
    """evaluate with a changed model; `__` in a name is a slash, a missing ending is .json."""
    case = benchmark(QUESTIONS, CANDIDATES, *options)
    arguments = [name if argument == MODEL else argument for argument in case.arguments]
    named = {}
    for key, content in files.items():
        path = key.replace("__", "/")
        named[f"{MODEL}/{path}" if Path(path).suffix else f"{MODEL}/{path}.json"] = content
    return Case(arguments, {**case.files, **named})


def edited(**changes: Any) -> Callable[[Path], None]:
    """Change keys of a JSON file; ... removes one."""

    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        content.update(changes)
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return edit


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def removed(path: Path) -> None:
    path.unlink()


def weights() -> Iterator[tuple[str, Case]]:
    for name, content in {
        "lfs": POINTER,
        "cut": cut,
        "empty": b"",
        "text": "not found",
        "html": "<!DOCTYPE html>",
        "zeros": bytes(400),
        "huge-header": b"\xff" * 16,
        "json-array": b"\x02" + bytes(7) + b"[]",
    }.items():
        yield (
            f"weights-{name}",
            model(**{"model.safetensors": content}).fails(rf"{MODEL}/model.safetensors|{MODEL}"),
        )
    yield "weights-missing", model(**{"model.safetensors": removed}).fails(MODEL, "model.safetensors|weights")
    yield (
        "weights-folder",
        model(**{"model.safetensors": lambda path: (path.unlink(), path.mkdir())}).fails(rf"{MODEL}\S*"),
    )
    yield (
        "weights-index-without-shards",
        model(
            **{
                "model.safetensors": removed,
                "model.safetensors.index.json": {"weight_map": {"x": "model-00001-of-00002.safetensors"}},
            }
        ).fails(rf"{MODEL}\S*", "missing|model-00001"),
    )
    yield (
        "weights-index-broken",
        model(**{"model.safetensors": removed, "model.safetensors.index.json": "{"}).fails(rf"{MODEL}\S*"),
    )
    yield "weights-of-another-size", model(config=edited(vocab_size=40)).fails(MODEL, "shape|vocab|size")
    yield "weights-too-few", model(config=edited(num_hidden_layers=1)).fails(MODEL, "missing|weights")


def small_files() -> Iterator[tuple[str, Case]]:
    names = (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "hbt_dist.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
    )
    for name in names:
        for label, content in {
            "open": "{",
            "empty": b"",
            "text": "not found\n",
            "utf16": "{}".encode("utf-16"),
            "lfs": POINTER,
        }.items():
            yield (
                f"{name}-{label}",
                model(**{name.replace("/", "__"): content}).fails(rf"{MODEL}/{name}|{MODEL}"),
            )
        if name != "modules.json":
            wrong: Content = "[]"
        else:
            wrong = '{"0": "x"}'
        yield f"{name}-type", model(**{name.replace("/", "__"): wrong}).fails(rf"{MODEL}/{name}|{MODEL}")
    for name in ("config.json", "tokenizer.json"):
        yield f"{name}-missing", model(**{name: removed}).fails(MODEL, "config.json|tokenizer")
    yield (
        "1_Pooling-missing",
        model(**{"1_Pooling__config.json": removed, "hbt_dist.json": removed}).fails(
            rf"{MODEL}/1_Pooling/config.json", "no such file"
        ),
    )
    for name in (
        "hbt_dist.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "README.md",
    ):
        yield f"{name}-missing", model(**{name: removed}).gives(given=2, **RIGHT)
    yield (
        "config-mark",
        model(**{"config.json": lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())}).fails(
            rf"{MODEL}\S*", "config.json|BOM|byte order"
        ),
    )
    for key, value in {
        "model_type": "nowhere",
        "hidden_size": "large",
        "vocab_size": -1,
        "max_position_embeddings": 0,
    }.items():
        yield f"config-{key}", model(config=edited(**{key: value})).fails(rf"{MODEL}\S*")
    yield (
        "config-no-model-type",
        model(config=edited(model_type=..., architectures=...)).fails(rf"{MODEL}\S*", "model_type"),
    )
    for key, value in {
        "pooling": "median",
        "normalize": "often",
        "max_question_tokens": 0,
        "odd": 1,
        "question_prefix": 5,
    }.items():

        def change(path: Path, key: str = key, value: Any = value) -> None:
            content = json.loads(path.read_text())
            content["text"][key] = value
            path.write_text(json.dumps(content))

        yield f"hbt_dist-{key}", model(hbt_dist=change).fails(rf"{MODEL}/hbt_dist.json, {key}")
    yield "hbt_dist-no-text", model(hbt_dist="{}").fails(rf"{MODEL}\S*", "text")
    yield (
        "tokenizer-of-another-model",
        model(
            **{
                "tokenizer.json": lambda path: path.write_text(
                    path.read_text().replace('"alpha"', '"α"').replace('"beta"', '"β"')
                )
            }
        ).fails(MODEL, "unknown"),
    )


def kinds() -> Iterator[tuple[str, Case]]:
    """Folders of other tools, or of something else."""
    adapter = {"base_model_name_or_path": "nowhere/base", "peft_type": "LORA", "r": 4}
    yield (
        "adapter-next-to-a-model",
        model(adapter_config=adapter).fails(MODEL, "and an adapter", "remove"),
    )

    def alone(path: Path) -> None:
        for file in path.parent.iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        path.write_text(json.dumps(adapter))

    yield "adapter-alone", model(adapter_config=alone).fails(MODEL, "its base model nowhere/base")
    for kind, problem in (
        ("bart", "encoder-decoder"),
        ("t5", "weights that config.json expects are missing"),
    ):
        yield f"encoder-decoder-{kind}", model(config={"model_type": kind}).fails(MODEL, problem)
    st = {"hbt_dist.json": removed}
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for kind in ("CNN", "LSTM", "WordEmbeddings", "CLIPModel", "Router", "WeightedLayerPooling"):
        more = [
            *modules,
            {"idx": 1, "name": "1", "path": f"1_{kind}", "type": f"sentence_transformers.models.{kind}"},
        ]
        yield f"module-{kind}", model(**st, **{"modules.json": json.dumps(more)}).fails(rf"{MODEL}\S*", kind)
    yield (
        "module-of-a-user",
        model(**st, **{"modules.json": json.dumps([{**modules[0], "type": "custom_st.Transformer"}])}).fails(
            rf"{MODEL}\S*", "custom_st"
        ),
    )
    dense = [
        *modules,
        {"idx": 1, "name": "1", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    yield (
        "dense-missing",
        model(**st, **{"modules.json": json.dumps(dense)}).fails(rf"{MODEL}/2_Dense/config.json", "no such"),
    )
    yield "modules-empty", model(**st, **{"modules.json": "[]"}).gives(questions=2)
    yield (
        "modules-no-path",
        model(**st, **{"modules.json": json.dumps([{"idx": 0, "type": "x"}])}).fails(rf"{MODEL}\S*"),
    )
    for mode in (
        "pooling_mode_max_tokens",
        "pooling_mode_weightedmean_tokens",
        "pooling_mode_mean_sqrt_len_tokens",
    ):
        change = edited(**{"pooling_mode_mean_tokens": False, "pooling_mode": ..., mode: True})
        yield (
            f"pooling-{mode}",
            model(**st, **{"1_Pooling__config.json": change}).fails(rf"{MODEL}\S*", "pooling"),
        )
    yield (
        "pooling-two",
        model(
            **st, **{"1_Pooling__config.json": edited(pooling_mode_cls_token=True, pooling_mode=...)}
        ).fails(rf"{MODEL}\S*", "pooling"),
    )
    for name in (
        "MODEL/model.safetensors",
        "./nowhere",
        "/nowhere/at/all",
        "~nobody/x",
        "a/b/c",
        "bench",
        ".",
    ):
        yield f"name-{name.replace('/', '_')}", model(name=name).fails(".*", "model|folder")
    yield "name-empty", model(name="").fails(".*", "model|name")
    yield "name-with-a-space", model(name="no such model").fails("no such model")
    yield (
        "name-of-a-run",
        model(name="run", **{}).beside(run__model__config_dot_json="{}").fails("run", "run/model"),
    )
    yield "name-with-a-slash", model(name="MODEL/").gives(given=2, **RIGHT)
    yield "name-with-dots", model(name="./MODEL/../MODEL").gives(given=2, **RIGHT)


def limits() -> Iterator[tuple[str, Case]]:
    """Token limits, prefixes and pooling on the command line."""
    for name, options in {
        "passages": ["--max-passage-tokens", "65"],
        "questions": ["--max-question-tokens", "2000"],
    }.items():
        yield f"limit-{name}", model(*options).fails(".*tokens", "64")
    long = [CANDIDATES[0] | {"text": "alpha " * 900}, *CANDIDATES[1:]]
    case = benchmark(QUESTIONS, long, "--max-passage-tokens", "2000")
    yield "limit-with-a-long-text", case.fails(".*max.passage.tokens", "2000", "64")
    yield (
        "limit-in-the-folder",
        model(
            **{
                "hbt_dist.json": removed,
                "sentence_bert_config.json": '{"max_seq_length": 2000, "do_lower_case": false}',
            }
        ).gives("64", given=2, **RIGHT),
    )
    yield "limit-smallest", model("--max-passage-tokens", "4").gives(given=2, **RIGHT)
    yield "long-text-cut", benchmark(QUESTIONS, long).gives(given=2, **RIGHT)
    yield "prefix-unicode", model("--question-prefix", "délta: ").gives(given=2, questions=2)
    yield "prefix-empty", model("--question-prefix", "").gives(given=2, **RIGHT)
    yield "pooling-cls", model("--pooling", "cls").gives(given=2, questions=2)
    for name, items in {
        "unknown": "odd=1",
        "value": "num_shards=0",
        "form": "num_shards",
        "list": "num_shards=[",
        "device": "device=tpu",
        "dtype": "dtype=float8",
        "metric": "metrics=[nowhere:score]",
        "nan": "top_k=.nan",
        "minus": "top_k=-1",
        "texts": "language_removal_texts=nowhere",
    }.items():
        yield (
            f"set-{name}",
            model("--set", items).fails(f".*{items.partition('=')[0]}.*|.*device.*|.*nowhere.*|command line"),
        )
    yield (
        "set-lir-texts-nowhere",
        model("--set", "language_removal=lir", "--set", "language_removal_texts=nowhere").fails(
            ".*nowhere", "en.txt|folder"
        ),
    )
    yield "expansions-missing", model("--expansions", "nowhere.jsonl").fails("nowhere.jsonl", "no such file")
    yield "combine-alone", model("--combine", "mean").fails("--combine", "--expansions")


CASES = dict([*weights(), *small_files(), *kinds(), *limits()])
