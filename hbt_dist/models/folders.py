"""Read a model folder: refuse damaged or incomplete files by name, and return the recorded settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.config.settings import validate
from hbt_dist.models.files import COPY_AGAIN, check_file, check_keys, read_json
from hbt_dist.models.head import DenseLayer, is_cut, load_dense
from hbt_dist.models.locations import no_model_folder
from hbt_dist.models.settings import TextSettings

SETTINGS_FILE = "hbt_dist.json"
CONFIG_FILE = "config_sentence_transformers.json"
MODULES_FILE = "modules.json"
TOKENIZER_FILE = "tokenizer.json"
#: transformers reads the first that exists.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_OBJECTS = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "sentence_bert_config.json",
    CONFIG_FILE,
    SETTINGS_FILE,
)
_VOCABULARIES = (
    "tokenizer.json",
    "vocab*",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "*.vocab",
    "tokenizer*.py",
)


def check_files(folder: Path) -> None:
    """Refuse a folder that holds no whole text encoder. Reads the small files and the heads of the weights.

    Raises:
        UserError: names the file, or the kind of model that is not supported.
    """
    if not (folder / "config.json").is_file():
        raise no_model_folder(folder)
    for name in _OBJECTS:
        read_json(folder / name)
    for file in [*_weight_files(folder), *_vocabularies(folder)]:
        check_file(file)
    if not _vocabularies(folder):
        raise UserError(
            str(folder),
            "has no tokenizer files (tokenizer.json, vocab.txt, *.model, ...)",
            "save the tokenizer into the same folder: tokenizer.save_pretrained(...)",
        )


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that hold weights; an empty list if there are none, which transformers reports."""
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing:
                raise UserError(
                    str(index),
                    f"lists {len(shards)} files of weights, but {len(missing)} are missing: "
                    f"{', '.join(missing[:3])}",
                    "copy the missing files into the folder",
                )
            return [folder / shard for shard in shards]
    return []


def _vocabularies(folder: Path) -> list[Path]:
    """Return the files from which a tokenizer can be made."""
    return sorted({file for pattern in _VOCABULARIES for file in folder.glob(pattern) if file.is_file()})


def has_weights(folder: Path) -> bool:
    """Return whether a folder has weights of a whole model."""
    return any((folder / f"{name}{end}").is_file() for name in _WEIGHTS for end in ("", ".index.json"))


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has files from which a tokenizer can be made."""
    return bool(_vocabularies(folder))


def recorded_text(folder: Path) -> dict[str, Any]:
    """Return the text settings that a folder records; reads small files only.

    Raises:
        UserError: a file cannot be read, or names something that is not supported.
    """
    settings_file = folder / SETTINGS_FILE
    settings = _sentence_transformers_settings(folder)
    if settings_file.is_file():
        text = read_json(settings_file).get("text")
        if not isinstance(text, dict):
            raise UserError(str(settings_file), "expected settings under the key 'text'", COPY_AGAIN)
        settings = validate(TextSettings, text, str(settings_file)).model_dump()
    return settings


def recorded_dense(folder: Path) -> tuple[list[DenseLayer], int | None]:
    """Return the dense layers of a folder, without a last one that only cuts vectors, and that one's width.

    Raises:
        UserError: a file cannot be read, or names something that is not supported.
    """
    dense = []
    for kind, path in _modules(folder):
        if kind == "Dense":
            with _readable(kind, path):
                dense.append(load_dense(path))
    cuts = bool(dense) and is_cut(dense[-1])
    return dense, dense.pop().linear.out_features if cuts else None


@dataclass(frozen=True)
class Prompts:
    """Prompts of a sentence-transformers folder.

    Attributes:
        by_name: all of them; `query` and `document` are those of questions and passages.
        default: name of the prompt that `encode` takes; `encode_query` and `encode_document` do not.
    """

    by_name: dict[str, str] = field(default_factory=dict)
    default: str | None = None

    @property
    def settings(self) -> dict[str, str]:
        """Return the prefixes. sentence-transformers adds an empty `query` and `document` where they lack."""
        names = {"question_prefix": "query", "passage_prefix": "document"}
        return {key: self.by_name.get(name, "") for key, name in names.items()}

    def unused(self) -> list[str]:
        """Return the names of prompts that a reader could take for those of questions or passages."""
        names = [] if self.by_name.get("document") else ["passage", "corpus"]
        names += [self.default] if self.default not in (None, "query", "document") else []
        return [name for name in dict.fromkeys(names) if self.by_name.get(str(name))]


def recorded_prompts(folder: Path) -> Prompts:
    """Return the prompts of a folder.

    Raises:
        UserError: the prompts are not texts by name, or do not have the default.
    """
    file = folder / CONFIG_FILE
    config = read_json(file)
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise UserError(str(file), "expected texts by name under the key 'prompts'", COPY_AGAIN)
    if default not in (None, "query", "document", *prompts):
        known = ", ".join({"query": "", "document": "", **prompts})
        raise UserError(
            str(file),
            f"default_prompt_name is {default!r}, expected one of its prompts: {known}",
            "correct the name, or set it to null",
        )
    return Prompts({name: text or "" for name, text in prompts.items()}, default)


_POOLING = {
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_POOLING_KEYS = (
    "embedding_dimension", "word_embedding_dimension", "pooling_mode",
    "include_prompt", *(f"pooling_mode_{mode}" for mode in (
        "cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken",
    )),
)  # fmt: skip
#: Module of sentence-transformers -> key of its file -> values that change nothing.
_NEUTRAL: dict[str, dict[str, tuple[Any, ...]]] = {
    "Transformer": {
        "transformer_task": ("feature-extraction",),
        "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
        "module_output_name": ("token_embeddings",),
        "unpad_inputs": (True, False, None),
    },
    "Normalize": dict.fromkeys(("module_input_name", "module_output_name"), ("sentence_embedding",)),
}


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield kind and folder of the modules of a sentence-transformers folder."""
    for module in read_json(folder / MODULES_FILE, list):
        try:
            library, _, kind = module["type"].rpartition(".")
            path = folder / module["path"]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                str(folder / MODULES_FILE), f"expected a list of {{type, path}}, got {module!r}", COPY_AGAIN
            ) from error
        if not library.startswith("sentence_transformers"):
            raise UserError(
                str(folder / MODULES_FILE),
                f"the module {module['type']} is code of the model, which is not supported",
                "take a model of the library's modules only",
            )
        yield kind, path


def _sentence_transformers_settings(folder: Path) -> dict[str, Any]:
    modules = [(kind, path) for kind, path in _modules(folder) if kind != "Dense"]
    if not modules:
        return {}
    settings: dict[str, Any] = {}
    for kind, path in modules:
        with _readable(kind, path):
            settings |= _module_settings(kind, path, folder)
    return settings | _similarity_settings(folder, settings.pop("normalize", False))


@contextmanager
def _readable(kind: str, path: Path) -> Iterator[None]:
    """Report what a module's files hold in place of what is expected."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        problem = f"the module {kind} cannot be read: {type(error).__name__}: {first_line(error)}"
        raise UserError(str(path), problem, COPY_AGAIN) from error


def _module_settings(kind: str, path: Path, folder: Path) -> dict[str, Any]:
    """Return the settings of one module of sentence-transformers."""
    if kind == "Transformer":
        file = path / "sentence_bert_config.json"
        config, tokenizer = read_json(file), read_json(path / "tokenizer_config.json")
        check_keys(file, config, ["max_seq_length", "do_lower_case"], _NEUTRAL[kind])
        lowercase = {"lowercase": bool(config.get("do_lower_case"))}
        limit = config.get("max_seq_length")
        if limit is None:
            limit = tokenizer.get("model_max_length")
            limit = limit if limit is not None and limit < 100_000 else None
        if limit is None:
            return lowercase
        return lowercase | {f"max_{role}_tokens": int(limit) for role in ("question", "passage")}
    if kind == "Pooling":
        return _pooling_settings(path / "config.json")
    if kind == "Normalize":
        check_keys(path / "config.json", read_json(path / "config.json"), (), _NEUTRAL[kind])
        return {"normalize": True}
    raise UserError(
        str(folder / MODULES_FILE),
        f"the sentence-transformers module {kind!r} is not supported",
        "supported: Transformer, Pooling (mean, cls, last token), Dense, Normalize",
    )


def _similarity_settings(folder: Path, normalized: bool) -> dict[str, Any]:
    """Return prefixes, normalisation and the cut of the vectors."""
    file = folder / CONFIG_FILE
    config = read_json(file)
    settings: dict[str, Any] = dict(recorded_prompts(folder).settings)
    # By default sentence-transformers compares by cosine, for embeddings of any length.
    similarity = config.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot") and (similarity, normalized) != ("euclidean", True):
        raise UserError(
            str(file),
            f"similarity_fn_name {similarity!r} is not supported",
            "supported: cosine, dot; euclidean after a Normalize module, where it orders as cosine does",
        )
    settings["normalize"] = normalized or similarity == "cosine"
    if (width := config.get("truncate_dim")) is not None:
        if not isinstance(width, int) or width < 1:
            raise UserError(
                str(file), f"expected a number above 0 for truncate_dim, got {width!r}", COPY_AGAIN
            )
        # sentence-transformers cuts after its Normalize module: only cosines ignore the length that is left.
        if normalized and similarity != "cosine":
            raise UserError(
                str(file),
                f"truncate_dim after a Normalize module is not supported with similarity {similarity}",
                "set similarity_fn_name to cosine",
            )
        settings["width"] = width
    return settings


def _pooling_settings(file: Path) -> dict[str, Any]:
    check_file(file)
    config = read_json(file)
    check_keys(file, config, _POOLING_KEYS, {})
    active = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    modes = active or [str(config.get("pooling_mode"))]
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise UserError(
            str(file), f"pooling {', '.join(modes)} is not supported", "supported: mean, cls, last token"
        )
    return {"pooling": _POOLING[modes[0]], "include_prompt": bool(config.get("include_prompt", True))}
