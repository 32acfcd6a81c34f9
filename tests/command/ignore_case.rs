//! On a file system that ignores case, a name that would open a file with another name is refused, so that data of two
//! ids is not mixed. If the temporary directory distinguishes case, a preloaded library simulates the other kind;
//! without `cc` only the rest is tested.
#![cfg(unix)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs `burn` on a file system of one kind.
struct World {
    directory: tempfile::TempDir,
    library: Option<PathBuf>,
}

impl World {
    /// A file system like that of the temporary directory.
    fn plain() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), library: None }
    }

    /// A file system that ignores case; `None`, with a message, if there is none.
    fn ignoring_case() -> Option<Self> {
        let mut world = Self::plain();
        if world.ignores_case() {
            return Some(world);
        }
        let library = world.directory.path().join("ignore_case.so");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/ignore_case.c"))
            .arg("-ldl")
            .output();
        if !built.is_ok_and(|built| built.status.success()) {
            eprintln!("skipped: no file system that ignores case, and cc builds none for preloading");
            return None;
        }
        world.library = Some(library);
        Some(world)
    }

    fn ignores_case(&self) -> bool {
        fs::write(self.directory.path().join("probe"), b"").unwrap();
        self.directory.path().join("PROBE").exists()
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    fn burn(&self, args: &[&str], stdin: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
        command.args(args).env("RELAYBURN_HOME", self.home());
        if let Some(library) = &self.library {
            command.env("LD_PRELOAD", library).env("IGNORE_CASE", self.directory.path());
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The command may end before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    fn done(&self, args: &[&str], stdin: &str) {
        let output = self.burn(args, stdin);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a command that must refuse the name `asked` because `listed` exists.
    #[track_caller]
    fn refused(&self, args: &[&str], stdin: &str, asked: &Path, listed: &Path) {
        let output = self.burn(args, stdin);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        let wanted =
            format!("{} is {} on this file system, which ignores case", asked.display(), listed.display());
        assert!(stderr.contains(&wanted), "{stderr}\nlacks\n{wanted}");
    }
}

const CONTENT: [&str; 4] = ["ledger", "append", "--kind", "content"];

fn account<'a>(store: &'a str, account: &'a str) -> [&'a str; 8] {
    ["book", "account", store, account, "--asset", "USD", "--kind", "asset"]
}

fn of_session(id: &str) -> String {
    format!("{{\"sessionId\":\"{id}\"}}\n")
}

#[test]
fn sidecars_of_two_sessions_do_not_meet() {
    let Some(world) = World::ignoring_case() else { return };
    world.done(&CONTENT, &of_session("Talk-1"));
    let sidecar = |name: &str| world.home().join("content").join(name);
    let before = fs::read(sidecar("Talk-1.jsonl")).unwrap();
    world.refused(&CONTENT, &of_session("talk-1"), &sidecar("talk-1.jsonl"), &sidecar("Talk-1.jsonl"));
    world.refused(&CONTENT, &of_session("TALK-1"), &sidecar("TALK-1.jsonl"), &sidecar("Talk-1.jsonl"));
    assert_eq!(fs::read(sidecar("Talk-1.jsonl")).unwrap(), before);
    // The same name is accepted, and so is a name that differs in more than case.
    world.done(&CONTENT, &of_session("Talk-1"));
    world.done(&CONTENT, &of_session("talk-2"));
    assert_eq!(fs::read(sidecar("Talk-1.jsonl")).unwrap(), before);
    assert_eq!(fs::read(sidecar("talk-2.jsonl")).unwrap(), of_session("talk-2").as_bytes());
}

#[test]
fn books_do_not_meet() {
    let Some(world) = World::ignoring_case() else { return };
    let store = world.directory.path().join("store");
    let dir = store.to_str().unwrap();
    world.done(&["book", "init", dir], "");
    world.done(&["book", "asset", dir, "USD", "--precision", "2", "--name", "US dollar"], "");
    world.done(&account(dir, "Shop:cash"), "");
    let book = |name: &str| store.join("books").join(name);
    world.refused(&account(dir, "shop:cash"), "", &book("shop"), &book("Shop"));
    world.done(&account(dir, "Shop:till"), "");
}

#[test]
fn names_in_two_cases_are_two_where_case_counts() {
    let world = World::plain();
    if world.ignores_case() {
        eprintln!("skipped: the temporary directory ignores case");
        return;
    }
    let content = world.home().join("content");
    for id in ["a", "A", "a"] {
        world.done(&CONTENT, &of_session(id));
        assert_eq!(fs::read(content.join(format!("{id}.jsonl"))).unwrap(), of_session(id).as_bytes());
    }
    // Even if a backup made both names hard links of one file, each name is accepted as it is listed.
    fs::hard_link(content.join("a.jsonl"), content.join("b.jsonl")).unwrap();
    fs::hard_link(content.join("a.jsonl"), content.join("B.jsonl")).unwrap();
    world.done(&CONTENT, &of_session("b"));
    world.done(&CONTENT, &of_session("B"));
}
