//! Progress on the error stream: a bar on a terminal, nothing elsewhere.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qcc_pass::{Progress, Silent};

/// Who is told how far the run is.
pub(super) fn progress(is_quiet: bool) -> Arc<dyn Progress> {
    if is_quiet || !std::io::stderr().is_terminal() {
        return Arc::new(Silent);
    }
    Arc::new(Bar(Mutex::new(ProgressBar::hidden())))
}

struct Bar(Mutex<ProgressBar>);

impl Bar {
    fn with(&self, act: impl FnOnce(&mut ProgressBar)) {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Progress for Bar {
    fn start(&self, stage: &str, total: u64) {
        let style =
            ProgressStyle::with_template("  {prefix:<15} {bar:36} {percent:>3}%  {eta:>5}  {msg}");
        self.with(|bar| {
            bar.finish_and_clear();
            *bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.set_prefix(stage.to_owned());
        });
    }

    fn step(&self, n: u64, detail: &str) {
        self.with(|bar| {
            bar.inc(n);
            bar.set_message(detail.to_owned());
        });
    }

    fn finish(&self) {
        self.with(|bar| bar.finish_and_clear());
    }
}
