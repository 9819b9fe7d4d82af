//! rumqttd as the routing engine: its router, one link, one filter, and tickets of eight bytes.
//!
//! rumqttd 0.20 is fast, but a topic that starts with a letter outside ASCII ends its router thread, its
//! log overwrites what a slow reader has not read, and it knows none of the rules for clients. So
//! no byte of a client comes here: the topic is a constant, the payload is a number, and the hub never has
//! more numbers inside than one segment of the log holds. The router's thread cannot be ended (rumqttd has
//! no word for it): a closed broker leaves one idle thread behind.

use bytes::Bytes;
use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::{Notification, Router, RouterConfig, Strategy};
use tokio::sync::mpsc;

use super::engine::{Dead, Engine, Returned, Running, Ticket};
use crate::bounds::{self, BROKER_INSIDE};

/// The one topic, which is also the one filter. ASCII and without a wildcard.
const TOPIC: &str = "t";
/// What rumqttd counts for an entry: topic, payload and four.
const ENTRY_BYTES: usize = TOPIC.len() + size_of::<Ticket>() + 4;
const SEGMENT_BYTES: usize = 2 * 1024;
// What is inside fits twice into one segment, and the log keeps two besides the active one.
const _: () = assert!(SEGMENT_BYTES / ENTRY_BYTES >= 2 * BROKER_INSIDE);

/// The ticket that ends the pump, when the broker stops.
const STOP: Ticket = Ticket::MAX;

struct Rumqttd {
    link: LinkTx,
}

/// Starts a router thread and a thread that reads its link.
///
/// # Errors
/// A sentence: a thread could not be started, or the router did not answer.
pub fn start() -> Result<Running, String> {
    let (engine, returned) = build()?;
    Ok(Running { engine: Box::new(engine), returned })
}

fn build() -> Result<(Rumqttd, mpsc::Receiver<Returned>), String> {
    let config = RouterConfig {
        max_connections: 2,
        max_outgoing_packet_count: 100,
        max_segment_size: SEGMENT_BYTES,
        max_segment_count: 2,
        custom_segment: None,
        initialized_filters: None,
        shared_subscriptions_strategy: Strategy::default(),
    };
    let router = Router::new(0, config).spawn();
    let (mut link, reader, _) =
        LinkBuilder::new("fieldgate", router).build().map_err(|e| format!("rumqttd gives no link: {e}"))?;
    link.subscribe(TOPIC).map_err(|e| format!("rumqttd takes no subscription: {e}"))?;
    let (tx, returned) = mpsc::channel(bounds::BROKER_TICKETS);
    std::thread::Builder::new()
        .name("broker-pump".to_owned())
        .spawn(move || pump(reader, &tx))
        .map_err(|e| format!("no thread for the routing engine: {e}"))?;
    Ok((Rumqttd { link }, returned))
}

impl Engine for Rumqttd {
    fn name(&self) -> &'static str {
        "rumqttd"
    }

    fn push(&mut self, ticket: Ticket) -> Result<(), Dead> {
        let payload = Bytes::copy_from_slice(&ticket.to_be_bytes());
        match self.link.try_publish(TOPIC, payload) {
            // If the router's channel is full, the entry is in the link's buffer all the same, and goes with
            // one of the wake-ups of which the channel is full. If the router is gone, the pump says so.
            Ok(_) | Err(LinkError::TrySend(_)) => Ok(()),
            Err(_) => Err(Dead),
        }
    }
}

impl Drop for Rumqttd {
    fn drop(&mut self) {
        let _ = self.push(STOP);
    }
}

/// Reads the link until the router dies, the hub is gone, or [`STOP`] comes.
fn pump(mut reader: LinkRx, tx: &mpsc::Sender<Returned>) {
    let mut expected = None;
    loop {
        match reader.recv() {
            Ok(Some(Notification::Forward(forward))) => {
                let Ok(bytes) = forward.publish.payload.as_ref().try_into() else { continue };
                let ticket = Ticket::from_be_bytes(bytes);
                let offset = forward.cursor.map(|(_, offset)| offset);
                let gap = match (expected, offset) {
                    (Some(expected), Some(offset)) => offset.saturating_sub(expected),
                    _ => 0,
                };
                expected = offset.map(|o| o + 1);
                if ticket == STOP || tx.blocking_send(Returned { ticket, gap }).is_err() {
                    return;
                }
            }
            // The router paused because its outgoing buffer was full; it has just been emptied.
            Ok(Some(Notification::Unschedule)) => {
                if reader.ready().is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Broker, EngineChoice, Options};
    use super::*;
    use crate::config::model;
    use crate::message::Message;

    #[tokio::test]
    async fn tickets_come_back_in_order_without_a_gap() {
        let mut running = start().unwrap();
        let (mut sent, mut back) = (0, 0);
        while back < 50_000 {
            while sent < 50_000 && sent - back < BROKER_INSIDE as u64 {
                running.engine.push(sent).unwrap();
                sent += 1;
            }
            let got = running.returned.recv().await.unwrap();
            assert_eq!(got, Returned { ticket: back, gap: 0 });
            back += 1;
        }
    }

    #[tokio::test]
    async fn the_pump_ends_with_its_engine() {
        let (mut engine, mut returned) = build().unwrap();
        engine.push(1).unwrap();
        assert_eq!(returned.recv().await.unwrap().ticket, 1);
        drop(engine);
        assert_eq!(returned.recv().await, None);
    }

    /// rumqttd that is given, at ticket 30, the topic that ends its router thread.
    struct Poisoned(Rumqttd);

    impl Engine for Poisoned {
        fn name(&self) -> &'static str {
            "poisoned"
        }
        fn push(&mut self, ticket: Ticket) -> Result<(), Dead> {
            if ticket == 30 {
                let _ = self.0.link.try_publish("温度/1", "x");
            }
            self.0.push(ticket)
        }
    }

    #[tokio::test]
    async fn a_router_that_really_dies_costs_no_message() {
        let (engine, returned) = build().unwrap();
        let running = Running { engine: Box::new(Poisoned(engine)), returned };
        let options = Options { engine: EngineChoice::Given(running), ..Options::default() };
        let config = model::Broker { listener: Vec::new(), ..model::Broker::default() };
        let broker = Broker::start_with(&config, options).await.unwrap();
        let mut all = broker.subscribe("test", &["#"]).await;
        for n in 0..900 {
            assert_eq!(broker.publish(vec![Message::new(format!("t/{n}"), "x", false)]), 0);
            tokio::task::yield_now().await;
        }
        for n in 0..900 {
            assert_eq!(*all.recv().await.unwrap().topic, *format!("t/{n}"));
        }
        let stats = broker.stats();
        assert_eq!((stats.engine, stats.engine_switches, stats.dropped), ("native", 1, 0));
    }
}
