//! Progress of long commands, on stderr, if stderr is a terminal and RELAYBURN_PROGRESS is not 0.

use std::io::{IsTerminal, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::printable;
use crate::archive::{Phase, Progress};

/// A bar of this style; hidden if progress is not wanted.
fn bar(style: ProgressStyle) -> ProgressBar {
    let is_wanted = std::io::stderr().is_terminal()
        && std::env::var_os("RELAYBURN_PROGRESS").is_none_or(|value| value != "0");
    let target =
        if is_wanted { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
    ProgressBar::with_draw_target(None, target).with_style(style)
}

/// A line of words for work of unknown length.
#[derive(Debug)]
pub(super) struct Spinner(ProgressBar);

impl Spinner {
    pub(super) fn new() -> Self {
        Self(bar(ProgressStyle::default_spinner()))
    }

    /// Shows the text of `words`, which is called only if progress is shown.
    pub(super) fn say(&self, words: impl FnOnce() -> String) {
        if self.0.is_hidden() {
            return;
        }
        if self.0.is_finished() {
            self.0.reset();
        }
        self.0.set_message(printable::line(&words()).into_owned());
    }

    /// Runs `print` while the line of words is hidden.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        self.0.suspend(print);
    }

    /// Hides the words until the next call of `say`.
    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// A bar of bytes.
#[derive(Debug)]
pub(super) struct BuildBar(ProgressBar);

impl BuildBar {
    pub(super) fn new() -> Self {
        let template =
            "{msg:10} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
        Self(bar(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    pub(super) fn update(&self, progress: Progress) {
        self.0.set_length(progress.total_bytes);
        self.0.set_position(progress.done_bytes);
        self.0.set_message(match progress.phase {
            Phase::Survey => "stamps",
            Phase::Rows => "rows",
            Phase::Indexes => "indexes",
            Phase::Sessions => "sessions",
            Phase::Verify => "checking",
            Phase::Publish => "publishing",
        });
    }

    /// Prints a line above the bar.
    pub(super) fn line(&self, text: &str) {
        self.0.suspend(|| {
            // A closed stderr is no reason to stop.
            let _ = std::io::stderr().lock().write_all(format!("{}\n", printable::line(text)).as_bytes());
        });
    }

    pub(super) fn finish(self) {
        self.0.finish_and_clear();
    }
}
