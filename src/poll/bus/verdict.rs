//! What follows from how an exchange ended: for the schedule, for the budget, and for people.
//!
//! The decisions are those of [`crate::poll::health`]; here they are carried out.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use driver_api::{Block, Reason, Sample};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{BusTask, REPLAN};
use crate::poll::health::{Outcome, Standing, Turn};

impl BusTask {
    /// Notes how an exchange ended: of a block, or (`None`) of the device as a whole. Returns the blocks
    /// that are known to be silent with it, though they were not asked.
    pub(super) fn judge(
        &mut self,
        device: usize,
        block: Option<usize>,
        outcome: Outcome,
        now: Instant,
    ) -> Vec<usize> {
        let Some(stats) = self.stats.devices.get(device) else { return Vec::new() };
        match outcome {
            Outcome::Answered => {
                stats.last_ok.store(self.clock.boot().0.max(1), Relaxed);
                self.budget.wipe_tab(device);
                if let Some(unit) = self.units.get(device).copied().flatten() {
                    self.guests.seen(unit);
                }
            }
            Outcome::Silent { cost } => {
                stats.failures.fetch_add(1, Relaxed);
                let standing = block.map_or(Standing::Living, |block| self.health.standing(block));
                let known = matches!(standing, Standing::Offline { .. } | Standing::Resting);
                let began = now.checked_sub(cost).unwrap_or(now);
                let free = self.schedule.has_room(block, began, cost, &self.health);
                if free && !known && self.budget.tabs_have_room(cost, now) {
                    self.budget.put_on_tab(device, cost, now);
                } else {
                    self.budget.spend(cost, standing != Standing::Living, now);
                }
            }
        }
        let unasked = match self.health.after(device, block, outcome, now) {
            Turn::None => Vec::new(),
            Turn::Witness(block) => {
                self.schedule.hasten(block, now);
                Vec::new()
            }
            Turn::Gone(unasked) => {
                self.budget.settle_tab(device, now);
                self.hasten_riders(device);
                unasked
            }
            Turn::Back => {
                self.schedule.hasten_device(device, now);
                self.hasten_riders(device);
                Vec::new()
            }
        };
        self.show(device);
        unasked
    }

    /// News of the whole device: its riders do not wait for their turn.
    fn hasten_riders(&mut self, device: usize) {
        for block in self.bus.plan().blocks.iter().filter(|block| block.device == device) {
            self.cadence.hasten(&block.points);
        }
    }

    /// Brings the device's word in status up to date, and says when it goes and comes.
    fn show(&self, device: usize) {
        let Some(stats) = self.stats.devices.get(device) else { return };
        let (was, now) = (stats.state(), self.health.word(device));
        stats.set_state(now);
        if was != "offline" && now == "offline" {
            warn!(BUS = self.stats.name, DEVICE = stats.name, "device does not answer");
        } else if was == "offline" && now != "offline" {
            info!(BUS = self.stats.name, DEVICE = stats.name, "device answers again");
        }
    }

    /// What the driver learned of a device, for status.
    pub(super) fn show_learned(&self, device: usize) {
        if let Some(stats) = self.stats.devices.get(device) {
            stats.learned(self.bus.learned(device));
        }
    }

    /// What the bus said unasked counts as an answer of the device it came from, or as its silence.
    pub(super) fn heard(&mut self, samples: &[Sample]) {
        let Some(point) = samples.first().map(|s| s.point) else { return };
        let plan = self.bus.plan();
        let (Some(block), Some(device)) = (plan.block_of(point), plan.points.get(point).map(|p| p.device))
        else {
            return;
        };
        let now = Instant::now();
        if samples.iter().any(|s| s.value != Err(Reason::Timeout)) {
            self.judge(device, Some(block), Outcome::Answered, now);
            return;
        }
        // It is told once that a device which speaks by itself has fallen silent.
        self.health.fell_silent(device, now);
        if let Some(stats) = self.stats.devices.get(device) {
            stats.failures.fetch_add(1, Relaxed);
        }
        self.show(device);
    }

    /// Notes how late a block is asked, if it is a living one: who is silent waits on purpose. Whether it is.
    pub(super) fn note_lateness(&mut self, block: usize) -> bool {
        let living = self.health.standing(block) == Standing::Living;
        if living {
            let now = Instant::now();
            self.lateness.note(self.schedule.lateness(block, now), now);
            self.stats.late(&self.lateness);
        }
        living
    }

    /// Takes a better plan over, if the driver has one: what was due and how each block did stays with the
    /// points.
    pub(super) fn replan(&mut self) {
        let now = Instant::now();
        if now < self.replan_at {
            return;
        }
        self.replan_at = now + REPLAN;
        let before: Vec<Block> = self.bus.plan().blocks.clone();
        if !self.bus.replan() {
            return;
        }
        let plan = self.bus.plan();
        let were_in = |block: usize| -> Vec<usize> {
            let points = plan.blocks.get(block).map_or(&[][..], |block| &block.points);
            let held = |old: &Block| old.points.iter().any(|point| points.contains(point));
            before.iter().enumerate().filter(|(_, old)| held(old)).map(|(index, _)| index).collect()
        };
        self.schedule.replan(&plan.blocks, were_in);
        self.health.replan(&plan.blocks, were_in);
        self.cadence.replan(plan);
        info!(
            BUS = self.stats.name,
            "devices begin their answers sooner or later than was planned for: {} requests instead of {}, predicted load {:.1} %",
            plan.blocks.len(),
            before.len(),
            plan.predicted_load() * 100.0
        );
    }

    /// No plan is ever taken over: there is nothing to poll.
    pub(super) fn never_replan(&mut self) {
        self.replan_at = Instant::now() + Duration::from_secs(u64::from(u32::MAX));
    }
}
