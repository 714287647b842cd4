//! Steps with their times, on a terminal with a spinner while a step lasts.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One command's progress.
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    step_started: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("  {spinner} {msg}").expect("the template is well formed"));
        Self { bar, started: Instant::now(), step_started: Instant::now() }
    }

    /// A step begins; a step that lasts shows that it is alive.
    pub(crate) fn begin(&mut self, text: &str) {
        self.step_started = Instant::now();
        self.bar.set_message(text.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(120));
    }

    /// The step is done.
    pub(crate) fn done(&mut self, text: &str) {
        let seconds = self.step_started.elapsed().as_secs_f64();
        self.line(&format!("  ✓ {text:<52} {seconds:>7.2} s"));
        self.step_started = Instant::now();
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        // Without a terminal the bar is hidden and would swallow the line.
        if self.bar.is_hidden() { println!("{text}") } else { self.bar.println(text) }
    }

    /// The whole time so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes the spinner away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
