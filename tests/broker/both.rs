//! What both protocol versions promise, packet by packet.

use crate::raw::*;
use fieldgate::message::Message;

#[tokio::test]
async fn a_connack_for_each_version() {
    let (_broker, at) = broker().await;
    let mut four = Raw::open(at, V::Four).await;
    four.send(&connect(V::Four, "a", true)).await;
    four.expect(&[0x20, 2, 0, 0]).await;
    let mut five = Raw::open(at, V::Five).await;
    five.send(&connect(V::Five, "b", true)).await;
    // Receive Maximum 128, Maximum Packet Size 1 MiB, Topic Alias Maximum 32.
    five.expect(&[0x20, 14, 0, 0, 11, 0x21, 0, 128, 0x27, 0, 0x10, 0, 0, 0x22, 0, 32]).await;
}

#[tokio::test]
async fn a_connack_for_every_refusal() {
    let (broker, at) = broker().await;
    for (bytes, answer) in [
        // MQTT-3.1.2-2: another protocol level.
        (b"\x10\x0D\0\x04MQTT\x06\x02\0\0\0\x01a".to_vec(), &[0x20u8, 2, 0, 1][..]),
        // MQTT-3.1.3-8 of 3.1.1: no client id, and no clean session.
        (connect(V::Four, "", false), &[0x20, 2, 0, 2]),
        // An authentication method that is not known here.
        (connect_with(V::Five, "a", 2, 0, b"\x15\0\x01x", &[]), &[0x20, 3, 0, 0x8C, 0]),
        // A will with a wildcard.
        (connect_with(V::Five, "a", 6, 0, &[], b"\0\0\x01#\0\0"), &[0x20, 3, 0, 0x90, 0]),
        // A malformed CONNECT of version 5: reserved flag.
        (connect_with(V::Five, "a", 3, 0, &[], &[]), &[0x20, 3, 0, 0x81, 0]),
    ] {
        let mut raw = Raw::open(at, V::Four).await;
        raw.send(&bytes).await;
        raw.expect(answer).await;
        assert_eq!(raw.next().await, None);
    }
    // MQTT-3.1.0-1 and 3.1.1's malformed CONNECT: closed without a word.
    for bytes in
        [vec![0xC0, 0], connect_with(V::Four, "a", 3, 0, &[], &[]), b"GET / HTTP/1.1\r\n\r\n".to_vec()]
    {
        let mut raw = Raw::open(at, V::Four).await;
        raw.send(&bytes).await;
        assert_eq!(raw.next().await, None);
    }
    assert_eq!(broker.stats().clients, 0);
}

#[tokio::test]
async fn an_id_is_made_up_and_told_to_version_5() {
    let (_broker, at) = broker().await;
    Raw::connected(at, V::Four, "").await.ping().await;
    let mut five = Raw::open(at, V::Five).await;
    five.send(&connect(V::Five, "", true)).await;
    let got = five.recv().await;
    assert!(got.windows(3).any(|w| w == [0x12, 0, 21]), "{got:02x?}");
}

#[tokio::test]
async fn each_quality_of_service_in_both_directions() {
    let (_broker, at) = broker().await;
    for v in BOTH {
        let no_props: &[u8] = if v == V::Five { &[0] } else { &[] };
        let mut p = Raw::connected(at, v, "p").await;
        let mut s = Raw::connected(at, v, "s").await;
        s.subscribed("q/#", 2).await;
        // QoS 0
        p.send(&publish(v, 0, "q/0", 0, &[], b"x")).await;
        s.expect(&packet(0x30, &[&text("q/0"), no_props, b"x"].concat())).await;
        // QoS 1
        p.send(&publish(v, 2, "q/1", 0x0A0B, &[], b"x")).await;
        p.expect(&[0x40, 2, 0x0A, 0x0B]).await;
        s.expect(&packet(0x32, &[&text("q/1"), &[0, 1][..], no_props, b"x"].concat())).await;
        s.send(&[0x40, 2, 0, 1]).await;
        // QoS 2, exactly once although PUBLISH and PUBREL are repeated
        p.send(&publish(v, 4, "q/2", 7, &[], b"x")).await;
        p.expect(&[0x50, 2, 0, 7]).await;
        p.send(&publish(v, 4 | 8, "q/2", 7, &[], b"x")).await;
        p.expect(&[0x50, 2, 0, 7]).await;
        p.send(&[0x62, 2, 0, 7]).await;
        p.expect(&[0x70, 2, 0, 7]).await;
        p.send(&[0x62, 2, 0, 7]).await;
        p.expect(if v == V::Five { &[0x70, 3, 0, 7, 0x92] } else { &[0x70, 2, 0, 7] }).await;
        s.expect(&packet(0x34, &[&text("q/2"), &[0, 2][..], no_props, b"x"].concat())).await;
        s.send(&[0x50, 2, 0, 2]).await;
        s.expect(&[0x62, 2, 0, 2]).await;
        s.send(&[0x70, 2, 0, 2]).await;
        s.ping().await;
        // The id is free again: a new message.
        p.send(&publish(v, 4, "q/2", 7, &[], b"y")).await;
        p.expect(&[0x50, 2, 0, 7]).await;
        s.expect(&packet(0x34, &[&text("q/2"), &[0, 3][..], no_props, b"y"].concat())).await;
        p.bye().await;
        s.bye().await;
    }
}

#[tokio::test]
async fn delivery_is_at_the_lesser_quality_and_once_for_overlapping_filters() {
    let (_broker, at) = broker().await;
    for v in BOTH {
        let no_props: &[u8] = if v == V::Five { &[0] } else { &[] };
        let mut s = Raw::connected(at, v, "s").await;
        s.subscribed("a/+", 0).await;
        s.subscribed("a/#", 1).await;
        s.send(&publish(v, 4, "a/b", 1, &[], b"x")).await;
        let (first, second) = (s.recv().await, s.recv().await);
        let delivered = packet(0x32, &[&text("a/b"), &[0, 1][..], no_props, b"x"].concat());
        assert!([&first, &second].contains(&&delivered), "{first:02x?} {second:02x?}");
        assert!([&first, &second].contains(&&vec![0x50, 2, 0, 1]));
        s.ping().await;
        s.bye().await;
    }
}

#[tokio::test]
async fn retained_messages_are_kept_cleared_and_only_by_retained_ones() {
    let (broker, at) = broker().await;
    for v in BOTH {
        let no_props: &[u8] = if v == V::Five { &[0] } else { &[] };
        let mut p = Raw::connected(at, v, "p").await;
        let mut s = Raw::connected(at, v, "s").await;
        p.send(&publish(v, 1, "r/1", 0, &[], b"kept")).await;
        p.send(&publish(v, 0, "r/1", 0, &[], b"")).await;
        p.ping().await;
        s.subscribed("r/#", 1).await;
        // Kept with QoS 0, so delivered with it. An empty message without the flag cleared nothing.
        s.expect(&packet(0x31, &[&text("r/1"), no_props, b"kept"].concat())).await;
        p.send(&publish(v, 1, "r/1", 0, &[], b"")).await;
        s.expect(&packet(0x30, &[&text("r/1"), no_props].concat())).await;
        s.subscribed("r/1", 0).await;
        s.ping().await;
        assert!(broker.retained("#").await.is_empty());
        p.bye().await;
        s.bye().await;
    }
}

#[tokio::test]
async fn five_thousand_retained_messages_arrive_in_full() {
    let (broker, at) = broker().await;
    for count in [1000, 5000] {
        let list = |i| Message::new(format!("gw/x/data/d/p{i:05}"), format!("{i}"), true);
        assert_eq!(broker.publish((0..count).map(list).collect()), 0);
        for v in BOTH {
            for qos in [0, 1] {
                let mut s = Raw::connected(at, v, "s").await;
                s.subscribed("gw/#", qos).await;
                for i in 0..count {
                    let got = s.recv().await;
                    assert_eq!(got[0], 0x31 | qos << 1);
                    let topic = format!("gw/x/data/d/p{i:05}");
                    assert!(got.windows(topic.len()).any(|w| w == topic.as_bytes()), "{i}");
                    if qos == 1 {
                        let at = 4 + topic.len();
                        s.send(&[0x40, 2, got[at], got[at + 1]]).await;
                    }
                }
                s.ping().await;
                s.bye().await;
            }
        }
    }
}

#[tokio::test]
async fn a_retained_message_published_before_subscribing_on_the_same_connection_comes_as_retained() {
    let (_broker, at) = broker().await;
    for v in BOTH {
        let mut c = Raw::connected(at, v, "c").await;
        let both = [publish(v, 1, "x/y", 0, &[], b"1"), subscribe(v, 0x0101, "x/y", 0)].concat();
        c.send(&both).await;
        assert_eq!(c.recv().await[0], 0x90);
        assert_eq!(c.recv().await[0], 0x31);
        c.ping().await;
    }
}

#[tokio::test]
async fn unsubscribed_is_unsubscribed() {
    let (_broker, at) = broker().await;
    for v in BOTH {
        let mut c = Raw::connected(at, v, "c").await;
        c.subscribed("a/b", 0).await;
        let unsubscribe = |filter: &str| {
            let props: &[u8] = if v == V::Five { &[0] } else { &[] };
            packet(0xA2, &[&[0, 9][..], props, &text(filter)].concat())
        };
        c.send(&unsubscribe("a/b")).await;
        c.expect(if v == V::Five { &[0xB0, 4, 0, 9, 0, 0] } else { &[0xB0, 2, 0, 9] }).await;
        c.send(&unsubscribe("a/b")).await;
        c.expect(if v == V::Five { &[0xB0, 4, 0, 9, 0, 0x11] } else { &[0xB0, 2, 0, 9] }).await;
        c.send(&publish(v, 0, "a/b", 0, &[], b"x")).await;
        c.ping().await;
    }
}

#[tokio::test]
async fn filters_that_are_none_are_refused_each_in_its_place() {
    let (_broker, at) = broker().await;
    for v in BOTH {
        let mut c = Raw::connected(at, v, "c").await;
        let props: &[u8] = if v == V::Five { &[0] } else { &[] };
        let body =
            [&[0, 5][..], props, &text("a/#/b"), &[1], &text("ok"), &[2], &text("$share/+/x"), &[0]].concat();
        c.send(&packet(0x82, &body)).await;
        c.expect(match v {
            V::Four => &[0x90, 5, 0, 5, 0x80, 2, 0x80],
            V::Five => &[0x90, 6, 0, 5, 0, 0x8F, 2, 0x8F],
        })
        .await;
    }
}

#[tokio::test]
async fn dollar_topics_are_not_matched_by_wildcards_and_sys_is_ours() {
    let (broker, at) = broker().await;
    let mut c = Raw::connected(at, V::Five, "c").await;
    c.subscribed("#", 0).await;
    c.send(&publish(V::Five, 2, "$SYS/broker/version", 1, &[], b"fake")).await;
    c.expect(&[0x40, 3, 0, 1, 0x87]).await;
    c.send(&publish(V::Five, 2, "$other", 2, &[], b"x")).await;
    c.expect(&[0x40, 3, 0, 2, 0x10]).await;
    c.ping().await;
    assert!(broker.retained("$SYS/#").await.is_empty());
}

#[tokio::test]
async fn rules_that_a_client_breaks_end_its_connection() {
    let (broker, at) = broker().await;
    for v in BOTH {
        for (bytes, reason) in [
            (publish(v, 0, "a/+", 0, &[], b""), 0x90),
            (publish(v, 2, "a", 0, &[], b""), 0x82),
            (publish(v, 6, "a", 1, &[], b""), 0x81),
            (publish(v, 0, "a\0b", 0, &[], b""), 0x81),
            (packet(0x80, b"\0\x01\0\x01a\0"), 0x81),
            (packet(0xB0, b"\0\x01"), 0x82),
            (vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F], 0x95),
            (vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], 0x81),
            (connect(v, "c", true), 0x82),
            (packet(0x62, b"\0\0"), 0x82),
            (vec![0xF1, 0], 0x81),
            (vec![0x00, 0], 0x82),
        ] {
            let mut c = Raw::connected(at, v, "c").await;
            c.send(&bytes).await;
            c.expect_end(reason).await;
        }
    }
    until("all gone", || broker.stats().clients == 0).await;
}

#[tokio::test]
async fn a_hundred_thousand_retained_messages_arrive_in_full() {
    let (broker, at) = broker().await;
    for hundred in 0..100 {
        let list = |i| Message::new(format!("r/{hundred:02}/{i:03}"), vec![b'x'; 20], true);
        assert_eq!(broker.publish((0..1000).map(list).collect()), 0);
        let all = (hundred + 1) * 1000;
        until("kept", || broker.stats().retained == all).await;
    }
    let mut s = Raw::connected(at, V::Four, "s").await;
    s.subscribed("r/#", 0).await;
    for n in 0..100_000 {
        let topic = format!("r/{:02}/{:03}", n / 1000, n % 1000);
        s.expect(&publish(V::Four, 1, &topic, 0, &[], &[b'x'; 20])).await;
    }
    s.ping().await;
    assert_eq!(broker.stats().dropped, 0);
}
