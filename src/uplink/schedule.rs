//! When a metered link is used: windows on boot time, which nobody can set. Pure.
//!
//! The first window opens with the start, so that whoever installs a box sees it work. The later ones come
//! at equal distances, all shifted by the same random part of a tenth of that distance: boxes that got
//! their power back in the same moment do not come to the broker in the same moment.

use std::time::Duration;

use crate::config::connect::Connect;
use crate::message::BootMs;

/// Whether to be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Now, until then; `None`: for as long as it goes.
    Open(Option<BootMs>),
    /// Not before then.
    Closed(BootMs),
}

/// The windows of one uplink.
#[derive(Debug, Clone)]
pub struct Schedule {
    start: u64,
    windows: Option<Windows>,
}

#[derive(Debug, Clone)]
struct Windows {
    every: u64,
    span: u64,
    shift: u64,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Schedule {
    /// Windows as configured, from `start` on. `unit` is a random number in `0.0..1.0`.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of some days, in milliseconds"
    )]
    pub fn new(connect: Connect, start: BootMs, unit: f64) -> Self {
        let windows = match connect {
            Connect::Always => None,
            Connect::Windows { every, span } => {
                let (every, span) = (ms(every.0), ms(span.0));
                let room = (every / 10).min(every.saturating_sub(span));
                let shift = (room as f64 * unit.clamp(0.0, 1.0)) as u64;
                Some(Windows { every, span, shift })
            }
        };
        Self { start: start.0, windows }
    }

    /// Whether there are windows at all.
    #[must_use]
    pub fn has_windows(&self) -> bool {
        self.windows.is_some()
    }

    /// Whether to be connected at `now`.
    #[must_use]
    pub fn at(&self, now: BootMs) -> Window {
        let Some(Windows { span, .. }) = self.windows else { return Window::Open(None) };
        let opened = self.opening(self.index(now));
        if now.0 < opened + span {
            Window::Open(Some(BootMs(opened + span)))
        } else {
            Window::Closed(self.next(now))
        }
    }

    /// The first window that opens after `now`; `now` itself if there are no windows.
    #[must_use]
    pub fn next(&self, now: BootMs) -> BootMs {
        match self.windows {
            None => now,
            Some(_) => BootMs(self.opening(self.index(now) + 1)),
        }
    }

    /// The number of the last window that opened by `now`.
    fn index(&self, now: BootMs) -> u64 {
        let Some(Windows { every, shift, .. }) = self.windows else { return 0 };
        now.0.saturating_sub(self.start + shift) / every
    }

    fn opening(&self, index: u64) -> u64 {
        match (&self.windows, index) {
            (Some(Windows { every, shift, .. }), 1..) => self.start + shift + index * every,
            _ => self.start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quarter_hours(unit: f64) -> Schedule {
        Schedule::new("every 15m for 2m".parse().expect("windows"), BootMs(5000), unit)
    }

    #[test]
    fn the_first_window_is_the_start_and_the_others_keep_their_distance() {
        let schedule = quarter_hours(0.5);
        let s = |s: u64| BootMs(5000 + s * 1000);
        assert_eq!(schedule.at(s(0)), Window::Open(Some(s(120))));
        assert_eq!(schedule.at(s(119)), Window::Open(Some(s(120))));
        assert_eq!(schedule.at(s(120)), Window::Closed(s(945)), "a quarter of an hour and half of 90 s");
        assert_eq!(schedule.at(s(944)), Window::Closed(s(945)));
        assert_eq!(schedule.at(s(945)), Window::Open(Some(s(1065))));
        assert_eq!((schedule.next(s(945)), schedule.next(s(0))), (s(1845), s(945)));
        let always = Schedule::new(Connect::Always, s(0), 0.5);
        assert_eq!(
            (always.at(s(1)), always.next(s(1)), always.has_windows()),
            (Window::Open(None), s(1), false)
        );
    }

    proptest! {
        #[test]
        fn a_closed_window_opens_when_it_says_and_time_never_stands(
            now in 0u64..100_000_000,
            unit in 0.0f64..1.0,
        ) {
            let schedule = quarter_hours(unit);
            let now = BootMs(now + 5000);
            prop_assert!(schedule.next(now) > now);
            match schedule.at(now) {
                Window::Open(until) => prop_assert!(until.expect("windows") > now),
                Window::Closed(opens) => {
                    prop_assert!(opens > now && opens == schedule.next(now));
                    prop_assert!(matches!(schedule.at(opens), Window::Open(Some(until)) if until.0 == opens.0 + 120_000));
                    prop_assert!(matches!(schedule.at(BootMs(opens.0 - 1)), Window::Closed(_)));
                }
            }
        }
    }
}
