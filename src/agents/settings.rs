//! Reads the settings of a run from the environment and `config.json`.

use std::path::PathBuf;

use super::AgentsError;
use super::js;
use super::pass::ContentMode;
use crate::home::Home;
use crate::scan::json::{Document, Kind, Value, trim_js};

/// Returns the value of an environment variable; none if it is empty.
pub(super) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Refuses a storage that this program does not have.
pub(super) fn check_storage() -> Result<(), AgentsError> {
    match std::env::var_os("RELAYBURN_STORAGE") {
        Some(word) if !word.is_empty() && word != "file" => {
            Err(AgentsError::Storage(word.to_string_lossy().into_owned()))
        }
        _ => Ok(()),
    }
}

fn mode(word: &str) -> Option<ContentMode> {
    Some(match word.to_lowercase().as_str() {
        "full" => ContentMode::Full,
        "hash-only" => ContentMode::HashOnly,
        "off" => ContentMode::Off,
        _ => return None,
    })
}

/// How much content is kept: `RELAYBURN_CONTENT_STORE`, else `content.store` of `config.json`, else all. Other values
/// are ignored. A `config.json` that is no JSON object causes a warning.
pub(super) fn content_mode(home: &Home, warn: &mut dyn FnMut(String)) -> ContentMode {
    let configured = configured_mode(home, warn);
    let from_environment = std::env::var("RELAYBURN_CONTENT_STORE").ok().and_then(|word| mode(&word));
    from_environment.or(configured).unwrap_or_default()
}

fn configured_mode(home: &Home, warn: &mut dyn FnMut(String)) -> Option<ContentMode> {
    let path = home.config();
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn(format!("cannot read {} ({error}); using defaults", path.display()));
            return None;
        }
    };
    let mut document = Document::default();
    match document.parse(trim_js(&text)) {
        Err(error) => {
            warn(format!("{} is {error}; using defaults", path.display()));
            None
        }
        Ok(root) if !matches!(root.kind(), Kind::Object | Kind::Array) => {
            warn(format!("{} is not a JSON object; using defaults", path.display()));
            None
        }
        Ok(root) => {
            let word = root.get("content").and_then(|content: Value<'_>| js::any_text(content, "store"))?;
            mode(&js::to_utf8(word))
        }
    }
}

/// Returns the folder of the user.
pub(super) fn user_folder() -> Result<PathBuf, AgentsError> {
    std::env::home_dir().filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| AgentsError::Unusable {
        path: PathBuf::from("~"),
        reason: "no home directory is known for this user: set HOME".into(),
    })
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}

/// Returns a time as JavaScript prints it: `2026-04-20T00:00:00.000Z`.
pub(super) fn iso(ms: f64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms as i64).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
