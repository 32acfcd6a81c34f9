//! Progress of long commands, on stderr, if stderr is a terminal and RELAYBURN_PROGRESS is not 0.

use std::io::IsTerminal;
use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::archive::{Observer, Phase, Progress};
use crate::record::rows::UnarchivedLine;

fn is_wanted() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("RELAYBURN_PROGRESS").is_none_or(|value| value != "0")
}

/// A bar of this style, if progress is wanted.
fn drawn(style: impl FnOnce() -> ProgressStyle) -> Option<ProgressBar> {
    is_wanted().then(|| {
        ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10)).with_style(style())
    })
}

/// A line of words for work of unknown length; nothing is shown if progress is not wanted.
#[derive(Debug)]
pub(super) struct Spinner(Option<ProgressBar>);

impl Spinner {
    pub(super) fn new() -> Self {
        Self(drawn(ProgressStyle::default_spinner))
    }

    /// Shows the text of `words`, which is called only if progress is shown.
    pub(super) fn say(&self, words: impl FnOnce() -> String) {
        if let Some(spinner) = &self.0 {
            spinner.set_message(words());
        }
    }

    /// Runs `print` while the line of words is hidden.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        match &self.0 {
            Some(spinner) => spinner.suspend(print),
            None => print(),
        }
    }

    /// Hides the words until the next call of `say`.
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

/// A bar of bytes; nothing is shown if progress is not wanted.
#[derive(Debug)]
pub(super) struct BuildBar(Option<ProgressBar>);

impl BuildBar {
    pub(super) fn new() -> Self {
        let template =
            "{msg:10} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
        Self(drawn(|| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
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

/// Shows the progress of a build and nothing of its findings.
impl Observer for BuildBar {
    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        self.update(progress);
        ControlFlow::Continue(())
    }

    fn finding(&mut self, _: &UnarchivedLine) {}
}
