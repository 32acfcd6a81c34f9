//! `burn ingest --install-hook` and `--install-statusline` change the settings of Claude Code and nothing else in them.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const SETTINGS: &str = "{\n    \"model\": \"opus\",\n    \"limit\": 1.50e3,\n    \"hooks\": {\n        \"Stop\": [\n            { \"hooks\": [ { \"type\": \"command\", \"command\": \"say done\" } ] }\n        ]\n    },\n    \"unknown\": {\"b\": 1, \"a\": 2}\n}\n";

fn burn(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    command.arg("ingest").args(words).env("CLAUDE_CONFIG_DIR", folder).env("HOME", folder.join("nobody"));
    command.stdin(std::process::Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The copies of the old settings.
fn backups(folder: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.to_string_lossy().contains("settings.json.before-burn-")).collect()
}

fn folder_with(settings: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.json");
    fs::write(&path, settings).unwrap();
    (folder, path)
}

#[test]
fn read_only_settings_are_left_as_they_are() {
    let (folder, path) = folder_with(SETTINGS);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let refused = burn(folder.path(), &["--install-hook", "claude", "--yes"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("settings.json is read-only and is left as it is"), "{}", said(&refused));
    assert_eq!(fs::read_to_string(&path).unwrap(), SETTINGS);
    assert!(backups(folder.path()).is_empty());
}

#[test]
fn hooks_are_shown_then_installed_once_and_taken_out_again() {
    let (folder, path) = folder_with(SETTINGS);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();

    let asked = burn(folder.path(), &["--install-hook", "claude"]);
    assert_eq!(asked.status.code(), Some(1), "nobody can be asked");
    assert!(said(&asked).contains("+") && said(&asked).contains("--yes"), "{}", said(&asked));
    assert_eq!(fs::read_to_string(&path).unwrap(), SETTINGS);
    assert!(backups(folder.path()).is_empty());

    let done = burn(folder.path(), &["--install-hook", "claude", "--yes"]);
    assert!(done.status.success(), "{}", said(&done));
    let shown = said(&done);
    assert!(shown.contains("+        \"PostToolUse\": [") && !shown.contains("-    \"model\""), "{shown}");
    let after = fs::read_to_string(&path).unwrap();
    assert!(after.contains("1.50e3") && after.contains("{\"b\": 1, \"a\": 2}"), "{after}");
    let value: Value = serde_json::from_str(&after).unwrap();
    assert_eq!(value["hooks"]["Stop"].as_array().unwrap().len(), 2);
    assert_eq!(value["hooks"]["Stop"][0]["hooks"][0]["command"], "say done");
    for event in ["PostToolUse", "SubagentStop", "SessionEnd"] {
        let command = &value["hooks"][event][0]["hooks"][0]["command"];
        assert_eq!(command, "burn ingest --hook claude --quiet", "{event}");
    }
    assert_eq!(mode(&path), 0o640);
    let kept = backups(folder.path());
    assert_eq!(kept.len(), 1);
    assert_eq!(fs::read_to_string(&kept[0]).unwrap(), SETTINGS);
    assert_eq!(mode(&kept[0]), 0o600);

    let again = burn(folder.path(), &["--install-hook", "claude", "--yes"]);
    assert!(again.status.success() && said(&again).contains("already"), "{}", said(&again));
    assert_eq!(fs::read_to_string(&path).unwrap(), after);
    assert_eq!(backups(folder.path()).len(), 1);
    // Of the copies of several changes the first and the last stay, and what only looks like one.
    let first = kept[0].clone();
    let other = folder.path().join("settings.json.before-burn-came-along.json");
    fs::write(&other, "mine").unwrap();
    for words in [["--uninstall-hook", "claude", "--yes"], ["--install-hook", "claude", "--yes"]].repeat(2) {
        let before = fs::read(&path).unwrap();
        assert!(burn(folder.path(), &words).status.success(), "{words:?}");
        let mut kept = backups(folder.path());
        kept.sort();
        assert_eq!((kept.len(), &kept[0], &kept[2]), (3, &first, &other), "{words:?}");
        assert_eq!(fs::read(&kept[1]).unwrap(), before, "{words:?}");
    }

    let out = burn(folder.path(), &["--uninstall-hook", "claude", "--yes"]);
    assert!(out.status.success(), "{}", said(&out));
    assert_eq!(fs::read_to_string(&path).unwrap(), SETTINGS);
    let none = burn(folder.path(), &["--uninstall-hook", "claude", "--yes"]);
    assert!(none.status.success() && said(&none).contains("nothing of burn"), "{}", said(&none));
}

#[test]
fn what_was_empty_before_the_hooks_is_there_after_them() {
    for text in [
        "{\"hooks\": {}, \"a\": 1}",
        "{\n  \"hooks\": { }\n}\n",
        "{\"hooks\":{\"Stop\":[],\"PostToolUse\":[{\"matcher\":\"\",\"hooks\":[]}]},\"a\":{}}",
        "{ }",
    ] {
        let (folder, path) = folder_with(text);
        for words in ["--install-hook", "--uninstall-hook"].repeat(3).iter() {
            assert!(burn(folder.path(), &[words, "claude", "--yes"]).status.success(), "{words} {text}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        // Without a copy of the settings, nothing tells what was empty.
        assert!(burn(folder.path(), &["--install-hook", "claude", "--yes"]).status.success());
        backups(folder.path()).iter().for_each(|copy| fs::remove_file(copy).unwrap());
        assert!(burn(folder.path(), &["--uninstall-hook", "claude", "--yes"]).status.success());
        assert!(!fs::read_to_string(&path).unwrap().contains("burn"), "{text}");
    }
}

#[test]
fn the_status_line_of_another_program_is_replaced_only_by_force() {
    let other = "{\"statusLine\": {\"type\": \"command\", \"command\": \"other \\u001b[31mline\"}, \"a\": 1}";
    let (folder, path) = folder_with(other);
    let refused = burn(folder.path(), &["--install-statusline", "claude", "--yes"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("--force") && !said(&refused).contains('\u{1b}'), "{}", said(&refused));
    assert_eq!(fs::read_to_string(&path).unwrap(), other);
    let kept = burn(folder.path(), &["--uninstall-statusline", "claude", "--yes"]);
    assert!(kept.status.success());
    assert_eq!(fs::read_to_string(&path).unwrap(), other);

    let forced = burn(folder.path(), &["--install-statusline", "claude", "--yes", "--force"]);
    assert!(forced.status.success(), "{}", said(&forced));
    let value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(value["statusLine"], serde_json::json!({"type": "command", "command": "burn statusline"}));
    assert_eq!(value["a"], 1);
    let out = burn(folder.path(), &["--uninstall-statusline", "claude", "--yes"]);
    assert!(out.status.success());
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\": 1}");
}

#[test]
fn what_cannot_be_edited_is_left_alone_and_the_place_is_named() {
    for (settings, offset, why) in [
        ("{\n  \"a\": 1,\n}\n", 12, "key must be a string"),
        ("", 0, "EOF"),
        ("// mine\n{}", 0, "expected value"),
        ("[1]", 0, "no JSON object"),
        ("{\"hooks\": [1]}", 10, "no object"),
        ("\u{feff}{}", 0, "byte order mark"),
        ("{\"hooks\": {\"Stop\": 1}}", 19, "no array"),
    ] {
        let (folder, path) = folder_with(settings);
        let output = burn(folder.path(), &["--install-hook", "claude", "--yes"]);
        assert_eq!(output.status.code(), Some(1), "{settings}");
        let said = said(&output);
        assert!(said.contains(path.to_str().unwrap()) && said.contains(why), "{settings}: {said}");
        assert!(said.contains(&format!("byte {offset}")), "{settings}: {said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), settings);
        assert!(backups(folder.path()).is_empty());
    }
    let (folder, path) = folder_with("x");
    fs::write(&path, b"{\"a\": \"\xff\"}").unwrap();
    let output = burn(folder.path(), &["--install-hook", "claude", "--yes"]);
    assert!(said(&output).contains("byte 7"), "{}", said(&output));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let output = burn(folder.path(), &["--install-hook", "claude", "--yes"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
}

#[test]
fn a_link_is_followed_and_stays_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let (kept, linked) = (folder.path().join("dotfiles.json"), folder.path().join("settings.json"));
    std::os::unix::fs::symlink("dotfiles.json", &linked).unwrap();
    let dangling = burn(folder.path(), &["--install-hook", "claude", "--yes"]);
    assert_eq!(dangling.status.code(), Some(1), "{}", said(&dangling));
    assert!(!kept.exists());
    fs::write(&kept, "{}\n").unwrap();
    let output = burn(folder.path(), &["--install-hook", "claude", "--yes"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(linked.is_symlink() && fs::read_to_string(&kept).unwrap().contains("burn ingest"));
}

#[test]
fn settings_that_are_missing_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("claude");
    let words = ["--install-hook", "claude", "--install-statusline", "claude", "--yes"];
    let output = burn(&inner, &words);
    assert!(output.status.success(), "{}", said(&output));
    let path = inner.join("settings.json");
    assert_eq!((mode(&inner), mode(&path)), (0o700, 0o600));
    let value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(value["statusLine"]["command"], "burn statusline");
    assert!(value["hooks"]["SessionEnd"].is_array());
    for (words, exit) in [
        (&["--yes"][..], 2),
        (&["--install-hook", "codex"], 2),
        (&["--install-hook", "claude", "--uninstall-hook", "claude"], 2),
        (&["--install-hook", "claude", "--watch"], 2),
        (&["--install-hook", "claude", "--force"], 2),
    ] {
        assert_eq!(burn(&inner, words).status.code(), Some(exit), "{words:?}");
    }
}
