"""A workflow's document as a Mermaid flowchart (mermaid.js.org)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ARROWS = {"success": "-->", "failure": "-. failure .->", "always": "== always ==>"}
_COLOURS = {"succeeded": "#cfe8cf", "failed": "#f3c6c6", "running": "#cfe0f5", "waiting": "#f5ebc3", "skipped": "#eee"}


def mermaid(document: Mapping[str, Any], states: Mapping[str, str]) -> str:
    """Steps as boxes, edges and dependencies as arrows; each step with its state, if there is one."""
    steps = {step["name"]: f"s{n}" for n, step in enumerate(document.get("steps", ()))}
    groups = {group["name"]: group["steps"] for group in document.get("groups", ())}
    lines = ["flowchart TD"]
    for step in document.get("steps", ()):
        state = f"<br/>{states[step['name']]}" if step["name"] in states else ""
        lines.append(f'  {steps[step["name"]]}["{step["name"]}<br/><i>{step["kind"]}</i>{state}"]')
    for n, (name, inside) in enumerate(groups.items()):
        lines += [f'  subgraph g{n}["{name}"]', *(f"    {steps[step]}" for step in inside), "  end"]
    ids = {**steps, **{name: f"g{n}" for n, name in enumerate(groups)}}
    lines += [f"  {ids[e['from']]} {_ARROWS[e.get('on', 'success')]} {ids[e['to']]}" for e in document.get("edges", ())]
    lines += [
        f"  {ids[before]} --> {ids[step['name']]}"
        for step in document.get("steps", ())
        for before in step.get("depends_on", ())
    ]
    used = sorted({state for state in states.values() if state in _COLOURS})
    for state in used:
        inside = ",".join(steps[name] for name, found in states.items() if found == state and name in steps)
        lines += [f"  classDef {state} fill:{_COLOURS[state]}", f"  class {inside} {state}"]
    return "\n".join(lines)
