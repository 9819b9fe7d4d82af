//! How far something long is: a bar on a terminal, plain lines elsewhere. On standard error, so that what is
//! printed can be piped.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

use super::format::span_s;

/// The bar's width in characters.
const WIDTH: usize = 24;
/// A bar is drawn at most so often.
const EVERY: Duration = Duration::from_millis(100);

/// Progress of so many steps.
#[derive(Debug)]
pub struct Progress {
    live: bool,
    steps: u64,
    done: u64,
    expected: Duration,
    began: Instant,
    drawn: Option<Instant>,
}

impl Progress {
    /// Of `steps` steps that are expected to take so long together.
    #[must_use]
    pub fn new(steps: u64, expected: Duration) -> Self {
        let live = std::io::stderr().is_terminal();
        Self { live, steps: steps.max(1), done: 0, expected, began: Instant::now(), drawn: None }
    }

    /// A new part begins: a line of its own where there is no bar.
    pub fn part(&mut self, what: &str) {
        if !self.live {
            let left = span_s(left(self.done, self.steps, self.began.elapsed(), self.expected).as_secs_f64());
            say(&format!("{what} (about {left} to go)\n"));
        }
    }

    /// One step more is done; `what` is next.
    pub fn step(&mut self, what: &str) {
        self.done += 1;
        let now = Instant::now();
        if self.live && self.drawn.is_none_or(|at| now - at >= EVERY) {
            self.drawn = Some(now);
            let left = left(self.done, self.steps, self.began.elapsed(), self.expected);
            say(&format!(
                "\r{}  {what}, about {} left\x1b[K",
                bar(self.done, self.steps),
                span_s(left.as_secs_f64())
            ));
        }
    }

    /// So many steps need not be done.
    pub fn skip(&mut self, steps: u64) {
        self.done += steps;
    }

    /// Takes the bar away, so that something can be printed; the next step draws it again.
    pub fn clear(&mut self) {
        if self.live && self.drawn.take().is_some() {
            say("\r\x1b[K");
        }
    }
}

fn say(text: &str) {
    let mut to = std::io::stderr().lock();
    // A terminal that is gone needs no bar.
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

/// `[######------------------]  25 %`.
fn bar(done: u64, steps: u64) -> String {
    let share = done.min(steps).saturating_mul(100) / steps.max(1);
    let full = usize::try_from(share).unwrap_or(0) * WIDTH / 100;
    format!("[{}{}] {share:3} %", "#".repeat(full), "-".repeat(WIDTH - full))
}

/// What is left, by the pace so far where that says anything, else as expected.
#[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
fn left(done: u64, steps: u64, passed: Duration, expected: Duration) -> Duration {
    let share = done.min(steps) as f64 / steps.max(1) as f64;
    if share < 0.02 {
        return expected.saturating_sub(passed);
    }
    passed.mul_f64((1.0 - share) / share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_and_the_estimate() {
        assert_eq!(bar(0, 100), format!("[{}]   0 %", "-".repeat(WIDTH)));
        assert_eq!(bar(50, 100), format!("[{}{}]  50 %", "#".repeat(12), "-".repeat(12)));
        assert_eq!(bar(200, 100), format!("[{}] 100 %", "#".repeat(WIDTH)));
        let s = Duration::from_secs;
        assert_eq!(left(0, 100, s(1), s(50)), s(49), "nothing is known yet");
        assert_eq!(left(25, 100, s(10), s(500)), s(30));
        assert_eq!(left(0, 0, s(1), s(0)), s(0));
    }
}
