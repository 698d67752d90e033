"""The end of an evaluation's report: with what it was made, and how to make it again."""

from __future__ import annotations

from typing import Any

#: What tells where and when it was made; everything else that was recorded is a setting.
_MADE = ("command", "time", "hbt_dist", "python", "platform", "cpus")
_NO_SETTING = (*_MADE, "host", "versions", "training")


def settings_facts(results: dict[str, Any]) -> dict[str, object]:
    """Benchmark, model and settings, nested ones with dotted names as in a run file."""
    benchmark = results["benchmark"]
    recorded = {key: value for key, value in results["provenance"].items() if key not in _NO_SETTING}
    return {
        "benchmark": benchmark["name"],
        "variant": benchmark["variant"],
        "languages": ", ".join(benchmark["languages"]),
        "relevant candidates per question": "{min} to {max}, mean {mean:.2f}".format(
            **benchmark["relevant_per_question"]
        ),
        **_flat(recorded),
    }


def provenance_facts(results: dict[str, Any]) -> dict[str, object]:
    """The command, versions, fingerprint of the benchmark, training data, ties."""
    recorded, ties = results["provenance"], results["ties"]
    found: dict[str, object] = {key: recorded[key] for key in _MADE if recorded.get(key) is not None}
    found |= {
        "versions": ", ".join(f"{name} {version}" for name, version in recorded.get("versions", {}).items()),
        "benchmark.fingerprint": results["benchmark"]["fingerprint"],
        **_flat({"training": recorded.get("training") or {}}),
        "ties": f"{ties['num_relevant_pairs_tied']:,} relevant candidates; {ties['rule']}",
    }
    return {key: value for key, value in found.items() if value != ""}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = _text(value)
    return found


def _text(value: Any) -> str:
    """A setting as a run file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "not set"
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value)) or "(empty)"
