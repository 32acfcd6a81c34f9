"""A second, plain implementation of the archive's rows and of queries, which compares both with the program under test.

    model.py     one question a line on standard input, one answer a line on standard output

A question is JSON: "ledger", "archive", "queries" (paths), "counts", "filter". An answer is `ok` or the first difference.
The model is slow and shares no code with the program under test: JSON and SQLite are Python's.
"""

import json
import re
import sqlite3
import sys
import threading
from datetime import date
from decimal import Decimal

WHITE = "\t\n\v\f\r \u00a0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000\ufeff"
RANKS = ["cost-only", "aggregate-only", "partial", "usage-only", "full"]
COVERAGE = ["hasInputTokens", "hasOutputTokens", "hasReasoningTokens", "hasCacheReadTokens", "hasCacheCreateTokens",
            "hasToolCalls", "hasToolResultEvents", "hasSessionRelationships", "hasRawContent"]
USAGE = ["input", "output", "reasoning", "cacheRead", "cacheCreate5m", "cacheCreate1h"]
ENRICHMENT_COLUMNS = {"workflowId": "workflow_id", "agentId": "agent_id", "persona": "persona", "tier": "tier"}
SUBAGENT = ["agentId", "parentAgentId", "parentToolUseId", "subagentType", "description"]


class Malformed(Exception):
    pass


class Rejected(Exception):
    pass


# JSON as JavaScript has it.

class Number:
    def __init__(self, literal):
        self.literal = literal
        self.is_integer = not set(literal) & set(".eE")

    def stored(self):
        """What SQLite keeps: an integer where it is integral and fits, else a real."""
        if self.is_integer and -2**63 <= int(self.literal) < 2**63:
            return int(self.literal)
        value = float(self.literal)
        if not self.is_integer and value.is_integer() and -2**63 <= value < 2**63:
            return int(value)
        return value

    def text(self):
        if self.is_integer:
            return "0" if self.literal == "-0" else self.literal
        return real_text(float(self.literal))

    def __eq__(self, other):
        return isinstance(other, Number) and self.text() == other.text()


def real_text(value):
    """A double as JavaScript prints it."""
    if value in (float("inf"), float("-inf")):
        return "null"
    if value == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    digits, sign = "".join(map(str, digits)), "-" if sign else ""
    point = len(digits) + exponent
    if len(digits) <= point <= 21:
        return sign + digits + "0" * exponent
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    fraction = "." + digits[1:] if digits[1:] else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"


def no_constant(name):
    raise ValueError(name)


def parse(text):
    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=no_constant)


def is_index(key):
    return re.fullmatch("0|[1-9][0-9]{0,9}", key) is not None and int(key) <= 2**32 - 2


def keys(value):
    """Keys in JavaScript's order."""
    return sorted(filter(is_index, value), key=int) + [key for key in value if not is_index(key)]


def quoted(text):
    short = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
    escape = lambda found: short.get(found[0]) or f"\\u{ord(found[0]):04x}"
    return '"' + re.sub('[\x00-\x1f"\\\\\ud800-\udfff]', escape, text) + '"'


def stringify(value):
    if isinstance(value, dict):
        return "{" + ",".join(quoted(key) + ":" + stringify(value[key]) for key in keys(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(stringify, value)) + "]"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Number):
        return value.text()
    return {None: "null", True: "true", False: "false"}[value]


def is_truthy(value):
    if isinstance(value, Number):
        return float(value.literal) != 0
    return isinstance(value, (dict, list)) or bool(value)


# Fields of a line.

def storable(text):
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def text(record, key):
    if not isinstance(record.get(key), str):
        raise Rejected(key)
    return storable(record[key])


def text_or_null(record, key):
    return None if record.get(key) is None else text(record, key)


def number(record, key):
    if not isinstance(record.get(key), Number):
        raise Rejected(key)
    return record[key].stored()


def number_or_null(record, key):
    return None if record.get(key) is None else number(record, key)


def flag(record, key):
    return int(is_truthy(record[key])) if key in record else None


def member(record, key, kind):
    if not isinstance(record.get(key), kind):
        raise Rejected(key)
    return record[key]


def present(record, key):
    if key not in record:
        raise Rejected(key)
    return text_or_null(record, key)


# Rows, as tuples in the order of the columns.

def turn_row(record):
    usage = member(record, "usage", dict)
    row = {"source": text(record, "source"), "session_id": text(record, "sessionId"),
           "message_id": text(record, "messageId"), "turn_index": number(record, "turnIndex"),
           "ts": text(record, "ts"), "model": text(record, "model"), "project": text_or_null(record, "project"),
           "project_key": text_or_null(record, "projectKey"), "activity": text_or_null(record, "activity"),
           "stop_reason": text_or_null(record, "stopReason"), "has_edits": flag(record, "hasEdits"),
           "retries": number_or_null(record, "retries"), "is_sidechain": None}
    subagent = {} if record.get("subagent") is None else member(record, "subagent", dict)
    if record.get("subagent") is not None:
        row["is_sidechain"] = int(is_truthy(subagent.get("isSidechain")))
    columns = ["subagent_id", "parent_subagent_id", "parent_tool_use_id", "subagent_type", "subagent_description"]
    row.update((column, text_or_null(subagent, key)) for column, key in zip(columns, SUBAGENT))
    columns = ["input", "output", "reasoning", "cache_read", "cache_create_5m", "cache_create_1h"]
    row.update((column + "_tokens", number(usage, key)) for column, key in zip(columns, USAGE))
    row.update(dict.fromkeys(["workflow_id", "agent_id", "persona", "tier"]), enrichment_json="{}")
    row.update(dict.fromkeys(["attribution_fidelity", "tokens_present", "cost_present"]))
    if record.get("fidelity") is not None:
        fidelity = member(record, "fidelity", dict)
        coverage = member(fidelity, "coverage", dict)
        row.update(attribution_fidelity=text(fidelity, "class"),
                   tokens_present=int(any(is_truthy(coverage.get(key)) for key in COVERAGE[:3])),
                   cost_present=int(fidelity.get("granularity") == "cost-only"))
    return row


def call_rows(record, turn):
    rows = []
    for index, call in enumerate(member(record, "toolCalls", list)):
        if not isinstance(call, dict):
            raise Rejected("toolCalls")
        replaced = None if call.get("replacedTools") is None else member(call, "replacedTools", list)
        collapsed = number_or_null(call, "collapsedCalls")
        rows.append({"source": turn["source"], "session_id": turn["session_id"], "message_id": turn["message_id"],
                     "call_index": index, "tool_use_id": text_or_null(call, "id"), "tool_name": text(call, "name"),
                     "target": text_or_null(call, "target"), "args_hash": text_or_null(call, "argsHash"),
                     "is_error": flag(call, "isError"), "replaced_tools": stringify(replaced) if replaced else None,
                     "collapsed_calls": collapsed if collapsed is not None and collapsed > 0 else None})
    return rows


def event_row(record):
    return {"source": text(record, "source"), "session_id": text(record, "sessionId"),
            "message_id": text_or_null(record, "messageId") or "", "tool_use_id": text(record, "toolUseId"),
            "call_index": number_or_null(record, "callIndex") or 0, "event_index": number(record, "eventIndex"),
            "status": present(record, "status"), "content_length": number_or_null(record, "contentLength"),
            "content_hash": text_or_null(record, "contentHash"), "is_error": flag(record, "isError"),
            "subagent_session_id": text_or_null(record, "subagentSessionId"), "agent_id": text_or_null(record, "agentId"),
            "event_source": present(record, "eventSource"), "ts": text_or_null(record, "ts")}


def compaction_row(record):
    return {"source": text(record, "source"), "session_id": text(record, "sessionId"), "ts": text(record, "ts"),
            "preceding_message_id": text_or_null(record, "precedingMessageId"),
            "tokens_before_compact": number_or_null(record, "tokensBeforeCompact")}


def stamp_row(line, offset):
    """The row, and what folding needs: session, message, range, entries."""
    selector, enrichment = member(line, "selector", dict), member(line, "enrichment", dict)
    session, message = (text(selector, key) if key in selector else None for key in ("sessionId", "messageId"))
    span = None
    if "range" in selector:
        bounds = {} if selector["range"] is None else member(selector, "range", dict)
        span = text_or_null(bounds, "fromTs"), text_or_null(bounds, "toTs")
    if "__proto__" in enrichment or not all(isinstance(value, str) for value in enrichment.values()):
        raise Rejected("enrichment")
    row = {"source": "*", "session_id": "*" if session is None else session, "ts": text(line, "ts"),
           "selector_json": stringify(selector), "enrichment_json": stringify(enrichment), "ledger_offset_bytes": offset}
    return row, (session, message, span, enrichment)


class Model:
    def __init__(self, ledger):
        self.records, self.touched = [], set()
        self.turns, self.calls, self.events, self.compactions, self.stamps = {}, {}, {}, {}, []
        self.counts = dict.fromkeys(["malformed", "rejected", "unknown", "turn", "stamp", "compaction", "tool_result_event"], 0)
        self.end = ledger.rfind(b"\n") + 1
        offset = 0
        for line in ledger[:self.end].split(b"\n")[:-1]:
            try:
                self.line(offset, line.decode("utf-8", "replace").strip(WHITE))
            except Malformed:
                self.counts["malformed"] += 1
            except Rejected:
                self.counts["rejected"] += 1
            offset += len(line) + 1
        self.counts["sessions"] = len(self.touched)
        self.stamps.sort(key=lambda stamp: (stamp[0]["ts"], stamp[0]["ledger_offset_bytes"]))
        for turn in self.turns.values():
            enrichment = self.fold(turn["session_id"], turn["message_id"], turn["ts"])
            turn["enrichment_json"] = stringify(enrichment)
            for key, column in ENRICHMENT_COLUMNS.items():
                turn[column] = storable(enrichment[key]) if key in enrichment else None

    def line(self, offset, line):
        if not line:
            return
        try:
            root = parse(line)
        except ValueError:
            raise Malformed from None
        is_version_1 = isinstance(root, dict) and isinstance(root.get("v"), Number) and float(root["v"].literal) == 1
        kind = root.get("kind") if is_version_1 else None
        if kind not in ("turn", "stamp", "compaction", "tool_result_event", "relationship", "user_turn"):
            self.counts["unknown"] += 1
            return
        if kind != "stamp" and isinstance(root.get("record"), dict):
            self.records.append((kind, root["record"]))
        if kind == "turn":
            record = member(root, "record", dict)
            row = turn_row(record)
            calls = call_rows(record, row)
            key = row["source"], row["session_id"], row["message_id"]
            self.turns[key] = row
            self.calls.pop(key, None)
            self.calls[key] = calls
            self.touched.add(row["session_id"])
        elif kind == "stamp":
            row, parts = stamp_row(root, offset)
            self.stamps.append((row, parts))
            if parts[0] is not None:
                self.touched.add(parts[0])
        elif kind == "compaction":
            row = compaction_row(member(root, "record", dict))
            key = row["source"], row["session_id"], row["ts"]
            self.compactions.pop(key, None)
            self.compactions[key] = row
        elif kind == "tool_result_event":
            row = event_row(member(root, "record", dict))
            key = row["source"], row["session_id"], row["message_id"], row["tool_use_id"], row["event_index"]
            self.events.pop(key, None)
            self.events[key] = row
        if kind in self.counts:
            self.counts[kind] += 1

    def fold(self, session, message, ts):
        enrichment = {}
        for _, (of_session, of_message, span, entries) in self.stamps:
            if of_session is None and of_message is None and span is None:
                continue
            if of_session not in (None, session) or of_message not in (None, message):
                continue
            if span and ((span[0] and ts < span[0]) or (span[1] and ts > span[1])):
                continue
            enrichment.update(entries)
        return enrichment

    def sessions(self):
        grouped = {}
        for turn in self.turns.values():
            grouped.setdefault((turn["source"], turn["session_id"]), []).append(turn)
        for (source, session), turns in sorted(grouped.items()):
            values = lambda column: [turn[column] for turn in turns if turn[column] is not None]
            least = lambda column: min(values(column), default=None)
            classes = values("attribution_fidelity")
            yield {"source": source, "session_id": session, "project": least("project"), "project_key": least("project_key"),
                   "started_at": least("ts"), "ended_at": max(values("ts")), "turn_count": len(turns),
                   "model_set_json": sorted(set(values("model"))), "workflow_id": least("workflow_id"),
                   "agent_id": least("agent_id"), "parent_agent_id": least("parent_subagent_id"),
                   "has_subagent": max(values("is_sidechain"), default=0),
                   "min_fidelity": min((name for name in classes if name in RANKS), key=RANKS.index, default=None),
                   "has_full_attribution": int(all(name == "full" for name in classes)) if classes else None}

    def tables(self):
        return {"turns": self.turns.values(), "tool_calls": [row for rows in self.calls.values() for row in rows],
                "tool_result_events": self.events.values(), "compactions": self.compactions.values(),
                "stamps": sorted((row for row, _ in self.stamps), key=lambda row: row["ledger_offset_bytes"]),
                "sessions": self.sessions()}


# Queries.

def shown(value):
    """A stored number as JSON."""
    return Number(str(value)) if isinstance(value, int) else parse(real_text(value)) if isinstance(value, float) else value


def put(record, row, names):
    for key, column in names:
        if row[column] is not None:
            is_flag = column in ("has_edits", "is_error", "is_sidechain")
            record[key] = bool(row[column]) if is_flag else shown(row[column])
    return record


def shown_turn(row, calls):
    record = put({"v": Number("1"), "usage": {}, "toolCalls": []}, row, [
        ("source", "source"), ("sessionId", "session_id"), ("messageId", "message_id"), ("turnIndex", "turn_index"),
        ("ts", "ts"), ("model", "model"), ("project", "project"), ("projectKey", "project_key"), ("activity", "activity"),
        ("stopReason", "stop_reason"), ("hasEdits", "has_edits"), ("retries", "retries")])
    columns = ["input", "output", "reasoning", "cache_read", "cache_create_5m", "cache_create_1h"]
    put(record["usage"], row, [(key, column + "_tokens") for key, column in zip(USAGE, columns)])
    for call in calls:
        record["toolCalls"].append(put({}, call, [("id", "tool_use_id"), ("name", "tool_name"), ("target", "target"),
                                                  ("argsHash", "args_hash"), ("isError", "is_error"),
                                                  ("collapsedCalls", "collapsed_calls")]))
        if call["replaced_tools"]:
            record["toolCalls"][-1]["replacedTools"] = parse(call["replaced_tools"])
    if row["is_sidechain"] is not None:
        columns = ["subagent_id", "parent_subagent_id", "parent_tool_use_id", "subagent_type", "subagent_description"]
        record["subagent"] = put({}, row, [("isSidechain", "is_sidechain"), *zip(SUBAGENT, columns)])
    name = row["attribution_fidelity"]
    if name is not None:
        known = {"full": COVERAGE, "usage-only": COVERAGE[:2] + COVERAGE[3:5], "partial": COVERAGE[:2]}.get(name, [])
        known = known if name == "full" or row["tokens_present"] else []
        record["fidelity"] = {"class": name, "granularity": "cost-only" if row["cost_present"] else "per-turn",
                              "coverage": {key: key in known for key in COVERAGE}}
    record["enrichment"] = parse(row["enrichment_json"])
    return record


TIME = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
                  r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))")


def instant(ts):
    """Nanoseconds of a time in RFC 3339, None of anything else."""
    found = TIME.fullmatch(ts)
    if not found:
        return None
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    try:
        days = date(year, month, day).toordinal()
    except ValueError:
        return None
    if hour > 23 or minute > 59 or second > 59:
        return None
    offset = (int(found[9]) * 60 + int(found[10])) * (-60 if found[8] == "-" else 60) if found[8] else 0
    return (days * 86400 + hour * 3600 + minute * 60 + second - offset) * 10**9 + int((found[7] or "").ljust(9, "0"))


def in_time(asked, ts):
    def after(one, other):
        instants = instant(one), instant(other)
        return instants[0] > instants[1] if None not in instants else one > other

    since, until = asked["since"], asked["until"]
    return ts is None or not (since is not None and after(since, ts) or until is not None and after(ts, until))


def has_all(enrichment, asked):
    # A lone surrogate is asked for as U+FFFD.
    return all(enrichment.get(key) is not None and storable(enrichment[key]) == value for key, value in asked["enrichment"])


def from_archive(model, kind, asked):
    rows = {"turn": model.turns, "compaction": model.compactions, "tool_result_event": model.events}[kind]
    passing = [row for row in rows.values() if in_time(asked, row["ts"]) and asked["source"] in (None, row["source"])
               and asked["session"] in (None, row["session_id"])]
    passing.sort(key=lambda row: (row["ts"] is not None, row["ts"] or "", row["turn_index"] if kind == "turn" else 0))
    if kind == "compaction":
        names = [("source", "source"), ("sessionId", "session_id"), ("ts", "ts"), ("precedingMessageId", "preceding_message_id"),
                 ("tokensBeforeCompact", "tokens_before_compact")]
        return [put({"v": Number("1")}, row, names) for row in passing]
    if kind == "tool_result_event":
        names = [("source", "source"), ("sessionId", "session_id"), ("messageId", "message_id"), ("toolUseId", "tool_use_id"),
                 ("callIndex", "call_index"), ("eventIndex", "event_index"), ("status", "status"),
                 ("contentLength", "content_length"), ("contentHash", "content_hash"), ("isError", "is_error"),
                 ("subagentSessionId", "subagent_session_id"), ("agentId", "agent_id"), ("eventSource", "event_source"), ("ts", "ts")]
        return [put({"v": Number("1")}, {**row, "message_id": row["message_id"] or None}, names) for row in passing]
    key = lambda row: (row["source"], row["session_id"], row["message_id"])
    return [shown_turn(row, model.calls[key(row)]) for row in passing
            if asked["project"] is None or asked["project"] in (row["project"], row["project_key"])
            # Keys with a column are looked up there, where a lone surrogate has become U+FFFD.
            if has_all({**parse(row["enrichment_json"]), **{key: row[column] for key, column in ENRICHMENT_COLUMNS.items()}}, asked)]


def from_ledger(model, kind, asked):
    found = []
    for of_kind, record in model.records:
        ts = storable(record["ts"]) if isinstance(record.get("ts"), str) else None
        sessions = [record.get("sessionId")] + ([record.get("relatedSessionId")] if kind == "relationship" else [])
        if of_kind != kind or not in_time(asked, ts) or asked["source"] not in (None, record.get("source")):
            continue
        if asked["session"] is not None and asked["session"] not in sessions:
            continue
        if kind == "turn":
            if asked["project"] is not None and asked["project"] not in (record.get("project"), record.get("projectKey")):
                continue
            # A field of a wrong type counts as empty text.
            fields = [storable(record[key]) if isinstance(record.get(key), str) else "" for key in ("sessionId", "messageId", "ts")]
            enrichment = model.fold(*fields)
            if not has_all(enrichment, asked):
                continue
            record = {**record, "enrichment": enrichment}
        found.append(stringify(record))
    return found


# Comparing.

def difference(what, expected, found):
    for place, (one, other) in enumerate(zip(expected, found)):
        if one != other:
            return f"{what}: place {place}: expected {one!r}, found {other!r}"
    if len(expected) != len(found):
        return f"{what}: expected {len(expected)}, found {len(found)}"
    return None


def differences(question):
    with open(question["ledger"], "rb") as ledger:
        model = Model(ledger.read())
    yield difference("counts", sorted(model.counts.items()), sorted(question["counts"].items()))
    archive = sqlite3.connect(question["archive"])
    archive.row_factory = sqlite3.Row
    yield difference("cursor", [model.end], [archive.execute("SELECT ledger_offset_bytes FROM archive_state").fetchone()[0]])
    for table, rows in model.tables().items():
        order = "source, session_id" if table == "sessions" else "rowid"
        stored = [dict(row) for row in archive.execute(f"SELECT * FROM {table} ORDER BY {order}")]
        for row in stored if table == "sessions" else []:
            row["model_set_json"] = sorted(json.loads(row["model_set_json"]))
        # Their texts tell 1 from 1.0.
        yield difference(table, [repr(row) for row in rows], [repr(row) for row in stored])
    archive.close()
    with open(question["queries"], encoding="utf-8", newline="\n") as answers:
        answers = [line[:-1].split("\t", 2) for line in answers]
    for place, kind in {(place, kind) for place, kind, _ in answers} | {("archive", "turn"), ("ledger", "turn")}:
        found = [text for *of, text in answers if of == [place, kind]]
        if place == "ledger":
            yield difference(f"ledger's {kind}", from_ledger(model, kind, question["filter"]), found)
        else:
            yield difference(f"archive's {kind}", from_archive(model, kind, question["filter"]), [parse(text) for text in found])


def main():
    for line in sys.stdin:
        try:
            found = next((found for found in differences(json.loads(line)) if found), None)
        except Exception as error:  # whatever it is, the question has no good answer
            found = f"the model failed: {error!r}"
        print(json.dumps(found) if found else "ok", flush=True)


sys.setrecursionlimit(100_000)
threading.stack_size(512 << 20)
thread = threading.Thread(target=main)
thread.start()
thread.join()
