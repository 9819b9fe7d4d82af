//! What a point is, for people and programs: the retained `meta` payload of contract and README.

use serde::Serialize;

use driver_api::Span;

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
    /// Whether commands may write it.
    pub writable: bool,
    /// Bus and place on it (`rs485: input:0 of device 1`).
    pub source: String,
    /// For people; `""` for none.
    pub description: String,
}
