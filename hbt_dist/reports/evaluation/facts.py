"""List the settings and the provenance of an evaluation."""

from __future__ import annotations

from typing import Any

from hbt_dist.common.console import counted

#: Provenance of an evaluation; everything else that it recorded is a setting.
_MADE = ("command", "time", "hbt_dist", "python", "platform", "cpus")
_NO_SETTING = (*_MADE, "host", "versions", "training")


def settings_facts(results: dict[str, Any]) -> dict[str, object]:
    """Return benchmark, model and settings, nested settings with dotted names as in a run file."""
    benchmark = results["benchmark"]
    recorded = {key: value for key, value in results["provenance"].items() if key not in _NO_SETTING}
    return {
        "benchmark": benchmark["name"],
        "variant": benchmark["variant"],
        "languages": ", ".join(benchmark["languages"]),
        "relevant candidates per question": "{min} to {max}, mean {mean:.2f}".format(
            **benchmark["relevant_per_question"]
        ),
        **{
            key: benchmark["judgements"][key]
            for key in ("judgements", "identical_ids")
            if "judgements" in benchmark
        },
        **_flat(recorded),
    }


def provenance_facts(results: dict[str, Any]) -> dict[str, object]:
    """Return the command, versions, fingerprint of the benchmark, training data, ties."""
    recorded, ties = results["provenance"], results["ties"]
    facts: dict[str, object] = {key: recorded[key] for key in _MADE if recorded.get(key) is not None}
    facts |= {
        "versions": ", ".join(f"{name} {version}" for name, version in recorded.get("versions", {}).items()),
        "benchmark.fingerprint": results["benchmark"]["fingerprint"],
        **_flat({"training": recorded.get("training") or {}}),
        "ties": f"{counted(ties['num_relevant_pairs_tied'], 'relevant candidate')}; {ties['rule']}",
    }
    return {key: value for key, value in facts.items() if value != ""}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": _text(value)}
        )
    return flat


def _text(value: Any) -> str:
    """Format a setting as in a run file."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "not set"
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value)) or "(empty)"
