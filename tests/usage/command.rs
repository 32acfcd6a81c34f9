//! `burn usage` with missing, wrong or too large input: a clear message, the exit code, and never a wrong number.

use std::fs;
use std::path::Path;

use super::{burn_of, run};

fn turn(message: &str, model: &str, output: &str) -> String {
    turn_at("2026-11-20T10:00:00.000Z", message, model, output)
}

fn turn_at(ts: &str, message: &str, model: &str, output: &str) -> String {
    format!(
        r#"{{"v":1,"kind":"turn","record":{{"source":"claude-code","sessionId":"s","messageId":"{message}","turnIndex":0,"ts":"{ts}","model":"{model}","usage":{{"input":1000,"output":{output},"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0}},"toolCalls":[]}}}}"#
    ) + "\n"
}

fn burn(home: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    burn_in("Europe/Berlin", home, args)
}

fn burn_in(zone: &str, home: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut burn = burn_of(home);
    run(burn.args(args).env("BURN_NOW", "2026-11-21T12:00:00Z").env("TZ", zone).env("LC_ALL", "C.UTF-8"))
}

/// A home with this ledger.
fn home_with(ledger: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("ledger.jsonl"), ledger).unwrap();
    home
}

/// The JSON document of a command that must succeed.
#[track_caller]
fn document(home: &Path, args: &[&str]) -> serde_json::Value {
    let (code, out, error) = burn(home, args);
    assert_eq!(code, Some(0), "{error}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_home_without_a_ledger_says_how_to_get_one() {
    let home = tempfile::tempdir().unwrap();
    for args in
        [&["usage"][..], &["usage", "--json"], &["usage", "--from", "ledger"], &["summary", "--no-build"]]
    {
        let (code, out, error) = burn(home.path(), args);
        assert_eq!((code, &*out), (Some(1), ""), "{args:?}: {error}");
        assert!(error.starts_with("burn: ") && error.contains("burn "), "{error}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn text_csv_and_json_say_the_same() {
    let lines = [
        turn("m1", "claude-opus-4-7", "200"),
        turn("m2", "my-gateway", "5"),
        turn("m3", "claude-opus-4-7", "-1"),
    ];
    let home = home_with(&lines.concat());
    let (code, text, error) = burn(home.path(), &["usage", "--by", "model"]);
    assert_eq!((code, &*error), (Some(0), ""));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("all turns, Europe/Berlin, prices of genai-prices "), "{text}");
    assert!(
        lines[2].starts_with("claude-opus-4-7      2  2.0 k     200") && lines[2].contains("≥ $0.02"),
        "{text}"
    );
    assert!(lines[3].starts_with("my-gateway           1") && lines[3].contains("unpriced"), "{text}");
    assert!(lines[4].starts_with("total                3"), "{text}");
    assert_eq!(lines[5], "no price: 1.0 k tokens of my-gateway; lower bound: 1 turn");
    assert_eq!(lines[6], "1 turn with a value that is no count, which is 0 here");
    let (_, csv, _) = burn(home.path(), &["summary", "day", "--by", "model", "--csv"]);
    assert_eq!(
        csv,
        "period,start,end,model,turns,input,output,reasoning,cacheRead,cacheCreate5m,cacheCreate1h,tokens,usd,unpricedTokens,\
         lowerBoundTurns\n\
         2026-11-20,2026-11-19T23:00:00.000Z,2026-11-20T23:00:00.000Z,claude-opus-4-7,2,2000,200,0,0,0,0,2200,0.015,0,1\n\
         2026-11-20,2026-11-19T23:00:00.000Z,2026-11-20T23:00:00.000Z,my-gateway,1,1000,5,0,0,0,0,1005,0,1005,0\n"
    );
    let document = document(home.path(), &["usage", "--limit", "1", "--by", "model", "--json"]);
    assert_eq!(document["rows"][1]["other"], true);
    assert_eq!(document["other"], 1);
    assert_eq!(document["ledger"]["takenIn"], document["ledger"]["bytes"]);
    // No turn passes the filter, which is no failure.
    let (code, _, error) = burn(home.path(), &["usage", "--model", "nobody"]);
    assert_eq!(code, Some(0));
    assert!(error.contains("no turn passes the filters; there are 3 turns without them"), "{error}");
}

#[test]
fn what_cannot_be_counted_is_an_error() {
    let home = home_with(&turn("m1", "dear", "1000000000000"));
    let prices = home.path().join("prices.json");
    let own = r#"{"format":1,"providers":[{"id":"me","match":{"is":"dear"},"models":[{"id":"dear","match":{"is":"dear"},"prices":[{"output":"999999999"}]}]}]}"#;
    fs::write(&prices, own).unwrap();
    for args in [&["usage", "--by", "model"][..], &["usage", "--json", "--from", "ledger"]] {
        let (code, out, error) = burn(home.path(), args);
        assert_eq!((code, &*out), (Some(1), ""), "{error}");
        assert!(error.contains("beyond 1.7 x 10^14 dollars"), "{error}");
    }
    fs::write(&prices, "{}").unwrap();
    let (code, out, error) = burn(home.path(), &["usage"]);
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(error.contains("prices.json is no price table"), "{error}");
    fs::remove_file(&prices).unwrap();
    // An archive of another version is refused if it must not be built again.
    assert_eq!(burn(home.path(), &["usage"]).0, Some(0));
    let archive = rusqlite::Connection::open(home.path().join("archive.sqlite")).unwrap();
    archive.execute_batch("UPDATE archive_state SET archive_version = 99").unwrap();
    drop(archive);
    let (code, out, error) = burn(home.path(), &["usage", "--no-build"]);
    assert_eq!((code, &*out), (Some(1), ""), "{error}");
    assert!(error.contains("99"), "{error}");
    // Explanations need the ledger that was read.
    fs::remove_file(home.path().join("archive.sqlite")).unwrap();
    assert_eq!(burn(home.path(), &["usage"]).0, Some(0));
    fs::write(home.path().join("ledger.jsonl"), "").unwrap();
    let (code, out, error) = burn(home.path(), &["usage", "--explain", "--no-build"]);
    assert_eq!((code, &*out), (Some(1), ""), "{error}");
    assert!(error.contains("cannot explain"), "{error}");
}

/// Key, turns and cost of each row of a document.
fn rows(document: &str) -> Vec<(String, u64, String)> {
    let document: serde_json::Value = serde_json::from_str(document).unwrap();
    let row = |row: &serde_json::Value| {
        let key = row["period"]["key"].as_str().unwrap_or("undated").to_owned();
        (key, row["turns"].as_u64().unwrap(), row["usd"].to_string())
    };
    document["rows"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn empty_periods_are_filled_with_zeros() {
    // Berlin's clocks go back on 25 October and forward on 29 March.
    let lines = [
        turn_at("2026-10-24T22:30:00Z", "m1", "claude-opus-4-7", "200"),
        turn_at("2026-10-25T02:30:00Z", "m2", "claude-opus-4-7", "200"),
        turn_at("sometime", "m3", "claude-opus-4-7", "200"),
    ];
    let home = home_with(&lines.concat());
    let filled = |args: &[&str]| {
        let (code, out, error) = burn(home.path(), &[&["usage", "--fill", "--json"], args].concat());
        assert_eq!(code, Some(0), "{error}");
        rows(&out)
    };
    let row =
        |key: &str, turns: u64| (key.to_owned(), turns, if turns > 0 { "0.01" } else { "0" }.to_owned());
    // Undated turns have no period, so their row does not change. The hour that occurs twice has two rows.
    let hours = filled(&["hour"]);
    assert_eq!((hours[0].0.as_str(), hours[0].1), ("undated", 1));
    assert_eq!(
        hours[1..],
        [
            row("2026-10-25T00:00:00+02:00", 1),
            row("2026-10-25T01:00:00+02:00", 0),
            row("2026-10-25T02:00:00+02:00", 0),
            row("2026-10-25T02:00:00+01:00", 0),
            row("2026-10-25T03:00:00+01:00", 1),
        ]
    );
    let spring = filled(&["hour", "--since", "2026-03-29T00:00", "--until", "2026-03-29T03:59"]);
    let keys: Vec<&str> = spring.iter().map(|row| &*row.0).collect();
    assert_eq!(keys, ["2026-03-29T00:00:00+01:00", "2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"]);
    // The bounds are wider than the turns.
    let days = filled(&["day", "--since", "2026-10-23", "--until", "2026-10-26"]);
    let two = ("2026-10-25".to_owned(), 2, "0.02".to_owned());
    assert_eq!(days, [row("2026-10-23", 0), row("2026-10-24", 0), two.clone(), row("2026-10-26", 0)]);
    let weeks = filled(&["week", "--since", "2026-10-18", "--until", "2026-10-26", "--week-start", "sunday"]);
    let keys: Vec<(&str, u64)> = weeks.iter().map(|row| (&*row.0, row.1)).collect();
    assert_eq!(keys, [("2026-10-18", 0), ("2026-10-25", 2)]);
    let months = filled(&["month", "--since", "2026-09", "--until", "2026-12-01"]);
    let keys: Vec<(&str, u64)> = months.iter().map(|row| (&*row.0, row.1)).collect();
    assert_eq!(keys, [("2026-09", 0), ("2026-10", 2), ("2026-11", 0), ("2026-12", 0)]);
    // On Lord Howe Island clocks go forward by half an hour at 15:30 UTC, so the first hour begins then, and no other hour before.
    let island = home_with(&turn_at("2026-10-03T15:40:00Z", "m1", "claude-opus-4-7", "200"));
    let hour = ["usage", "hour", "--fill", "--json", "--tz", "Australia/Lord_Howe"];
    assert_eq!(rows(&burn(island.path(), &hour).1), [row("2026-10-04T02:00:00+11:00", 1)]);
    // Sessions are not a part of the calendar.
    assert_eq!(filled(&["session"]).len(), 1);
    let (.., said) = burn(home.path(), &["usage", "--by", "model", "--fill"]);
    assert!(said.contains("--fill only has an effect on rows of hours, days"), "{said}");
    // Too many rows are refused, not cut off.
    let (code, out, error) =
        burn(home.path(), &["usage", "hour", "--fill", "--since", "0001", "--until", "2026-11-20"]);
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(error.contains("1000000 rows do not reach from the first hour to the last"), "{error}");
}

#[test]
fn the_block_under_way_says_what_is_left() {
    let home = tempfile::tempdir().unwrap();
    let ledger = home.path().join("ledger.jsonl");
    // A block of the day before, and one that began at 10:00, at the hour of its first turn.
    let lines = [
        turn_at("2026-11-20T10:00:00Z", "m1", "claude-opus-4-7", "200"),
        turn_at("2026-11-21T10:30:00Z", "m2", "claude-opus-4-7", "200"),
        turn_at("2026-11-21T11:59:00Z", "m3", "claude-opus-4-7", "200"),
        turn_at("2026-11-21T12:30:00Z", "m4", "claude-opus-4-7", "200"),
    ];
    fs::write(&ledger, lines.concat()).unwrap();
    // It is 12:00, so later turns do not count yet.
    let (code, out, error) = burn(home.path(), &["usage", "--active", "--json"]);
    assert_eq!((code, &*error), (Some(0), ""));
    assert_eq!(rows(&out), [("2026-11-21T10:00:00Z".to_owned(), 2, "0.02".to_owned())]);
    let (_, text, _) = burn(home.path(), &["usage", "--active"]);
    let last = text.lines().last().unwrap();
    assert_eq!(
        last,
        "3 h 00 min left; 20 tokens and $0.00 a minute so far; 6.0 k tokens and $0.05 at its end at this rate"
    );
    // Nothing is under way after five hours without a turn.
    fs::write(&ledger, lines[0].clone() + &turn_at("2026-11-20T10:00:00Z", "m5", "my-gateway", "7.5"))
        .unwrap();
    fs::remove_file(home.path().join("archive.sqlite")).unwrap();
    let (code, out, error) = burn(home.path(), &["usage", "--active"]);
    assert_eq!((code, &*out), (Some(0), ""));
    assert!(error.contains("no block is under way"), "{error}");
    let (code, out, _) = burn(home.path(), &["usage", "--active", "--json"]);
    assert_eq!((code, rows(&out).len()), (Some(0), 0));
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(document["unpriced"], serde_json::json!([]));
    for args in [
        &["usage", "day", "--active"][..],
        &["usage", "--active", "--explain"],
        &["usage", "--explain", "--csv"],
    ] {
        assert_eq!(burn(home.path(), args).0, Some(2), "{args:?}");
    }
}

#[test]
fn the_caption_ends_no_period_before_the_last_turn_that_counts() {
    // It is 12:00 of November 21.
    let home = home_with(
        &[
            turn_at("2026-11-21T09:00:00Z", "m1", "claude-opus-4-7", "200"),
            turn_at("2026-11-21T12:00:05Z", "m2", "claude-opus-4-7", "200"),
        ]
        .concat(),
    );
    let caption = |args: &[&str]| {
        let (_, out, _) = burn(home.path(), &[&["usage", "--since", "today"], args].concat());
        out.split(',').next().unwrap().to_owned()
    };
    assert_eq!(caption(&["--by", "model"]), "2026-11-21 to 2026-11-21");
    let later = turn_at("2026-11-23T09:00:00Z", "m3", "claude-opus-4-7", "200");
    let ledger = home.path().join("ledger.jsonl");
    fs::write(&ledger, fs::read_to_string(&ledger).unwrap() + &later).unwrap();
    for args in [&["--by", "model"][..], &["--from", "ledger"], &["day"], &["hour"]] {
        assert_eq!(caption(args), "since 2026-11-21", "{args:?}");
    }
    assert_eq!(caption(&["--until", "today"]), "2026-11-21 to 2026-11-21");
    assert_eq!(caption(&["--model", "none"]), "2026-11-21 to 2026-11-21");
}

#[test]
fn a_table_of_prices_says_what_it_would_change() {
    let lines = [
        turn_at("2026-09-30T12:00:00Z", "m1", "claude-opus-4-7", "200"),
        turn_at("2026-10-01T12:00:00Z", "m2", "claude-opus-4-7", "200"),
        turn_at("2026-10-02T12:00:00Z", "m3", "my-gateway", "200"),
        turn_at("2026-10-03T12:00:00Z", "m4", "claude-haiku-4-5", "200"),
    ];
    let home = home_with(&lines.concat());
    assert_eq!(burn(home.path(), &["usage"]).0, Some(0));
    let file = home.path().join("new.json");
    let own = r#"{"format":1,"providers":[
        {"id":"me","match":{"or":[{"starts":"my-"},{"is":"claude-opus-4-7"}]},"models":[
            {"id":"gateway","match":{"is":"my-gateway"},"prices":[{"input":"1","output":"2"}]},
            {"id":"opus","match":{"is":"claude-opus-4-7"},"prices":[{"input":"5","output":"25"},{"from":"2026-10-01","input":"10","output":"50"}]}]}]}"#;
    fs::write(&file, own).unwrap();
    let diff =
        |more: &[&str]| burn(home.path(), &[&["prices", "diff", file.to_str().unwrap()], more].concat());
    // September and the model that the table does not have stay as they are.
    let (code, out, error) = diff(&["--json"]);
    assert_eq!((code, &*error), (Some(0), ""));
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    let side = |usd: &str, tokens: &str| serde_json::json!({"usd": usd, "unpricedTokens": tokens});
    assert_eq!(
        document["changes"],
        serde_json::json!([
            {"month": "2026-10", "model": "claude-opus-4-7", "before": side("0.01", "0"), "after": side("0.02", "0")},
            {"month": "2026-10", "model": "my-gateway", "before": side("0", "1200"), "after": side("0.0014", "0")},
        ])
    );
    let (_, text, _) = diff(&[]);
    assert!(text.lines().nth(1).unwrap().starts_with("2026-10  claude-opus-4-7"), "{text}");
    assert!(text.contains("0 and 1200 unpriced tokens"), "{text}");
    // The table that is in use changes nothing.
    fs::copy(&file, home.path().join("prices.json")).unwrap();
    assert_eq!(diff(&[]).1, "nothing changes\n");
    // Turns that are not in the archive yet are missing from the comparison, and it says so.
    fs::write(home.path().join("ledger.jsonl"), lines.concat() + &turn("m5", "claude-opus-4-7", "1"))
        .unwrap();
    assert!(diff(&[]).2.contains("the archive lacks the last"), "{}", diff(&[]).2);
    // What cannot be read is not compared.
    fs::write(&file, "{}").unwrap();
    let (code, out, error) = diff(&[]);
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(error.contains("new.json is no price table"), "{error}");
    for args in [&["prices", "diff"][..], &["prices", "claude-opus-4-7", "x.json"]] {
        assert_eq!(burn(home.path(), args).0, Some(2), "{args:?}");
    }
}

#[test]
fn what_an_older_program_archived_is_no_count_and_no_wrong_number() {
    let lines: Vec<String> =
        (1..=6).map(|number| turn(&format!("m{number}"), "claude-opus-4-7", "200")).collect();
    let home = home_with(&lines.concat());
    assert_eq!(burn(home.path(), &["usage"]).0, Some(0));
    let archive = rusqlite::Connection::open(home.path().join("archive.sqlite")).unwrap();
    archive
        .execute_batch(
            "UPDATE turns SET input_tokens = -5 WHERE message_id = 'm1';
             UPDATE turns SET output_tokens = 9223372036854775807 WHERE message_id = 'm2';
             UPDATE turns SET cache_read_tokens = 1e300 WHERE message_id = 'm3';
             UPDATE turns SET reasoning_tokens = 'many' WHERE message_id = 'm4';
             UPDATE turns SET ts = 12345, model = x'ff00' WHERE message_id = 'm5';",
        )
        .unwrap();
    drop(archive);
    let (code, out, error) = burn(home.path(), &["usage", "--by", "model", "--no-build", "--json"]);
    assert_eq!((code, &*error), (Some(0), ""));
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    let total = &document["total"];
    // One input and one output count as nothing; the model that is no text has no price, because its turn has no time.
    assert_eq!(
        [&total["turns"], &total["input"], &total["output"], &total["cacheRead"], &total["unpricedTokens"]],
        [6, 5000, 1000, 0, 1200]
    );
    assert_eq!([&document["invalidTurns"], &total["lowerBoundTurns"]], [4, 4]);
    assert_eq!(document["unpriced"][0]["reason"], "undated");
    // With a name of 10 kB everything works as with a short one.
    let long = "m".repeat(10_240);
    fs::write(home.path().join("ledger.jsonl"), turn("m1", &long, "200")).unwrap();
    let (code, out, _) =
        burn(home.path(), &["usage", "--from", "ledger", "--model", &long, "--by", "model", "--csv"]);
    assert_eq!(code, Some(0));
    assert_eq!(out.lines().nth(1).unwrap(), format!("{long},1,1000,200,0,0,0,0,1200,0,1200,0"));
}

/// Another program, an older burn and a restored copy change the turns and not what the archive says about their times.
#[test]
fn turns_without_a_time_are_counted_whoever_archived_them() {
    const OTHER_TURN: &str = "INSERT INTO turns (source, session_id, message_id, turn_index, ts, model)
        VALUES ('codex', 'other', 'm', 0, 'yesterday', 'gpt-5.5');";
    let home = tempfile::tempdir().unwrap();
    let [ledger, archive, copy] =
        ["ledger.jsonl", "archive.sqlite", "copy"].map(|name| home.path().join(name));
    let left_out = |args: &[&str]| {
        // With an archive that lags, the answer is about what the archive has.
        let document = document(home.path(), &[&["usage", "--since", "2026-11-20", "--json"], args].concat());
        let undated = document["leftOut"]["undatedTurns"].as_u64().unwrap();
        (document["total"]["turns"].as_u64().unwrap(), undated)
    };
    let sql = |text: &str| rusqlite::Connection::open(&archive).unwrap().execute_batch(text).unwrap();
    let is_known = || {
        let connection = rusqlite::Connection::open(&archive).unwrap();
        let mark: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0)).unwrap();
        mark != 0
    };
    let dated = turn("m1", "gpt-5.5", "200");
    for loader in ["bulk", "insert"] {
        let rebuild = || {
            let full = ["state", "rebuild", "archive", "--full", "--loader", loader];
            assert_eq!(burn(home.path(), &full).0, Some(0));
        };
        fs::write(&ledger, &dated).unwrap();
        rebuild();
        assert_eq!((left_out(&[]), is_known()), ((1, 0), true), "{loader}");
        // A tail build keeps what it knows, and notices a turn without a time.
        fs::write(&ledger, format!("{dated}{}", turn("m2", "gpt-5.5", "200"))).unwrap();
        assert_eq!((left_out(&[]), is_known()), ((2, 0), true), "{loader}");
        fs::copy(&archive, &copy).unwrap();
        let undated = turn_at("yesterday", "m3", "gpt-5.5", "200");
        fs::write(&ledger, format!("{dated}{}{undated}", turn("m2", "gpt-5.5", "200"))).unwrap();
        assert_eq!((left_out(&[]), is_known()), ((2, 1), false), "{loader}");
        // A full rebuild finds the turn, too.
        rebuild();
        assert_eq!((left_out(&[]), is_known()), ((2, 1), false), "{loader}");
        // A restored copy knows what it knew, and a tail build goes on from there.
        fs::copy(&copy, &archive).unwrap();
        assert_eq!((left_out(&["--no-build"]), is_known()), ((2, 0), true), "{loader}");
        assert_eq!((left_out(&[]), is_known()), ((2, 1), false), "{loader}");
        // The TypeScript package leaves both marks as they are. An older burn sets the mark of the ledger.
        for state in [
            "ledger_offset_bytes = ledger_offset_bytes + 1",
            "last_built_at = '2026-11-21T11:00:00.000Z'",
            "ledger_mtime_ms = ledger_mtime_ms + 1",
            "ledger_offset_bytes = 0, last_rebuild_at = NULL",
        ] {
            for mark in ["", "PRAGMA user_version = 12345;"] {
                fs::copy(&copy, &archive).unwrap();
                sql(&format!("BEGIN; {OTHER_TURN} UPDATE archive_state SET {state}; {mark} COMMIT"));
                assert_eq!(left_out(&["--no-build"]), (2, 1), "{loader}: {state}");
            }
        }
        // A tail build of this burn goes on from what another program has built, and does not know more than before.
        fs::copy(&copy, &archive).unwrap();
        sql(&format!("{OTHER_TURN} UPDATE archive_state SET last_built_at = '2026-11-21T11:00:00.000Z'"));
        fs::write(&ledger, format!("{dated}{}", ["m2", "m4"].map(|m| turn(m, "gpt-5.5", "200")).concat()))
            .unwrap();
        assert_eq!((left_out(&[]), is_known()), ((3, 1), false), "{loader}");
        // What a vacuum and a rebuild into an archive that is in use write is known, too.
        let reader = rusqlite::Connection::open(&archive).unwrap();
        reader.query_row("SELECT count(*) FROM turns", [], |_| Ok(())).unwrap();
        rebuild();
        assert_eq!((left_out(&[]), is_known()), ((3, 0), true), "{loader}");
        drop(reader);
        assert_eq!(burn(home.path(), &["state", "rebuild", "archive", "--vacuum"]).0, Some(0));
        assert_eq!((left_out(&[]), is_known()), ((3, 0), true), "{loader}");
        fs::remove_file(&archive).unwrap();
    }
}

#[test]
fn zones_times_and_tables_that_do_not_exist_are_refused_in_a_line() {
    let home = home_with(&turn("m1", "claude-opus-4-7", "200"));
    let folder = home.path().to_str().unwrap();
    for (args, code, said) in [
        (&["--tz", "Mars/Olympus"][..], 2, "Mars/Olympus"),
        (&["--tz", "+25:00"], 2, "+25:00"),
        (&["--tz", ""], 2, "--tz"),
        (&["--since", "2026-02-30"], 2, "\"2026-02-30\" is no time; write"),
        (&["--until", "1/5/2026"], 2, "\"1/5/2026\" is no time; write"),
        (&["--since", "-3d"], 2, "\"-3d\" is no time; write"),
        (&["--since", "3661d"], 2, "\"3661d\" is no time; write"),
        (&["--since", "2026-11-20", "--until", "2026-11-01"], 2, "--since is after --until"),
        (&["--prices", "/nowhere/prices.json"], 1, "there is no price table at /nowhere/prices.json"),
        (&["--prices", folder], 1, "no regular file"),
    ] {
        for command in ["usage", "report"] {
            let (found, out, error) = burn(home.path(), &[&[command], args].concat());
            assert_eq!((found, &*out), (Some(code), ""), "{command} {args:?}");
            let first = error.lines().next().unwrap();
            assert!(first.contains(said), "{command} {args:?}: {error}");
        }
    }
    assert!(!home.path().join("burn-report.html").exists());
}

#[test]
fn a_variable_that_names_no_zone_is_ignored_with_a_warning() {
    let home = home_with(&turn("m1", "claude-opus-4-7", "200"));
    for command in [&["usage"][..], &["query", "turns"]] {
        let (code, _, error) = burn_in("Mars/Olympus", home.path(), command);
        assert_eq!(code, Some(0), "{error}");
        assert!(error.contains("TZ is \"Mars/Olympus\", which names no time zone"), "{command:?}: {error}");
        // An option and a valid variable are taken without a word.
        assert_eq!(
            burn_in("Mars/Olympus", home.path(), &[command, &["--tz", "UTC"]].concat()).2,
            "",
            "{command:?}"
        );
        assert_eq!(burn_in("CET-1CEST,M3.5.0,M10.5.0/3", home.path(), command).2, "", "{command:?}");
    }
}

#[test]
fn a_build_before_an_answer_names_the_lines_that_it_leaves_out() {
    let home = tempfile::tempdir().unwrap();
    let ledger = home.path().join("ledger.jsonl");
    fs::write(&ledger, turn("m1", "claude-opus-4-7", "200") + "garbage\n").unwrap();
    // A lock file that nobody touches is an orphan, and keeps nobody from building.
    let lock = fs::File::create(home.path().join("archive.lock")).unwrap();
    lock.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(60)).unwrap();
    let at = fs::metadata(&ledger).unwrap().len() - 8;
    let (code, out, error) = burn(home.path(), &["usage", "--by", "model", "--json"]);
    assert_eq!((code, rows(&out).len()), (Some(0), 1), "{error}");
    assert!(error.contains(&format!("ledger.jsonl at byte {at} (8 bytes): malformed")), "{error}");
    assert_eq!(burn(home.path(), &["usage", "--by", "model"]).2, "", "the line was named once");
    // Nobody can read the lines of a file that is no ledger.
    let other = home.path().join("notes.txt");
    fs::write(&other, "one\ntwo\n").unwrap();
    let archive = home.path().join("other.sqlite");
    let [other, archive] = [&other, &archive].map(|path| path.to_str().unwrap());
    let (_, _, error) = burn(home.path(), &["usage", "--ledger", other, "--archive", archive]);
    assert!(error.contains("nothing of") && error.contains("notes.txt was stored"), "{error}");
}

#[test]
fn an_answer_from_the_ledger_names_the_lines_that_gave_no_turn() {
    let good = turn("m1", "claude-opus-4-7", "1");
    let without_usage = good.replace("\"usage\"", "\"usages\"").replace("m1", "m2");
    let stamp = r#"{"v":1,"kind":"stamp","ts":"2026-11-20T10:00:00.000Z","selector":{"sessionId":"s"},"enrichment":{"a":"b"}}"#;
    let turn_in = |ledger: &str, args: &[&str]| {
        let home = home_with(ledger);
        let path = home.path().join("ledger.jsonl");
        let args = [&["usage", "--from", "ledger", "--json"], args].concat();
        let (code, out, error) = burn(home.path(), &args);
        assert_eq!(code, Some(0), "{error}");
        let document: serde_json::Value = serde_json::from_str(&out).unwrap();
        (document["total"]["turns"].clone(), error.replace(path.to_str().unwrap(), "LEDGER"))
    };
    let ledger =
        [&*good, "half a line\n", "\n", &without_usage, stamp, "\n", "{\"kind\":\"turn\"\n"].concat();
    let expected = format!(
        "burn: LEDGER at byte {} (12 bytes): malformed: not JSON: expected a value at byte 0 of the line\n\
         burn: and 2 more lines left out; `burn ledger check` names every line that is wrong\n",
        good.len()
    );
    for args in [&[][..], &["--since", "2026-01-01"], &["--threads", "1"], &["--explain"]] {
        assert_eq!(turn_in(&ledger, args), (1.into(), expected.clone()), "{args:?}");
    }
    // The first look takes this line for the turn that it claims to be.
    let ledger = [&*good, &without_usage].concat();
    let expected = format!(
        "burn: LEDGER at byte {} ({} bytes): rejected: the turn has no usage\n",
        good.len(),
        without_usage.len()
    );
    assert_eq!(turn_in(&ledger, &[]), (1.into(), expected));
    assert_eq!(turn_in(&good, &[]), (1.into(), String::new()));
}

#[test]
fn one_ledger_without_an_archive_is_refused_with_the_usage_of_its_command() {
    let home = home_with(&turn("m1", "claude-opus-4-7", "200"));
    let ledger = home.path().join("ledger.jsonl");
    for words in [&["usage"][..], &["query", "turns"]] {
        let named = [words, &["--from", "ledger", "--ledger", ledger.to_str().unwrap()]].concat();
        let (code, _, error) = burn(home.path(), &named);
        assert_eq!((code, &*error), (Some(0), ""));
    }
    assert!(!home.path().join("archive.sqlite").exists());
    for words in [&["usage"][..], &["report"], &["query", "turns"]] {
        let (code, _, error) = burn(home.path(), &[words, &["--ledger", ledger.to_str().unwrap()]].concat());
        assert_eq!(code, Some(2), "{error}");
        assert!(
            error.contains("--archive") && error.contains(&format!("Usage: burn {}", words[0])),
            "{error}"
        );
    }
}

#[test]
fn a_ledger_that_was_cut_or_changed_is_read_again() {
    let home = tempfile::tempdir().unwrap();
    let ledger = home.path().join("ledger.jsonl");
    let lines: Vec<String> =
        ["m1", "m2", "m3"].map(|message| turn(message, "claude-opus-4-7", "200")).to_vec();
    let answer = |args: &[&str]| {
        let (code, out, error) = burn(home.path(), &[&["usage", "--json"], args].concat());
        assert_eq!(code, Some(0), "{error}");
        let document: serde_json::Value = serde_json::from_str(&out).unwrap();
        (document["total"]["turns"].as_u64().unwrap(), document["total"]["output"].as_u64().unwrap(), error)
    };
    fs::write(&ledger, lines.concat()).unwrap();
    assert_eq!(answer(&[]), (3, 600, String::new()));
    // Shorter than what the archive covers.
    fs::write(&ledger, lines[..2].concat()).unwrap();
    let (turns, _, error) = answer(&["--no-build"]);
    assert_eq!(turns, 3);
    assert!(error.contains("the ledger is shorter than when the archive was built"), "{error}");
    let (_, _, error) = burn(home.path(), &["query", "turns"]);
    assert!(error.contains("the ledger is shorter"), "{error}");
    let (turns, output, error) = answer(&[]);
    assert_eq!((turns, output), (2, 400));
    assert!(error.contains("archive.sqlite.set-aside"), "{error}");
    // As long as before, with another number.
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&ledger, lines[..2].concat().replace("200", "300")).unwrap();
    assert_eq!(answer(&[]).1, 600);
    assert_eq!(answer(&["--from", "ledger"]), (2, 600, String::new()));
}

#[test]
fn the_title_of_a_dimension_obeys_nothing() {
    let home = home_with(&turn("m1", "claude-opus-4-7", "200"));
    let (code, text, _) = burn(home.path(), &["usage", "--by", "tag:a\u{1b}[31mb"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("tag:a\u{FFFD}[31mb") && !text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_ledger_that_is_gone_is_named_beside_the_answer_of_its_archive() {
    let home = home_with(&turn("m1", "claude-opus-4-7", "200"));
    let ledger = home.path().join("ledger.jsonl");
    let (_, before, _) = burn(home.path(), &["usage", "--by", "model"]);
    fs::remove_file(&ledger).unwrap();
    for args in [&["usage", "--by", "model"][..], &["query", "turns"], &["report", "--out", "-"]] {
        let (code, out, error) = burn(home.path(), args);
        assert_eq!((code, out.is_empty()), (Some(0), false), "{args:?}: {error}");
        assert!(error.contains(&format!("there is no ledger at {}", ledger.display())), "{args:?}: {error}");
        assert!(args[0] != "usage" || out == before, "{out}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", &ledger).unwrap();
        let (code, out, error) = burn(home.path(), &["usage"]);
        assert_eq!((code, &*out), (Some(1), ""), "{error}");
        assert!(error.contains("is a link to a file that is not there"), "{error}");
    }
}

#[test]
fn commands_that_begin_at_once_all_answer() {
    let home = tempfile::tempdir().unwrap();
    let lines: String =
        (0..20_000).map(|number| turn(&format!("m{number}"), "claude-opus-4-7", "200")).collect();
    fs::write(home.path().join("ledger.jsonl"), lines).unwrap();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..5).map(|_| scope.spawn(|| burn(home.path(), &["usage", "--by", "model"]))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    for (code, out, error) in &answers {
        assert_eq!((*code, out), (Some(0), &answers[0].1), "{error}");
        assert!(out.contains("20.0 k"), "{out}");
    }
}

#[test]
fn without_a_build_several_ledgers_need_an_archive() {
    let home = home_with(&turn("m1", "claude-opus-4-7", "200"));
    let (code, _, error) =
        burn(home.path(), &["usage", "--no-build", "--ledger", home.path().to_str().unwrap()]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("--no-build needs --archive"), "{error}");
}
