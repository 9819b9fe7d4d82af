//! What is remembered of a command: under which key, and how it is told when the command comes again. Pure.
//!
//! What you may rely on:
//! - An id belongs to its point: the same id at another point is another command.
//! - What earlier versions kept, under the id alone, still keeps the id from being carried out again, at any point; the
//!   answer says that nobody knows at which it was.
//! - Who asks for another value under a used id is told so beside what came of the first.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::commander::{Memory, Outcome, State};
use crate::message::Moment;

/// Between point and id. It is in no name of a device or point, so that keys are never ambiguous.
const BETWEEN: char = '\u{1f}';

/// Under which the command is remembered.
#[must_use]
pub fn key(device: &str, point: &str, id: &str) -> String {
    format!("{device}/{point}{BETWEEN}{id}")
}

/// What was found of a command.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recalled {
    /// What was kept of it, if there was anything yet.
    kept: Option<String>,
    /// Whether it is known at which point it was.
    here: bool,
}

/// Looks for an id at a point; `None`: it was never used.
#[must_use]
pub fn recall(memory: &dyn Memory, device: &str, point: &str, id: &str) -> Option<Recalled> {
    if let Some(kept) = memory.recall(&key(device, point, id)) {
        return Some(Recalled { kept, here: true });
    }
    // An id that looks like one of our keys was none of an earlier version.
    let kept = memory.recall(id).filter(|_| !id.contains(BETWEEN))?;
    Some(Recalled { kept, here: false })
}

/// A result as it is kept: as published, and what was asked where that is not the result's value.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<Json>,
}

/// A result, to be kept.
#[must_use]
pub fn kept(outcome: Outcome, asked: Option<Json>) -> String {
    let asked = asked.filter(|asked| outcome.value.as_ref() != Some(asked));
    serde_json::to_string(&Kept { outcome, asked }).unwrap_or_default()
}

impl Recalled {
    /// The answer to a command that asks for `asked` under an id that was used before.
    #[must_use]
    pub fn told(self, id: String, asked: &Json, now: Moment) -> Outcome {
        let kept: Option<Kept> = self.kept.and_then(|json| serde_json::from_str(&json).ok());
        let Some(Kept { mut outcome, asked: before }) = kept else {
            let error = "it was begun before; what came of it is not known".to_owned();
            return Outcome {
                id: Some(id),
                state: State::Accepted,
                value: None,
                error: Some(error),
                ts: now.ts.to_string(),
                clock: now.clock().map(str::to_owned),
            };
        };
        let before = before.or_else(|| outcome.value.clone());
        let why = if !self.here {
            "this id was used before an upgrade, maybe at another point".to_owned()
        } else if let Some(before) = before.filter(|before| !same(before, asked)) {
            format!("this id was used before, for another value ({before})")
        } else {
            return outcome;
        };
        let first = outcome.error.take().map_or_else(String::new, |error| format!("; then: {error}"));
        outcome.error = Some(format!("{why}; nothing was written now{first}"));
        outcome
    }
}

/// Whether two commands asked for the same: 21 and 21.0 are one number.
fn same(a: &Json, b: &Json) -> bool {
    a == b
        || matches!((a, b), (Json::Number(a), Json::Number(b)) if a.is_f64() != b.is_f64() && a.as_f64() == b.as_f64())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(value: Json, error: Option<&str>) -> Outcome {
        let (id, ts) = (Some("c-1".to_owned()), "then".to_owned());
        let error = error.map(str::to_owned);
        Outcome { id, state: State::Verified, value: Some(value), error, ts, clock: None }
    }

    fn told(kept: String, here: bool, asked: &Json) -> Outcome {
        Recalled { kept: Some(kept), here }.told(
            "c-1".to_owned(),
            asked,
            Moment { ts: crate::message::WallMs(0), set: true },
        )
    }

    #[test]
    fn another_value_is_told_from_the_same_however_it_is_written_and_whatever_was_read_back() {
        let near = || kept(outcome(json!(21.299_999_2), None), Some(json!(21.3)));
        assert_eq!(told(near(), true, &json!(21.3)), outcome(json!(21.299_999_2), None));
        let error = told(near(), true, &json!(21.4)).error.expect("a word about it");
        assert!(error.contains("another value (21.3)"), "{error}");
        let whole = || kept(outcome(json!(21), None), Some(json!(21)));
        assert!(!whole().contains("asked"), "not twice: {}", whole());
        assert_eq!(told(whole(), true, &json!(21.0)).error, None);
        let big = || kept(outcome(json!(u64::MAX), None), Some(json!(u64::MAX)));
        assert!(told(big(), true, &json!(u64::MAX - 1)).error.is_some(), "told apart beyond 2^53");
        let failed = kept(outcome(json!(7), Some("read back 7")), Some(json!(21)));
        let error = told(failed, true, &json!(7)).error.expect("a word about it");
        assert!(error.contains("another value (21)") && error.ends_with("; then: read back 7"), "{error}");
    }

    #[test]
    fn what_an_earlier_version_kept_is_never_told_as_if_it_had_been_here() {
        let old = serde_json::to_string(&outcome(json!(40), None)).expect("JSON");
        let answer = told(old, false, &json!(40));
        assert_eq!((answer.state, answer.value), (State::Verified, Some(json!(40))));
        assert!(
            answer
                .error
                .is_some_and(|e| e.contains("before an upgrade") && e.contains("nothing was written"))
        );
    }
}
