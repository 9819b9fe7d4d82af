//! One message as a PUBLISH packet of either version.

use mqtt_protocol_core::mqtt::packet::{
    ContentType, GenericPacketTrait, Packet, Properties, Qos, TopicAlias, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::MqttError;

use super::{MqttVersion, Name, Outgoing, Protocol, Unsendable};

impl Protocol {
    /// The packet, if the broker takes one of its size.
    pub(super) fn packet(
        &self,
        message: &Outgoing,
        id: Option<u16>,
        qos: Qos,
        dup: bool,
        name: Name,
    ) -> Result<Packet, Unsendable> {
        let invalid = |e: MqttError| Unsendable::Invalid(e.to_string());
        let retain = message.retain && self.limits.retain;
        let packet: Packet = match self.version {
            MqttVersion::V5 => {
                let mut properties = Properties::new();
                let topic = match name {
                    Name::Whole => &*message.topic,
                    Name::Introduce(number) => {
                        properties.push(TopicAlias::new(number).map_err(invalid)?.into());
                        &*message.topic
                    }
                    Name::Number(number) => {
                        properties.push(TopicAlias::new(number).map_err(invalid)?.into());
                        ""
                    }
                };
                if let Some(extra) = message.forwarded.as_deref() {
                    properties.extend(extra.properties().map_err(invalid)?);
                } else if self.says_content
                    && let Some(content) = content_type(&message.payload)
                {
                    properties.push(ContentType::new(content).map_err(invalid)?.into());
                }
                v5_0::Publish::builder()
                    .topic_name(topic)
                    .and_then(|b| {
                        let b = b.qos(qos).retain(retain).dup(dup).props(properties);
                        let b = b.payload(&message.payload[..]);
                        match id {
                            Some(id) => b.packet_id(id).build(),
                            None => b.build(),
                        }
                    })
                    .map_err(invalid)?
                    .into()
            }
            MqttVersion::V311 => v3_1_1::Publish::builder()
                .topic_name(&*message.topic)
                .and_then(|b| {
                    let b = b.qos(qos).retain(retain).dup(dup).payload(&message.payload[..]);
                    match id {
                        Some(id) => b.packet_id(id).build(),
                        None => b.build(),
                    }
                })
                .map_err(invalid)?
                .into(),
        };
        let (size, limit) = (packet.size(), self.limits.max_packet);
        if size > limit { Err(Unsendable::TooLarge { size, limit }) } else { Ok(packet) }
    }
}

/// What a payload of ours is, told by its first bytes: JSON objects begin with a brace, zstd frames with
/// their magic number (RFC 8878, §3.1.1).
fn content_type(payload: &[u8]) -> Option<&'static str> {
    match payload {
        [b'{', ..] => Some("application/json"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("application/zstd"),
        _ => None,
    }
}
