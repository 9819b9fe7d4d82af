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
