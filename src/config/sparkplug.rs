//! What an uplink with `format = "sparkplug-b"` is called there, and how its payloads go.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names of a Sparkplug edge node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sparkplug {
    /// Group id.
    pub group: String,
    /// Edge node id. Default: the gateway's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Host application without whose STATE `online` nothing is born and no reading sent. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_host: Option<String>,
    /// `none`, or `deflate`: data and births of devices as Eclipse Tahu's library compresses them. Where a batch
    /// holds some fifty readings of a device it saves half on the wire; only hosts that know it (those built with that library do) can read it.
    #[serde(default, skip_serializing_if = "is_plain")]
    pub compression: Deflation,
}

fn is_plain(compression: &Deflation) -> bool {
    *compression == Deflation::None
}

/// Compression of Sparkplug's payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Deflation {
    /// As the specification has them.
    #[default]
    None,
    /// In the body of a payload with the uuid `SPBV1.0_COMPRESSED`.
    Deflate,
}
