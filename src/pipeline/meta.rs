//! What a point is, for people and programs: the retained `meta` payload of contract and README.

use serde::Serialize;

use driver_api::Span;

use crate::config::values::Values;

/// The payload of `gw/<id>/meta/<device>/<point>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Meta {
    /// `""` for none.
    pub unit: String,
    /// Type word of the raw value.
    #[serde(rename = "type")]
    pub kind: String,
    /// Poll interval.
    pub interval: Span,
    /// What the raw numbers mean, where the configuration says it: `{"0":"off","1":"on"}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Values>,
    /// Whether commands may write it.
    pub writable: bool,
    /// Bus and place on it (`rs485: input:0 of device 1`).
    pub source: String,
    /// For people; `""` for none.
    pub description: String,
}
