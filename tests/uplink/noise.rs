//! Whatever a broker sends, the protocol engine behind the guard never panics: neither on noise nor on
//! well-formed packets that lie. (A panic would be caught and end one connection; none should happen.)

use bytes::BytesMut;
use fieldgate::config::model::MqttVersion;
use fieldgate::uplink::inflight::{Cargo, Outgoing};
use fieldgate::uplink::protocol::{Incoming, Keep, Login, Protocol};
use fieldgate::uplink::share::Class;
use proptest::prelude::*;

/// A connection that is logged in, with two messages (ids 2 and 3) in flight.
fn will(topic: &str) -> fieldgate::uplink::formats::node::Will {
    fieldgate::uplink::formats::node::Will { topic: topic.into(), payload: "offline".into(), retain: true }
}

fn connected(version: MqttVersion, session: Keep) -> Protocol {
    let mut protocol = Protocol::new(version);
    if session != Keep::No {
        protocol.keep_session();
    }
    let mut out = BytesMut::new();
    let login = Login {
        client_id: "g".into(),
        username: Some("u".into()),
        password: Some(b"p".to_vec()),
        keep_alive_s: 30,
        will: will("gw/g/status"),
        session,
        keep_s: 0,
    };
    protocol.connect(&login, &mut out).expect("a valid login");
    let welcome: &[u8] = match version {
        MqttVersion::V5 => &[0x20, 6, 0, 0, 3, 0x21, 0, 20],
        MqttVersion::V311 => &[0x20, 2, 0, 0],
    };
    assert!(matches!(protocol.receive(welcome, &mut out).as_deref(), Ok([Incoming::Welcome(_)])));
    protocol.subscribe("gw/g/command/+/+", false, &mut out).expect("a valid filter");
    for _ in 0..2 {
        let message = Outgoing {
            cargo: Cargo::Event,
            class: Class::Control,
            topic: "t".into(),
            payload: "x".into(),
            retain: false,
            forwarded: None,
        };
        protocol.publish(&message, &mut out).expect("it fits");
    }
    protocol
}

/// Packets of every kind, right and wrong: a header, and a body that is often nearly right.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        (0u8..5, prop::collection::vec(any::<u8>(), 0..6))
            .prop_map(|(id, rest)| [vec![0, id], rest].concat()),
        (0u8..5, 0u8..3, prop::collection::vec(any::<u8>(), 0..8)).prop_map(|(id, props, rest)| [
            vec![0, 1, b't', 0, id, props],
            rest
        ]
        .concat()),
        // CONNACK with one property.
        (any::<u8>(), any::<u32>())
            .prop_map(|(id, v)| [vec![0, 0, 5, id], v.to_be_bytes().to_vec()].concat()),
        (any::<u8>(), any::<u16>())
            .prop_map(|(id, v)| [vec![0, 0, 3, id], v.to_be_bytes().to_vec()].concat()),
        (any::<u8>(), any::<u8>()).prop_map(|(id, v)| vec![0, 0, 2, id, v]),
    ];
    (any::<u8>(), body).prop_map(|(first, body)| {
        let len = u8::try_from(body.len()).expect("short");
        [vec![first, len], body].concat()
    })
}

fn digest(mut protocol: Protocol, packets: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let mut out = BytesMut::new();
    for packet in packets {
        if let Err(fault) = protocol.receive(packet, &mut out) {
            prop_assert!(!fault.to_string().contains("digest"), "the engine panicked on {packet:x?}");
            return Ok(());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn no_packet_after_the_login_panics(packets in prop::collection::vec(packet(), 1..6), v5 in any::<bool>(), kept in any::<bool>()) {
        let version = if v5 { MqttVersion::V5 } else { MqttVersion::V311 };
        let session = if kept { Keep::On } else { Keep::No };
        digest(connected(version, session), &packets)?;
    }

    #[test]
    fn no_answer_to_the_login_panics(packet in packet(), v5 in any::<bool>()) {
        let version = if v5 { MqttVersion::V5 } else { MqttVersion::V311 };
        let mut protocol = Protocol::new(version);
        let login = Login {
            client_id: "g".into(), username: None, password: None, keep_alive_s: 0, will: will("w"), session: Keep::No,
 keep_s: 0,
        };
        protocol.connect(&login, &mut BytesMut::new()).expect("a valid login");
        digest(protocol, &[[vec![0x20], packet[1..].to_vec()].concat()])?;
    }
}
