//! What only MQTT 5 has.

use crate::raw::*;
use fieldgate::broker::{Limits, Options};

const V: V = crate::raw::V::Five;

#[tokio::test]
async fn properties_travel_to_version_5_and_are_left_out_for_version_4() {
    let (_broker, at) = broker().await;
    let mut five = Raw::connected(at, V, "five").await;
    let mut four = Raw::connected(at, crate::raw::V::Four, "four").await;
    five.subscribed("p/#", 0).await;
    four.subscribed("p/#", 0).await;
    let props = b"\x01\x01\x03\0\x01t\x08\0\x01r\x09\0\x02cd\x26\0\x01k\0\x01v\x26\0\x01k\0\x01w";
    let mut p = Raw::connected(at, V, "p").await;
    p.send(&publish(V, 1, "p/x", 0, props, b"1")).await;
    five.expect(&publish(V, 0, "p/x", 0, props, b"1")).await;
    four.expect(&publish(crate::raw::V::Four, 0, "p/x", 0, &[], b"1")).await;
    // Retained ones too.
    four.subscribed("p/x", 0).await;
    four.expect(&publish(crate::raw::V::Four, 1, "p/x", 0, &[], b"1")).await;
    four.ping().await;
}

#[tokio::test]
async fn topic_aliases_are_resolved_and_checked() {
    let (_broker, at) = broker().await;
    let mut s = Raw::connected(at, V, "s").await;
    s.subscribed("a/#", 0).await;
    let mut p = Raw::connected(at, V, "p").await;
    for (topic, payload) in [("a/1", b"1"), ("", b"2"), ("a/2", b"3"), ("", b"4")] {
        p.send(&publish(V, 0, topic, 0, &[0x23, 0, 32], payload)).await;
    }
    for (topic, payload) in [("a/1", b"1"), ("a/1", b"2"), ("a/2", b"3"), ("a/2", b"4")] {
        s.expect(&publish(V, 0, topic, 0, &[], payload)).await;
    }
    for (alias, reason) in [(0, 0x94), (33, 0x94), (7, 0x82)] {
        let mut c = Raw::connected(at, V, "c").await;
        c.send(&publish(V, 0, "", 0, &[0x23, 0, alias], b"")).await;
        c.expect_end(reason).await;
    }
    let mut c = Raw::connected(at, V, "c").await;
    c.send(&publish(V, 0, "", 0, &[], b"")).await;
    c.expect_end(0x82).await;
}

#[tokio::test]
async fn topic_alias_maximum_0_is_a_number_like_any_other() {
    let (_broker, at) = broker().await;
    let mut c = Raw::open(at, V).await;
    c.send(&connect_with(V, "c", 2, 0, &[0x22, 0, 0], &[])).await;
    c.connack(false).await;
    c.ping().await;
}

#[tokio::test]
async fn subscription_identifiers_no_local_retain_as_published_and_retain_handling() {
    let (_broker, at) = broker().await;
    let mut c = Raw::connected(at, V, "c").await;
    c.send(&publish(V, 1, "o/r", 0, &[], b"kept")).await;
    // Identifiers of all matching subscriptions.
    for (id, filter) in [(5, "i/+"), (200, "i/#")] {
        let id: &[u8] = if id == 5 { &[0x0B, 5] } else { &[0x0B, 0xC8, 1] };
        c.send(&subscribe_with(V, 1, filter, 0, id)).await;
        c.expect(&[0x90, 4, 0, 1, 0, 0]).await;
    }
    c.send(&publish(V, 0, "i/x", 0, &[], b"")).await;
    let got = c.recv().await;
    assert!(
        got.ends_with(&[5, 0x0B, 5, 0x0B, 0xC8, 1]) || got.ends_with(&[5, 0x0B, 0xC8, 1, 0x0B, 5]),
        "{got:02x?}"
    );
    // No Local.
    c.subscribed("n/x", 4).await;
    c.send(&publish(V, 0, "n/x", 0, &[], b"mine")).await;
    c.ping().await;
    // Retain Handling 2, 1 (known), 1 (new), 0; retained ones always carry the flag.
    let kept = publish(V, 1, "o/r", 0, &[], b"kept");
    c.subscribed("o/#", 0x20).await;
    c.subscribed("o/#", 0x10).await;
    c.ping().await;
    c.subscribed("o/r", 0x10).await;
    c.expect(&kept).await;
    c.subscribed("o/r", 0).await;
    c.expect(&kept).await;
    // Retain As Published.
    c.subscribed("q/1", 8).await;
    c.subscribed("q/2", 0).await;
    c.send(&publish(V, 1, "q/1", 0, &[], b"x")).await;
    c.send(&publish(V, 1, "q/2", 0, &[], b"x")).await;
    c.expect(&publish(V, 1, "q/1", 0, &[], b"x")).await;
    c.expect(&publish(V, 0, "q/2", 0, &[], b"x")).await;
}

#[tokio::test]
async fn a_message_expires_in_the_queue_and_tells_what_is_left() {
    let (broker, at) = broker().await;
    let mut c = Raw::open(at, V).await;
    let hello = connect_with(V, "c", 0, 0, &[0x11, 0, 0, 0, 60], &[]);
    c.send(&hello).await;
    c.connack(false).await;
    c.subscribed("e/#", 1).await;
    c.bye().await;
    let mut p = Raw::connected(at, V, "p").await;
    p.send(&publish(V, 2, "e/short", 1, &[2, 0, 0, 0, 1], b"")).await;
    p.expect(&[0x40, 2, 0, 1]).await;
    p.send(&publish(V, 3, "e/long", 2, &[2, 0, 0, 0, 100], b"x")).await;
    p.expect(&[0x40, 2, 0, 2]).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let mut c = Raw::open(at, V).await;
    c.send(&hello).await;
    c.connack(true).await;
    let got = c.recv().await;
    assert_eq!(got[..got.len() - 2], publish(V, 2, "e/long", 1, &[2, 0, 0, 0, 100], b"x")[..got.len() - 2]);
    assert!((90..=99).contains(&got[got.len() - 2]), "{got:?}");
    assert_eq!(broker.stats().expired, 1);
}

#[tokio::test]
async fn receive_maximum_counts_in_both_directions() {
    let limits = Limits { in_flight_in: 4, ..Limits::default() };
    let (_broker, at) = broker_with(Options { limits, ..Options::default() }).await;
    let mut c = Raw::open(at, V).await;
    c.send(&connect_with(V, "c", 2, 0, &[0x21, 0, 2], &[])).await;
    c.connack(false).await;
    c.subscribed("m/#", 1).await;
    let mut p = Raw::connected(at, V, "p").await;
    for id in 1..=4 {
        p.send(&publish(V, 2, "m/x", id, &[], &[b'0' + u8::try_from(id).unwrap()])).await;
        p.recv().await;
    }
    for n in 1..=2 {
        assert_eq!(c.recv().await.last(), Some(&(b'0' + n)));
    }
    c.ping().await;
    c.send(&[0x40, 2, 0, 1]).await;
    assert_eq!(c.recv().await.last(), Some(&b'3'));
    c.ping().await;
    // QoS 2 stays unfinished until PUBREL: the fifth is one too many.
    for id in 11..=14 {
        p.send(&publish(V, 4, "m/x", id, &[], b"")).await;
        p.recv().await;
    }
    p.send(&publish(V, 4, "m/x", 15, &[], b"")).await;
    p.expect_end(0x93).await;
}

#[tokio::test]
async fn a_packet_larger_than_the_client_takes_is_not_sent_to_it() {
    let (broker, at) = broker().await;
    let mut c = Raw::open(at, V).await;
    c.send(&connect_with(V, "c", 2, 0, &[0x27, 0, 0, 0, 20], &[])).await;
    c.connack(false).await;
    c.subscribed("s/#", 1).await;
    let mut p = Raw::connected(at, V, "p").await;
    p.send(&publish(V, 2, "s/x", 1, &[], &[b'x'; 13])).await;
    p.send(&publish(V, 2, "s/x", 2, &[], &[b'x'; 10])).await;
    assert_eq!(c.recv().await.len(), 20);
    c.ping().await;
    assert_eq!(broker.stats().dropped, 1);
}

#[tokio::test]
async fn disconnect_can_ask_for_the_will_and_change_the_expiry() {
    let (broker, at) = broker().await;
    let mut watcher = Raw::connected(at, V, "watcher").await;
    watcher.subscribed("will/#", 0).await;
    let will = [&[0][..], &text("will/x"), &text("gone")].concat();
    let mut c = Raw::open(at, V).await;
    c.send(&connect_with(V, "c", 6, 0, &[0x11, 0, 0, 0, 60], &will)).await;
    c.connack(false).await;
    c.send(b"\xE0\x07\x04\x05\x11\0\0\0\0").await;
    assert_eq!(c.next().await, None);
    watcher.expect(&publish(V, 0, "will/x", 0, &[], b"gone")).await;
    assert_eq!(broker.stats().sessions_away, 0);
    let mut c = Raw::connected(at, V, "c").await;
    c.send(b"\xE0\x07\x00\x05\x11\0\0\0\x09").await;
    c.expect_end(0x82).await;
}

#[tokio::test]
async fn what_is_sent_again_and_too_large_by_now_takes_no_place() {
    let (broker, at) = broker().await;
    let mut p = Raw::connected(at, V::Five, "p").await;
    for qos in [1, 2] {
        let mut c = Raw::open(at, V::Five).await;
        let one_at_a_time = [0x11, 0, 0, 0, 60, 0x21, 0, 1];
        c.send(&connect_with(V::Five, "small", 2, 0, &one_at_a_time, &[])).await;
        c.connack(false).await;
        c.subscribed("q", qos).await;
        for (id, payload) in [(1, &[7; 200][..]), (2, b"small")] {
            p.send(&publish(V::Five, 2 * qos, "q", id, &[], payload)).await;
            p.recv().await;
            if qos == 2 {
                p.send(&[0x62, 2, 0, u8::try_from(id).unwrap()]).await;
                p.recv().await;
            }
        }
        assert!(c.recv().await.len() > 200);
        drop(c);
        until("it is away", || broker.stats().sessions_away == 1).await;
        let mut c = Raw::open(at, V::Five).await;
        let small = [&one_at_a_time[..], &[0x27, 0, 0, 0, 100]].concat();
        c.send(&connect_with(V::Five, "small", 0, 0, &small, &[])).await;
        c.connack(true).await;
        assert!(c.recv().await.ends_with(b"small"));
    }
}
