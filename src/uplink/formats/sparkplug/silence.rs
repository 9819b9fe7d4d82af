//! Whether a device answers, from what its status says and from its readings. Pure.
//!
//! The status says when it is lost: who misses one answer is not. But it comes about a second late, so a value that was
//! sampled after it was said is believed rather than the status.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// The devices that have a status.
#[derive(Debug, Default)]
pub struct Silence {
    devices: BTreeMap<String, Device>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Device {
    silent: bool,
    /// When the status said last that it is lost, if it has said nothing else since: ms since 1970.
    lost_at: Option<i64>,
    /// When its newest value was sampled, since it is silent.
    newest: Option<i64>,
}

#[derive(Deserialize)]
struct Status {
    state: String,
}

/// What follows from a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// It is silent from now on.
    Lost,
    /// It is back.
    Back,
}

impl Silence {
    /// What a device's status says, at this wall time in ms; an empty one is of a device that is no longer configured.
    pub fn status(&mut self, name: &str, payload: &[u8], now: i64) -> News {
        let Ok(status) = serde_json::from_slice::<Status>(payload) else {
            self.devices.remove(name);
            return News::None;
        };
        let device = self.devices.entry(name.to_owned()).or_default();
        if status.state != "offline" {
            let back = std::mem::take(device).silent;
            return if back { News::Back } else { News::None };
        }
        // A value that came since it was last said: this may still be the word from before it.
        let answered = device.lost_at.is_some_and(|at| device.newest.is_some_and(|value| value > at));
        device.lost_at = Some(now);
        if device.silent || answered {
            return News::None;
        }
        device.silent = true;
        News::Lost
    }

    /// A value of a device, and when it was sampled. `true`: so it is back.
    pub fn value(&mut self, name: &str, sampled: i64) -> bool {
        let Some(device) = self.devices.get_mut(name) else { return false };
        let Some(lost_at) = device.lost_at else { return false };
        device.newest = device.newest.max(Some(sampled));
        sampled > lost_at && std::mem::replace(&mut device.silent, false)
    }

    /// Whether a device does not answer.
    #[must_use]
    pub fn is_silent(&self, name: &str) -> bool {
        self.devices.get(name).is_some_and(|device| device.silent)
    }

    /// All that do not answer.
    #[must_use]
    pub fn all(&self) -> BTreeSet<String> {
        self.devices.iter().filter(|(_, device)| device.silent).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFLINE: &[u8] = br#"{"state":"offline","failures":3}"#;
    const SUSPECT: &[u8] = br#"{"state":"suspect"}"#;

    #[test]
    fn who_misses_an_answer_is_not_lost_and_who_is_lost_is_lost_once() {
        let mut silence = Silence::default();
        assert_eq!(silence.status("d", SUSPECT, 1), News::None);
        assert_eq!(silence.status("d", OFFLINE, 2), News::Lost);
        assert_eq!(silence.status("d", OFFLINE, 3), News::None);
        assert!(silence.is_silent("d") && !silence.is_silent("e"));
        assert_eq!(silence.status("d", SUSPECT, 4), News::Back);
        assert_eq!(silence.status("d", SUSPECT, 5), News::None);
        assert!(silence.all().is_empty());
    }

    #[test]
    fn a_value_from_after_the_word_is_believed_and_an_older_one_is_history() {
        let mut silence = Silence::default();
        assert_eq!(silence.status("d", OFFLINE, 10), News::Lost);
        assert!(!silence.value("d", 9) && silence.is_silent("d"));
        assert!(silence.value("d", 11) && !silence.is_silent("d"));
        // The same word again, only late.
        assert_eq!(silence.status("d", OFFLINE, 12), News::None);
        // And again, with no value since: it is lost again.
        assert_eq!(silence.status("d", OFFLINE, 13), News::Lost);
    }

    #[test]
    fn a_device_that_is_not_configured_any_more_is_forgotten() {
        let mut silence = Silence::default();
        assert_eq!(silence.status("d", OFFLINE, 10), News::Lost);
        assert_eq!(silence.status("d", b"", 11), News::None);
        assert!(!silence.is_silent("d"));
    }
}
