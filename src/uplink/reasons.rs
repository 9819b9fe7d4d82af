//! What a broker gives as its reason, in words, and whether there is any use in hurrying back.

use mqtt_protocol_core::mqtt::packet::Property;
use mqtt_protocol_core::mqtt::result_code::ConnectReturnCode;

use super::fault::Fault;
use super::http::printable;

/// A login refused in MQTT 3.1.1.
#[must_use]
pub fn login_311(code: ConnectReturnCode) -> Fault {
    let settled = !matches!(code, ConnectReturnCode::Accepted | ConnectReturnCode::ServerUnavailable);
    Fault::Login { why: return_words(code).to_owned(), settled }
}

/// A login refused in MQTT 5.
#[must_use]
pub fn login(code: u8, properties: &[Property]) -> Fault {
    if let Some(fault) = redirect(code, properties) {
        return fault;
    }
    Fault::Login { why: with_reason(code, properties), settled: is_settled(code) }
}

/// A connection that the broker ends, in MQTT 5.
#[must_use]
pub fn ended(code: u8, properties: &[Property]) -> Fault {
    if let Some(fault) = redirect(code, properties) {
        return fault;
    }
    // Unspecified, malformed, against the rules, not authorised, topic, packet or payload not accepted.
    let at_a_message = matches!(code, 0x80..=0x83 | 0x87 | 0x90 | 0x94 | 0x95 | 0x99..=0x9b);
    Fault::Ended { why: with_reason(code, properties), settled: is_settled(code), at_a_message }
}

/// Use another server, server moved (§4.13): the broker names hosts, separated by spaces; the first counts.
fn redirect(code: u8, properties: &[Property]) -> Option<Fault> {
    if !matches!(code, 0x9c | 0x9d) {
        return None;
    }
    let to = properties.iter().find_map(|p| match p {
        Property::ServerReference(text) => text.val().split(' ').find(|word| !word.is_empty()).map(printable),
        _ => None,
    });
    Some(Fault::Redirect { to, hint: "" })
}

/// Reasons that coming back soon does not mend, or makes worse.
fn is_settled(code: u8) -> bool {
    matches!(code, 0x84..=0x87 | 0x8a | 0x8c | 0x8e | 0x96..=0x98 | 0x9f)
}

fn return_words(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Accepted => "accepted",
        ConnectReturnCode::UnacceptableProtocolVersion => {
            "the broker does not speak MQTT 3.1.1; try mqtt_version = \"5\""
        }
        ConnectReturnCode::IdentifierRejected => "the client id is not allowed",
        ConnectReturnCode::ServerUnavailable => "the broker is not available now",
        ConnectReturnCode::BadUserNameOrPassword => "wrong user name or password",
        ConnectReturnCode::NotAuthorized => "not authorised; check user name, password and certificate",
    }
}

fn with_reason(code: u8, properties: &[Property]) -> String {
    let told = properties.iter().find_map(|p| match p {
        Property::ReasonString(text) => Some(text.val().to_owned()),
        _ => None,
    });
    match told {
        Some(text) => {
            format!("{} (\"{}\")", reason_words(code), printable(&text))
        }
        None => reason_words(code),
    }
}

/// An MQTT 5 reason code (§2.4) in words.
#[must_use]
pub fn reason_words(code: u8) -> String {
    let words = match code {
        0x00 => "normal disconnection",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x84 => "the broker does not speak MQTT 5; try mqtt_version = \"3.1.1\"",
        0x85 => "the client id is not allowed",
        0x86 => "wrong user name or password",
        0x87 => "not authorised",
        0x88 => "the broker is not available now",
        0x89 => "the broker is busy",
        0x8a => "banned",
        0x8b => "the broker is shutting down",
        0x8d => "keep-alive timeout",
        0x8e => "another client with the same client id took over",
        0x8f => "topic filter not accepted",
        0x90 => "topic not accepted",
        0x93 => "more messages in flight than allowed",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format not accepted",
        0x9a => "retained messages are not supported",
        0x9b => "QoS 1 is not supported",
        0x9c | 0x9d => "the broker asks to use another server",
        0x9f => "too many connections in a short time",
        0xa0 => "longest connection time reached",
        other => return format!("reason code {other:#04x}"),
    };
    words.to_owned()
}
