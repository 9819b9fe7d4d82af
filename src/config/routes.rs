//! Routes between the cloud and the local broker, as the configuration says them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Topics of the cloud that are brought to the local broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// Filter of the cloud's topics, with `+` and `#`; `{gateway}` is the gateway's id. Retained messages come too,
    /// and with MQTT 5 each message keeps its retained mark. What is published while the link is down is missed,
    /// but for what is retained.
    #[schemars(example = &"sites/{gateway}/down/#")]
    pub filter: String,
    /// Local topic. `{topic}` is what the filter's wildcards stand for: the part of the topic from the first of them
    /// on; without one, all of it. The gateway's own tree `gw/<id>` is no place for it.
    #[schemars(example = &"down/{topic}")]
    pub to: String,
}

/// Local topics of other MQTT devices that are stored and brought to the cloud, in one log with the readings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Filter of the local broker's topics, with `+` and `#`; `{gateway}` is the gateway's id. What several filters of
    /// one uplink take goes by the first of them. The gateway's own tree `gw/<id>` and `$SYS` are left out.
    #[schemars(example = &"zigbee2mqtt/#")]
    pub filter: String,
    /// Topic in the cloud. `{topic}` is the whole local topic, `{gateway}` the gateway's id. `topic_root` is no place
    /// for it.
    #[schemars(example = &"sites/{gateway}/{topic}")]
    pub to: String,
}
