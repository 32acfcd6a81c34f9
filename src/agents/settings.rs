//! Reads the settings of a run from the environment and `config.json`.

use std::path::PathBuf;

use super::AgentsError;
use super::js;
use super::pass::ContentMode;
use crate::disk;
use crate::home::Home;
use crate::scan::json::{Document, Kind, Value, trim_js};

/// The variable that decides whether texts are kept.
const CONTENT_VARIABLE: &str = "RELAYBURN_CONTENT_STORE";

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
    let modes = [ContentMode::Full, ContentMode::HashOnly, ContentMode::Off];
    modes.into_iter().find(|mode| mode.as_str() == word.to_lowercase())
}

/// How much content is kept: `RELAYBURN_CONTENT_STORE`, else `content.store` of `config.json`, else all. Other values
/// are ignored with a warning, because a misspelt `off` would keep every text. A `config.json` that is no JSON object
/// causes a warning, too.
pub(super) fn content_mode(home: &Home, warn: &mut dyn FnMut(String)) -> ContentMode {
    let mut ignored = Vec::new();
    let mut checked = |name: &str, word: &str| {
        let found = mode(word);
        if found.is_none() {
            ignored.push(format!("{name} is {word:?}"));
        }
        found
    };
    let configured =
        configured_word(home, warn).and_then(|word| checked("content.store of config.json", &word));
    let word = variable(CONTENT_VARIABLE);
    let from_environment = word.and_then(|word| checked(CONTENT_VARIABLE, &word.to_string_lossy()));
    let used = from_environment.or(configured).unwrap_or_default();
    for ignored in ignored {
        warn(format!(
            "{ignored}, which is none of full, hash-only and off; content is kept as with {}",
            used.as_str()
        ));
    }
    used
}

fn configured_word(home: &Home, warn: &mut dyn FnMut(String)) -> Option<String> {
    let path = home.config();
    let text = match disk::if_there(disk::read(&path)) {
        Ok(text) => text?,
        Err(error) => {
            warn(format!("{error}; using defaults"));
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
            Some(js::to_utf8(word).into_owned())
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
