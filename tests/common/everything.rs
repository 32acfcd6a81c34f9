//! Every command of `burn`, found in its command tree, and a directory with data for each command.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use clap::CommandFactory as _;
use relayburn_ledger::cli::Cli;

/// A command or a group of commands, with its words.
pub struct Walked {
    pub path: Vec<String>,
    pub command: clap::Command,
}

impl Walked {
    /// Returns whether the group itself is a command.
    pub fn is_leaf(&self) -> bool {
        !self.command.has_subcommands()
    }

    pub fn has_flag(&self, name: &str) -> bool {
        // The flag of the group is refused by this command.
        if name == "json" && self.name() == "ledger export" {
            return false;
        }
        self.command.get_arguments().any(|arg| arg.get_long() == Some(name))
    }

    pub fn name(&self) -> String {
        self.path.join(" ")
    }
}

/// Returns all commands and groups, `burn` itself first, without `ingest`, `statusline` and `export`. `ingest` would read the
/// logs of the user who runs the tests, `statusline` always succeeds, and `export` needs a feature that the default lacks; all
/// three have separate tests.
pub fn commands() -> Vec<Walked> {
    fn walk(command: &clap::Command, path: Vec<String>, found: &mut Vec<Walked>) {
        found.push(Walked { path: path.clone(), command: command.clone() });
        let is_walked =
            |sub: &&clap::Command| !["help", "ingest", "statusline", "export"].contains(&sub.get_name());
        for sub in command.get_subcommands().filter(is_walked) {
            walk(sub, [path.clone(), vec![sub.get_name().to_owned()]].concat(), found);
        }
    }
    let mut root = Cli::command();
    root.build();
    let mut found = Vec::new();
    walk(&root, Vec::new(), &mut found);
    assert!(found.len() > 40, "{} commands", found.len());
    found
}

/// A directory with a home, a journal, a session store and a book store, all sound, with a few records in each.
pub struct Everything {
    pub directory: tempfile::TempDir,
}

impl Everything {
    pub fn new() -> Self {
        let made = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir_all(made.path("home/content")).unwrap();
        fs::write(made.path("home/content/s1.jsonl"), "{\"sessionId\":\"s1\"}\n").unwrap();
        for (args, input) in [
            (&["ledger", "append", "--kind", "turns"][..], TURN),
            (&["ledger", "append", "--kind", "stamp"], STAMP),
            (&["state", "rebuild", "all"], ""),
            (&["ledger", "append", "--kind", "compactions", "--via-journal"], COMPACTION),
            (&["journal", "append", "journal"], "first\nsecond\n\n\u{1}third\n"),
            (&["session", "append", "session"], ENTRIES),
            (&["session", "checkpoint", "session"], ""),
            (&["session", "manifest", "session", "--write"], ""),
            (&["book", "init", "book"], ""),
            (&["book", "asset", "book", "USD", "--precision", "2"], ""),
            (&["book", "account", "book", "shop:cash", "--asset", "USD", "--kind", "asset"], ""),
            (&["book", "account", "book", "shop:sales", "--asset", "USD", "--kind", "income"], ""),
            (&["book", "post", "book"], SALE),
            (&["book", "snapshot", "book"], ""),
        ] {
            let output = made.run(args, input);
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        made
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `burn` in the directory, with its home.
    pub fn burn(&self, args: &[impl AsRef<std::ffi::OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
        command
            .args(args)
            .current_dir(self.directory.path())
            .env("RELAYBURN_HOME", self.path("home"))
            .env_remove("RELAYBURN_CONTENT_TTL_DAYS")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[impl AsRef<std::ffi::OsStr>], input: &str) -> Output {
        finish(self.burn(args).spawn().unwrap(), input)
    }

    /// Returns the standard input of a command.
    pub fn input(&self, walked: &Walked) -> &'static str {
        match walked.name().as_str() {
            "ledger append" => COMPACTION,
            "journal append" => "fourth\n",
            "session append" => {
                "{\"entryId\":\"e9\",\"parentEntryId\":\"e2\",\"entryType\":\"message\",\"payload\":{}}\n"
            }
            "session import" => {
                "{\"entryId\":\"e8\",\"parentEntryId\":\"e2\",\"entryType\":\"message\",\"payload\":{}}\n"
            }
            "book post" => SALE,
            _ => "",
        }
    }

    /// Returns the words of a harmless command line for this directory: every required argument with a valid value.
    /// `None` if this function does not know an argument.
    pub fn arguments(&self, walked: &Walked, of: &Names) -> Option<Vec<String>> {
        let mut words = walked.path.clone();
        let group = walked.path.first().map_or("", String::as_str);
        for arg in walked.command.get_arguments().filter(|arg| arg.is_required_set()) {
            let first_possible = arg.get_possible_values().first().map(|value| value.get_name().to_owned());
            let value = match (group, arg.get_id().as_str()) {
                ("ledger", "ledgers") => of.home.clone(),
                ("ledger", "into") => of.merged.clone(),
                ("session", "dir") => of.session.clone(),
                ("session", "checkpoint") => "1".to_owned(),
                ("book", "dir") => of.book.clone(),
                ("book", "account") => "shop:cash".to_owned(),
                ("book", "book") => "shop".to_owned(),
                ("book", "id") => SALE_ID.to_owned(),
                ("journal", "dir") => of.journal.clone(),
                ("journal", "key") => "Q:0000000000000000".to_owned(),
                ("dev", "ledger") => format!("{}/ledger.jsonl", of.home),
                ("dev", "out") => of.new_file.clone(),
                ("dev", "size") => "20KB".to_owned(),
                _ => first_possible?,
            };
            if let Some(long) = arg.get_long() {
                words.push(format!("--{long}"));
            }
            words.push(value);
        }
        if walked.name() == "ledger append" {
            words.extend(["--kind", "compactions"].map(str::to_owned));
        }
        // The drained journal is not the journal of the home.
        if walked.name() == "journal drain" {
            words.extend([&of.journal, "--store", &of.ingest].map(str::to_owned));
        }
        if walked.name() == "journal get" {
            if self.path("journal").exists() && !self.path("drained").exists() {
                self.run(&["journal", "append", "drained"], "no payload\n");
                self.run(&["journal", "drain", "drained", "--store", "store"], "");
            }
            words.extend(["--store", &of.store].map(str::to_owned));
        }
        if walked.name() == "session export" {
            words.push(of.new_file.clone());
        }
        Some(words)
    }
}

/// The files that paths on a command line name.
pub struct Names {
    /// The home whose ledger is merged into another.
    pub home: String,
    /// The home that gets its lines.
    pub merged: String,
    pub session: String,
    pub book: String,
    pub journal: String,
    pub ingest: String,
    /// The store that `journal get` reads.
    pub store: String,
    pub new_file: String,
}

impl Names {
    /// Returns an existing path.
    pub fn sound() -> Self {
        Self {
            home: "home".into(),
            merged: "merged".into(),
            session: "session".into(),
            book: "book".into(),
            journal: "home/journal".into(),
            ingest: "home/ingest".into(),
            store: "store".into(),
            new_file: "new".into(),
        }
    }

    /// One name for all files.
    pub fn all(name: &str) -> Self {
        let name = name.to_owned();
        Self {
            home: name.clone(),
            merged: format!("{name}-merged"),
            session: name.clone(),
            book: name.clone(),
            journal: name.clone(),
            ingest: name.clone(),
            store: name.clone(),
            new_file: name,
        }
    }
}

pub fn finish(mut child: Child, input: &str) -> Output {
    let mut pipe = child.stdin.take().unwrap();
    let text = input.to_owned();
    // A command may end before it has read everything.
    let writer = std::thread::spawn(move || drop(pipe.write_all(text.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// The command neither panics nor ends by a signal, and an error begins with `burn:` and ends with a line end.
#[track_caller]
pub fn is_civil(what: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(matches!(code, Some(0..=2)), "{what}: {} {said}", output.status);
    for word in ["panicked", "RUST_BACKTRACE", "stack backtrace", "Os {", "Error("] {
        assert!(!said.contains(word), "{what}: {said}");
    }
    assert!(said.is_empty() || said.ends_with('\n'), "{what}: {said:?}");
    if code == Some(1) && !said.is_empty() {
        assert!(said.lines().any(|line| line.starts_with("burn: ")), "{what}: {said}");
    }
}

/// Every file below `directory`.
pub fn files_in(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_in(&path, found) } else { found.push(path) }
    }
}

const COMPACTION: &str = "{\"source\":\"codex\",\"sessionId\":\"s1\",\"ts\":\"2026-04-20T00:00:02.000Z\"}\n";
const TURN: &str = "{\"source\":\"codex\",\"sessionId\":\"s1\",\"messageId\":\"m1\",\"turnIndex\":0,\"ts\":\"2026-04-20T00:00:00.000Z\",\
     \"model\":\"m\",\"usage\":{\"input\":1,\"output\":2,\"reasoning\":0,\"cacheRead\":0,\"cacheCreate5m\":0,\"cacheCreate1h\":0},\
     \"toolCalls\":[]}\n";
const STAMP: &str = "{\"v\":1,\"kind\":\"stamp\",\"ts\":\"2026-04-20T00:00:01.000Z\",\"selector\":{\"sessionId\":\"s1\"},\
     \"enrichment\":{\"tier\":\"gold\",\"parentAgentId\":\"s0\"}}\n";
const ENTRIES: &str = "{\"entryId\":\"e1\",\"entryType\":\"message\",\"payload\":{\"role\":\"user\"}}\n\
     {\"entryId\":\"e2\",\"parentEntryId\":\"e1\",\"entryType\":\"message\",\"payload\":{\"role\":\"assistant\"}}\n";
const SALE_ID: &str = "7d0c6c5e-9e53-4d53-8b0e-6a3f6f0e5f11";
const SALE: &str = "{\"id\":\"7d0c6c5e-9e53-4d53-8b0e-6a3f6f0e5f11\",\"idempotency_key\":\"r-1\",\"postings\":[\
     {\"account\":\"shop:cash\",\"amount\":{\"minor\":1250,\"asset\":\"USD\"},\"direction\":\"debit\"},\
     {\"account\":\"shop:sales\",\"amount\":{\"minor\":1250,\"asset\":\"USD\"},\"direction\":\"credit\"}]}\n";
