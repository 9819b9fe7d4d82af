//! rumqttc, both versions of MQTT.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{House, LONG};

/// What a client hears.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Welcome {
        present: bool,
    },
    Subscribed,
    /// The broker has one of its messages.
    Taken,
    Message {
        topic: String,
        payload: Vec<u8>,
        qos: u8,
        retain: bool,
    },
}

/// A client; its event loop runs in a task, and fills the channel.
struct Client<C> {
    client: C,
    heard: mpsc::Receiver<Heard>,
    task: JoinHandle<()>,
}

impl<C> Client<C> {
    async fn hear(&mut self) -> Heard {
        timeout(LONG, self.heard.recv()).await.expect("in time").expect("it is connected")
    }

    async fn expect(&mut self, topic: &str, payload: &[u8], qos: u8, retain: bool) {
        let message = Heard::Message { topic: topic.to_owned(), payload: payload.to_owned(), qos, retain };
        assert_eq!(self.hear().await, message);
    }

    /// Its connection is gone, without a word.
    async fn lose(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// The same client for both versions: they are two crates in one.
macro_rules! version {
    ($name:ident, $mqtt:path, $qos:path, $packets:path, $topic:expr, $session:expr, $will:expr) => {
        mod $name {
            use super::*;
            use mqtt::{AsyncClient, Event, Incoming, MqttOptions};
            use packets::LastWill;
            use $mqtt as mqtt;
            use $packets as packets;
            use $qos as QoS;

            type This = Client<AsyncClient>;

            fn quality(qos: u8) -> QoS {
                [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos)]
            }

            async fn connect(at: SocketAddr, id: &str, clean: bool, will: Option<LastWill>) -> (This, bool) {
                let mut options = MqttOptions::new(id, "127.0.0.1", at.port());
                options.set_keep_alive(Duration::from_secs(30));
                if let Some(will) = will {
                    options.set_last_will(will);
                }
                let session: fn(&mut MqttOptions, bool) = $session;
                session(&mut options, clean);
                let (client, mut events) = AsyncClient::new(options, 100);
                let (say, heard) = mpsc::channel(1000);
                let topic: fn(&packets::Publish) -> String = $topic;
                let task = tokio::spawn(async move {
                    while let Ok(event) = events.poll().await {
                        let heard = match event {
                            Event::Incoming(Incoming::ConnAck(ack)) => {
                                Heard::Welcome { present: ack.session_present }
                            }
                            Event::Incoming(Incoming::SubAck(_)) => Heard::Subscribed,
                            Event::Incoming(Incoming::PubAck(_) | Incoming::PubComp(_)) => Heard::Taken,
                            Event::Incoming(Incoming::Publish(p)) => Heard::Message {
                                topic: topic(&p),
                                payload: p.payload.to_vec(),
                                qos: p.qos as u8,
                                retain: p.retain,
                            },
                            _ => continue,
                        };
                        if say.send(heard).await.is_err() {
                            return;
                        }
                    }
                });
                let mut this = Client { client, heard, task };
                let Heard::Welcome { present } = this.hear().await else { panic!("no welcome") };
                (this, present)
            }

            async fn subscribe(to: &mut This, filter: &str, qos: u8) {
                to.client.subscribe(filter, quality(qos)).await.unwrap();
                assert_eq!(to.hear().await, Heard::Subscribed);
            }

            async fn publish(by: &mut This, topic: &str, payload: &[u8], qos: u8, retain: bool) {
                by.client.publish(topic, quality(qos), retain, payload.to_vec()).await.unwrap();
                if qos > 0 {
                    assert_eq!(by.hear().await, Heard::Taken);
                }
            }

            /// All of it.
            pub async fn everything(at: SocketAddr) {
                let (mut a, _) = connect(at, "a", true, None).await;
                let (mut b, _) = connect(at, "b", true, None).await;
                for wanted in 0..3 {
                    let topic = format!("q/{wanted}");
                    subscribe(&mut b, &topic, wanted).await;
                    for sent in 0..3 {
                        for n in 0..20u8 {
                            publish(&mut a, &topic, &[n], sent, false).await;
                        }
                        for n in 0..20u8 {
                            b.expect(&topic, &[n], sent.min(wanted), false).await;
                        }
                    }
                }
                for n in 0..100u8 {
                    publish(&mut a, &format!("kept/{n:03}"), &[n], 1, true).await;
                }
                subscribe(&mut b, "kept/#", 1).await;
                for n in 0..100u8 {
                    b.expect(&format!("kept/{n:03}"), &[n], 1, true).await;
                }
                for n in 0..100u8 {
                    publish(&mut a, &format!("kept/{n:03}"), b"", 1, true).await;
                    b.expect(&format!("kept/{n:03}"), b"", 1, false).await;
                }
                let will: fn(QoS) -> LastWill = $will;
                subscribe(&mut b, "wills/#", 1).await;
                connect(at, "lost", true, Some(will(QoS::AtLeastOnce))).await.0.lose().await;
                b.expect("wills/x", b"gone", 1, false).await;

                let (mut keeper, present) = connect(at, "keeper", false, None).await;
                assert!(!present);
                subscribe(&mut keeper, "s/#", 2).await;
                keeper.lose().await;
                for n in 0..50u8 {
                    publish(&mut a, "s/x", &[n], n % 2 + 1, false).await;
                }
                let (mut keeper, present) = connect(at, "keeper", false, None).await;
                assert!(present);
                for n in 0..50u8 {
                    keeper.expect("s/x", &[n], n % 2 + 1, false).await;
                }
                keeper.lose().await;
                let (_, present) = connect(at, "keeper", true, None).await;
                assert!(!present);
            }
        }
    };
}

version!(
    four,
    support::rumqttc,
    support::rumqttc::QoS,
    support::rumqttc,
    |p| p.topic.clone(),
    |options, clean| {
        options.set_clean_session(clean);
    },
    |qos| LastWill::new("wills/x", "gone", qos, false)
);
version!(
    five,
    support::rumqttc::v5,
    support::rumqttc::v5::mqttbytes::QoS,
    support::rumqttc::v5::mqttbytes::v5,
    |p| String::from_utf8(p.topic.to_vec()).unwrap(),
    |options, clean| {
        let mut properties = packets::ConnectProperties::new();
        properties.session_expiry_interval = Some(if clean { 0 } else { 600 });
        options.set_clean_start(clean).set_connect_properties(properties);
    },
    |qos| LastWill::new("wills/x", "gone", qos, false, None)
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rumqttc_of_rust() {
    for house in House::both().await {
        let engine = house.broker.stats().engine;
        four::everything(house.tcp).await;
        five::everything(house.tcp).await;
        println!("rumqttc, {engine}: both versions");
        house.well(engine).await;
    }
}
