//! What is shown while something takes its time: on stderr, on a terminal only, and only once it has taken a while.

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is done sooner is not worth a line.
const PATIENCE: Duration = Duration::from_millis(400);
const FRAME: Duration = Duration::from_millis(100);

/// A line that says what is going on. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Something of which nobody knows how long it takes.
    pub(crate) fn spinner(what: impl Into<String>) -> Self {
        Self::begin(ProgressBar::no_length(), "{spinner} {wide_msg} {elapsed}", what.into())
    }

    /// So many steps.
    pub(crate) fn steps(what: impl Into<String>, count: usize) -> Self {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        Self::begin(ProgressBar::new(count), "{bar:24} {pos}/{len} {wide_msg} {elapsed}", what.into())
    }

    fn begin(bar: ProgressBar, template: &str, what: String) -> Self {
        bar.set_draw_target(ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what);
        if stderr().is_terminal() {
            let shown = bar.clone();
            // Ends with the process, or by itself when the work was done in time.
            std::thread::spawn(move || {
                std::thread::park_timeout(PATIENCE);
                if !shown.is_finished() {
                    shown.set_draw_target(ProgressDrawTarget::stderr());
                    shown.enable_steady_tick(FRAME);
                }
            });
        }
        Progress { bar }
    }

    /// One step is done.
    pub(crate) fn step(&self) {
        self.bar.inc(1);
    }

    /// Says what is going on now.
    pub(crate) fn say(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    /// Prints something else without tearing the line.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
