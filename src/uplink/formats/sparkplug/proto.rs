//! The messages of Sparkplug B as far as an edge node writes and reads them, from the field tables of the
//! specification (Sparkplug 3.0, §6.4). Pure.

use bytes::Bytes;
use miniz_oxide::deflate::compress_to_vec_zlib;
use prost::Message as _;

/// The most effort: a message is some tens of kilobytes at most, and the link is dearer than a millisecond.
const LEVEL: u8 = 9;

/// A payload.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Payload {
    /// When it was sent, ms since 1970.
    #[prost(uint64, optional, tag = "1")]
    pub timestamp: Option<u64>,
    /// Its metrics.
    #[prost(message, repeated, tag = "2")]
    pub metrics: Vec<Metric>,
    /// Its number, 0 to 255.
    #[prost(uint64, optional, tag = "3")]
    pub seq: Option<u64>,
    /// Here: the epoch of the readings.
    #[prost(string, optional, tag = "4")]
    pub uuid: Option<String>,
    /// Bytes of another kind. Here: a whole payload, compressed; see [`Payload::deflated`].
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub body: Option<Bytes>,
}

/// The `uuid` of a payload whose body is a payload.
pub const COMPRESSED: &str = "SPBV1.0_COMPRESSED";

impl Payload {
    /// This payload in the body of another one, compressed, as Eclipse Tahu's library does it and hosts built with that
    /// read it: the algorithm is a metric, `DEFLATE` is zlib's format (RFC 1950). Time and number stand outside too, so
    /// that a host sees them before it unpacks. What does not become shorter stays as it is.
    #[must_use]
    pub fn deflated(self) -> Vec<u8> {
        let plain = self.encode_to_vec();
        let algorithm = Metric {
            name: Some("algorithm".to_owned()),
            datatype: Some(Kind::Text as u32),
            value: Some(MetricValue::Text("DEFLATE".to_owned())),
            ..Metric::default()
        };
        let packed = Self {
            timestamp: self.timestamp,
            metrics: vec![algorithm],
            seq: self.seq,
            uuid: Some(COMPRESSED.to_owned()),
            body: Some(compress_to_vec_zlib(&plain, LEVEL).into()),
        };
        let packed = packed.encode_to_vec();
        if packed.len() < plain.len() { packed } else { plain }
    }
}

/// A metric.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metric {
    /// Name; in births, and where there is no alias.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// A number for the name.
    #[prost(uint64, optional, tag = "2")]
    pub alias: Option<u64>,
    /// When it was sampled, ms since 1970.
    #[prost(uint64, optional, tag = "3")]
    pub timestamp: Option<u64>,
    /// See [`Kind`].
    #[prost(uint32, optional, tag = "4")]
    pub datatype: Option<u32>,
    /// Not the current value.
    #[prost(bool, optional, tag = "5")]
    pub is_historical: Option<bool>,
    /// It has no value.
    #[prost(bool, optional, tag = "7")]
    pub is_null: Option<bool>,
    /// Unit, quality, …
    #[prost(message, optional, tag = "9")]
    pub properties: Option<PropertySet>,
    /// The value.
    #[prost(oneof = "MetricValue", tags = "10, 11, 12, 13, 14, 15")]
    pub value: Option<MetricValue>,
}

/// The value of a metric.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum MetricValue {
    /// Integers of up to 32 bits.
    #[prost(uint32, tag = "10")]
    Int(u32),
    /// Integers of 64 bits, signed ones as two's complement.
    #[prost(uint64, tag = "11")]
    Long(u64),
    /// A single.
    #[prost(float, tag = "12")]
    Float(f32),
    /// A double.
    #[prost(double, tag = "13")]
    Double(f64),
    /// A truth value.
    #[prost(bool, tag = "14")]
    Boolean(bool),
    /// A text.
    #[prost(string, tag = "15")]
    Text(String),
}

/// Properties of a metric: keys and values of the same index belong together.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PropertySet {
    /// Names.
    #[prost(string, repeated, tag = "1")]
    pub keys: Vec<String>,
    /// Values.
    #[prost(message, repeated, tag = "2")]
    pub values: Vec<PropertyValue>,
}

/// The value of a property.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PropertyValue {
    /// See [`Kind`].
    #[prost(uint32, optional, tag = "1")]
    pub kind: Option<u32>,
    /// The value.
    #[prost(oneof = "PropertyOf", tags = "3, 4, 8")]
    pub value: Option<PropertyOf>,
}

/// What a property holds.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum PropertyOf {
    /// Integers of up to 32 bits.
    #[prost(uint32, tag = "3")]
    Int(u32),
    /// Integers of 64 bits.
    #[prost(uint64, tag = "4")]
    Long(u64),
    /// A text.
    #[prost(string, tag = "8")]
    Text(String),
}

/// The data types of the specification that occur here, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Signed, 32 bits.
    Int32 = 3,
    /// Signed, 64 bits.
    Int64 = 4,
    /// Unsigned, 32 bits.
    UInt32 = 7,
    /// Unsigned, 64 bits.
    UInt64 = 8,
    /// IEEE single.
    Float = 9,
    /// IEEE double.
    Double = 10,
    /// Truth value.
    Boolean = 11,
    /// Text.
    Text = 12,
}

impl PropertySet {
    /// Adds a property.
    pub fn add(&mut self, key: &str, kind: Kind, value: PropertyOf) {
        self.keys.push(key.to_owned());
        self.values.push(PropertyValue { kind: Some(kind as u32), value: Some(value) });
    }
}
