//! The naive loader, with which `scripts/perf-gate` and `cargo bench --bench rebuild` compare rebuilds: every line through
//! serde_json into a tree, one prepared INSERT a row, one transaction, indexes created first, sessions by one GROUP BY at
//! the end.
//!
//! It folds no stamps, reports no lines, replaces no live archive and checks nothing, so it does less than a rebuild.

use std::io::{BufRead, BufReader};
use std::path::Path;

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, Statement, params_from_iter};
use serde_json::Value;

use crate::archive::schema;
use crate::record::columns;

/// Reads `ledger` into the new file `archive`.
pub(super) fn load(ledger: &Path, archive: &Path) -> anyhow::Result<()> {
    let mut connection = Connection::open(archive)?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")?;
    for table in schema::TABLES {
        connection.execute_batch(table.create)?;
    }
    for (_, index) in schema::INDEXES {
        connection.execute_batch(index)?;
    }
    let transaction = connection.transaction()?;
    {
        let mut turns = insert(&transaction, &columns::turns::TABLE)?;
        let mut calls = insert(&transaction, &columns::tool_calls::TABLE)?;
        let mut events = insert(&transaction, &columns::tool_result_events::TABLE)?;
        let mut compactions = insert(&transaction, &columns::compactions::TABLE)?;
        let mut stamps = insert(&transaction, &columns::stamps::TABLE)?;
        let mut forget = transaction
            .prepare("DELETE FROM tool_calls WHERE source = ? AND session_id = ? AND message_id = ?")?;
        let mut offset = 0;
        for line in BufReader::with_capacity(1 << 20, std::fs::File::open(ledger)?).split(b'\n') {
            let line = line?;
            let start = offset;
            offset += line.len() as i64 + 1;
            let Ok(line) = serde_json::from_slice::<Value>(&line) else { continue };
            let record = &line["record"];
            let key = [text(&record["source"]), text(&record["sessionId"]), text(&record["messageId"])];
            match line["kind"].as_str() {
                Some("turn") => {
                    turns.execute(params_from_iter(turn(record)))?;
                    forget.execute(params_from_iter(key.clone()))?;
                    for (index, call) in record["toolCalls"].as_array().into_iter().flatten().enumerate() {
                        let mut row = key.to_vec();
                        row.push(Sql::Integer(index as i64));
                        row.extend(["id", "name", "target", "argsHash"].map(|field| text(&call[field])));
                        row.extend([flag(&call["isError"]), Sql::Null, Sql::Null]);
                        calls.execute(params_from_iter(row))?;
                    }
                }
                Some("tool_result_event") => {
                    let field = |name: &str| text(&record[name]);
                    let message = if record["messageId"].is_null() {
                        Sql::Text(String::new())
                    } else {
                        field("messageId")
                    };
                    let call = record["callIndex"].as_i64().unwrap_or(0);
                    events.execute(params_from_iter([
                        field("source"),
                        field("sessionId"),
                        message,
                        field("toolUseId"),
                        Sql::Integer(call),
                        number(&record["eventIndex"]),
                        field("status"),
                        number(&record["contentLength"]),
                        field("contentHash"),
                        flag(&record["isError"]),
                        field("subagentSessionId"),
                        field("agentId"),
                        field("eventSource"),
                        field("ts"),
                    ]))?;
                }
                Some("compaction") => {
                    let field = |name: &str| text(&record[name]);
                    compactions.execute(params_from_iter([
                        field("source"),
                        field("sessionId"),
                        field("ts"),
                        field("precedingMessageId"),
                        number(&record["tokensBeforeCompact"]),
                    ]))?;
                }
                Some("stamp") => {
                    stamps.execute(params_from_iter([
                        Sql::Text("*".into()),
                        Sql::Text(line["selector"]["sessionId"].as_str().unwrap_or("*").into()),
                        text(&line["ts"]),
                        Sql::Text(line["selector"].to_string()),
                        Sql::Text(line["enrichment"].to_string()),
                        Sql::Integer(start),
                    ]))?;
                }
                _ => {}
            }
        }
        transaction.execute_batch(
            "INSERT INTO sessions
             SELECT source, session_id, MIN(project), MIN(project_key), MIN(ts), MAX(ts), COUNT(*),
               json_group_array(DISTINCT model), MIN(workflow_id), MIN(agent_id), MIN(parent_subagent_id),
               COALESCE(MAX(is_sidechain), 0), MIN(attribution_fidelity), MIN(attribution_fidelity = 'full')
             FROM turns GROUP BY source, session_id",
        )?;
    }
    transaction.commit()?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

fn insert<'c>(connection: &'c Connection, table: &columns::Table) -> Result<Statement<'c>, rusqlite::Error> {
    let marks = vec!["?"; table.columns.len()].join(",");
    connection.prepare(&format!("INSERT OR REPLACE INTO {} VALUES ({marks})", table.name))
}

fn turn(record: &Value) -> Vec<Sql> {
    let names = ["source", "sessionId", "messageId"];
    let mut row: Vec<Sql> = names.iter().map(|name| text(&record[*name])).collect();
    row.push(number(&record["turnIndex"]));
    let names = ["ts", "model", "project", "projectKey", "activity", "stopReason"];
    row.extend(names.iter().map(|name| text(&record[*name])));
    row.extend([flag(&record["hasEdits"]), number(&record["retries"])]);
    let subagent = &record["subagent"];
    row.push(if subagent.is_null() { Sql::Null } else { flag(&subagent["isSidechain"]) });
    let names = ["agentId", "parentAgentId", "parentToolUseId", "subagentType", "description"];
    row.extend(names.iter().map(|name| text(&subagent[*name])));
    let names = ["input", "output", "reasoning", "cacheRead", "cacheCreate5m", "cacheCreate1h"];
    row.extend(names.iter().map(|name| number(&record["usage"][*name])));
    row.extend([Sql::Null, Sql::Null, Sql::Null, Sql::Null, Sql::Text("{}".into())]);
    row.push(text(&record["fidelity"]["class"]));
    row.extend([Sql::Null, Sql::Null]);
    row
}

fn text(value: &Value) -> Sql {
    value.as_str().map_or(Sql::Null, |text| Sql::Text(text.into()))
}

fn number(value: &Value) -> Sql {
    match (value.as_i64(), value.as_f64()) {
        (Some(number), _) => Sql::Integer(number),
        (_, Some(number)) => Sql::Real(number),
        _ => Sql::Null,
    }
}

fn flag(value: &Value) -> Sql {
    value.as_bool().map_or(Sql::Null, |flag| Sql::Integer(i64::from(flag)))
}
