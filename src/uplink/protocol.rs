//! MQTT 3.1.1 and 5 as a client speaks it, over mqtt-protocol-core: packets in, packets out, no sockets.
//!
//! One [`Protocol`] serves one connection and is thrown away with it: sessions are always clean, and
//! what was delivered is known by the log alone. Everything is published with QoS 1.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, Event};
use mqtt_protocol_core::mqtt::packet::{
    GenericPacketTrait, Packet, Property, Qos, RetainHandling, SubEntry, SubOpts, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, ConnectReturnCode, MqttError};
use mqtt_protocol_core::mqtt::{Connection, Version, role};

use super::fault::Fault;
use super::formats::node::Will;
use super::guard::{Admitted, Guard};
use super::inflight::Outgoing;
use crate::bounds;
use crate::config::model::MqttVersion;

/// Who we are, and what the broker should say if we vanish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Client id.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// Password; only with a user name.
    pub password: Option<Vec<u8>>,
    /// Whole seconds, 0: no keep-alive.
    pub keep_alive_s: u16,
    /// What the broker publishes if we vanish, with QoS 1.
    pub will: Will,
}

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
    /// The answer to the subscription: granted or not.
    Subscribed(bool),
    /// A message.
    Message {
        /// Topic.
        topic: String,
        /// Payload.
        payload: Bytes,
        /// It was kept by the broker.
        retained: bool,
    },
    /// The answer to a ping.
    Pong,
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
        let limits =
            Limits { receive_maximum: u16::MAX, max_packet: MQTT_MAX, keep_alive_s: None, retain: true };
        Self { engine, version, guard: Guard::new(bounds::UPLINK_PACKET_IN), limits }
    }

    /// Writes the CONNECT packet to `out`.
    ///
    /// # Errors
    /// A name, password or topic that MQTT cannot carry.
    pub fn connect(&mut self, login: &Login, out: &mut BytesMut) -> Result<(), Fault> {
        let packet = connect_packet(self.version, login).map_err(|e| {
            Fault::Login(format!("client id, user name, password or topic cannot be sent: {e}"))
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
        let sent = self.publish_as(id, message, out);
        if sent.is_err() {
            // The engine forgets the id; events of that have no consequence.
            let _released: Vec<Event> = self.engine.release_packet_id(id);
        }
        sent
    }

    fn publish_as(&mut self, id: u16, message: &Outgoing, out: &mut BytesMut) -> Result<u16, Unsendable> {
        let invalid = |e: MqttError| Unsendable::Invalid(e.to_string());
        let retain = message.retain && self.limits.retain;
        let packet: Packet = match self.version {
            MqttVersion::V5 => v5_0::Publish::builder()
                .topic_name(&*message.topic)
                .and_then(|b| {
                    b.qos(Qos::AtLeastOnce).retain(retain).packet_id(id).payload(&message.payload[..]).build()
                })
                .map_err(invalid)?
                .into(),
            MqttVersion::V311 => v3_1_1::Publish::builder()
                .topic_name(&*message.topic)
                .and_then(|b| {
                    b.qos(Qos::AtLeastOnce).retain(retain).packet_id(id).payload(&message.payload[..]).build()
                })
                .map_err(invalid)?
                .into(),
        };
        let (size, limit) = (packet.size(), self.limits.max_packet);
        if size > limit {
            return Err(Unsendable::TooLarge { size, limit });
        }
        let events = self.engine.send(packet);
        self.obey(events, out).map_err(|e| Unsendable::Engine(e.to_string()))?;
        self.guard.await_ack(id);
        Ok(id)
    }

    /// Writes a message with QoS 0 to `out`.
    ///
    /// # Errors
    /// It cannot be sent; nothing was written.
    pub fn publish_unacknowledged(
        &mut self,
        topic: &str,
        payload: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), Unsendable> {
        let invalid = |e: MqttError| Unsendable::Invalid(e.to_string());
        let qos = Qos::AtMostOnce;
        let packet: Packet = match self.version {
            MqttVersion::V5 => v5_0::Publish::builder()
                .topic_name(topic)
                .and_then(|b| b.qos(qos).retain(false).payload(payload).build())
                .map_err(invalid)?
                .into(),
            MqttVersion::V311 => v3_1_1::Publish::builder()
                .topic_name(topic)
                .and_then(|b| b.qos(qos).retain(false).payload(payload).build())
                .map_err(invalid)?
                .into(),
        };
        let (size, limit) = (packet.size(), self.limits.max_packet);
        if size > limit {
            return Err(Unsendable::TooLarge { size, limit });
        }
        let events = self.engine.send(packet);
        self.obey(events, out).map(drop).map_err(|e| Unsendable::Engine(e.to_string()))
    }

    /// Writes a subscription with QoS 1 to `out`; `retained`: what is kept there is asked for (MQTT 3.1.1 always sends
    /// it).
    ///
    /// # Errors
    /// The filter cannot be sent.
    pub fn subscribe(&mut self, filter: &str, retained: bool, out: &mut BytesMut) -> Result<(), Fault> {
        let wrong = |e: MqttError| Fault::Protocol(format!("cannot subscribe to `{filter}`: {e}"));
        let id = self.engine.acquire_packet_id().map_err(wrong)?;
        let options = SubOpts::new().set_qos(Qos::AtLeastOnce);
        let packet: Packet = match self.version {
            MqttVersion::V5 => {
                let options =
                    if retained { options } else { options.set_rh(RetainHandling::DoNotSendRetained) };
                let entry = SubEntry::new(filter, options).map_err(wrong)?;
                v5_0::Subscribe::builder().packet_id(id).entries(vec![entry]).build().map_err(wrong)?.into()
            }
            MqttVersion::V311 => {
                let entry = SubEntry::new(filter, options).map_err(wrong)?;
                v3_1_1::Subscribe::builder().packet_id(id).entries(vec![entry]).build().map_err(wrong)?.into()
            }
        };
        let events = self.engine.send(packet);
        self.obey(events, out).map(drop)
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
        while let Some(Admitted { packet, reason }) = self.guard.next_packet()? {
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
                    return Err(Fault::Login(return_words(code).to_owned()));
                }
                Incoming::Welcome(self.limits.clone())
            }
            Packet::V5_0Connack(p) => {
                let code = p.reason_code();
                if code != ConnectReasonCode::Success {
                    return Err(Fault::Login(with_reason(code as u8, p.props())));
                }
                for property in p.props() {
                    match property {
                        Property::ReceiveMaximum(v) => self.limits.receive_maximum = v.val().max(1),
                        Property::MaximumPacketSize(v) => {
                            self.limits.max_packet =
                                usize::try_from(v.val()).unwrap_or(MQTT_MAX).min(MQTT_MAX);
                        }
                        Property::ServerKeepAlive(v) => self.limits.keep_alive_s = Some(v.val()),
                        Property::RetainAvailable(v) => self.limits.retain = v.val() != 0,
                        Property::MaximumQos(v) if v.val() == 0 => {
                            return Err(Fault::Login(
                                "the broker takes QoS 0 only, which acknowledges nothing".to_owned(),
                            ));
                        }
                        _ => {}
                    }
                }
                Incoming::Welcome(self.limits.clone())
            }
            Packet::V3_1_1Puback(p) => Incoming::Acked { id: p.packet_id(), refused: None },
            Packet::V5_0Puback(p) => Incoming::Acked { id: p.packet_id(), refused: None },
            Packet::V3_1_1Suback(p) => {
                Incoming::Subscribed(p.return_codes().iter().all(|c| (*c as u8) < 0x80))
            }
            Packet::V5_0Suback(p) => Incoming::Subscribed(p.reason_codes().iter().all(|c| (*c as u8) < 0x80)),
            Packet::V3_1_1Publish(p) => Incoming::Message {
                topic: p.topic_name().to_owned(),
                payload: Bytes::copy_from_slice(p.payload().as_slice()),
                retained: p.retain(),
            },
            Packet::V5_0Publish(p) => Incoming::Message {
                topic: p.topic_name().to_owned(),
                payload: Bytes::copy_from_slice(p.payload().as_slice()),
                retained: p.retain(),
            },
            Packet::V5_0Disconnect(p) => {
                let code = p.reason_code().map_or(0, |code| code as u8);
                let none = Vec::new();
                return Err(Fault::Ended(with_reason(code, p.props().as_ref().unwrap_or(&none))));
            }
            Packet::V3_1_1Pingresp(_) | Packet::V5_0Pingresp(_) => Incoming::Pong,
            _ => Incoming::Nothing,
        })
    }
}

fn connect_packet(version: MqttVersion, login: &Login) -> Result<Packet, MqttError> {
    let will = &login.will;
    Ok(match version {
        MqttVersion::V5 => {
            let mut builder = v5_0::Connect::builder()
                .client_id(&*login.client_id)?
                .clean_start(true)
                .keep_alive(login.keep_alive_s)
                .will_message(&*will.topic, will.payload.to_vec(), Qos::AtLeastOnce, will.retain)?;
            if let Some(name) = &login.username {
                builder = builder.user_name(name.as_str())?;
            }
            if let Some(password) = &login.password {
                builder = builder.password(password.clone())?;
            }
            builder.build()?.into()
        }
        MqttVersion::V311 => {
            let mut builder = v3_1_1::Connect::builder()
                .client_id(&*login.client_id)?
                .clean_session(true)
                .keep_alive(login.keep_alive_s)
                .will_message(&*will.topic, will.payload.to_vec(), Qos::AtLeastOnce, will.retain)?;
            if let Some(name) = &login.username {
                builder = builder.user_name(name.as_str())?;
            }
            if let Some(password) = &login.password {
                builder = builder.password(password.clone())?;
            }
            builder.build()?.into()
        }
    })
}

fn return_words(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Accepted => "accepted",
        ConnectReturnCode::UnacceptableProtocolVersion => {
            "the broker does not speak MQTT 3.1.1; try mqtt_version = \"5\""
        }
        ConnectReturnCode::IdentifierRejected => "the client id is not allowed",
        ConnectReturnCode::ServerUnavailable => "the broker is not available now",
        ConnectReturnCode::BadUserNameOrPassword => "wrong user name or password",
        ConnectReturnCode::NotAuthorized => "not authorised; check user name, password and certificate",
    }
}

/// The broker's own words are cut to this many characters.
const REASON_MAX: usize = 200;

fn with_reason(code: u8, properties: &[Property]) -> String {
    let told = properties.iter().find_map(|p| match p {
        Property::ReasonString(text) => Some(text.val().to_owned()),
        _ => None,
    });
    match told {
        Some(text) => {
            let clean: String =
                text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_MAX).collect();
            format!("{} (\"{clean}\")", reason_words(code))
        }
        None => reason_words(code),
    }
}

/// An MQTT 5 reason code (§2.4) in words.
#[must_use]
pub fn reason_words(code: u8) -> String {
    let words = match code {
        0x00 => "normal disconnection",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x84 => "the broker does not speak MQTT 5; try mqtt_version = \"3.1.1\"",
        0x85 => "the client id is not allowed",
        0x86 => "wrong user name or password",
        0x87 => "not authorised",
        0x88 => "the broker is not available now",
        0x89 => "the broker is busy",
        0x8a => "banned",
        0x8b => "the broker is shutting down",
        0x8d => "keep-alive timeout",
        0x8e => "another client with the same client id took over",
        0x8f => "topic filter not accepted",
        0x90 => "topic not accepted",
        0x93 => "more messages in flight than allowed",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format not accepted",
        0x9a => "retained messages are not supported",
        0x9b => "QoS 1 is not supported",
        0x9c | 0x9d => "the broker asks to use another server",
        0x9f => "too many connections in a short time",
        0xa0 => "longest connection time reached",
        other => return format!("reason code {other:#04x}"),
    };
    words.to_owned()
}
