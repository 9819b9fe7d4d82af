//! What MQTT 5 carries beside topic and payload of another device's message, both ways. Pure.

use mqtt_protocol_core::mqtt::packet::{
    ContentType, CorrelationData, MessageExpiryInterval, PayloadFormat, PayloadFormatIndicator, Property,
    ResponseTopic, UserProperty,
};
use mqtt_protocol_core::mqtt::result_code::MqttError;

use crate::message::{Props, VIA};

/// Most gateways that are kept of those a message of the cloud came by: more is no way any more.
const HOPS: usize = 16;

/// What goes up with a message of another device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extra {
    /// Its own properties, and those that tell its identity.
    pub props: Props,
    /// Seconds after which nobody wants it any more.
    pub expiry: Option<u32>,
}

impl Extra {
    /// As properties of a PUBLISH.
    ///
    /// # Errors
    /// MQTT cannot carry one of them.
    pub fn properties(&self) -> Result<Vec<Property>, MqttError> {
        let Props { payload_format, content_type, response_topic, correlation, user } = &self.props;
        let mut list: Vec<Property> = Vec::new();
        if let Some(format) = payload_format {
            let format = if *format == 1 { PayloadFormat::String } else { PayloadFormat::Binary };
            list.push(PayloadFormatIndicator::new(format)?.into());
        }
        if let Some(seconds) = self.expiry {
            list.push(MessageExpiryInterval::new(seconds)?.into());
        }
        if let Some(text) = content_type {
            list.push(ContentType::new(text.as_str())?.into());
        }
        if let Some(text) = response_topic {
            list.push(ResponseTopic::new(text.as_str())?.into());
        }
        if let Some(data) = correlation {
            list.push(CorrelationData::new(data.to_vec())?.into());
        }
        for (key, value) in user {
            list.push(UserProperty::new(key.as_str(), value.as_str())?.into());
        }
        Ok(list)
    }
}

/// By which gateways a message of the cloud came.
#[must_use]
pub fn hops(properties: &[Property]) -> Vec<String> {
    let via = |property: &Property| match property {
        Property::UserProperty(pair) if pair.key() == VIA => Some(pair.val().to_owned()),
        _ => None,
    };
    properties.iter().filter_map(via).take(HOPS).collect()
}
