//! The demo's cloud: a second broker that can go away, and a bookkeeper who sees every message that
//! reaches it and knows nothing of the gateway.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde_json::Value as Json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::bounds;
use crate::broker::Broker;
use crate::config::model::{self, Listener, Transport};
use crate::message::Message;

/// The cloud broker and the books.
pub struct Cloud {
    address: SocketAddr,
    broker: Option<(Broker, JoinHandle<()>)>,
    messages: Option<mpsc::Sender<Message>>,
    books: oneshot::Receiver<Received>,
    counts: tokio::sync::watch::Receiver<Received>,
}

/// What the cloud saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// Different readings, by `(epoch, seq)`.
    pub readings: u64,
    /// Of them, on the `history` topics.
    pub history: u64,
    /// Readings that came again, the same in every byte.
    pub repeats: u64,
    /// Readings that came again with other content: a broken promise.
    pub different_repeats: u64,
    /// New readings of a point and lane that are older than the one before: a broken promise.
    pub out_of_order: u64,
}

/// What the books know of what was seen.
#[derive(Default)]
struct Books {
    received: Received,
    seen: HashMap<(String, u64), u64>,
    newest: HashMap<String, u64>,
}

impl Cloud {
    /// Starts the broker on any free port of loopback.
    ///
    /// # Errors
    /// It cannot start, in words.
    pub async fn start() -> Result<Self, String> {
        let (messages, mut inbox) = mpsc::channel(bounds::FLOW_GROUP);
        let (close, books) = oneshot::channel();
        let (publish, counts) = tokio::sync::watch::channel(Received::default());
        tokio::spawn(async move {
            let mut books = Books::default();
            while let Some(message) = inbox.recv().await {
                books.enter(&message);
                publish.send_replace(books.received.clone());
            }
            let _ = close.send(books.received);
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut cloud = Self { address, broker: None, messages: Some(messages), books, counts };
        cloud.come_back().await?;
        Ok(cloud)
    }

    /// Where it listens; the same after it came back.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is there.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.broker.is_some()
    }

    /// What it saw so far.
    #[must_use]
    pub fn received(&self) -> Received {
        self.counts.borrow().clone()
    }

    /// Goes away, with every session and retained message it had.
    pub async fn leave(&mut self) {
        if let Some((broker, listening)) = self.broker.take() {
            broker.close().await;
            // The subscription ends with the broker; what it held is entered first.
            let _ = listening.await;
        }
    }

    /// Comes back on the same port, remembering nothing.
    ///
    /// # Errors
    /// The port is not to be had.
    pub async fn come_back(&mut self) -> Result<(), String> {
        let listener = Listener {
            bind: self.address,
            transport: Transport::Tcp,
            tls: None,
            allow_anonymous: Some(true),
            password_file: None,
            acl_file: None,
        };
        let config = model::Broker { listener: vec![listener], ..model::Broker::default() };
        let broker = Broker::start(&config, &[]).await.map_err(|e| format!("the demo's cloud: {e}"))?;
        if let Some((_, address)) = broker.addresses().first() {
            self.address = *address;
        }
        let mut subscription = broker.subscribe("bookkeeper", &["gw/#"]).await;
        let Some(messages) = self.messages.clone() else {
            return Err("the demo's books are closed".to_owned());
        };
        let listening = tokio::spawn(async move {
            while let Some(message) = subscription.recv().await {
                if messages.send(message).await.is_err() {
                    return;
                }
            }
        });
        self.broker = Some((broker, listening));
        Ok(())
    }

    /// Closes the broker and the books.
    pub async fn finish(mut self) -> Received {
        self.leave().await;
        drop(self.messages.take());
        self.books.await.unwrap_or_default()
    }
}

impl Books {
    fn enter(&mut self, message: &Message) {
        let history = message.topic.contains("/history/");
        if !history && !message.topic.contains("/data/") {
            return;
        }
        let Ok(reading) = serde_json::from_slice::<Json>(&message.payload) else { return };
        let (Some(epoch), Some(seq)) = (reading["epoch"].as_str(), reading["seq"].as_u64()) else { return };
        let content = fingerprint(&message.payload);
        if let Some(before) = self.seen.get(&(epoch.to_owned(), seq)) {
            if *before == content {
                self.received.repeats += 1;
            } else {
                self.received.different_repeats += 1;
            }
            return;
        }
        self.seen.insert((epoch.to_owned(), seq), content);
        self.received.readings += 1;
        self.received.history += u64::from(history);
        let newest = self.newest.entry(message.topic.to_string()).or_default();
        if seq < *newest {
            self.received.out_of_order += 1;
        }
        *newest = seq.max(*newest);
    }
}

fn fingerprint(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_books_tell_repeats_from_lies_and_disorder() {
        let mut books = Books::default();
        let mut see = |topic: &str, seq: u64, value: u64| {
            let json = format!(r#"{{"epoch":"00000001-00000001","seq":{seq},"value":{value}}}"#);
            books.enter(&Message::new(topic, json, false));
        };
        see("gw/demo/data/m/v", 1, 10);
        see("gw/demo/data/m/v", 3, 30);
        see("gw/demo/data/m/v", 3, 30);
        see("gw/demo/history/m/v", 2, 20);
        see("gw/demo/data/m/v", 1, 11);
        see("gw/demo/status", 9, 9);
        let orderly = Received { readings: 3, history: 1, repeats: 1, different_repeats: 1, out_of_order: 0 };
        assert_eq!(books.received, orderly);
        books.enter(&Message::new(
            "gw/demo/data/m/v",
            r#"{"epoch":"00000001-00000001","seq":0,"value":1}"#,
            false,
        ));
        assert_eq!(books.received.out_of_order, 1);
    }
}
