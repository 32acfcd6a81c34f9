//! `burn ingest --install-hook` and `--install-statusline`: what they add to the settings of Claude Code, and take out again.
//!
//! Touches `settings.json` of Claude Code's folder, and a copy of it beside it. Guarantees: every byte that is not added or taken
//! out stays as it was; nothing is written before it was shown and agreed to; a file that is no JSON, or that changes meanwhile,
//! is left alone. A symbolic link is followed, as Claude Code follows it when it saves its settings: a link that was replaced by
//! a file would take the settings out of the repository of somebody who keeps them in one.
//!
//! Rejected: parsing and printing the settings, which would spell numbers and lay out lines in another way; a settings file of
//! our own, because Claude Code reads none.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::json_text::{self, Entry};
use crate::cli::{print_text, warn};
use crate::disk::{self, Replacing};

/// What a hook runs.
const HOOK_COMMAND: &str = "burn ingest --hook claude --quiet";

/// What shows the status line.
const STATUS_LINE_COMMAND: &str = "burn statusline";

/// The events at which Claude Code calls: a tool has answered, a sub-agent or an answer has ended, a session ends.
const EVENTS: [&str; 4] = ["PostToolUse", "SubagentStop", "Stop", "SessionEnd"];

/// Settings longer than this are none that a person has written.
const SETTINGS_MAX_BYTES: u64 = 16 << 20;

/// Changes to Claude Code's settings.
#[derive(Debug, clap::Args)]
pub(super) struct InstallArgs {
    /// Let Claude Code call `burn ingest --hook claude`: edit its settings.json, after showing the change and asking.
    #[arg(long, value_name = "AGENT", value_parser = ["claude"], conflicts_with = "uninstall_hook")]
    install_hook: Option<String>,
    /// Take these hooks out of Claude Code's settings.json.
    #[arg(long, value_name = "AGENT", value_parser = ["claude"])]
    uninstall_hook: Option<String>,
    /// Let Claude Code show `burn statusline`. Another program's status line is replaced only with --force.
    #[arg(long, value_name = "AGENT", value_parser = ["claude"], conflicts_with = "uninstall_statusline")]
    install_statusline: Option<String>,
    /// Take `burn statusline` out of Claude Code's settings.json.
    #[arg(long, value_name = "AGENT", value_parser = ["claude"])]
    uninstall_statusline: Option<String>,
    /// Change the settings without asking.
    #[arg(long)]
    yes: bool,
    /// With --install-statusline: replace another program's status line.
    #[arg(long, requires = "install_statusline")]
    force: bool,
}

impl InstallArgs {
    /// Whether the settings are to be changed.
    pub(super) fn is_given(&self) -> bool {
        [&self.install_hook, &self.uninstall_hook, &self.install_statusline, &self.uninstall_statusline]
            .iter()
            .any(|option| option.is_some())
    }

    /// Whether consent was given for a change that is not asked for.
    pub(super) fn is_consent_alone(&self) -> bool {
        self.yes && !self.is_given()
    }
}

/// The settings as they are on the disk.
struct Settings {
    /// The file itself, links resolved.
    path: PathBuf,
    /// None when there is no file yet.
    text: Option<String>,
}

/// Shows what changes, asks, and writes it.
pub(super) fn run(args: &InstallArgs) -> anyhow::Result<ExitCode> {
    let settings = Settings::read(&settings_path()?)?;
    let before = settings.text.clone().unwrap_or_else(|| "{}\n".to_owned());
    let mut after =
        edited(&before, args).with_context(|| format!("{} is left as it is", settings.path.display()))?;
    if args.uninstall_hook.is_some() && after != before {
        after = settings.before_hooks(&before, &after)?;
    }
    if after == before {
        let already = if args.install_hook.is_some() || args.install_statusline.is_some() {
            "is as asked for already"
        } else {
            "has nothing of burn to take out"
        };
        print_text(&format!("{} {already}\n", settings.path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    serde_json::from_str::<serde::de::IgnoredAny>(&after).with_context(|| {
        format!("the changed {} would be no JSON; it is left as it is", settings.path.display())
    })?;
    print_text(&difference(&settings, &after))?;
    if std::fs::metadata(&settings.path).is_ok_and(|found| found.permissions().readonly()) {
        bail!("{} is read-only and is left as it is; make it writable first", settings.path.display());
    }
    if (args.install_hook.is_some() || args.install_statusline.is_some()) && !is_on_path("burn") {
        warn("there is no `burn` in the folders of PATH, by which Claude Code is to call it; put it there");
    }
    if !args.yes && !is_agreed_to(&settings.path)? {
        print_text("nothing was changed\n")?;
        return Ok(ExitCode::FAILURE);
    }
    let backup = settings.write(&after)?;
    delete_copies_between(&settings.path)?;
    let kept = backup.map_or(String::new(), |backup| format!("; what it was is in {}", backup.display()));
    print_text(&format!("{} is changed{kept}\n", settings.path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Where Claude Code keeps the settings of its user.
fn settings_path() -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os("CLAUDE_CONFIG_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => {
            let folder = PathBuf::from(folder);
            if folder.to_string_lossy().contains(',') && !folder.is_dir() {
                bail!(
                    "CLAUDE_CONFIG_DIR names several folders ({}); set it to the one whose settings are to change",
                    folder.display()
                );
            }
            folder
        }
        None => {
            let is_empty = std::env::var_os("HOME").is_some_and(|home| home.is_empty());
            let home = std::env::home_dir().filter(|_| !is_empty);
            home.context("there is no home folder: HOME is not set")?.join(".claude")
        }
    };
    Ok(folder.join("settings.json"))
}

impl Settings {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let path = match disk::metadata(path) {
            Err(error) if error.is_not_found() => return Ok(Settings { path: path.to_owned(), text: None }),
            Err(error) => return Err(error.into()),
            Ok(found) if found.is_file => path.to_owned(),
            Ok(_) => std::fs::canonicalize(path)
                .with_context(|| format!("{} leads to no file; it is left as it is", path.display()))?,
        };
        let found = disk::metadata(&path)?;
        if !found.is_file {
            bail!("{} is no file; it is left as it is", path.display());
        }
        if found.len_bytes > SETTINGS_MAX_BYTES {
            bail!(
                "{} has {} bytes, which are no settings; it is left as it is",
                path.display(),
                found.len_bytes
            );
        }
        let bytes = read_bytes(&path)?;
        let refused = |at: usize, why: &str| {
            anyhow::anyhow!("{} at byte {at}: {why}; repair it first, it is left as it is", path.display())
        };
        let text = String::from_utf8(bytes).map_err(|error| {
            refused(error.utf8_error().valid_up_to(), "no JSON: bytes that are not UTF-8")
        })?;
        if text.starts_with('\u{feff}') {
            return Err(refused(
                0,
                "no JSON: the file begins with a byte order mark, bytes EF BB BF; save it without",
            ));
        }
        match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
            Err(error) => return Err(refused(offset_of(&text, &error), &format!("no JSON: {error}"))),
            Ok(_) if !json_text::is_object(&text, &json_text::root(&text)) => {
                return Err(refused(json_text::root(&text).start, "no JSON object"));
            }
            Ok(_) => {}
        }
        Ok(Settings { path, text: Some(text) })
    }

    /// The text without the hooks as it was before they were added, if a copy shows it: what was empty before them stays.
    /// Otherwise `without`.
    fn before_hooks(&self, text: &str, without: &str) -> anyhow::Result<String> {
        let folder = disk::parent_of(&self.path);
        for name in copies_of(&self.path)? {
            // A copy that cannot be read shows nothing.
            let Ok(copy) = read_bytes(&folder.join(name)) else { continue };
            let copy = String::from_utf8(copy).unwrap_or_default();
            let is_settings = serde_json::from_str::<serde::de::IgnoredAny>(&copy).is_ok()
                && json_text::is_object(&copy, &json_text::root(&copy));
            if is_settings && without_hooks(&copy) == copy && with_hooks(&copy).is_ok_and(|with| with == text)
            {
                return Ok(copy);
            }
        }
        Ok(without.to_owned())
    }

    /// Replaces the file, unless it is another one by now; where a copy of it was put.
    fn write(&self, after: &str) -> anyhow::Result<Option<PathBuf>> {
        let backup = match &self.text {
            None => {
                disk::create_dir_all(disk::parent_of(&self.path))?;
                if disk::metadata(&self.path).is_ok() {
                    bail!("{} was made meanwhile; run the command again", self.path.display());
                }
                None
            }
            Some(text) => {
                let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ");
                let backup = disk::with_suffix(&self.path, &format!("{COPY_SUFFIX}{time}"));
                let file = disk::File::create_new(&backup)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                if read_bytes(&self.path)? != text.as_bytes() {
                    disk::remove_file(&backup)?;
                    bail!("{} was changed meanwhile; run the command again", self.path.display());
                }
                Some(backup)
            }
        };
        disk::replace(&self.path, after.as_bytes(), Replacing::Durable)?;
        Ok(backup)
    }
}

/// What the name of a copy of the settings has after theirs, before the time.
const COPY_SUFFIX: &str = ".before-burn-";

/// The names of the copies of the settings, the first copy first.
fn copies_of(settings: &Path) -> anyhow::Result<Vec<String>> {
    let directory = disk::parent_of(settings);
    let prefix = disk::with_suffix(settings, COPY_SUFFIX);
    let prefix = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_time = |text: &str| {
        text.len() == "20260420T101500.000Z".len()
            && text.bytes().all(|byte| byte.is_ascii_digit() || b"T.Z".contains(&byte))
    };
    let cannot_list = || format!("cannot list {}", directory.display());
    let mut copies = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(cannot_list)? {
        let name = entry.with_context(cannot_list)?.file_name();
        copies.extend(
            name.to_str().filter(|name| name.strip_prefix(&prefix).is_some_and(is_time)).map(str::to_owned),
        );
    }
    // Names sort as their times do.
    copies.sort();
    Ok(copies)
}

/// Deletes all copies of the settings but the first, which has them as they were before `burn` came, and the last.
fn delete_copies_between(settings: &Path) -> anyhow::Result<()> {
    let copies = copies_of(settings).context("the settings are changed")?;
    if let [_, between @ .., _] = &copies[..] {
        for copy in between {
            disk::remove_file(&disk::parent_of(settings).join(copy))?;
        }
    }
    Ok(())
}

fn read_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = disk::File::open_read(path)?;
    let mut bytes = vec![0; file.len_bytes()?.min(SETTINGS_MAX_BYTES) as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The byte at which serde found the text wrong.
fn offset_of(text: &str, error: &serde_json::Error) -> usize {
    let line: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    (line + error.column().saturating_sub(1)).min(text.len())
}

/// Refuses settings in which a member that is changed is there twice: the last one counts, and taking it out would bring the other
/// back.
fn refuse_repeated(text: &str) -> anyhow::Result<()> {
    let root = json_text::root(text);
    let refuse_in = |object: &Range<usize>, keys: &[&str]| {
        for key in keys {
            let mut found =
                json_text::entries(text, object).into_iter().filter(|entry| entry.key == *key).skip(1);
            if let Some(again) = found.next() {
                bail!("{key:?} is there twice, again at byte {}; take one of the two out", again.at);
            }
        }
        Ok(())
    };
    if json_text::is_object(text, &root) {
        refuse_in(&root, &["hooks", "statusLine", "disableAllHooks"])?;
    }
    match member_if(text, &root, "hooks", json_text::is_object) {
        Some(hooks) => refuse_in(&hooks.value, &EVENTS),
        None => Ok(()),
    }
}

fn edited(text: &str, args: &InstallArgs) -> anyhow::Result<String> {
    refuse_repeated(text)?;
    let mut text = text.to_owned();
    if args.install_hook.is_some() {
        text = with_hooks(&text)?;
    }
    if args.uninstall_hook.is_some() {
        text = without_hooks(&text);
    }
    if args.install_statusline.is_some() {
        text = with_status_line(&text, args.force)?;
    }
    if args.uninstall_statusline.is_some() {
        text = without_status_line(&text);
    }
    Ok(text)
}

fn with_hooks(text: &str) -> anyhow::Result<String> {
    let group = format!(r#"{{"hooks":[{{"type":"command","command":"{HOOK_COMMAND}"}}]}}"#);
    let mut text = text.to_owned();
    if json_text::member(&text, &json_text::root(&text), "disableAllHooks")
        .is_some_and(|member| &text[member.value] == "true")
    {
        warn("the settings have disableAllHooks: no hook runs until it is taken out");
    }
    for event in EVENTS {
        let root = json_text::root(&text);
        let Some(hooks) = json_text::member(&text, &root, "hooks") else {
            text = json_text::push(&text, &root, &format!(r#""hooks":{{"{event}":[{group}]}}"#));
            continue;
        };
        if !json_text::is_object(&text, &hooks.value) {
            bail!("\"hooks\" at byte {} is no object", hooks.value.start);
        }
        let Some(groups) = json_text::member(&text, &hooks.value, event) else {
            text = json_text::push(&text, &hooks.value, &format!(r#""{event}":[{group}]"#));
            continue;
        };
        if !json_text::is_array(&text, &groups.value) {
            bail!("the hooks of {event} at byte {} are no array", groups.value.start);
        }
        if our_hook(&text, &groups.value, is_for_all).is_none() {
            text = json_text::push(&text, &groups.value, &group);
        }
    }
    Ok(text)
}

/// Whether a group of hooks is for every tool.
fn is_for_all(text: &str, group: &Range<usize>) -> bool {
    let matcher =
        json_text::is_object(text, group).then(|| json_text::member(text, group, "matcher")).flatten();
    matcher.is_none_or(|matcher| {
        json_text::string(text, &matcher.value).is_some_and(|matcher| ["", "*"].contains(&&*matcher))
    })
}

/// The first hook among the groups of an event that calls us: the group, its list of hooks, the hook.
fn our_hook(
    text: &str,
    groups: &Range<usize>,
    is_wanted: fn(&str, &Range<usize>) -> bool,
) -> Option<(Entry, Range<usize>, Entry)> {
    if !json_text::is_array(text, groups) {
        return None;
    }
    let groups = json_text::entries(text, groups).into_iter().filter(|group| is_wanted(text, &group.value));
    groups.into_iter().find_map(|group| {
        let hooks = member_if(text, &group.value, "hooks", json_text::is_array)?.value;
        let hook = json_text::entries(text, &hooks).into_iter().find(|hook| {
            command_of(text, &hook.value).is_some_and(|command| calls_burn(&command, &["ingest", "--hook"]))
        })?;
        Some((group, hooks, hook))
    })
}

fn member_if(
    text: &str,
    object: &Range<usize>,
    key: &str,
    is_of_kind: fn(&str, &Range<usize>) -> bool,
) -> Option<Entry> {
    let member = json_text::is_object(text, object).then(|| json_text::member(text, object, key))??;
    is_of_kind(text, &member.value).then_some(member)
}

fn command_of(text: &str, object: &Range<usize>) -> Option<String> {
    let command =
        json_text::is_object(text, object).then(|| json_text::member(text, object, "command"))??;
    json_text::string(text, &command.value)
}

/// Whether a command is `burn`, from whatever folder, with these words: the first is its subcommand. A command of several parts
/// is somebody else's, because removing it would remove the other parts, too.
fn calls_burn(command: &str, words: &[&str]) -> bool {
    let Some(parts) = shell_words(command) else { return false };
    let is_assignment = |word: &String| {
        let name = word.split_once('=').map_or("", |(name, _)| name);
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let mut parts = parts.iter().skip_while(|word| is_assignment(word));
    let is_burn = |word: &String| {
        let name = word.rsplit(['/', '\\']).next().unwrap_or(word);
        name == "burn" || name == "burn.exe"
    };
    let is = |word: &String, wanted: &str| word.split('=').next() == Some(wanted);
    let Some((subcommand, options)) = words.split_first() else { return false };
    parts.next().is_some_and(is_burn)
        && parts.next().is_some_and(|word| word == subcommand)
        && options.iter().all(|wanted| parts.any(|word| is(word, wanted)))
}

/// The words of a command of a shell; none where the command has several parts, or a part that the shell computes.
fn shell_words(command: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in command.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ';' | '&' | '|' | '`' | '\n' | '\r' | '(') => return None,
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

fn without_hooks(text: &str) -> String {
    let mut text = text.to_owned();
    loop {
        let root = json_text::root(&text);
        let Some(hooks) = member_if(&text, &root, "hooks", json_text::is_object) else { return text };
        let events = json_text::entries(&text, &hooks.value);
        let found =
            events.iter().find_map(|event| Some((event, our_hook(&text, &event.value, |_, _| true)?)));
        let Some((event, (group, list, hook))) = found else { return text };
        // What is left empty goes, too.
        let is_alone = |container: &Range<usize>| json_text::entries(&text, container).len() == 1;
        text = if !is_alone(&list) {
            json_text::remove(&text, &list, &hook)
        } else if !is_alone(&event.value) {
            json_text::remove(&text, &event.value, &group)
        } else if !is_alone(&hooks.value) {
            json_text::remove(&text, &hooks.value, event)
        } else {
            json_text::remove(&text, &root, &hooks)
        };
    }
}

fn with_status_line(text: &str, replaces_others: bool) -> anyhow::Result<String> {
    let value = format!(r#"{{"type":"command","command":"{STATUS_LINE_COMMAND}"}}"#);
    let root = json_text::root(text);
    let Some(member) = json_text::member(text, &root, "statusLine") else {
        return Ok(json_text::push(text, &root, &format!("\"statusLine\":{value}")));
    };
    let command = command_of(text, &member.value);
    if command.as_deref().is_some_and(|command| calls_burn(command, &["statusline"])) {
        return Ok(text.to_owned());
    }
    if !replaces_others {
        bail!(
            "the status line at byte {} is another program's ({}); --force replaces it",
            member.value.start,
            command.as_deref().unwrap_or("without a command")
        );
    }
    Ok(json_text::set(text, &member, &value))
}

fn without_status_line(text: &str) -> String {
    let root = json_text::root(text);
    let ours = json_text::member(text, &root, "statusLine").filter(|member| {
        command_of(text, &member.value).is_some_and(|command| calls_burn(&command, &["statusline"]))
    });
    ours.map_or_else(|| text.to_owned(), |member| json_text::remove(text, &root, &member))
}

/// What changes, as `diff -u` shows it.
fn difference(settings: &Settings, after: &str) -> String {
    let path = settings.path.display().to_string();
    let before = settings.text.as_deref().unwrap_or_default();
    let name = if settings.text.is_some() { &path } else { "/dev/null" };
    let mut shown = String::new();
    let lines = similar::TextDiff::from_lines(before, after);
    // Writing to a string cannot fail.
    let _ = write!(shown, "{}", lines.unified_diff().context_radius(3).header(name, &path));
    shown
}

fn is_on_path(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .any(|folder| ["", ".exe"].iter().any(|end| folder.join(format!("{program}{end}")).is_file()))
}

/// Asks on a terminal. Without one nobody can answer, and --yes is needed.
fn is_agreed_to(path: &Path) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        bail!(
            "nothing was changed, because nobody can be asked: standard input is no terminal; --yes changes {}",
            path.display()
        );
    }
    let mut error = std::io::stderr().lock();
    error.write_all(b"Change it? [y/N] ").and_then(|()| error.flush()).context("cannot ask")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_ours_from_whatever_folder() {
        for (command, is_ours) in [
            (HOOK_COMMAND, true),
            ("/usr/local/bin/burn ingest --hook claude", true),
            ("FOO=1 \"/opt/my tools/burn\" ingest --hook=claude --quiet", true),
            ("burn ingest --watch", false),
            ("sunburn ingest --hook claude", false),
            ("burn statusline", false),
            ("cd ~/src/burn && npm run ingest -- --hook pre-commit", false),
            ("notify-send done; burn ingest --hook claude", false),
            ("echo burn ingest --hook claude", false),
            ("burn usage ingest --hook", false),
            ("burn ingest --hook claude 2>/dev/null", true),
            ("burn \"ingest", false),
            ("", false),
        ] {
            assert_eq!(calls_burn(command, &["ingest", "--hook"]), is_ours, "{command}");
        }
    }

    #[test]
    fn hooks_are_added_once_and_leave_nothing_behind() {
        for text in [
            "{}",
            "{\n  \"model\": \"opus\"\n}\n",
            "{\n    \"hooks\": {\n        \"Stop\": [\n            {\"hooks\": [{\"type\": \"command\", \"command\": \"say done\"}]}\n        ]\n    },\n    \"x\": 1.0\n}\n",
            "{\"hooks\":{\"PostToolUse\":[]},\"a\":{}}",
        ] {
            let added = with_hooks(text).unwrap();
            let value: serde_json::Value = serde_json::from_str(&added).unwrap();
            for event in EVENTS {
                let groups = value["hooks"][event].as_array().unwrap();
                let ours = groups.iter().filter(|group| group["hooks"][0]["command"] == HOOK_COMMAND);
                assert_eq!(ours.count(), 1, "{event} of {added}");
            }
            assert_eq!(with_hooks(&added).unwrap(), added);
            let removed = without_hooks(&added);
            assert!(!removed.contains("burn"), "{removed}");
            // A list that was empty before is taken for one of ours.
            if !text.contains("[]") {
                assert_eq!(removed, text);
            }
        }
        for odd in ["{\"hooks\":[]}", "{\"hooks\":{\"Stop\":{}}}"] {
            assert!(with_hooks(odd).is_err(), "{odd}");
            assert_eq!(without_hooks(odd), odd);
        }
    }

    #[test]
    fn what_is_there_twice_is_left_alone() {
        for text in [
            r#"{"hooks":{},"hooks":{}}"#,
            r#"{"statusLine":{},"x":1,"statusLine":{}}"#,
            r#"{"hooks":{"Stop":[],"Stop":[]}}"#,
        ] {
            let refused = refuse_repeated(text).unwrap_err().to_string();
            assert!(refused.contains("twice"), "{text}: {refused}");
        }
        refuse_repeated(r#"{"hooks":{"Stop":[],"Other":[]},"other":{"hooks":1}}"#).unwrap();
    }

    #[test]
    fn a_hook_for_one_tool_is_not_enough() {
        let group = |matcher: &str| {
            format!(
                r#"{{"hooks":{{"Stop":[{{{matcher}"hooks":[{{"type":"command","command":"{HOOK_COMMAND}"}}]}}]}}}}"#
            )
        };
        let count = |text: &str| {
            let value: serde_json::Value = serde_json::from_str(&with_hooks(text).unwrap()).unwrap();
            value["hooks"]["Stop"].as_array().unwrap().len()
        };
        assert_eq!(count(&group(r#""matcher":"Bash","#)), 2);
        for for_all in ["", r#""matcher":"","#, r#""matcher":"*","#] {
            assert_eq!(count(&group(for_all)), 1, "{for_all}");
        }
    }

    #[test]
    fn another_program_keeps_its_status_line() {
        let text =
            "{\n  \"statusLine\": {\"type\": \"command\", \"command\": \"npx ccusage statusline\"}\n}\n";
        let error = with_status_line(text, false).unwrap_err().to_string();
        assert!(error.contains("npx ccusage statusline") && error.contains("byte 18"), "{error}");
        assert_eq!(without_status_line(text), text);
        let ours = with_status_line(text, true).unwrap();
        assert_eq!(with_status_line(&ours, false).unwrap(), ours);
        assert_eq!(without_status_line(&ours), "{}\n");
    }
}
