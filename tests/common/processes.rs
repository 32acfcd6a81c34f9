//! Child processes: `burn`, and this test executable again in a given role.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};

/// `burn` with the given home and without the caller's environment.
pub fn burn(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    command.env("RELAYBURN_HOME", home).env("RELAYBURN_PROGRESS", "0").stdin(Stdio::null());
    command
}

/// `burn` with the default effects of signals, because a shell ignores SIGINT for processes in the background.
#[cfg(unix)]
pub fn with_signals() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    let usual_effects = || {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the call sets no handler, and is allowed between fork and exec.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: the closure calls nothing but `signal`.
    unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, usual_effects) };
    command
}

/// `burn state rebuild archive` with more arguments.
pub fn rebuild(home: &Path, more: &[&str]) -> Command {
    let mut command = burn(home);
    command.args(["state", "rebuild", "archive"]).args(more);
    command
}

/// `burn state rebuild archive --full` on files outside any home.
pub fn rebuild_offline(ledger: &Path, archive: &Path) -> Command {
    // A home that cannot be created, so a command that uses it fails.
    let mut command = rebuild(Path::new("/dev/null/home"), &["--full", "--ledger"]);
    command.arg(ledger).arg("--archive").arg(archive);
    command
}

/// Returns the arguments of every full rebuild in a long test: the loader of `BURN_TEST_LOADER`, if it is set.
pub fn loader() -> Vec<String> {
    std::env::var("BURN_TEST_LOADER").map_or(Vec::new(), |loader| vec!["--loader".to_owned(), loader])
}

/// Returns the standard error of a command that must fail with exit code 1.
#[track_caller]
pub fn failure(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{} {stderr}", output.status);
    assert!(stderr.starts_with("burn: ") && stderr.ends_with('\n'), "{stderr:?}");
    stderr
}

/// Returns the JSON document of a command that must succeed.
#[track_caller]
pub fn success(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{} {}", output.status, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// This test executable again, to run one test alone: `module` is the caller's `module_path!()`, `test` a test of it.
pub fn alone(module: &str, test: &str) -> Command {
    let (_, inside) = module.split_once("::").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("{inside}::{test}"), "--include-ignored", "--nocapture"]);
    command
}

/// Runs a command and writes its input. Also returns its peak of anonymous memory in KiB; 0 if the system does not
/// report it. malloc has one arena, because with several the peak depends on the threads that allocate.
pub fn peak_anonymous(mut command: Command, input: impl FnOnce(&mut dyn Write) + Send) -> (u64, Output) {
    command.env("MALLOC_ARENA_MAX", "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || input(&mut stdin));
        let running = scope.spawn(|| child.wait_with_output().unwrap());
        while !running.is_finished() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with("RssAnon:"));
            let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
            peak_kib = peak_kib.max(kib.unwrap_or(0));
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        running.join().unwrap()
    });
    (peak_kib, output)
}

/// Returns the role of this process with its arguments; `None` if it runs tests.
///
/// A test file with roles has one ignored test `role`, which plays this role.
pub fn role_played() -> Option<Vec<String>> {
    let role = std::env::var("BURN_TEST_ROLE").ok()?;
    Some(role.split('\n').map(str::to_owned).collect())
}

/// Sends a line to the parent process; `false` if the parent has ended.
pub fn say(words: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "> {words}").and_then(|()| out.flush()).is_ok()
}

/// Another process that reads and writes lines. It is killed when this value is dropped.
pub struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    /// This executable in a role of the caller's module, whose `module_path!()` is `module`.
    pub fn start(module: &str, role: &[&dyn AsRef<OsStr>]) -> Self {
        let role: Vec<&str> = role.iter().map(|word| word.as_ref().to_str().unwrap()).collect();
        let mut command = alone(module, "role");
        command.arg("--quiet");
        command.env("BURN_TEST_ROLE", role.join("\n"));
        Self::spawn(&mut command)
    }

    /// Starts any command.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { stdin: child.stdin.take(), stdout, child }
    }

    /// Returns the next line of the process, without the mark. Panics if the process ends first.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(
                self.stdout.read_line(&mut line).unwrap(),
                0,
                "the other process ended without a word"
            );
            if let Some((_, words)) = line.split_once("> ") {
                return words.trim_end().to_owned();
            }
        }
    }

    /// Ends the input of the process, which tells every role to finish.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.end_input();
        self.child.wait().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns whether Python with `sqlite3` exists, for readers with another SQLite. Prints a message if it does not.
pub fn have_python() -> bool {
    let found = Command::new("python3")
        .args(["-c", "import sqlite3"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        println!("no python3 with sqlite3: our own readers stand in for it");
    }
    found
}
