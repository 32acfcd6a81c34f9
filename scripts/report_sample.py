#!/usr/bin/env python3
"""Writes a ledger with a year of invented work, for a sample of `burn report`: scripts/report_sample.py LEDGER [LAST-DAY [DAYS]]

The same arguments give the same bytes.
"""

import datetime
import json
import random
import sys

MODELS = [
    ("claude-code", "claude-opus-4-7", 0.33),
    ("claude-code", "claude-sonnet-4-6", 0.26),
    ("claude-code", "claude-haiku-4-5", 0.12),
    ("codex", "gpt-5.5", 0.16),
    ("gemini-cli", "gemini-3.1-pro-preview", 0.08),
    ("opencode", "openrouter/x-ai/grok-4", 0.03),
    ("opencode", "my-gateway", 0.02),
]
PROJECTS = ["lighthouse", "kettle", "harbour", "orchard", "atlas", "paper-mill", "quarry", "tin-whistle"]
TOOLS = ["Bash", "Read", "Edit", "Grep", "Write", "Task", "WebFetch", "mcp__issues__search"]
ACTIVITIES = ["coding", "debugging", "review", "planning", "docs"]


def main():
    path = sys.argv[1]
    last = datetime.date.fromisoformat(sys.argv[2] if len(sys.argv) > 2 else "2026-11-29")
    days = int(sys.argv[3]) if len(sys.argv) > 3 else 365
    rng = random.Random(7)
    lines = []
    session_number = 0
    for back in range(days - 1, -1, -1):
        day = last - datetime.timedelta(days=back)
        grown = 0.35 + 0.65 * (days - back) / days
        busy = (0.18 if day.weekday() >= 5 else 1.0) * grown
        busy *= 0.1 if day.month == 8 and 3 <= day.day <= 17 else 1.0
        for _ in range(max(0, round(rng.gauss(5, 2) * busy))):
            session_number += 1
            session = f"{rng.getrandbits(32):08x}-{session_number:04x}-4000-8000-{rng.getrandbits(48):012x}"
            source, model, _ = rng.choices(MODELS, [share for *_, share in MODELS])[0]
            project = rng.choices(PROJECTS, [1 / (place + 1) for place in range(len(PROJECTS))])[0]
            hour = min(23.9, max(0, rng.choice([rng.gauss(9.5, 1.2), rng.gauss(14, 1.6), rng.gauss(14, 1.6), rng.gauss(19, 1.5)])))
            at = datetime.datetime.combine(day, datetime.time()) + datetime.timedelta(hours=hour)
            context = rng.randint(9_000, 30_000)
            for index in range(max(1, round(rng.lognormvariate(2.2, 0.8)))):
                at += datetime.timedelta(seconds=rng.randint(5, 400))
                grows = rng.randint(200, 4_000)
                output = round(rng.lognormvariate(5.8, 0.9))
                calls = [
                    {"id": f"t{index}-{call}", "name": rng.choices(TOOLS, [9, 7, 6, 4, 2, 1, 1, 1])[0], "argsHash": "0"}
                    for call in range(rng.choice([0, 1, 1, 1, 2, 3]))
                ]
                is_claude = source == "claude-code"
                record = {
                    "source": source,
                    "sessionId": session,
                    "messageId": f"m{session_number}-{index}",
                    "turnIndex": index,
                    "ts": at.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                    "model": model,
                    "project": f"/home/ada/work/{project}",
                    "activity": rng.choices(ACTIVITIES, [9, 4, 2, 2, 1])[0],
                    "usage": {
                        "input": rng.randint(3, 40) if is_claude else grows,
                        "output": output,
                        "reasoning": output // 3 if source == "codex" else 0,
                        "cacheRead": context if rng.random() > 0.06 else 0,
                        "cacheCreate5m": grows if is_claude else 0,
                        "cacheCreate1h": 0,
                    },
                    "toolCalls": calls,
                    "fidelity": {"class": "partial" if source == "opencode" and rng.random() < 0.05 else "full",
                                 "granularity": "per-turn", "coverage": {}},
                }
                if is_claude and rng.random() < 0.12:
                    kind = rng.choice(["reviewer", "explorer", "tester"])
                    record["subagent"] = {"isSidechain": True, "subagentType": kind}
                context = min(context + grows, 180_000)
                lines.append({"v": 1, "kind": "turn", "record": record})
            stamp = {"machine": rng.choice(["desk", "desk", "laptop"])}
            if rng.random() < 0.6:
                stamp["workflowId"] = rng.choice(["triage", "release", "nightly", "onboarding"])
            ts = at.strftime("%Y-%m-%dT%H:%M:%S.000Z")
            lines.append({"v": 1, "kind": "stamp", "ts": ts, "selector": {"sessionId": session}, "enrichment": stamp})
    with open(path, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


if __name__ == "__main__":
    main()
