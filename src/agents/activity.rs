//! Classifies the activity of a turn from its tool calls and its words.
//!
//! Patterns match as JavaScript's patterns do without the `u` flag: a word character is one of `[A-Za-z0-9_]`, so "é"
//! is a boundary, and only ASCII letters fold their case.

use std::cell::LazyCell;
use std::sync::LazyLock;

use regex::Regex;
use rustc_hash::FxHashMap;

use super::js;

/// The parts of a tool call that decide the activity. Texts are WTF-8.
#[derive(Debug, Clone, Copy)]
pub(super) struct ActivityCall<'a> {
    pub name: &'a [u8],
    pub target: Option<&'a [u8]>,
}

/// Other facts about the turn that decide the activity.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TurnWords<'a> {
    pub prompt: &'a [u8],
    pub answer: &'a [u8],
    pub has_failed: bool,
    pub has_reasoning: bool,
}

/// The members `activity`, `retries`, `hasEdits` of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Activity {
    pub category: &'static str,
    pub retries: usize,
    pub has_edits: bool,
}

impl Activity {
    /// Appends the three members.
    pub(super) fn write(&self, record: &mut js::RecordText) {
        record.text("activity", self.category.as_bytes());
        record.count("retries", self.retries);
        record.flag("hasEdits", self.has_edits);
    }
}

/// The common name of a tool, for tools of different agents with one purpose.
fn canonical(name: &[u8]) -> &[u8] {
    match name {
        b"apply_patch" | b"edit" => b"Edit",
        b"write_file" | b"write" => b"Write",
        b"read_file" | b"read" | b"view_image" | b"read_mcp_resource" => b"Read",
        b"exec_command" | b"shell" | b"bash" => b"Bash",
        b"grep" => b"Grep",
        b"glob" => b"Glob",
        b"webfetch" => b"WebFetch",
        b"update_plan" => b"ExitPlanMode",
        b"spawn_agent" => b"Agent",
        b"send_input" | b"wait_agent" | b"close_agent" | b"resume_agent" | b"task" => b"Task",
        other => other,
    }
}

fn is_edit(name: &[u8]) -> bool {
    matches!(name, b"Edit" | b"Write" | b"NotebookEdit" | b"MultiEdit")
}

/// Returns the category: the first rule that holds decides.
pub(super) fn classify<'a>(
    calls: impl IntoIterator<Item = ActivityCall<'a>>,
    words: &TurnWords<'_>,
) -> Activity {
    let canonical = |call: ActivityCall<'a>| ActivityCall { name: canonical(call.name), ..call };
    let calls: Vec<_> = calls.into_iter().map(canonical).collect();
    let has_edits = calls.iter().any(|call| is_edit(call.name));
    let retries = count_retries(&calls);
    Activity { category: category(&calls, words, has_edits, retries), retries, has_edits }
}

/// The number of edits that follow an edit with a Bash call in between.
fn count_retries(calls: &[ActivityCall<'_>]) -> usize {
    let (mut has_edited, mut has_run, mut retries) = (false, false, 0);
    for call in calls {
        if is_edit(call.name) {
            retries += usize::from(has_run);
            (has_edited, has_run) = (true, false);
        } else if call.name == b"Bash" {
            has_run = has_edited;
        }
    }
    retries
}

fn category(
    calls: &[ActivityCall<'_>],
    words: &TurnWords<'_>,
    has_edits: bool,
    retries: usize,
) -> &'static str {
    let has = |names: &[&[u8]]| calls.iter().any(|call| names.contains(&call.name));
    if has(&[b"Agent", b"Task"]) {
        return "delegation";
    }
    if has(&[b"ExitPlanMode"]) {
        return "planning";
    }
    let named = LazyCell::new(|| {
        let halves = [words.prompt, words.answer].map(js::to_utf8);
        let halves: Vec<&str> = halves.iter().filter(|half| !half.is_empty()).map(AsRef::as_ref).collect();
        named_in(&halves.join("\n"))
    });
    let first_of = |categories: u8| match *named & categories {
        0 => None,
        named => Some(WORDS[named.trailing_zeros() as usize].0),
    };
    if has_edits {
        let mut edits = calls.iter().filter(|call| is_edit(call.name));
        if words.has_failed || retries >= 2 {
            return "debugging";
        }
        if edits.all(|edit| edit.target.is_some_and(|target| is_document(&js::to_utf8(target)))) {
            return "docs";
        }
        return first_of(WORK & !REVIEW).unwrap_or("coding");
    }
    if words.has_failed {
        return "debugging";
    }
    let commands = calls.iter().filter(|call| call.name == b"Bash").filter_map(|call| call.target);
    if let Some(category) = commands.filter_map(|command| category_of_command(&js::to_utf8(command))).next() {
        return category;
    }
    let by_words = first_of(WORK);
    if !calls.is_empty() {
        return by_words.unwrap_or("exploration");
    }
    let otherwise = if words.has_reasoning { "reasoning" } else { "conversation" };
    by_words.or_else(|| first_of(!WORK)).unwrap_or(otherwise)
}

/// Returns whether an edit's target is a document.
fn is_document(target: &str) -> bool {
    let lower = target.to_ascii_lowercase();
    let name = lower.rsplit('/').next().unwrap_or_default();
    let is_named =
        |word| name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    [".md", ".mdx", ".rst", ".adoc", ".txt"].iter().any(|end| lower.ends_with(end))
        || is_named("readme")
        || is_named("changelog")
        || target.starts_with("docs/")
        || target.contains("/docs/")
}

/// The category of a shell command: the first table that matches the command after its leading assignments.
fn category_of_command(command: &str) -> Option<&'static str> {
    let command = without_assignments(command);
    COMMANDS.iter().find(|table| !command.is_empty() && table.matches(command)).map(|table| table.category)
}

fn without_assignments(command: &str) -> &str {
    let mut rest = command;
    loop {
        let Some((name, behind)) = rest.trim_start_matches(js::is_space).split_once('=') else { return rest };
        let is_name = name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
            && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        let end = behind.find(js::is_space).filter(|end| *end > 0);
        match end {
            Some(end) if is_name => rest = behind[end..].trim_start_matches(js::is_space),
            _ => return rest,
        }
    }
}

/// Converts a pattern in the notation of the tables below into a regular expression.
///
/// A space is one or more characters of white space, `~` exactly one, `…` any run of characters on one line, `{a,b}`
/// one of the words, `[a]` optional, `<` a boundary of ASCII words. Everything else is a regular expression.
fn compile(notation: &str) -> Regex {
    const SPACE: &str =
        r"(?u:[\t-\r \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}])";
    let mut text = String::new();
    for c in notation.chars() {
        match c {
            ' ' => text += &format!("{SPACE}+"),
            '~' => text += SPACE,
            '…' => text += r"(?u:[^\n\r\x{2028}\x{2029}])*",
            '<' => text += r"(?-u:\b)",
            '{' => text += "(?:",
            '}' => text.push(')'),
            ',' => text.push('|'),
            '[' => text += "(?:",
            ']' => text += ")?",
            other => text.push(other),
        }
    }
    match Regex::new(&text) {
        Ok(regex) => regex,
        Err(error) => unreachable!("the tests compile every pattern of this file: {error}"),
    }
}

/// The categories that words name, each with its words and phrases. The bits of [`named_in`] are in this order.
const WORDS: [(&str, &str); 6] = [
    (
        "debugging",
        "bug,error,crash,traceback,stack trace,stacktrace,failure,failing,broken,fix the,not working,throw,throws",
    ),
    ("review", "review,audit,inspect,look over,code review,pr review"),
    ("refactoring", "refactor,refactoring,cleanup,clean up,rename,extract,restructure,move this,reorganize"),
    ("feature", "add,create,implement,new feature,build the,introduce,support for"),
    (
        "brainstorming",
        "brainstorm,what if,think through,explore,explore ideas,design,should we,approach,approaches",
    ),
    ("planning", "plan,planning,outline,roadmap,strategy"),
];
const REVIEW: u8 = 0b10;
/// The categories that a turn with tool calls may have.
const WORK: u8 = 0b1111;

/// Whether a byte is a word character.
const IS_OF_WORD: [bool; 256] = {
    let mut is_of_word = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        is_of_word[byte] = (byte as u8).is_ascii_alphanumeric() || byte as u8 == b'_';
        byte += 1;
    }
    is_of_word
};

/// The longest first word of a phrase.
const WORD_MAX_BYTES: usize = 11;

/// The phrases of all categories, by their first words.
struct Phrases {
    /// The bit of each phrase's category, and its second word, which may be "".
    by_word: FxHashMap<&'static [u8], Vec<(u8, &'static str)>>,
    /// By the first letter of a word: a bit for each length that a first word with this letter has. Few words of a text have
    /// such a letter and length, and the others are not looked up.
    lengths: [u16; 256],
}

static PHRASES: LazyLock<Phrases> = LazyLock::new(|| {
    let mut phrases = Phrases { by_word: FxHashMap::default(), lengths: [0; 256] };
    for (at, (_, words)) in WORDS.iter().enumerate() {
        for phrase in words.split(',') {
            let (first, second) = phrase.split_once(' ').unwrap_or((phrase, ""));
            phrases.by_word.entry(first.as_bytes()).or_default().push((1 << at, second));
            for letter in [first.as_bytes()[0], first.as_bytes()[0].to_ascii_uppercase()] {
                phrases.lengths[usize::from(letter)] |= 1 << first.len();
            }
        }
    }
    phrases
});

/// Returns a bit for each category that a word or a phrase of the text names, in upper or lower case.
///
/// Rejected: a regular expression for each category. They took 14 % of reading 300 MB of logs; this look takes 1 %.
fn named_in(text: &str) -> u8 {
    let is_of_word = |byte: u8| IS_OF_WORD[usize::from(byte)];
    let Phrases { by_word, lengths } = &*PHRASES;
    let mut named = 0;
    let mut rest = text;
    while let Some(start) = rest.bytes().position(is_of_word) {
        let len_bytes =
            rest[start..].bytes().position(|byte| !is_of_word(byte)).unwrap_or(rest.len() - start);
        let word = &rest.as_bytes()[start..start + len_bytes];
        rest = &rest[start + len_bytes..];
        let mut lower = [0; WORD_MAX_BYTES];
        let Some(lower) = lower.get_mut(..len_bytes) else { continue };
        if lengths[usize::from(word[0])] & 1 << len_bytes == 0 {
            continue;
        }
        lower.copy_from_slice(word);
        lower.make_ascii_lowercase();
        let phrases = by_word.get(&*lower).into_iter().flatten();
        let is_there = |second: &str| {
            let behind = rest.trim_start_matches(js::is_space).as_bytes();
            second.is_empty()
                || behind.len() < rest.len()
                    && behind
                        .get(..second.len())
                        .is_some_and(|word| word.eq_ignore_ascii_case(second.as_bytes()))
                    && !behind.get(second.len()).is_some_and(|byte| is_of_word(*byte))
        };
        named |=
            phrases.filter(|(_, second)| is_there(second)).fold(0, |named, (category, _)| named | category);
    }
    named
}

/// A pattern for the commands of a category.
struct Commands {
    category: &'static str,
    any_of: LazyLock<Regex>,
    /// A pattern, and a second pattern that must not follow an occurrence on the same line; a second pattern with `\A`
    /// must not follow at once.
    not_before: Vec<(LazyLock<Regex>, LazyLock<Regex>)>,
}

impl Commands {
    fn matches(&self, command: &str) -> bool {
        self.any_of.is_match(command)
            || self.not_before.iter().any(|(pattern, unwanted)| stands_without(command, pattern, unwanted))
    }
}

/// Returns whether an occurrence of `pattern` is not followed by `unwanted`. Only the last occurrence of a line is
/// checked, because the least text follows it. So a line is searched once.
fn stands_without(text: &str, pattern: &Regex, unwanted: &Regex) -> bool {
    let is_anchored = unwanted.as_str().contains("\\A");
    let mut found = pattern.find_iter(text).peekable();
    while let Some(this) = found.next() {
        let mut behind = &text[this.end()..];
        if !is_anchored {
            behind = &behind[..behind.find(['\n', '\r', '\u{2028}', '\u{2029}']).unwrap_or(behind.len())];
            if found.peek().is_some_and(|next| next.end() <= this.end() + behind.len()) {
                continue;
            }
        }
        if !unwanted.is_match(behind) {
            return true;
        }
    }
    false
}

macro_rules! commands {
    ($category:literal, [$first:literal $(, $pattern:literal)* $(,)?] $(, not_before $base:literal $unwanted:literal)*) => {
        Commands {
            category: $category,
            any_of: LazyLock::new(|| compile(concat!("{", $first, $(",", $pattern,)* "}"))),
            not_before: vec![
                $((LazyLock::new(|| compile($base)), LazyLock::new(|| compile($unwanted)))),*
            ],
        }
    };
}

/// The tables in the order in which they are tried.
static COMMANDS: LazyLock<[Commands; 7]> = LazyLock::new(|| {
    [
        commands!(
            "testing",
            [
                "<{pytest,vitest,jest,mocha,rspec,phpunit,ctest,playwright,cypress,puppeteer}<",
                "<{go test,cargo test,make test}<",
                "<node --test<",
                "<{npm,yarn,pnpm,bun}[ run] test<",
            ]
        ),
        commands!(
            "review",
            ["<git {status,diff,show,log,blame}<", "<gh pr {view,diff,checks}<", "<gh run view<"]
        ),
        commands!(
            "git",
            [
                "<git {push,pull,fetch,commit,merge,rebase,checkout,cherry-pick,reset,revert,switch,tag,stash}<",
            ]
        ),
        commands!(
            "deps",
            [
                "<{npm,yarn,pnpm,bun} {install,add,remove,uninstall,update,upgrade,ci}<",
                "<{pip,pip3} {install,uninstall}<",
                "<uv {add,remove,sync,pip install}<",
                "<poetry {add,remove,install,update}<",
                "<cargo {add,remove,update}<",
                "<{go get,go mod {tidy,download}}<",
                "<bundle {install,update,add}<",
                "<gem {install,uninstall}<",
                "<brew {install,uninstall,upgrade,update}<",
                "<{apt,apt-get} {install,remove}<",
            ]
        ),
        commands!(
            "format",
            [
                "<prettier<…{--write,-w}{~,\\z}",
                "<eslint<…--fix<",
                "<biome format<",
                "<biome check<…--apply<",
                "<{ruff format,isort,rustfmt,gofmt,goimports,dprint fmt}<",
            ],
            not_before "<black<" "--check<",
            not_before "<cargo fmt<" "--check<"
        ),
        commands!(
            "verification",
            [
                "<{npm,yarn,pnpm,bun}[ run] {lint,typecheck}<",
                "<prettier<…--check<",
                "<black<…--check<",
                "<{ruff check,flake8,mypy,pyright,cargo check,golangci-lint,shellcheck,hadolint}<",
                "<cargo fmt<…--check<",
                "<terraform validate<",
                "<make {lint,check,typecheck,verify}<",
            ],
            not_before "<eslint<" "--fix<",
            not_before "<biome check<" "--apply<",
            not_before "<tsc<" "\\A --build<"
        ),
        commands!(
            "build-deploy",
            [
                "<docker {build,push,compose build}<",
                "<{cargo build,go build}<",
                "<make {build,release,dist,package,deploy}<",
                "<{npm,yarn,pnpm,bun}[ run] build<",
                "<{webpack,vite,next,rollup,esbuild} build<",
                "<tsc --build<",
                "<pm2~",
                "<kubectl {apply,rollout,set}<",
                "<helm {install,upgrade}<",
                "<terraform {apply,plan,destroy}<",
                "<serverless deploy<",
                "<{vercel,netlify,flyctl,railway,sst} {deploy,up}<",
            ]
        ),
    ]
});

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> &'static str {
        let call = ActivityCall { name: b"bash", target: Some(text.as_bytes()) };
        classify([call], &TurnWords::default()).category
    }

    fn words(text: &str) -> &'static str {
        classify([], &TurnWords { prompt: text.as_bytes(), ..TurnWords::default() }).category
    }

    #[test]
    fn commands_by_table() {
        for (text, category) in [
            ("pytest -q", "testing"),
            ("FOO=1 BAR=x npm  run\ntest", "testing"),
            ("FOO=pytest", "testing"),
            ("node --test", "testing"),
            ("xpytest", "exploration"),
            ("pytesté", "testing"),
            ("git log && git push", "review"),
            ("git cherry-pick x", "git"),
            ("Git push", "exploration"),
            ("pnpm add x", "deps"),
            ("uv pip install x", "deps"),
            ("go mod tidy", "deps"),
            ("prettier . --write", "format"),
            ("prettier -w x", "format"),
            ("prettier -wx", "exploration"),
            ("prettier . --check", "verification"),
            ("eslint . --fix-dry-run", "format"),
            ("eslint .", "verification"),
            ("eslint . --fix\neslint", "format"),
            ("black .", "format"),
            ("black --check .", "verification"),
            ("black --check .; black .", "format"),
            ("cargo fmt --check", "verification"),
            ("cargo fmt", "format"),
            ("biome check --apply", "format"),
            ("biome check", "verification"),
            ("tsc --build", "build-deploy"),
            ("tsc\n--build", "build-deploy"),
            ("tsc -p . --build", "verification"),
            ("tsc --build; tsc", "verification"),
            ("pm2 restart", "build-deploy"),
            ("pm2", "exploration"),
            ("docker compose build", "build-deploy"),
            ("vercel deploy", "build-deploy"),
            ("ls", "exploration"),
        ] {
            assert_eq!(command(text), category, "{text}");
        }
    }

    #[test]
    fn every_pattern_compiles_and_hostile_lines_are_linear() {
        for table in COMMANDS.iter() {
            assert!(!table.matches("nothing of this"), "{}", table.category);
        }
        let line = "black eslint prettier biome check tsc --build ".repeat(20_000) + "--check --fix --apply";
        assert_eq!(command(&line), "format");
    }

    #[test]
    fn words_in_any_case_at_boundaries() {
        for (text, category) in [
            ("there is a BUG", "debugging"),
            ("Stack\u{A0}Trace", "debugging"),
            ("debugger", "conversation"),
            ("crashé", "debugging"),
            ("throw\u{17F}", "debugging"),
            ("look over this, then add", "review"),
            ("clean up and create", "refactoring"),
            ("support  for x", "feature"),
            ("what if we plan", "brainstorming"),
            ("roadmap", "planning"),
            ("hello", "conversation"),
        ] {
            assert_eq!(words(text), category, "{text}");
        }
        let turn = TurnWords { has_reasoning: true, ..TurnWords::default() };
        assert_eq!(classify([], &turn).category, "reasoning");
    }

    #[test]
    fn words_are_those_of_the_patterns() {
        let patterns = WORDS.map(|(_, words)| compile(&format!("(?i-u:<{{{words}}}<)")));
        let words: Vec<&str> = WORDS.iter().flat_map(|(_, words)| words.split([',', ' '])).collect();
        let between = [" ", "  ", "", "_", "9", "\u{E9}", "\u{A0}", "\n", "-", " The ", "ed ", "\u{FFFD}"];
        let mut seed = 1_u64;
        let mut any = |count: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % count
        };
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..any(8) {
                let word = words[any(words.len())];
                text += &if any(4) == 0 { word.to_uppercase() } else { word.to_owned() };
                text += between[any(between.len())];
            }
            let bits =
                patterns.iter().enumerate().map(|(at, pattern)| u8::from(pattern.is_match(&text)) << at);
            assert_eq!(named_in(&text), bits.sum::<u8>(), "{text:?}");
        }
    }

    #[test]
    fn calls_come_before_words() {
        let call = |name: &'static str, target: Option<&'static str>| ActivityCall {
            name: name.as_bytes(),
            target: target.map(str::as_bytes),
        };
        let bug = TurnWords { prompt: b"bug", ..TurnWords::default() };
        let failed = TurnWords { has_failed: true, ..TurnWords::default() };
        assert_eq!(classify([call("task", None)], &bug).category, "delegation");
        assert_eq!(classify([call("update_plan", None)], &bug).category, "planning");
        assert_eq!(classify([call("write", Some("a/docs/x"))], &bug).category, "docs");
        assert_eq!(classify([call("Edit", Some("src/x.rs"))], &bug).category, "debugging");
        assert_eq!(classify([call("Edit", None)], &TurnWords::default()).category, "coding");
        assert_eq!(classify([call("Edit", Some("README.x"))], &failed).category, "debugging");
        assert_eq!(classify([call("Read", None)], &failed).category, "debugging");
        assert_eq!(classify([call("Read", None)], &TurnWords::default()).category, "exploration");
        let walk = ["Bash", "Edit", "Edit", "bash", "shell", "apply_patch", "Read", "Bash", "MultiEdit"];
        let walk = walk.map(|name| call(name, None));
        let found = classify(walk, &TurnWords::default());
        assert_eq!((found.retries, found.has_edits, found.category), (2, true, "debugging"));
    }

    #[test]
    fn documents() {
        for target in ["a.MD", "x/README", "changelog.txt.bak", "docs/x", "a/docs/b.rs", "x.adoc"] {
            assert!(is_document(target), "{target}");
        }
        for target in ["", "a.md\n", "Docs/x", "xdocs/y", "readmes", "a.mdy"] {
            assert!(!is_document(target), "{target}");
        }
    }
}
