//! What the person sees: a picture that is drawn over and over, or one plain line a second; what a script sees: the ledger.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use super::cloud::{Cloud, Received};
use super::plant::Plant;
use crate::cmd::exit::Exit;
use crate::cmd::format::{bytes, count, picture, terminal};
use crate::cmd::{status, watch};
use crate::runtime::Gateway;
use crate::status::Snapshot;
use crate::store::Ledger;

/// How the demo shows itself.
pub struct View {
    plain: bool,
    json: bool,
}

/// One moment.
pub struct Frame<'a> {
    /// Since the start.
    pub at: Duration,
    /// The cloud.
    pub cloud: &'a Cloud,
    /// What happened last.
    pub note: &'a str,
    /// The gateway.
    pub snapshot: &'a Snapshot,
}

impl View {
    /// A view; `plain` for pipes and logs, `json` for scripts.
    #[must_use]
    pub fn new(plain: bool, json: bool) -> Self {
        Self { plain, json }
    }

    /// Time between two frames.
    #[must_use]
    pub fn pace(&self) -> Duration {
        if self.plain || self.json { Duration::from_secs(1) } else { Duration::from_millis(250) }
    }

    /// Says what is about to be seen.
    ///
    /// # Errors
    /// Output cannot be written.
    pub fn opening(
        &self,
        out: &mut dyn Write,
        plant: &Plant,
        gateway: &Gateway,
        cloud: SocketAddr,
    ) -> Result<(), Exit> {
        if self.json {
            return Ok(());
        }
        let local = gateway.addresses().first().map(|(_, a)| a.to_string()).unwrap_or_default();
        writeln!(out, "three simulated meters on {}", plant.terminal())?;
        writeln!(out, "a simulated heat pump on Modbus TCP {}", plant.tcp())?;
        writeln!(out, "local broker on {local}: mosquitto_sub -p {} -t 'gw/#' -v", port(&local))?;
        writeln!(out, "a second broker as the cloud on {cloud}")?;
        Ok(())
    }

    /// Draws one frame.
    ///
    /// # Errors
    /// Output cannot be written.
    pub async fn draw(&self, out: &mut dyn Write, frame: &Frame<'_>, gateway: &Gateway) -> Result<(), Exit> {
        if self.json {
            return Ok(());
        }
        if self.plain {
            writeln!(out, "{}", line(frame))?;
        } else {
            let scene = scene(frame, &gateway.values().await);
            write!(out, "{}", picture(&scene, terminal()))?;
        }
        out.flush()?;
        Ok(())
    }

    /// Draws up the ledger.
    ///
    /// # Errors
    /// Output cannot be written.
    pub fn closing(
        &self,
        out: &mut dyn Write,
        taken: u64,
        ledger: &Ledger,
        cloud: &Received,
        plant: &Plant,
        verdict: &Result<(), String>,
    ) -> Result<(), Exit> {
        if self.json {
            let ledger = json!({
                "served": plant.served(), "taken": ledger.taken, "delivered": ledger.delivered,
                "queued": ledger.queued, "declared_lost": ledger.lost,
                "cloud": { "readings": cloud.readings, "history": cloud.history, "repeats": cloud.repeats },
                "balances": verdict.is_ok(),
            });
            writeln!(out, "{ledger:#}")?;
            return Ok(());
        }
        let row = |n: u64| format!("{:>10}", count(n as f64));
        writeln!(out)?;
        writeln!(out, "the devices served  {} values", row(plant.served()))?;
        writeln!(out, "the polls took      {} readings, failed ones included", row(taken))?;
        writeln!(out, "the ledger of the queue, as it stands on disk:")?;
        writeln!(out, "  taken             {}", row(ledger.taken))?;
        writeln!(out, "  = delivered       {}", row(ledger.delivered))?;
        writeln!(out, "  + queued          {}", row(ledger.queued))?;
        writeln!(out, "  + declared lost   {}", row(ledger.lost))?;
        writeln!(
            out,
            "the cloud saw       {} different readings, {} of them as history, {} repeats",
            row(cloud.readings),
            count(cloud.history as f64),
            count(cloud.repeats as f64)
        )?;
        match verdict {
            Ok(()) => writeln!(out, "the ledger balances: taken = delivered + queued + declared lost")?,
            Err(why) => writeln!(out, "THE LEDGER DOES NOT BALANCE: {why}")?,
        }
        Ok(())
    }
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or_default()
}

fn line(frame: &Frame<'_>) -> String {
    let uplink = frame.snapshot.uplink.values().next();
    let (queued, delivered, taken, lost) =
        uplink.map_or((0, 0, 0, 0), |u| (u.queued_readings, u.delivered, u.taken, u.declared_lost));
    format!(
        "{:>4}s  cloud {:<4}  taken {taken}  delivered {delivered}  queued {queued}  lost {lost}  cloud saw {}  {}",
        frame.at.as_secs(),
        if frame.cloud.is_up() { "up" } else { "away" },
        frame.cloud.received().readings,
        frame.note
    )
}

fn scene(frame: &Frame<'_>, values: &serde_json::Value) -> String {
    let snapshot = serde_json::to_value(frame.snapshot).unwrap_or_default();
    let rows: Vec<&serde_json::Value> = values.as_array().into_iter().flatten().collect();
    let uplink = frame.snapshot.uplink.values().next();
    let queued = uplink.map_or(0, |u| u.queued_readings);
    let bar = "#".repeat(usize::try_from(queued / 50).unwrap_or(0).min(60));
    let ledger = uplink.map_or(String::new(), |u| {
        format!(
            "taken {} = delivered {} + queued {} + declared lost {}",
            count(u.taken as f64),
            count(u.delivered as f64),
            count(u.queued_readings as f64),
            count(u.declared_lost as f64)
        )
    });
    // What matters stands first: a small terminal cuts the rest off.
    format!(
        "fieldgate demo  {:>3}s   {}\n\nlink     {}\nqueue    {:>6} {bar} {}\nledger   {ledger}\ncloud    saw {} readings, {} as history, {} repeats\n\n{}\n{}",
        frame.at.as_secs(),
        frame.note,
        if frame.cloud.is_up() { "the cloud is there" } else { "THE CLOUD IS AWAY" },
        count(queued as f64),
        bytes(uplink.map_or(0.0, |u| u.queued_bytes as f64)),
        count(frame.cloud.received().readings as f64),
        count(frame.cloud.received().history as f64),
        count(frame.cloud.received().repeats as f64),
        status::render(&snapshot),
        watch::table(&rows),
    )
}
