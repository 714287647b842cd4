//! Steps with their times; on a terminal a spinner while a step lasts, and a bar where it can be counted.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const SPINNER: &str = "  {spinner} {msg} {elapsed:.dim}";
const BAR: &str = "  {spinner} {msg} [{bar:24}] {pos}/{len} pods {elapsed:.dim}";

/// One command's progress.
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    step_started: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        // On standard output, with the lines that stay: a file or a pipe gets nothing but those.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        Self { bar, started: Instant::now(), step_started: Instant::now() }
    }

    /// A step begins; a step that lasts shows that it is alive.
    pub(crate) fn begin(&mut self, text: &str) {
        self.step_started = Instant::now();
        self.bar.set_style(style(SPINNER));
        self.bar.unset_length();
        self.bar.reset();
        self.bar.set_message(text.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(120));
    }

    /// The step waits for so many pods, of which these are available.
    pub(crate) fn pods(&self, done: i32, total: i32) {
        let number = |n: i32| u64::try_from(n).unwrap_or(0);
        if self.bar.length() != Some(number(total)) {
            self.bar.set_style(style(BAR).progress_chars("=> "));
            self.bar.set_length(number(total));
        }
        self.bar.set_position(number(done));
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

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well formed")
}
