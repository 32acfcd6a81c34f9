//! `burn` alone: what was used in the last seven days and what else there is, or how to begin.
//!
//! Touches what `burn usage` touches. Guarantees: exit code 0 when nothing is wrong; a build of the archive is announced before it begins.

use std::process::ExitCode;

use clap::{Args as _, FromArgMatches as _};

use super::usage::{self, UsageArgs, catch_up};
use super::{interrupt, print_text};
use crate::archive::Paths;
use crate::home::Home;

const WHAT_ELSE: &str = "
`burn ingest` reads what is new in the agents' logs; `burn usage --by model`, `burn report` and `burn query turns` say more.
`burn help` lists all commands.
";

pub(super) fn week() -> anyhow::Result<ExitCode> {
    let home = Home::from_env()?;
    let paths = Paths::of_home(&home);
    if !paths.ledger.try_exists().unwrap_or(true) && !paths.archive.try_exists().unwrap_or(true) {
        print_text(&format!(
            "There is no ledger in {} yet.\n\
             `burn ingest` makes one from the logs of Claude Code, Codex, OpenCode and Gemini CLI; `burn help` lists all commands.\n",
            home.root().display()
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    catch_up(&paths, 1, &interrupt::watch())?;
    // Without options, `burn usage` is about the last seven days.
    let options = UsageArgs::augment_args(clap::Command::new("usage"));
    usage::run(UsageArgs::from_arg_matches(&options.try_get_matches_from(["usage", "--no-build"])?)?)?;
    print_text(WHAT_ELSE)?;
    Ok(ExitCode::SUCCESS)
}
