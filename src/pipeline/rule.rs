//! What the configuration asks of one point, with every default filled in.

use std::sync::Arc;
use std::time::Duration;

use crate::config::model::Deadband;
use crate::config::values::Values;
use crate::message::PointKey;

/// The pipeline's settings of one point.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Device, point and unit.
    pub key: Arc<PointKey>,
    /// value = raw × scale + offset; `None`: the raw value as it is.
    pub scale: Option<f64>,
    /// value = raw × scale + offset.
    pub offset: Option<f64>,
    /// A change smaller than this is not reported.
    pub deadband: Option<Deadband>,
    /// Reported at least this often, however little changes.
    pub max_interval: Duration,
    /// Reported at most this often, give or take a quarter; zero for what is polled, where the poll
    /// interval rules.
    pub min_interval: Duration,
    /// Below: uncertain, and a command is refused.
    pub min: Option<f64>,
    /// Above: uncertain, and a command is refused.
    pub max: Option<f64>,
    /// What the raw numbers mean, in words; then nothing is scaled.
    pub values: Option<Arc<Values>>,
    /// Type word of the raw value (`u16`, `f32`, `bool`, `string:8`, …).
    pub kind: String,
    /// Whether commands may write it.
    pub writable: bool,
}

/// `max_interval` where the configuration says nothing.
pub const DEFAULT_MAX_INTERVAL: Duration = Duration::from_secs(60);

impl Rule {
    /// A rule that changes nothing, for a point of this key and type.
    #[must_use]
    pub fn plain(key: Arc<PointKey>, kind: &str) -> Self {
        Self {
            key,
            scale: None,
            offset: None,
            deadband: None,
            max_interval: DEFAULT_MAX_INTERVAL,
            min_interval: Duration::ZERO,
            min: None,
            max: None,
            values: None,
            kind: kind.to_owned(),
            writable: false,
        }
    }
}
