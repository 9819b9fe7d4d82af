//! The CONNECT packet: who we are, and what the broker should say if we vanish.

use mqtt_protocol_core::mqtt::packet::{
    MaximumPacketSize, Packet, Properties, Qos, SessionExpiryInterval, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::MqttError;

use super::formats::node::Will;
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
    /// Which session.
    pub session: Keep,
    /// How long a broker that speaks MQTT 5 is asked to keep it while we are away, in seconds.
    pub keep_s: u32,
}

/// Which session a login asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// A new one that ends with the connection.
    No,
    /// A new one that is kept. (MQTT 3.1.1 has no such login: one with [`Keep::No`] goes before.)
    Anew,
    /// The one that we left, and it is kept.
    On,
}

/// How long a session with QoS 2 is kept: a month, as the log keeps the position of an uplink that left the
/// configuration. (MQTT 3.1.1 says nothing of it.)
pub const EXCHANGES_KEPT_S: u32 = 30 * 86_400;

/// The packet in the given version.
pub(super) fn connect_packet(version: MqttVersion, login: &Login) -> Result<Packet, MqttError> {
    let packet_in = u32::try_from(bounds::UPLINK_PACKET_IN).unwrap_or(u32::MAX);
    let will = &login.will;
    Ok(match version {
        MqttVersion::V5 => {
            let mut properties: Properties = vec![MaximumPacketSize::new(packet_in)?.into()];
            if login.session != Keep::No {
                properties.push(SessionExpiryInterval::new(login.keep_s)?.into());
            }
            let mut builder = v5_0::Connect::builder()
                .client_id(&*login.client_id)?
                .clean_start(login.session != Keep::On)
                .keep_alive(login.keep_alive_s)
                .props(properties)
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
                .clean_session(login.session == Keep::No)
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
