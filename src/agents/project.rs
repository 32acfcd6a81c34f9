//! Finds the project key of a folder: the git remote `origin`.
//!
//! Touches only files of git (`.git`, `commondir`, `config`), for reading. Keys are kept for the life of the
//! [`ProjectKeys`], so each folder is read once.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use super::js::{self, RecordText};
use crate::disk;

/// How many parents the search for `.git` visits.
const MAX_LEVELS: usize = 100;

/// Keys of projects by folder.
#[derive(Debug)]
pub(super) struct ProjectKeys {
    as_reference: bool,
    /// The process's working directory, which relative folders refer to.
    base: PathBuf,
    known: Mutex<HashMap<Vec<u8>, Option<String>>>,
}

impl ProjectKeys {
    /// No keys yet.
    pub(super) fn new(as_reference: bool) -> Self {
        let base = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        ProjectKeys { as_reference, base, known: Mutex::default() }
    }

    /// `host/path` of the remote `origin` of the repository that `folder` (WTF-8, as the log has it) belongs to.
    fn key(&self, folder: &[u8]) -> Option<String> {
        let known = |map: &HashMap<Vec<u8>, Option<String>>| map.get(folder).cloned();
        if let Some(key) = self.known.lock().ok().and_then(|map| known(&map)) {
            return key;
        }
        let key = self.look_up(folder);
        if let Ok(mut map) = self.known.lock() {
            map.insert(folder.to_vec(), key.clone());
        }
        key
    }

    /// Appends the members of a turn that name its folder and the project of the folder.
    pub(super) fn write(&self, folder: &[u8], record: &mut RecordText) {
        record.text("project", folder);
        record.maybe_text("projectKey", self.key(folder).as_deref().map(str::as_bytes));
    }

    fn look_up(&self, folder: &[u8]) -> Option<String> {
        let folder = absolute(&self.base, Path::new(js::to_utf8(folder).as_ref()));
        let config = disk::read(&git_folder(&folder)?.join("config")).ok()?;
        let url = origin_url(&String::from_utf8_lossy(&config), self.as_reference)?;
        key_of_url(&url, self.as_reference)
    }
}

/// `path` joined to `base`. `.` and `..` are removed by name, without following links.
pub(super) fn absolute(base: &Path, path: &Path) -> PathBuf {
    let mut folded = PathBuf::from("/");
    for part in base.join(path).components() {
        match part {
            Component::ParentDir => {
                folded.pop();
            }
            Component::Normal(name) => folded.push(name),
            _ => (),
        }
    }
    folded
}

/// The folder with git's `config` for `folder`. `folder` need not exist.
fn git_folder(folder: &Path) -> Option<PathBuf> {
    for level in folder.ancestors().take(MAX_LEVELS) {
        let git = level.join(".git");
        let Ok(kind) = fs::metadata(&git) else { continue };
        if kind.is_dir() {
            return Some(git);
        }
        if let Some(found) = kind.is_file().then(|| linked_folder(&git, level)).flatten() {
            return Some(found);
        }
    }
    None
}

/// The folder that a `.git` file names, or for a worktree the common folder that this folder names.
fn linked_folder(git_file: &Path, folder: &Path) -> Option<PathBuf> {
    let text = disk::read(git_file).ok()?;
    let text = String::from_utf8_lossy(&text);
    let named = text.lines().find_map(|line| line.strip_prefix("gitdir:"))?.trim();
    let git = absolute(folder, Path::new(named));
    let common = disk::read(&git.join("commondir")).ok();
    let common = common.map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    match common.filter(|text| !text.is_empty()) {
        Some(common) => Some(absolute(&git, Path::new(&common))),
        None => Some(git),
    }
}

/// The last `url` of the remote `origin`. With our rules, section names and keys may have any case and a byte order
/// mark is skipped, as in git.
fn origin_url(config: &str, as_reference: bool) -> Option<String> {
    let is = |name: &str, wanted: &str| match as_reference {
        false => name.eq_ignore_ascii_case(wanted),
        true => name == wanted,
    };
    let config = if as_reference { config } else { config.strip_prefix('\u{FEFF}').unwrap_or(config) };
    let mut in_origin = false;
    let mut url = None;
    for line in config.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line).trim_matches([' ', '\t']);
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let section = section.trim();
            let (name, rest) = section.split_at(section.find(char::is_whitespace).unwrap_or(section.len()));
            in_origin = is(name, "remote") && rest.trim_start() == "\"origin\"";
        } else if let Some((key, value)) = line.split_once('=')
            && in_origin
            && is(key.trim(), "url")
        {
            url = Some(unquoted(value.trim()));
        }
    }
    url
}

/// A config value without its quotes and without a comment after it.
fn unquoted(value: &str) -> String {
    let mut text = String::new();
    let mut is_quoted = false;
    for character in value.chars() {
        match character {
            '"' => is_quoted = !is_quoted,
            '#' | ';' if !is_quoted => break,
            other => text.push(other),
        }
    }
    text.trim().to_owned()
}

/// `host/path` of a remote's URL; none for local paths.
fn key_of_url(url: &str, as_reference: bool) -> Option<String> {
    let (host, path) = match scp_parts(url) {
        Some((host, path)) => (host, path.trim_start_matches('/')),
        None => {
            let (scheme, rest) = url.split_once("://")?;
            let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c));
            if !is_scheme {
                return None;
            }
            let user_end = if as_reference {
                rest.find('@')
            } else {
                // A password may hold "@", and so may a path.
                rest[..rest.find('/').unwrap_or(rest.len())].rfind('@')
            };
            let rest = user_end.map_or(rest, |at| &rest[at + 1..]);
            let (host, path) = rest.split_once('/')?;
            (host.split(':').next().unwrap_or_default(), path)
        }
    };
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let is_whole = !host.is_empty() && !path.is_empty();
    is_whole.then(|| format!("{}/{path}", host.to_lowercase()))
}

/// Host and path of `user@host:path`.
fn scp_parts(url: &str) -> Option<(&str, &str)> {
    let (user, rest) = url.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let is_user = !user.is_empty() && user.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let is_host = !host.is_empty() && !host.contains(char::is_whitespace);
    (is_user && is_host && !path.is_empty()).then_some((host, path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_host_and_path() {
        for (url, key) in [
            ("git@GitHub.com:o/r.git", Some("github.com/o/r")),
            ("git@h:/o/r/", Some("h/o/r")),
            ("git@h:.git", None),
            ("https://Host.example:8443/o/R.git/", Some("host.example/o/R")),
            ("ssh://git@h/o/r", Some("h/o/r")),
            ("https://user:pass@h/o/r", Some("h/o/r")),
            ("https://h", None),
            ("https://h/", None),
            ("file:///srv/r.git", None),
            ("../r", None),
            ("host:path", None),
        ] {
            for as_reference in [false, true] {
                assert_eq!(key_of_url(url, as_reference).as_deref(), key, "{url}");
            }
        }
    }

    #[test]
    fn an_at_sign_in_a_password_or_a_path_is_no_host() {
        let password = "https://u:p@ss@h/o/r";
        assert_eq!(key_of_url(password, false).as_deref(), Some("h/o/r"));
        assert_eq!(key_of_url(password, true).as_deref(), Some("ss@h/o/r"));
        let path = "https://h/o/r@2";
        assert_eq!(key_of_url(path, false).as_deref(), Some("h/o/r@2"));
        assert_eq!(key_of_url(path, true), None);
    }

    #[test]
    fn the_config_is_read_by_its_own_rules() {
        let plain =
            "[core]\n\turl = x\n[remote \"origin\"]\r\n\turl = \"a#b\" ; note\n[remote \"up\"]\nurl=y\n";
        for as_reference in [false, true] {
            assert_eq!(origin_url(plain, as_reference).as_deref(), Some("a#b"));
        }
        let odd = "\u{FEFF}[Remote \"origin\"]\nURL = z\n";
        assert_eq!(origin_url(odd, false).as_deref(), Some("z"));
        assert_eq!(origin_url(odd, true), None);
    }

    #[test]
    fn worktrees_lead_to_the_common_folder() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("repo/.git/worktrees/w")).unwrap();
        fs::create_dir_all(root.join("w/deep")).unwrap();
        fs::write(root.join("repo/.git/config"), "[remote \"origin\"]\nurl = git@h:o/r.git\n").unwrap();
        fs::write(root.join("repo/.git/worktrees/w/commondir"), "../..\n").unwrap();
        fs::write(root.join("w/.git"), "gitdir: ../repo/.git/worktrees/w\n").unwrap();
        let projects = ProjectKeys::new(false);
        let key = |path: &str| projects.key(root.join(path).to_str().unwrap().as_bytes());
        assert_eq!(key("repo").as_deref(), Some("h/o/r"));
        assert_eq!(key("w/deep/gone/../there").as_deref(), Some("h/o/r"));
        assert_eq!(key("."), None);
    }
}
