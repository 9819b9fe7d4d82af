//! The topic tree of the public contract (§3), on the local broker under `gw/<id>` and upstream
//! under the uplink's `topic_root`. Pure.
//!
//! One [`Topics`] is one tree; the same functions name the same things in both.

use crate::message::PointKey;

/// A topic tree under one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    root: String,
}

/// What `{gateway}` stands for in `topic_root`.
const GATEWAY: &str = "{gateway}";

impl Topics {
    /// The tree of the local broker: `gw/<id>`.
    #[must_use]
    pub fn local(gateway: &str) -> Self {
        Self { root: format!("gw/{gateway}") }
    }

    /// The tree upstream: `topic_root` with `{gateway}` replaced.
    #[must_use]
    pub fn upstream(topic_root: &str, gateway: &str) -> Self {
        Self { root: topic_root.replace(GATEWAY, gateway) }
    }

    /// The root, without a trailing slash.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// A reading as it comes.
    #[must_use]
    pub fn data(&self, point: &PointKey) -> String {
        self.of_point("data", &point.device, &point.point)
    }

    /// A reading of the backlog lane.
    #[must_use]
    pub fn history(&self, point: &PointKey) -> String {
        self.of_point("history", &point.device, &point.point)
    }

    /// A batch, of the live or the backlog lane, plain or as a zstd frame.
    #[must_use]
    pub fn batch(&self, historical: bool, zstd: bool) -> String {
        let lane = if historical { "/history" } else { "" };
        let suffix = if zstd { "/zst" } else { "" };
        format!("{}/batch{lane}{suffix}", self.root)
    }

    /// A packed message, of the live or the backlog lane.
    #[must_use]
    pub fn compact(&self, historical: bool) -> String {
        let lane = if historical { "/history" } else { "" };
        format!("{}/compact{lane}", self.root)
    }

    /// What a point is: unit, type, interval, …
    #[must_use]
    pub fn meta(&self, device: &str, point: &str) -> String {
        self.of_point("meta", device, point)
    }

    /// Where a point is written.
    #[must_use]
    pub fn command(&self, device: &str, point: &str) -> String {
        self.of_point("command", device, point)
    }

    /// The filter for all commands.
    #[must_use]
    pub fn commands(&self) -> String {
        format!("{}/command/+/+", self.root)
    }

    /// The answers to commands on a point.
    #[must_use]
    pub fn result(&self, device: &str, point: &str) -> String {
        self.of_point("result", device, point)
    }

    /// The gateway's own state; upstream also the last will.
    #[must_use]
    pub fn status(&self) -> String {
        format!("{}/status", self.root)
    }

    /// Health of a part that there is one of: `store`, `broker`.
    #[must_use]
    pub fn status_part(&self, part: &str) -> String {
        format!("{}/status/{part}", self.root)
    }

    /// Health of one of many: kind `bus`, `device` or `uplink`, and its name.
    #[must_use]
    pub fn status_of(&self, kind: &str, name: &str) -> String {
        format!("{}/status/{kind}/{name}", self.root)
    }

    /// Declarations of what will not arrive.
    #[must_use]
    pub fn event_loss(&self) -> String {
        format!("{}/event/loss", self.root)
    }

    /// Corrections of times that were sent before the clock was set.
    #[must_use]
    pub fn event_correction(&self) -> String {
        format!("{}/event/correction", self.root)
    }

    /// State changes worth a person's attention.
    #[must_use]
    pub fn event_alarm(&self) -> String {
        format!("{}/event/alarm", self.root)
    }

    /// What follows the root: `status/store` of `gw/plant-7/status/store`. `None` for a topic of
    /// another tree.
    #[must_use]
    pub fn within<'t>(&self, topic: &'t str) -> Option<&'t str> {
        topic.strip_prefix(self.root.as_str())?.strip_prefix('/')
    }

    /// Device and point of a command topic of this tree.
    #[must_use]
    pub fn command_target<'t>(&self, topic: &'t str) -> Option<(&'t str, &'t str)> {
        let (device, point) = self.within(topic)?.strip_prefix("command/")?.split_once('/')?;
        let plain = |s: &str| !s.is_empty() && !s.contains('/');
        (plain(device) && plain(point)).then_some((device, point))
    }

    fn of_point(&self, kind: &str, device: &str, point: &str) -> String {
        format!("{}/{kind}/{device}/{point}", self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PointKey {
        PointKey { device: "meter1".into(), point: "voltage_l1".into(), unit: "V".into() }
    }

    #[test]
    fn topics_are_those_of_the_contract() {
        let t = Topics::local("plant-7");
        assert_eq!(t.data(&key()), "gw/plant-7/data/meter1/voltage_l1");
        assert_eq!(t.history(&key()), "gw/plant-7/history/meter1/voltage_l1");
        assert_eq!(t.batch(false, false), "gw/plant-7/batch");
        assert_eq!(t.batch(true, false), "gw/plant-7/batch/history");
        assert_eq!(t.batch(true, true), "gw/plant-7/batch/history/zst");
        assert_eq!(t.compact(false), "gw/plant-7/compact");
        assert_eq!(t.compact(true), "gw/plant-7/compact/history");
        assert_eq!(t.meta("meter1", "voltage_l1"), "gw/plant-7/meta/meter1/voltage_l1");
        assert_eq!(t.commands(), "gw/plant-7/command/+/+");
        assert_eq!(t.result("meter1", "setpoint"), "gw/plant-7/result/meter1/setpoint");
        assert_eq!(t.status(), "gw/plant-7/status");
        assert_eq!(t.status_of("bus", "rs485"), "gw/plant-7/status/bus/rs485");
        assert_eq!(t.status_part("store"), "gw/plant-7/status/store");
        assert_eq!(t.event_loss(), "gw/plant-7/event/loss");
        assert_eq!(t.event_correction(), "gw/plant-7/event/correction");
        assert_eq!(t.event_alarm(), "gw/plant-7/event/alarm");
    }

    #[test]
    fn the_upstream_root_takes_the_gateways_name() {
        let t = Topics::upstream("sites/{gateway}/up", "plant-7");
        assert_eq!(t.status(), "sites/plant-7/up/status");
    }

    #[test]
    fn a_command_topic_names_device_and_point_or_nothing() {
        let t = Topics::local("g");
        assert_eq!(t.command_target(&t.command("d", "p")), Some(("d", "p")));
        for other in [
            "gw/g/command/d",
            "gw/g/command/d/p/x",
            "gw/g/command//p",
            "gw/h/command/d/p",
            "gw/gx/command/d/p",
        ] {
            assert_eq!(t.command_target(other), None, "{other}");
        }
    }
}
