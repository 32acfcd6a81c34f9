//! Reads from a system line whether and how an agent has ended.

use super::super::js;
use crate::scan::json::{Value, trim_js};

/// Returns the status of a notification, from its error flags, else from the first of its status words, else from its
/// success flag.
pub(super) fn of_notification(line: Value<'_>) -> &'static str {
    if js::is_true(line, "is_error") || js::is_true(line, "isError") {
        return "errored";
    }
    let word = js::first_text(line, &["status", "state", "result", "terminal_status", "terminalStatus"]);
    let by_word = word.and_then(|word| of_word(&normalized(word)));
    by_word.unwrap_or_else(|| match line.get("success").and_then(Value::as_bool) {
        Some(true) => "completed",
        Some(false) => "errored",
        None => "unknown",
    })
}

fn of_word(word: &[u8]) -> Option<&'static str> {
    Some(match word {
        b"completed" | b"complete" | b"success" | b"succeeded" | b"done" => "completed",
        b"error" | b"errored" | b"failed" | b"failure" => "errored",
        b"running" | b"in_progress" | b"queued" | b"pending" | b"started" => "running",
        b"cancelled" | b"canceled" | b"aborted" => "cancelled",
        _ => return None,
    })
}

/// In lower case, with `_` for each dash and each white space.
fn normalized(word: &[u8]) -> Vec<u8> {
    let text = js::to_utf8(word).to_lowercase();
    let is_space = |letter: char| {
        let mut buffer = [0; 4];
        trim_js(letter.encode_utf8(&mut buffer).as_bytes()).is_empty()
    };
    let letters = text.chars().map(|letter| if letter == '-' || is_space(letter) { '_' } else { letter });
    letters.collect::<String>().into_bytes()
}
