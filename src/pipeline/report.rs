//! Report by exception: which samples become readings. Pure; one [`Reporter`] per bus.
//!
//! - Without a deadband every good sample is a reading.
//! - With one, a change smaller than the deadband is not reported, but something is at least every
//!   `max_interval`.
//! - A change of quality is always reported, at once. The same failure again is reported every
//!   `max_interval`, not on every attempt.

use std::time::Duration;

use driver_api::{Quality, Reason, Sample, Value};
use tokio::time::Instant;

use super::rule::Rule;
use crate::clock::Clock;
use crate::config::model::Deadband;
use crate::message::{BootMs, Reading};

/// The state behind report by exception for all points of one bus.
#[derive(Debug)]
pub struct Reporter {
    points: Vec<Point>,
}

#[derive(Debug)]
struct Point {
    rule: Rule,
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    value: Option<Value>,
    quality: Quality,
    at: Instant,
}

impl Reporter {
    /// One rule per point, in the order of the bus's plan.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { points: rules.into_iter().map(|rule| Point { rule, last: None }).collect() }
    }

    /// The rule of a point.
    #[must_use]
    pub fn rule(&self, point: usize) -> Option<&Rule> {
        self.points.get(point).map(|p| &p.rule)
    }

    /// Turns samples into the readings that are worth reporting, in order.
    pub fn apply(&mut self, samples: &[Sample], clock: &dyn Clock) -> Vec<Reading> {
        let mut readings = Vec::with_capacity(samples.len());
        // What one exchange brought was sampled at one moment, and has one time to the millisecond.
        let mut moment: Option<(Instant, BootMs)> = None;
        for sample in samples {
            let at = match moment {
                Some((at, boot)) if at == sample.at => boot,
                _ => clock.boot_of(sample.at),
            };
            moment = Some((sample.at, at));
            if let Some(point) = self.points.get_mut(sample.point) {
                readings.extend(point.report(sample, at));
            }
        }
        readings
    }

    /// The same failure for several points at once, now.
    pub fn fail(&mut self, points: &[usize], reason: Reason, clock: &dyn Clock) -> Vec<Reading> {
        let at = Instant::now();
        let samples: Vec<Sample> =
            points.iter().map(|&point| Sample { point, value: Err(reason), at }).collect();
        self.apply(&samples, clock)
    }
}

impl Point {
    fn report(&mut self, sample: &Sample, at: BootMs) -> Option<Reading> {
        let (value, quality) = self.rule.judge(sample);
        if !self.worth_reporting(value.as_ref(), quality, sample.at) {
            return None;
        }
        self.last = Some(Last { value: value.clone(), quality, at: sample.at });
        let key = self.rule.key.clone();
        Some(match (value, quality) {
            (Some(value), Quality::Good) => Reading::good(key, at, value),
            (Some(value), Quality::Uncertain(reason)) => Reading::uncertain(key, at, value, reason),
            (_, quality) => Reading::bad(key, at, quality.reason().unwrap_or(Reason::SensorFault)),
        })
    }

    fn worth_reporting(&self, value: Option<&Value>, quality: Quality, at: Instant) -> bool {
        let Some(last) = &self.last else {
            return true;
        };
        if quality != last.quality {
            return true;
        }
        let since = at.saturating_duration_since(last.at);
        // A device that speaks once an interval is a little early every other time.
        if since < self.rule.min_interval - self.rule.min_interval / 4 {
            return false;
        }
        let (Some(value), Some(before)) = (value, &last.value) else {
            return since >= self.rule.max_interval;
        };
        let Some(deadband) = self.rule.deadband else {
            return true;
        };
        // A poll that comes a moment early must not push the report into the next round.
        let tolerance = Duration::from_millis(20);
        since + tolerance >= self.rule.max_interval || moved(before, value, deadband)
    }
}

impl Rule {
    /// The value people see, and how far to trust it.
    fn judge(&self, sample: &Sample) -> (Option<Value>, Quality) {
        let raw = match &sample.value {
            Ok(raw) => raw.clone(),
            Err(reason) => return (None, Quality::Bad(*reason)),
        };
        if let Some(values) = &self.values {
            let known = values.word(&raw).is_some();
            let quality = if known { Quality::Good } else { Quality::Uncertain(Reason::OutOfRange) };
            return (Some(self.scaled(raw)), quality);
        }
        let value = self.scaled(raw);
        match value.as_f64() {
            Some(number) if !number.is_finite() => (None, Quality::Bad(Reason::SensorFault)),
            Some(number)
                if self.min.is_some_and(|min| number < min) || self.max.is_some_and(|max| number > max) =>
            {
                (Some(value), Quality::Uncertain(Reason::OutOfRange))
            }
            _ => (Some(value), Quality::Good),
        }
    }
}

/// Whether the change is at least the deadband. Text and bits move when they differ.
fn moved(before: &Value, now: &Value, deadband: Deadband) -> bool {
    let (Value::Int(_) | Value::UInt(_) | Value::Float(_), Some(a), Some(b)) =
        (now, before.as_f64(), now.as_f64())
    else {
        return before != now;
    };
    let least = match deadband {
        Deadband::Absolute(x) => x,
        Deadband::Relative(share) => share * a.abs(),
    };
    let change = (a - b).abs();
    change > 0.0 && change >= least
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::SystemClock;
    use crate::message::PointKey;

    fn rule() -> Rule {
        let key = PointKey { device: "d".into(), point: "p".into(), unit: "V".into() };
        Rule::plain(Arc::new(key), "f32")
    }

    /// Feeds one value a second and tells which seconds were reported.
    fn reported(rule: Rule, values: &[Result<f64, Reason>]) -> Vec<usize> {
        let clock = SystemClock::new(true);
        let mut reporter = Reporter::new(vec![rule]);
        let start = Instant::now();
        (0..values.len())
            .filter(|&second| {
                let value = values[second].map(Value::Float);
                let at = start + Duration::from_secs(second as u64);
                !reporter.apply(&[Sample { point: 0, value, at }], &clock).is_empty()
            })
            .collect()
    }

    #[test]
    fn an_enumeration_is_its_word_and_a_number_that_is_not_listed_is_uncertain() {
        let values = serde_json::from_str(r#"{"0":"off","1":"on"}"#).expect("good");
        let rule = Rule { values: Some(Arc::new(values)), ..rule() };
        let judged = |raw| {
            let sample = Sample { point: 0, value: Ok(Value::Int(raw)), at: Instant::now() };
            rule.judge(&sample)
        };
        assert_eq!(judged(1), (Some(Value::Text("on".into())), Quality::Good));
        assert_eq!(judged(7), (Some(Value::Text("7".into())), Quality::Uncertain(Reason::OutOfRange)));
    }

    #[test]
    fn without_a_deadband_everything_is_reported() {
        assert_eq!(reported(rule(), &[Ok(1.0), Ok(1.0), Ok(1.0)]), [0, 1, 2]);
    }

    #[test]
    fn a_deadband_holds_small_changes_back_but_not_for_ever() {
        let rule =
            Rule { deadband: Some(Deadband::Absolute(0.5)), max_interval: Duration::from_secs(3), ..rule() };
        let values = [1.0, 1.1, 1.2, 1.3, 1.4, 2.0, 2.1].map(Ok);
        assert_eq!(reported(rule, &values), [0, 3, 5]);
    }

    #[test]
    fn a_failure_is_reported_at_once_and_then_only_now_and_then() {
        let rule = Rule { max_interval: Duration::from_secs(3), ..rule() };
        let t = Err(Reason::Timeout);
        let values = [Ok(1.0), t, t, t, t, Err(Reason::Crc), Ok(1.0)];
        assert_eq!(reported(rule, &values), [0, 1, 4, 5, 6]);
    }

    #[test]
    fn outside_its_limits_a_value_is_uncertain_and_kept() {
        let clock = SystemClock::new(true);
        let mut reporter = Reporter::new(vec![Rule { max: Some(300.0), ..rule() }]);
        let sample = Sample { point: 0, value: Ok(Value::Float(301.0)), at: Instant::now() };
        let readings = reporter.apply(&[sample], &clock);
        assert_eq!(readings[0].quality(), Quality::Uncertain(Reason::OutOfRange));
        assert_eq!(readings[0].value(), Some(&Value::Float(301.0)));
    }

    /// A clock whose time jumps whenever it is asked.
    #[derive(Debug, Default)]
    struct Jumpy(std::sync::atomic::AtomicU64);

    impl Clock for Jumpy {
        fn wall(&self) -> crate::message::WallMs {
            crate::message::WallMs(0)
        }
        fn boot(&self) -> BootMs {
            BootMs(self.0.fetch_add(1000, std::sync::atomic::Ordering::Relaxed))
        }
        fn synced(&self) -> bool {
            true
        }
        fn boot_id(&self) -> &str {
            "b"
        }
    }

    #[test]
    fn what_was_sampled_at_one_moment_has_one_time() {
        let mut reporter = Reporter::new(vec![rule(), rule()]);
        let at = Instant::now();
        let samples = [0, 1].map(|point| Sample { point, value: Ok(Value::Int(1)), at });
        let readings = reporter.apply(&samples, &Jumpy::default());
        assert_eq!(readings[0].at, readings[1].at);
    }

    proptest! {
        /// The law of a deadband: what a subscriber last heard is never further off than the deadband.
        #[test]
        fn the_last_report_is_never_further_off_than_the_deadband(
            values in prop::collection::vec(-100.0f64..100.0, 1..200),
            deadband in 0.1f64..10.0,
        ) {
            let rule = Rule { deadband: Some(Deadband::Absolute(deadband)), ..rule() };
            let inputs: Vec<_> = values.iter().copied().map(Ok).collect();
            let seconds = reported(rule, &inputs);
            let mut heard = f64::NAN;
            for (second, value) in values.iter().enumerate() {
                if seconds.contains(&second) {
                    heard = *value;
                }
                prop_assert!((heard - value).abs() <= deadband);
            }
        }
    }
}
