//! What long commands show of their progress: on stderr, when that is a terminal and RELAYBURN_PROGRESS is not 0.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::archive::{Phase, Progress};

fn is_wanted() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("RELAYBURN_PROGRESS").is_none_or(|value| value != "0")
}

/// A line of words for work without an end in sight, or nothing where it is not wanted.
#[derive(Debug)]
pub(super) struct Spinner(Option<ProgressBar>);

impl Spinner {
    pub(super) fn new() -> Self {
        Self(is_wanted().then(|| {
            let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            spinner.set_style(ProgressStyle::default_spinner());
            spinner
        }))
    }

    /// Shows what `words` makes, which is not asked where nothing is shown.
    pub(super) fn say(&self, words: impl FnOnce() -> String) {
        if let Some(spinner) = &self.0 {
            spinner.set_message(words());
        }
    }

    /// Prints in between, without leaving pieces of the line of words behind.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        match &self.0 {
            Some(spinner) => spinner.suspend(print),
            None => print(),
        }
    }

    /// Takes the words away until there are others.
    pub(super) fn clear(&self) {
        if let Some(spinner) = &self.0 {
            spinner.suspend(|| spinner.set_message(""));
        }
    }

    pub(super) fn finish(self) {
        if let Some(spinner) = self.0 {
            spinner.finish_and_clear();
        }
    }
}

/// A bar of bytes, or nothing where it is not wanted.
#[derive(Debug)]
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(super) fn new() -> Self {
        Self(is_wanted().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            let template =
                "{msg:10} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        }))
    }

    pub(super) fn update(&self, progress: Progress) {
        if let Some(bar) = &self.0 {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
            bar.set_message(match progress.phase {
                Phase::Survey => "stamps",
                Phase::Rows => "rows",
                Phase::Indexes => "indexes",
                Phase::Sessions => "sessions",
                Phase::Verify => "checking",
                Phase::Publish => "publishing",
            });
        }
    }

    /// Prints a line above the bar.
    pub(super) fn line(&self, text: &str) {
        let text = super::printable::line(text);
        match &self.0 {
            Some(bar) => bar.println(&*text),
            // A closed stderr is no reason to stop.
            None => {
                let _ =
                    std::io::Write::write_all(&mut std::io::stderr().lock(), format!("{text}\n").as_bytes());
            }
        }
    }

    pub(super) fn finish(self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}
