//! Progress on the error stream: a bar on a terminal, now and then a line elsewhere, or events.
//!
//! Work is counted as passes count it: elements of weights, samples. The time left is the work left
//! by the rate of the last two steps; before one step is done it is not known.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qcc_pass::{Progress, Silent};

/// How progress is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// A bar on a terminal, lines elsewhere.
    Auto,
    /// A bar.
    Bar,
    /// A line every 30 seconds, or for each step that takes longer.
    Plain,
    /// One JSON object a line.
    Json,
    /// Not at all.
    Off,
}

/// Who is told how far the run is.
pub(super) fn progress(kind: Kind, is_quiet: bool) -> Arc<dyn Progress> {
    const EVERY: Duration = Duration::from_secs(30);
    let is_terminal = io::stderr().is_terminal();
    let screen = match kind {
        Kind::Off => return Arc::new(Silent),
        Kind::Auto if is_quiet => return Arc::new(Silent),
        Kind::Auto if !is_terminal => Screen::Plain { every: EVERY, last: Instant::now() },
        Kind::Auto | Kind::Bar => Screen::Bar(ProgressBar::hidden()),
        Kind::Plain => Screen::Plain { every: EVERY, last: Instant::now() },
        Kind::Json => Screen::Json,
    };
    Arc::new(Watch(Mutex::new(State { meter: Meter::default(), screen, out: io::stderr() })))
}

struct Watch<W>(Mutex<State<W>>);

struct State<W> {
    meter: Meter,
    screen: Screen,
    out: W,
}

enum Screen {
    Bar(ProgressBar),
    Plain { every: Duration, last: Instant },
    Json,
}

impl<W: Write> State<W> {
    fn start(&mut self, stage: &str, total: u64, now: Instant) {
        self.meter = Meter::new(stage, total, now);
        if let Screen::Bar(bar) = &mut self.screen {
            bar.finish_and_clear();
            *bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = "  {prefix:<15} {bar:36} {percent:>3}%  {elapsed:>4}  {wide_msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(stage.to_owned());
            bar.set_message("measuring");
            // The time that has passed goes on while a step takes long.
            bar.enable_steady_tick(Duration::from_secs(1));
        }
        if matches!(self.screen, Screen::Json) {
            self.event(now);
        }
    }

    fn step(&mut self, n: u64, detail: &str, now: Instant) {
        self.meter.step(n, now);
        let left = match self.meter.left(now) {
            Some(it) => format!("eta {}", clock(it)),
            None => "measuring".to_owned(),
        };
        match &mut self.screen {
            Screen::Bar(bar) => {
                bar.set_position(self.meter.done);
                bar.set_message(format!("{left}   {detail}"));
            }
            Screen::Plain { every, last } if now.saturating_duration_since(*last) >= *every => {
                *last = now;
                let share = self.meter.share().map_or(String::new(), percent);
                let stage = &self.meter.stage;
                let line = format!("  {stage:<15} {share}  {left}  {detail}");
                let _ = writeln!(self.out, "{}", line.trim_end());
            }
            Screen::Plain { .. } => {}
            Screen::Json => self.event(now),
        }
    }

    fn finish(&mut self, now: Instant) {
        match &self.screen {
            Screen::Bar(bar) => bar.finish_and_clear(),
            Screen::Plain { .. } => {}
            Screen::Json => {
                let is_told = self.meter.share() == Some(1.0);
                self.meter.done = self.meter.total.max(1);
                self.meter.total = self.meter.done;
                if !is_told {
                    self.event(now);
                }
            }
        }
    }

    fn say(&mut self, stage: &str, text: &str) {
        let line = format!("  {stage:<15} {text}");
        match &self.screen {
            Screen::Bar(bar) => bar.suspend(|| _ = writeln!(self.out, "{line}")),
            Screen::Plain { .. } => _ = writeln!(self.out, "{line}"),
            Screen::Json => {
                let event = serde_json::json!({ "event": "note", "pass": stage, "text": text });
                let _ = writeln!(self.out, "{event}");
            }
        }
    }

    fn event(&mut self, now: Instant) {
        let tenths = |it: Duration| (it.as_secs_f64() * 10.0).round() / 10.0;
        let event = serde_json::json!({
            "event": "progress",
            "pass": self.meter.stage,
            "done": self.meter.share().map(|it| (it * 1e4).floor() / 1e4),
            "eta_s": self.meter.left(now).map(tenths),
        });
        let _ = writeln!(self.out, "{event}");
    }
}

fn percent(share: f64) -> String {
    format!("{:>3.0}%", (share * 100.0).floor())
}

/// `7s`, `2m 05s`, `3h 20m`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// How far a stage is.
#[derive(Default)]
struct Meter {
    stage: String,
    total: u64,
    done: u64,
    /// When the last steps ended, the oldest first, and how much was done then; the start of the
    /// stage counts as one.
    marks: Vec<(Instant, u64)>,
}

impl Meter {
    fn new(stage: &str, total: u64, now: Instant) -> Self {
        Self { stage: stage.to_owned(), total, done: 0, marks: vec![(now, 0)] }
    }

    fn step(&mut self, n: u64, now: Instant) {
        self.done = self.done.saturating_add(n);
        self.marks.push((now, self.done));
        let extra = self.marks.len().saturating_sub(3);
        self.marks.drain(..extra);
    }

    /// From 0 to 1; `None` where the total is not known.
    fn share(&self) -> Option<f64> {
        (self.total > 0).then(|| self.done.min(self.total) as f64 / self.total as f64)
    }

    /// Time left, as of `now`.
    fn left(&self, now: Instant) -> Option<Duration> {
        let ([(from, before), ..], [.., (to, after)]) = (&self.marks[..], &self.marks[..]) else {
            return None;
        };
        let work = after.saturating_sub(*before);
        if work == 0 || self.total == 0 {
            return None;
        }
        let rest = self.total.saturating_sub(self.done) as f64;
        let seconds = to.saturating_duration_since(*from).as_secs_f64() * rest / work as f64;
        let gone = now.saturating_duration_since(*to).as_secs_f64();
        Duration::try_from_secs_f64((seconds - gone).max(0.0)).ok()
    }
}

impl<W> Watch<W> {
    fn with(&self, act: impl FnOnce(&mut State<W>)) {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<W: Write + Send> Progress for Watch<W> {
    fn start(&self, stage: &str, total: u64) {
        self.with(|it| it.start(stage, total, Instant::now()));
    }

    fn step(&self, n: u64, detail: &str) {
        self.with(|it| it.step(n, detail, Instant::now()));
    }

    fn finish(&self) {
        self.with(|it| it.finish(Instant::now()));
    }

    fn say(&self, stage: &str, text: &str) {
        self.with(|it| it.say(stage, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written when steps of 10, 20 and 10 of 100 end after 5, 35 and 50 seconds.
    fn told(screen: impl FnOnce(Instant) -> Screen) -> String {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = State { meter: Meter::default(), screen: screen(start), out: Vec::new() };
        state.start("rtn", 100, at(0));
        for (n, detail, seconds) in [(10, "a", 5), (20, "b", 35), (10, "c", 50)] {
            state.step(n, detail, at(seconds));
        }
        state.finish(at(51));
        String::from_utf8(state.out).unwrap()
    }

    #[test]
    fn lines_are_rare() {
        let every = Duration::from_secs(30);
        let text = told(|last| Screen::Plain { every, last });
        // 30 of work in 35 s, 70 left.
        assert_eq!(text, "  rtn              30%  eta 1m 22s  b\n");
        let text = told(|last| Screen::Plain { every: Duration::ZERO, last });
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn the_time_left_follows_the_last_two_steps() {
        let text = told(|_| Screen::Json);
        let events: Vec<serde_json::Value> =
            text.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
        let times: Vec<_> = events.iter().map(|it| it["eta_s"].as_f64()).collect();
        // 10 in 5 s; 30 in 35 s; 30 in 45 s.
        assert_eq!(times, [None, Some(45.0), Some(81.7), Some(90.0), Some(0.0)]);
        let done: Vec<_> = events.iter().map(|it| it["done"].as_f64()).collect();
        assert_eq!(done, [0.0, 0.1, 0.3, 0.4, 1.0].map(Some));
        assert!(events.iter().all(|it| it["event"] == "progress" && it["pass"] == "rtn"));
    }

    #[test]
    fn times_in_words() {
        let times = [0, 59, 125, 12_000].map(|it| clock(Duration::from_secs(it)));
        assert_eq!(times, ["0s", "59s", "2m 05s", "3h 20m"]);
    }
}
