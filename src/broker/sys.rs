//! The broker's figures on `$SYS/broker/…`, under the names that mosquitto gave them and tools know.
//!
//! Pure but for the task that publishes what changed. Figures that only mosquitto has (its heap, its persistent store) are left out
//! rather than made up. Loads are averages of what came a minute, as mosquitto weighs them.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{Broker, BrokerStats, Inner};
use crate::message::Message;

/// One of the broker's figures.
type Figure = fn(&BrokerStats) -> u64;

/// Loads: their names, and the figure whose growth they are.
const LOADS: [(&str, Figure); 8] = [
    ("messages/received", |s| s.packets_in),
    ("messages/sent", |s| s.packets_out),
    ("publish/received", |s| s.publishes_in),
    ("publish/sent", |s| s.publishes_out),
    ("publish/dropped", |s| s.dropped),
    ("bytes/received", |s| s.bytes_in),
    ("bytes/sent", |s| s.bytes_out),
    ("connections", |s| s.logins),
];
const MINUTES: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// The averages.
#[derive(Debug, Default)]
struct Loads {
    last: [u64; LOADS.len()],
    averages: [[f64; MINUTES.len()]; LOADS.len()],
}

impl Loads {
    #[expect(clippy::cast_precision_loss, reason = "what comes in some seconds")]
    fn advance(&mut self, stats: &BrokerStats, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64().max(0.001);
        for ((last, averages), (_, figure)) in self.last.iter_mut().zip(&mut self.averages).zip(LOADS) {
            let now = figure(stats);
            let a_minute = now.saturating_sub(*last) as f64 * 60.0 / seconds;
            *last = now;
            for (average, (_, span)) in averages.iter_mut().zip(MINUTES) {
                *average += (a_minute - *average) * (1.0 - (-seconds / span).exp());
            }
        }
    }
}

/// Topics below `$SYS/broker/` and their payloads.
fn topics(stats: &BrokerStats, uptime: Duration, most: u64, loads: &Loads) -> Vec<(String, String)> {
    let total = stats.clients + stats.sessions_away;
    let mut list: Vec<(String, String)> = [
        ("clients/total", total),
        ("clients/connected", stats.clients),
        ("clients/active", stats.clients),
        ("clients/disconnected", stats.sessions_away),
        ("clients/inactive", stats.sessions_away),
        ("clients/maximum", most),
        ("clients/expired", stats.sessions_ended),
        ("messages/received", stats.packets_in),
        ("messages/sent", stats.packets_out),
        ("publish/messages/received", stats.publishes_in),
        ("publish/messages/sent", stats.publishes_out),
        ("publish/messages/dropped", stats.dropped),
        ("publish/bytes/received", stats.publish_bytes_in),
        ("publish/bytes/sent", stats.publish_bytes_out),
        ("bytes/received", stats.bytes_in),
        ("bytes/sent", stats.bytes_out),
        ("retained messages/count", stats.retained),
        ("subscriptions/count", stats.subscriptions),
        ("shared_subscriptions/count", stats.shared_subscriptions),
    ]
    .into_iter()
    .map(|(name, figure)| (name.to_owned(), figure.to_string()))
    .collect();
    list.push(("version".to_owned(), concat!("fieldgate version ", env!("CARGO_PKG_VERSION")).to_owned()));
    list.push(("uptime".to_owned(), format!("{} seconds", uptime.as_secs())));
    for ((name, _), averages) in LOADS.iter().zip(&loads.averages) {
        for ((minutes, _), average) in MINUTES.iter().zip(averages) {
            list.push((format!("load/{name}/{minutes}"), format!("{average:.2}")));
        }
    }
    list
}

/// Publishes what changed, as often as `every` says (zero: not, and what was shown is cleared), until the broker is gone. It
/// holds none: a broker that nobody holds any more stops.
pub(super) async fn publish(broker: Weak<Inner>, mut every: watch::Receiver<Duration>) {
    let start = Instant::now();
    let mut shown: HashMap<String, String> = HashMap::new();
    let (mut loads, mut most, mut last) = (Loads::default(), 0, start);
    loop {
        let span = *every.borrow_and_update();
        let Some(inner) = broker.upgrade() else { return };
        let broker = Broker { inner };
        if span.is_zero() {
            let gone = shown.drain().map(|(name, _)| Message::new(topic(&name), Vec::new(), true));
            broker.publish(gone.collect());
            drop(broker);
            if every.changed().await.is_err() {
                return;
            }
            continue;
        }
        let (stats, now) = (broker.stats(), Instant::now());
        most = most.max(stats.clients + stats.sessions_away);
        if now > last {
            loads.advance(&stats, now - last);
            last = now;
        }
        let new = topics(&stats, now - start, most, &loads);
        let mut changed = Vec::new();
        for (name, figure) in new {
            if shown.get(&name) != Some(&figure) {
                changed.push(Message::new(topic(&name), figure.clone(), true));
                shown.insert(name, figure);
            }
        }
        broker.publish(changed);
        drop(broker);
        tokio::select! {
            () = sleep(span) => {}
            changed = every.changed() => if changed.is_err() { return },
        }
    }
}

fn topic(name: &str) -> String {
    format!("$SYS/broker/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_averages_a_minute_that_settle_at_what_comes() {
        let mut loads = Loads::default();
        let mut stats = BrokerStats::default();
        for _ in 0..720 {
            stats.publishes_in += 50; // 5 a second, 300 a minute
            loads.advance(&stats, Duration::from_secs(10));
        }
        let topics: HashMap<_, _> =
            topics(&stats, Duration::from_secs(7200), 3, &loads).into_iter().collect();
        for minutes in ["1min", "5min", "15min"] {
            let shown: f64 = topics[&format!("load/publish/received/{minutes}")].parse().expect("a number");
            assert!((shown - 300.0).abs() < 1.0, "{minutes}: {shown}");
        }
        assert_eq!((&*topics["uptime"], &*topics["clients/maximum"]), ("7200 seconds", "3"));
        assert_eq!(topics["load/publish/sent/1min"], "0.00");
    }
}
