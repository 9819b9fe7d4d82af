//! MQTT 3.1.1 and 5 as a client speaks it, over mqtt-protocol-core: packets in, packets out, no sockets.
//!
//! One [`Protocol`] serves one connection and is thrown away with it: what was delivered, and what an uplink with QoS 2
//! has open, is known by the log alone. Everything is published with QoS 1, but for readings that shall go with 0 or 2.

mod exactly;
mod packet;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, Event};
use mqtt_protocol_core::mqtt::packet::{
    GenericPacketTrait, Packet, Property, Qos, RetainHandling, SubEntry, SubOpts, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, ConnectReturnCode, MqttError};
use mqtt_protocol_core::mqtt::{Connection, Version, role};

use super::aliases::{Aliases, Name};
use super::extra::hops;
use super::fault::Fault;
use super::formats::node;
use super::guard::{Admitted, Guard, Next};
use super::inflight::{Cargo, Outgoing};
use super::login::connect_packet;
pub use super::login::{EXCHANGES_KEPT_S, Keep, Login};
use super::reasons;
use super::share::Class;
use crate::bounds;
use crate::config::model::MqttVersion;

/// What the broker allows on this connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most messages in flight.
    pub receive_maximum: u16,
    /// Largest packet, in bytes.
    pub max_packet: usize,
    /// The broker's own keep-alive in seconds, if it insists on one.
    pub keep_alive_s: Option<u16>,
    /// It keeps retained messages.
    pub retain: bool,
    /// Most messages of a session with QoS 2.
    pub exchanges: usize,
    /// It keeps sessions at all.
    pub keeps_sessions: bool,
    /// It still has the session that we left.
    pub session_present: bool,
}

/// What came from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Logged in.
    Welcome(Limits),
    /// A message is settled: accepted, or refused with an MQTT 5 reason code of 0x80 or more.
    Acked {
        /// Packet id.
        id: u16,
        /// The reason code, if refused.
        refused: Option<u8>,
    },
    /// The answer to a subscription: granted or not.
    Subscribed {
        /// Packet id.
        id: u16,
        /// Granted.
        granted: bool,
    },
    /// A message.
    Message {
        /// Topic.
        topic: String,
        /// Payload.
        payload: Bytes,
        /// It was kept by the broker.
        retained: bool,
        /// The gateways it came by, as far as MQTT 5 says.
        via: Vec<String>,
    },
    /// The answer to a ping.
    Pong,
    /// A message that is larger than we take; it was acknowledged.
    Oversize {
        /// Topic, as far as it is known.
        topic: String,
        /// Bytes of the packet.
        size: usize,
    },
    /// With QoS 2: the broker has received a message, or refuses it with an MQTT 5 reason code of 0x80 or more.
    Received {
        /// Packet id.
        id: u16,
        /// The reason code, if refused.
        refused: Option<u8>,
    },
    /// With QoS 2: an exchange is over.
    Completed {
        /// Packet id.
        id: u16,
    },
    /// Something without consequence.
    Nothing,
}

/// Why a message could not be put on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsendable {
    /// Its packet would have `size` bytes, and the broker takes `limit`.
    TooLarge {
        /// Bytes of the whole packet.
        size: usize,
        /// Bytes the broker takes.
        limit: usize,
    },
    /// It can never be sent: its topic is none.
    Invalid(String),
    /// The message is not to blame: the connection is in no state to send.
    Engine(String),
}

/// The largest packet MQTT itself allows.
const MQTT_MAX: usize = 268_435_455 + 5;

/// One connection's protocol state.
pub struct Protocol {
    engine: Connection<role::Client>,
    version: MqttVersion,
    guard: Guard,
    limits: Limits,
    aliases: Aliases,
    /// Whether messages say what their payload is.
    says_content: bool,
    /// The session is kept, so readings may go with QoS 2.
    exactly: bool,
}

impl Protocol {
    /// A fresh connection.
    #[must_use]
    pub fn new(version: MqttVersion) -> Self {
        let packet_in = u32::try_from(bounds::UPLINK_PACKET_IN).unwrap_or(u32::MAX);
        let mut engine = Connection::with_options(
            match version {
                MqttVersion::V5 => Version::V5_0,
                MqttVersion::V311 => Version::V3_1_1,
            },
            ConnectionOptions::new().maximum_packet_size_recv(packet_in),
        );
        engine.set_auto_pub_response(true);
        let (receive_maximum, exchanges) = match version {
            MqttVersion::V5 => (u16::MAX, bounds::UPLINK_EXCHANGES),
            MqttVersion::V311 => (bounds::UPLINK_WINDOW_311, bounds::UPLINK_EXCHANGES_311),
        };
        let limits = Limits {
            receive_maximum,
            max_packet: MQTT_MAX,
            keep_alive_s: None,
            retain: true,
            exchanges,
            keeps_sessions: true,
            session_present: false,
        };
        let (guard, aliases) = (Guard::new(bounds::UPLINK_PACKET_IN), Aliases::default());
        Self { engine, version, guard, limits, aliases, says_content: false, exactly: false }
    }

    /// With MQTT 5: every message says by its content type what its payload is.
    pub fn say_content(&mut self) {
        self.says_content = true;
    }

    /// Writes the CONNECT packet to `out`.
    ///
    /// # Errors
    /// A name, password or topic that MQTT cannot carry.
    pub fn connect(&mut self, login: &Login, out: &mut BytesMut) -> Result<(), Fault> {
        let packet = connect_packet(self.version, login).map_err(|e| {
            Fault::login(format!("client id, user name, password or topic cannot be sent: {e}"))
        })?;
        let events = self.engine.send(packet);
        self.obey(events, out).map(drop)
    }

    /// Writes a message to `out` and returns its packet id.
    ///
    /// # Errors
    /// It cannot be sent; nothing was written.
    pub fn publish(&mut self, message: &Outgoing, out: &mut BytesMut) -> Result<u16, Unsendable> {
        let id = self.engine.acquire_packet_id().map_err(|e| Unsendable::Engine(e.to_string()))?;
        let sent = self.publish_as(Some(id), message, out).map(|()| id);
        if sent.is_err() {
            // The engine forgets the id; events of that have no consequence.
            let _released: Vec<Event> = self.engine.release_packet_id(id);
        }
        sent
    }

    fn publish_as(
        &mut self,
        id: Option<u16>,
        message: &Outgoing,
        out: &mut BytesMut,
    ) -> Result<(), Unsendable> {
        let qos = if id.is_some() { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        let apart = self.exactly && matches!(message.cargo, Cargo::Readings(_));
        let name = if apart { Name::Whole } else { self.aliases.name(&message.topic) };
        let packet = self.packet(message, id, qos, false, name)?;
        let events = self.engine.send(packet);
        self.obey(events, out).map_err(|e| Unsendable::Engine(e.to_string()))?;
        if let Some(id) = id {
            self.guard.await_ack(id);
        }
        self.aliases.sent(&message.topic, name);
        Ok(())
    }

    /// Writes a message with QoS 0 to `out`.
    ///
    /// # Errors
    /// It cannot be sent; nothing was written.
    pub fn publish_without_id(&mut self, message: &Outgoing, out: &mut BytesMut) -> Result<(), Unsendable> {
        self.publish_as(None, message, out)
    }

    /// Writes a packet of a node to `out`, with QoS 0.
    ///
    /// # Errors
    /// It cannot be sent; nothing was written.
    pub fn publish_unacknowledged(
        &mut self,
        packet: &node::Packet,
        out: &mut BytesMut,
    ) -> Result<(), Unsendable> {
        let message = Outgoing {
            cargo: Cargo::Event,
            class: Class::Control,
            topic: packet.topic.clone(),
            payload: packet.payload.clone(),
            retain: false,
            forwarded: None,
        };
        self.publish_as(None, &message, out)
    }

    /// Writes a subscription with QoS 1 to `out` (with a session that is kept: with QoS 0, so that the broker does not keep
    /// for later what is for now), and returns its packet id. `retained`: with what the broker kept. Each message
    /// comes with its mark, so that a command which was published to be retained is known (MQTT 3.1.1 brokers send both as they
    /// like, and most take the mark off what comes while we are subscribed).
    ///
    /// # Errors
    /// The filter cannot be sent.
    pub fn subscribe(&mut self, filter: &str, retained: bool, out: &mut BytesMut) -> Result<u16, Fault> {
        let wrong = |e: MqttError| Fault::Protocol(format!("cannot subscribe to `{filter}`: {e}"));
        let id = self.engine.acquire_packet_id().map_err(wrong)?;
        let qos = if self.exactly { Qos::AtMostOnce } else { Qos::AtLeastOnce };
        let options = SubOpts::new().set_qos(qos);
        let packet: Packet = match self.version {
            MqttVersion::V5 => {
                let kept = match retained {
                    true => RetainHandling::SendRetained,
                    false => RetainHandling::DoNotSendRetained,
                };
                let options = options.set_rh(kept).set_rap(true);
                let entry = SubEntry::new(filter, options).map_err(wrong)?;
                v5_0::Subscribe::builder().packet_id(id).entries(vec![entry]).build().map_err(wrong)?.into()
            }
            MqttVersion::V311 => {
                let entry = SubEntry::new(filter, options).map_err(wrong)?;
                v3_1_1::Subscribe::builder().packet_id(id).entries(vec![entry]).build().map_err(wrong)?.into()
            }
        };
        let events = self.engine.send(packet);
        self.obey(events, out).map(|_| id)
    }

    /// Writes a PINGREQ to `out`.
    ///
    /// # Errors
    /// Not connected.
    pub fn ping(&mut self, out: &mut BytesMut) -> Result<(), Fault> {
        let wrong = |e: MqttError| Fault::Protocol(e.to_string());
        let packet: Packet = match self.version {
            MqttVersion::V5 => v5_0::Pingreq::builder().build().map_err(wrong)?.into(),
            MqttVersion::V311 => v3_1_1::Pingreq::builder().build().map_err(wrong)?.into(),
        };
        let events = self.engine.send(packet);
        self.obey(events, out).map(drop)
    }

    /// Writes a DISCONNECT to `out`: the broker drops the last will.
    pub fn disconnect(&self, out: &mut BytesMut) {
        // The same two bytes in both versions: MQTT 5 may leave reason 0x00 and properties out (§3.14.2).
        out.extend_from_slice(&[0xe0, 0x00]);
    }

    /// Bytes came. Answers that the protocol demands are written to `out`.
    ///
    /// # Errors
    /// The connection must end, and why.
    pub fn receive(&mut self, bytes: &[u8], out: &mut BytesMut) -> Result<Vec<Incoming>, Fault> {
        self.guard.push(bytes);
        let mut all = Vec::new();
        while let Some(next) = self.guard.next_packet()? {
            let Admitted { packet, reason } = match next {
                Next::Packet(admitted) => admitted,
                Next::Received { id, reason } => {
                    all.push(Incoming::Received { id, refused: (reason >= 0x80).then_some(reason) });
                    continue;
                }
                Next::Completed { id } => {
                    all.push(Incoming::Completed { id });
                    continue;
                }
                Next::Oversize { topic, id, size } => {
                    // A PUBACK of reason 0 is the same four bytes in both versions.
                    let ack = id.map(|id| [[0x40, 2], id.to_be_bytes()].concat());
                    out.extend_from_slice(&ack.unwrap_or_default());
                    all.push(Incoming::Oversize { topic, size });
                    continue;
                }
            };
            // The guard is the wall; this is the net behind it. The engine is not used after a panic:
            // the fault ends the connection and drops it.
            let events = catch_unwind(AssertUnwindSafe(|| self.engine.recv(&mut Cursor::new(&packet[..]))))
                .map_err(|_| {
                Fault::Protocol("a packet that the protocol engine cannot digest".to_owned())
            })?;
            all.extend(self.obey(events, out)?.into_iter().map(|incoming| match incoming {
                Incoming::Acked { id, .. } => {
                    Incoming::Acked { id, refused: (reason >= 0x80).then_some(reason) }
                }
                other => other,
            }));
        }
        Ok(all)
    }

    /// Acknowledgements of packets that were not in flight.
    #[must_use]
    pub fn stray_acks(&self) -> u64 {
        self.guard.strays()
    }

    fn obey(&mut self, events: Vec<Event>, out: &mut BytesMut) -> Result<Vec<Incoming>, Fault> {
        let mut incoming = Vec::new();
        let mut fault = None;
        for event in events {
            match event {
                Event::RequestSendPacket { packet, .. } => {
                    out.extend_from_slice(&packet.to_continuous_buffer());
                }
                Event::NotifyPacketReceived(packet) => incoming.push(self.understand(packet)?),
                Event::NotifyError(e) => {
                    fault = Some(Fault::Protocol(format!("the broker broke the rules of MQTT: {e}")))
                }
                Event::RequestClose => {
                    fault.get_or_insert(Fault::Protocol("the broker broke the rules of MQTT".to_owned()));
                }
                // Our own timers watch the line (liveness.rs); packet ids are the engine's affair.
                Event::RequestTimerReset { .. }
                | Event::RequestTimerCancel(_)
                | Event::NotifyPacketIdReleased(_) => {}
            }
        }
        fault.map_or(Ok(incoming), Err)
    }

    fn understand(&mut self, packet: Packet) -> Result<Incoming, Fault> {
        Ok(match packet {
            Packet::V3_1_1Connack(p) => {
                let code = p.return_code();
                if code != ConnectReturnCode::Accepted {
                    return Err(reasons::login_311(code));
                }
                self.limits.session_present = p.session_present();
                Incoming::Welcome(self.limits.clone())
            }
            Packet::V5_0Connack(p) => {
                let code = p.reason_code();
                if code != ConnectReasonCode::Success {
                    return Err(reasons::login(code as u8, p.props()));
                }
                self.limits.session_present = p.session_present();
                for property in p.props() {
                    match property {
                        Property::ReceiveMaximum(v) => self.limits.receive_maximum = v.val().max(1),
                        Property::MaximumPacketSize(v) => {
                            self.limits.max_packet =
                                usize::try_from(v.val()).unwrap_or(MQTT_MAX).min(MQTT_MAX);
                        }
                        Property::ServerKeepAlive(v) => self.limits.keep_alive_s = Some(v.val()),
                        Property::TopicAliasMaximum(v) => self.aliases = Aliases::new(v.val()),
                        Property::RetainAvailable(v) => self.limits.retain = v.val() != 0,
                        Property::MaximumQos(v) if v.val() == 0 => {
                            return Err(Fault::login(
                                "the broker takes QoS 0 only, which acknowledges nothing",
                            ));
                        }
                        Property::SessionExpiryInterval(v) => self.limits.keeps_sessions = v.val() != 0,
                        Property::MaximumQos(v) if v.val() == 1 && self.exactly => {
                            return Err(Fault::Login {
                                why: "the broker takes at most QoS 1; write `qos = 1`".to_owned(),
                                settled: true,
                            });
                        }
                        _ => {}
                    }
                }
                Incoming::Welcome(self.limits.clone())
            }
            Packet::V3_1_1Puback(p) => Incoming::Acked { id: p.packet_id(), refused: None },
            Packet::V5_0Puback(p) => Incoming::Acked { id: p.packet_id(), refused: None },
            Packet::V3_1_1Suback(p) => {
                let granted = p.return_codes().iter().all(|c| (*c as u8) < 0x80);
                Incoming::Subscribed { id: p.packet_id(), granted }
            }
            Packet::V5_0Suback(p) => {
                let granted = p.reason_codes().iter().all(|c| (*c as u8) < 0x80);
                Incoming::Subscribed { id: p.packet_id(), granted }
            }
            Packet::V3_1_1Publish(p) => Incoming::Message {
                topic: p.topic_name().to_owned(),
                payload: Bytes::copy_from_slice(p.payload().as_slice()),
                retained: p.retain(),
                via: Vec::new(),
            },
            Packet::V5_0Publish(p) => Incoming::Message {
                topic: p.topic_name().to_owned(),
                payload: Bytes::copy_from_slice(p.payload().as_slice()),
                retained: p.retain(),
                via: hops(p.props()),
            },
            Packet::V5_0Disconnect(p) => {
                let code = p.reason_code().map_or(0, |code| code as u8);
                let none = Vec::new();
                return Err(reasons::ended(code, p.props().as_ref().unwrap_or(&none)));
            }
            Packet::V3_1_1Pingresp(_) | Packet::V5_0Pingresp(_) => Incoming::Pong,
            _ => Incoming::Nothing,
        })
    }
}
