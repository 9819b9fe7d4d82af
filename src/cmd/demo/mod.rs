//! `fieldgate demo`: the main job with nothing but this binary. Simulated meters on a real
//! pseudo-terminal at a true 19200 baud, a simulated Modbus TCP device, the local broker, and a second
//! broker as the cloud that goes away and comes back. Ends with the ledger, and well only if it balances.
//!
//! Needs no root, no hardware and no network: everything binds to loopback, on free ports where the
//! usual ones are taken.

mod cloud;
mod plant;
mod view;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use clap::Args as ClapArgs;
use driver_api::Span;
use tokio::time::Instant;

use super::exit::Exit;
use crate::runtime::Gateway;
use crate::status::journal;
use crate::status::snapshot::Rates;
use crate::store::{Ledger, Store};
use cloud::Cloud;
use plant::Plant;
use view::{Frame, View};

/// Show the whole thing with simulated devices and a cloud that goes away and comes back.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// How long it runs before the ledger is drawn up; at least 10s.
    #[arg(long, default_value = "30s")]
    duration: Span,
    /// One line a second instead of the live view.
    #[arg(long)]
    plain: bool,
    /// Nothing but the ledger at the end, as JSON.
    #[arg(long, conflicts_with = "plain")]
    json: bool,
}

/// What happens in a demo, by its share of the duration.
const CLOUD_LEAVES: f64 = 0.3;
const METER_DIES: f64 = 0.4;
const CLOUD_RETURNS: f64 = 0.65;
const METER_RETURNS: f64 = 0.7;
/// How long the queue may take to drain after the last poll.
const DRAIN: Duration = Duration::from_secs(20);

/// Runs the demo. A `config` that was named is not read, and that is said: it is about devices that there are.
///
/// # Errors
/// It cannot start, or the ledger does not balance.
pub fn run(args: &Args, config: Option<&Path>, out: &mut dyn Write) -> Result<(), Exit> {
    if args.duration.0 < Duration::from_secs(10) {
        return Err(Exit::Usage(format!("a demo takes at least 10s, not {}", args.duration)));
    }
    if let Some(config) = config {
        eprintln!(
            "the demo brings its devices and its configuration along; {} is not read",
            config.display()
        );
    }
    journal::start(if args.plain || args.json { "warn" } else { "off" });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(play(args, out));
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

async fn play(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    let cannot = |what: String| Exit::Start(what.into());
    let home = tempfile::Builder::new()
        .prefix("fieldgate-demo-")
        .tempdir()
        .map_err(|e| cannot(format!("temporary directory: {e}")))?;
    let mut cloud = Cloud::start().await.map_err(cannot)?;
    let plant = Plant::start().await.map_err(cannot)?;
    let config = home.path().join("fieldgate.toml");
    std::fs::write(&config, plant.config(cloud.address()))?;
    let loaded = super::load(&config)?;
    let store = loaded.store.path.clone();
    let mut gateway = Gateway::start(loaded).await.map_err(cannot)?;

    let view = View::new(args.plain, args.json);
    view.opening(out, &plant, &gateway, cloud.address())?;
    let start = Instant::now();
    let moment = |share: f64| start + args.duration.0.mul_f64(share);
    let mut rates = Rates::default();
    let mut ticks = tokio::time::interval(view.pace());
    let (mut meter_dead, mut note) = (false, "");
    while start.elapsed() < args.duration.0 {
        ticks.tick().await;
        let now = Instant::now();
        if cloud.is_up() && now >= moment(CLOUD_LEAVES) && now < moment(CLOUD_RETURNS) {
            cloud.leave().await;
            note = "the cloud broker has gone away: readings are kept on disk";
        }
        if !meter_dead && now >= moment(METER_DIES) && now < moment(METER_RETURNS) {
            plant.kill_meter(true);
            meter_dead = true;
            note = "meter3 has died: the others keep their pace";
        }
        if !cloud.is_up() && now >= moment(CLOUD_RETURNS) {
            cloud.come_back().await.map_err(cannot)?;
            note = "the cloud broker is back: live readings at once, the backlog beside them";
        }
        if meter_dead && now >= moment(METER_RETURNS) {
            plant.kill_meter(false);
            meter_dead = false;
            note = "meter3 answers again";
        }
        let snapshot = gateway.snapshot(&mut rates);
        let frame = Frame { at: start.elapsed(), cloud: &cloud, note, snapshot: &snapshot };
        view.draw(out, &frame, &gateway).await?;
    }

    // The taps close first; what was read is stored and, since the link is up, delivered.
    gateway.stop_polling().await;
    let drained = Instant::now() + DRAIN;
    while gateway.snapshot(&mut rates).uplink.values().any(|u| u.queued_readings > 0)
        && Instant::now() < drained
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let taken = gateway.snapshot(&mut rates).gateway.readings;
    let stopped = gateway.stop().await;
    // The account as it stands on disk, read by nobody who wrote it.
    let found = Store::inspect(&store).map_err(|e| Exit::Failed(e.to_string()))?;
    let account = found.uplinks.get("cloud").ok_or(Exit::Failed("the store lost the uplink".to_owned()))?;
    let ledger = Ledger {
        taken: account.taken,
        delivered: account.delivered,
        queued: account.queued,
        lost: account.lost,
        ..Ledger::default()
    };
    let received = cloud.finish().await;
    let verdict = verdict(taken, &ledger, &received);
    view.closing(out, taken, &ledger, &received, &plant, &verdict)?;
    match (verdict, stopped) {
        (Err(why), _) => Err(Exit::Failed(format!("the ledger does not balance: {why}"))),
        (Ok(()), Err(stuck)) => Err(Exit::NotDrained(stuck.join(", "))),
        (Ok(()), Ok(())) => Ok(()),
    }
}

/// Whether the three books agree: what the polls took, what the store says, what the cloud saw.
fn verdict(taken: u64, ledger: &Ledger, cloud: &cloud::Received) -> Result<(), String> {
    if ledger.taken != taken {
        return Err(format!("{taken} readings were taken, the store knows of {}", ledger.taken));
    }
    let sum = ledger.delivered + ledger.queued + ledger.lost;
    if ledger.taken != sum {
        return Err(format!("taken {} is not delivered + queued + declared lost = {sum}", ledger.taken));
    }
    // What is queued may have arrived without its acknowledgement; what is delivered has arrived.
    if cloud.readings < ledger.delivered || cloud.readings > ledger.delivered + ledger.queued {
        return Err(format!("{} were delivered, the cloud saw {}", ledger.delivered, cloud.readings));
    }
    if cloud.different_repeats > 0 || cloud.out_of_order > 0 {
        return Err(format!(
            "{} repeats differ and {} readings came out of order",
            cloud.different_repeats, cloud.out_of_order
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_does_not_balance_is_found_out() {
        let good = Ledger { taken: 10, delivered: 7, queued: 2, lost: 1, ..Ledger::default() };
        let saw = |readings| cloud::Received { readings, ..cloud::Received::default() };
        assert_eq!(verdict(10, &good, &saw(7)), Ok(()));
        assert_eq!(verdict(10, &good, &saw(9)), Ok(()));
        assert!(verdict(11, &good, &saw(7)).is_err());
        assert!(verdict(10, &good, &saw(6)).is_err());
        assert!(verdict(10, &good, &saw(10)).is_err());
        assert!(verdict(10, &Ledger { lost: 0, ..good }, &saw(7)).is_err());
        assert!(verdict(10, &good, &cloud::Received { out_of_order: 1, ..saw(7) }).is_err());
    }
}
