//! Another configuration for a running gateway: what did not change keeps running, connections
//! included; what cannot be taken over without a restart is refused and changes nothing.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::cloud::RunningUplink;
use super::control;
use super::ending::GRACE;
use super::field::RunningBus;
use super::forward;
use super::gateway::Gateway;
use crate::config::{CompiledBus, Loaded};
use crate::message::{Message, PointKey, WallMs};
use crate::store::PARKED_MS;

/// What is said of a key that is read at the start only.
pub(super) const WAITING: &str = "only a restart takes over";

impl Gateway {
    /// Takes over another configuration. What did not change keeps running, connections included.
    /// Returns what changed, in words.
    ///
    /// # Errors
    /// What cannot be taken over without a restart, or failed; then nothing changed.
    pub async fn reload(&mut self, loaded: Loaded) -> Result<Vec<String>, String> {
        if loaded.gateway.id != self.id {
            return Err(format!("gateway.id changed from `{}`: restart fieldgate", self.id));
        }
        if loaded.gateway.clock != self.clock_trust {
            return Err("gateway.clock changed: restart fieldgate".to_owned());
        }
        if control::socket_path(&loaded.store.path).display().to_string() != self.control {
            return Err("store.path changed: restart fieldgate".to_owned());
        }
        let mut changes = self.broker.reconfigure(&loaded.broker).await.map_err(|e| e.to_string())?;
        let waiting = self.broker_at_start.for_the_next_start(&loaded.broker);
        changes.extend(waiting.iter().map(|key| format!("{WAITING} broker.{key}")));
        let names: Vec<String> = loaded.uplinks.iter().map(|u| u.name.clone()).collect();
        let deadline = Instant::now() + GRACE;

        let mut wanted: BTreeMap<String, CompiledBus> =
            loaded.buses.into_iter().map(|b| (b.name.clone(), b)).collect();
        let gone: Vec<String> = self
            .buses
            .iter()
            .filter(|(name, bus)| wanted.get(*name).is_none_or(|w| w.fingerprint != bus.fingerprint))
            .map(|(name, _)| name.clone())
            .collect();
        let stopping: Vec<_> = gone.iter().filter_map(|name| self.buses.remove_entry(name)).collect();
        // Commands to them are refused from now on, instead of waiting for a bus that stops.
        self.targets_changed();
        stopping.iter().for_each(|(_, bus)| bus.stop());
        let mut removed_points = Vec::new();
        for (name, bus) in stopping {
            removed_points.extend(bus.names().to_vec());
            bus.ended(deadline).await;
            let stays = wanted.contains_key(&name);
            changes.push(format!("bus {name} {}", if stays { "changed" } else { "removed" }));
        }
        wanted.retain(|name, _| !self.buses.contains_key(name));
        for (name, bus) in wanted {
            if !changes.contains(&format!("bus {name} changed")) {
                changes.push(format!("bus {name} added"));
            }
            self.start_bus(bus);
        }

        let gone: Vec<String> = self
            .uplinks
            .iter()
            .filter(|(_, running)| !loaded.uplinks.contains(&running.config))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(uplink) = self.uplinks.remove(&name) {
                uplink.stop();
                let drain = uplink.source.drain.clone();
                uplink.ended(deadline).await;
                let stays = names.contains(&name);
                let waiting = drain.ledger().queued;
                if !stays && waiting > 0 {
                    let until = WallMs(self.clock.wall().0.saturating_add(PARKED_MS));
                    tracing::warn!(
                        UPLINK = name,
                        "{waiting} readings wait for it; its position is kept until {until}, and of them what other uplinks or `history` keep: if it is configured again until then these go out, and what is gone is declared lost"
                    );
                }
                changes.push(format!("uplink {name} {}", if stays { "changed" } else { "removed" }));
            }
        }
        self.broker.tap(forward::taps(&loaded.uplinks, &self.id));
        self.store.reconfigure(&loaded.store, &names, forward::wishes(&loaded.uplinks, &self.id));
        self.commit_interval = loaded.store.commit_interval.0;
        self.broker.keep_within(self.commit_interval);
        for config in loaded.uplinks {
            if !self.uplinks.contains_key(&config.name) {
                if !changes.contains(&format!("uplink {} changed", config.name)) {
                    changes.push(format!("uplink {} added", config.name));
                }
                self.start_uplink(config).await;
            }
        }
        if changes.is_empty() && self.sources.borrow().config_hash != loaded.hash {
            changes.push("settings changed".to_owned());
        }
        self.sources.send_modify(|sources| sources.config_hash = loaded.hash);
        self.settled(removed_points);
        Ok(changes)
    }

    /// Clears what is retained of points that no longer exist.
    pub(super) fn forget(&self, points: Vec<(String, String)>) {
        let targets = self.targets.borrow().clone();
        let messages = points
            .into_iter()
            .filter(|name| !targets.contains_key(name))
            .flat_map(|(device, point)| {
                let key = PointKey { device, point, unit: String::new() };
                [self.topics.data(&key), self.topics.meta(&key.device, &key.point)]
            })
            .map(|topic| Message::new(topic, "", true))
            .collect();
        (self.publish)(messages);
    }

    /// Starts dead buses and uplinks again, each as it was: whose section of `loaded` is another one by now
    /// is left for a reload, for half of an edited file is nobody's configuration. Returns these names.
    pub async fn revive(&mut self, loaded: Loaded) -> Vec<String> {
        let mut edited = self.dead();
        for bus in loaded.buses {
            let same = |b: &RunningBus| b.is_dead() && b.fingerprint == bus.fingerprint;
            if self.buses.get(&bus.name).is_some_and(same) {
                edited.retain(|name| *name != format!("bus {}", bus.name));
                self.start_bus(bus);
            }
        }
        for uplink in loaded.uplinks {
            let same = |u: &RunningUplink| u.is_dead() && u.config == uplink;
            if self.uplinks.get(&uplink.name).is_some_and(same) {
                edited.retain(|name| *name != format!("uplink {}", uplink.name));
                self.start_uplink(uplink).await;
            }
        }
        self.tables_changed();
        edited
    }
}
