//! What is known to kill or wedge brokers: none of it may cost more than the connection it comes on.

use crate::raw::*;
use fieldgate::broker::{Broker, EngineChoice, Limits, Options, Refusal};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// The broker still does its work, with its first engine and without a panic.
async fn alive(broker: &Broker, at: SocketAddr) {
    for v in BOTH {
        let mut c = Raw::connected(at, v, "alive").await;
        c.subscribed("alive", 1).await;
        c.send(&publish(v, 2, "alive", 1, &[], b"yes")).await;
        let (a, b) = (c.recv().await, c.recv().await);
        assert!(a[0] & 0xF0 == 0x30 || b[0] & 0xF0 == 0x30);
        c.bye().await;
    }
    let stats = broker.stats();
    assert_eq!((stats.panics, stats.engine, stats.engine_switches), (0, "rumqttd", 0));
}

#[tokio::test]
async fn a_topic_that_does_not_start_in_ascii() {
    let (broker, at) = broker().await;
    let mut s = Raw::connected(at, V::Four, "s").await;
    s.subscribed("温度/+", 1).await;
    let mut p = Raw::connected(at, V::Five, "p").await;
    p.send(&publish(V::Five, 0, "温度/1", 0, &[], b"21.5")).await;
    s.expect(&publish(V::Four, 0, "温度/1", 0, &[], b"21.5")).await;
    alive(&broker, at).await;
}

#[tokio::test]
async fn odd_client_ids_twice() {
    let (broker, at) = broker().await;
    let long = "x".repeat(65_535);
    for id in ["a/b+#$", "$SYS/#", "温度", "../../etc", " ", "a b\tc\u{1}", "\u{FEFF}", long.as_str()] {
        for v in BOTH {
            let mut first = Raw::connected(at, v, id).await;
            let mut second = Raw::connected(at, v, id).await;
            first.expect_end(0x8E).await;
            second.ping().await;
            second.bye().await;
        }
    }
    alive(&broker, at).await;
}

#[tokio::test]
async fn empty_client_ids_are_names_of_ours_and_those_with_a_nul_are_refused() {
    let (broker, at) = broker().await;
    for v in BOTH {
        let mut named = Vec::new();
        for _ in 0..2 {
            let mut c = Raw::open(at, v).await;
            c.send(&connect(v, "", true)).await;
            let welcome = c.recv().await;
            assert_eq!((welcome[0], welcome[2], welcome[3]), (0x20, 0, 0));
            named.push(c);
        }
        for mut c in named {
            c.ping().await;
            c.bye().await;
        }
        for id in ["\0", "a\0b"] {
            let mut c = Raw::open(at, v).await;
            c.send(&connect(v, id, true)).await;
            if v == V::Five {
                assert_eq!(c.recv().await[..4], [0x20, 3, 0, 0x81]);
            }
            assert_eq!(c.next().await, None);
        }
    }
    alive(&broker, at).await;
}

#[tokio::test]
async fn properties_of_version_5_to_subscribers_of_version_3() {
    let (broker, at) = broker().await;
    let mut s = Raw::connected(at, V::Four, "s").await;
    s.subscribed("pill/#", 1).await;
    let properties: Vec<u8> = [
        &[0x01, 1, 0x02, 0, 0, 1, 0][..],
        &[&[0x03][..], &text("text/plain")].concat(),
        &[&[0x08][..], &text("pill/answer")].concat(),
        &[&[0x09][..], &text("c")].concat(),
        &[&[0x26][..], &text("a"), &text("1"), &[0x26], &text("a"), &text("2")].concat(),
    ]
    .concat();
    let mut p = Raw::connected(at, V::Five, "p").await;
    p.send(&publish(V::Five, 1, "pill/1", 0, &properties, b"x")).await;
    s.expect(&publish(V::Four, 0, "pill/1", 0, &[], b"x")).await;
    // Retained, it would poison every one that comes later.
    for n in 0..3 {
        let mut later = Raw::connected(at, V::Four, &format!("later{n}")).await;
        later.subscribed("pill/+", 1).await;
        later.expect(&publish(V::Four, 1, "pill/1", 0, &[], b"x")).await;
        later.bye().await;
    }
    alive(&broker, at).await;
}

#[tokio::test]
async fn the_only_member_of_a_shared_group_that_drops_with_an_unacknowledged_message() {
    let (broker, at) = broker().await;
    for v in BOTH {
        for round in 0..3 {
            let forever: &[u8] = if v == V::Five { &[0x11, 0xFF, 0xFF, 0xFF, 0xFF] } else { &[] };
            let hello = connect_with(v, "member", 0, 0, forever, &[]);
            let mut member = Raw::open(at, v).await;
            member.send(&hello).await;
            member.connack(round > 0).await;
            if round == 0 {
                member.subscribed("$share/g/work/#", 1).await;
            }
            let mut p = Raw::connected(at, v, "p").await;
            for id in 1..=5 {
                p.send(&publish(v, 2, "work/x", id, &[], b"x")).await;
                p.recv().await;
            }
            member.recv().await;
            drop(member);
            for id in 6..=9 {
                p.send(&publish(v, 2, "work/x", id, &[], b"x")).await;
                p.recv().await;
            }
            p.bye().await;
            until("it is away", || broker.stats().sessions_away == 1).await;
        }
        Raw::connected(at, v, "member").await.bye().await;
    }
    alive(&broker, at).await;
}

#[tokio::test]
async fn a_storm_of_take_overs_welcomes_everyone_whatever_engine_routes() {
    for engine in [EngineChoice::Rumqttd, EngineChoice::Native] {
        let (broker, at) = broker_with(Options { engine, ..Options::default() }).await;
        let tasks: Vec<_> = (0..240usize)
            .map(|n| {
                tokio::spawn(async move {
                    let mut c = Raw::open(at, BOTH[n % 2]).await;
                    c.send(&connect(BOTH[n % 2], "one", n % 2 == 0)).await;
                    let welcome = c.recv().await;
                    assert_eq!((welcome[0], welcome[3]), (0x20, 0), "{welcome:02x?}");
                    c
                })
            })
            .collect();
        let mut welcomed = Vec::new();
        for task in tasks {
            welcomed.push(task.await.unwrap());
        }
        assert_eq!(welcomed.len(), 240);
        until("one is left", || broker.stats().connections == 1).await;
        assert_eq!((broker.stats().panics, broker.stats().clients), (0, 1));
    }
}

#[tokio::test]
async fn packets_that_only_servers_send_and_huge_lengths() {
    let (broker, at) = broker().await;
    for n in 0..50 {
        for v in BOTH {
            for bytes in
                [&[0xB0u8, 2, 0, 1][..], &[0x90, 3, 0, 1, 0], &[0xD0, 0], &[0x3D, 0xFF, 0xFF, 0xFF, 0x7F]]
            {
                let mut c = Raw::connected(at, v, &format!("c{n}")).await;
                c.send(bytes).await;
                while c.next().await.is_some() {}
            }
        }
    }
    until("all gone", || broker.stats().connections == 0).await;
    alive(&broker, at).await;
}

#[tokio::test]
async fn acknowledgements_that_nobody_waits_for() {
    let (broker, at) = broker().await;
    for v in BOTH {
        let mut c = Raw::connected(at, v, "c").await;
        for first in [0x40, 0x70] {
            c.send(&[first, 2, 0, 9]).await;
        }
        c.send(&[0x50, 2, 0, 9]).await;
        c.expect(if v == V::Five { &[0x62, 3, 0, 9, 0x92] } else { &[0x62, 2, 0, 9] }).await;
        c.ping().await;
    }
    alive(&broker, at).await;
}

#[tokio::test]
async fn a_lone_persistent_subscriber_that_drops_with_an_unacknowledged_message() {
    let (broker, at) = broker().await;
    for _ in 0..3 {
        let mut c = Raw::open(at, V::Four).await;
        c.send(&connect(V::Four, "lone", false)).await;
        c.recv().await;
        c.send(&subscribe(V::Four, 1, "l", 2)).await;
        let mut p = Raw::connected(at, V::Four, "p").await;
        p.send(&publish(V::Four, 2, "l", 1, &[], b"x")).await;
        p.recv().await;
        drop(c);
        p.bye().await;
    }
    alive(&broker, at).await;
}

#[tokio::test]
async fn a_thousand_short_connections_and_half_said_connects() {
    let limits = Limits { connect_rate: 0, ..Limits::default() };
    let (broker, at) = broker_with(Options { limits, ..Options::default() }).await;
    for n in 0..1000usize {
        let mut c = Raw::open(at, V::Four).await;
        let hello = connect(V::Four, &format!("c{}", n % 7), true);
        c.send(&hello[..n % (hello.len() + 1)]).await;
        drop(c);
    }
    until("all gone", || broker.stats().connections == 0).await;
    alive(&broker, at).await;
}

#[tokio::test]
async fn silent_connections_are_ended_and_too_many_are_refused() {
    let limits = Limits { connections: 4, connect_deadline: Duration::from_millis(300), ..Limits::default() };
    let (broker, at) = broker_with(Options { limits, ..Options::default() }).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(Raw::open(at, V::Four).await);
    }
    until("four are in", || broker.stats().connections == 4).await;
    let mut fifth = Raw::open(at, V::Four).await;
    assert_eq!(fifth.next().await, None);
    assert_eq!(broker.stats().refused_for(Refusal::Connections), 1);
    for mut c in silent {
        assert_eq!(c.next().await, None);
    }
    assert_eq!(broker.stats().refused_for(Refusal::Handshake), 4);
    until("all gone", || broker.stats().connections == 0).await;
    alive(&broker, at).await;
}

#[tokio::test]
async fn filter_bombs_stop_at_the_limit() {
    let limits = Limits { subscriptions: 100, ..Limits::default() };
    let (broker, at) = broker_with(Options { limits, ..Options::default() }).await;
    let mut c = Raw::connected(at, V::Five, "bomb").await;
    for n in 0..300u16 {
        c.send(&subscribe(V::Five, n + 1, &format!("+/{n}/#"), 0)).await;
        let code = if n < 100 { 0 } else { 0x97 };
        c.expect(&[0x90, 4, (n + 1).to_be_bytes()[0], (n + 1).to_be_bytes()[1], 0, code]).await;
    }
    c.send(&subscribe(V::Five, 1, &"+/".repeat(2000), 0)).await;
    c.expect(&[0x90, 4, 0, 1, 0, 0x8F]).await;
    assert_eq!(broker.stats().subscriptions, 100);
    c.bye().await;
    until("freed", || broker.stats().subscriptions == 0).await;
    alive(&broker, at).await;
}

#[tokio::test]
async fn a_flood_to_a_subscriber_that_never_reads() {
    let limits = Limits { queue_bytes: 1 << 20, ..Limits::default() };
    let (broker, at) = broker_with(Options { limits, ..Options::default() }).await;
    let mut deaf = Raw::connected(at, V::Four, "deaf").await;
    deaf.subscribed("flood", 0).await;
    let mut p = Raw::connected(at, V::Four, "p").await;
    let message = publish(V::Four, 0, "flood", 0, &[], &[0; 10_000]);
    for _ in 0..3000 {
        p.send(&message).await;
    }
    p.ping().await;
    until("dropped", || broker.stats().messages_in > 3000).await;
    assert!(broker.stats().dropped > 1000, "{:?}", broker.stats());
    drop(deaf);
    alive(&broker, at).await;
}

#[tokio::test]
async fn a_retained_flood_stops_at_the_limit() {
    let limits = Limits { retained: 100, ..Limits::default() };
    let (broker, at) = broker_with(Options { limits, ..Options::default() }).await;
    let mut p = Raw::connected(at, V::Four, "p").await;
    for n in 0..500 {
        p.send(&publish(V::Four, 1, &format!("r/{n}"), 0, &[], b"x")).await;
    }
    until("all came", || broker.stats().messages_in == 500).await;
    let stats = broker.stats();
    assert_eq!((stats.retained, stats.refused_for(Refusal::Retained)), (100, 400));
    alive(&broker, at).await;
}

#[tokio::test]
async fn one_byte_at_a_time() {
    let (_broker, at) = broker().await;
    let mut c = Raw::open(at, V::Five).await;
    for byte in [connect(V::Five, "slow", true), subscribe(V::Five, 1, "a", 0), vec![0xC0, 0]].concat() {
        c.send(&[byte]).await;
    }
    c.connack(false).await;
    // The ping needs no one; the subscription goes through the hub.
    let mut answers = [c.recv().await, c.recv().await];
    answers.sort_by_key(Vec::len);
    assert_eq!(answers, [vec![0xD0, 0], vec![0x90, 4, 0, 1, 0, 0]]);
}

/// Random bytes, plausible packets with flipped bytes, and random cuts: before and after CONNECT.
#[tokio::test]
async fn noise_never_kills_the_broker() {
    let limits = Limits { connect_rate: 0, ..Limits::default() };
    let (broker, at) = broker_with(Options { limits, ..Options::default() }).await;
    let mut rng = fastrand::Rng::with_seed(2026);
    for round in 0..1500 {
        let v = BOTH[round % 2];
        let mut bytes = Vec::new();
        if round % 3 > 0 {
            bytes.extend(connect(v, "noise", rng.bool()));
        }
        for _ in 0..rng.usize(1..8) {
            let mut part = match rng.u8(0..7) {
                0 => publish(v, rng.u8(0..16), "a/b", rng.u16(..), &[0x23, 0, rng.u8(..)], b"payload"),
                1 => subscribe(v, rng.u16(..), "a/#", rng.u8(..)),
                2 => packet(rng.u8(..), &[0, 1]),
                3 => packet(0x62, &rng.u16(..).to_be_bytes()),
                4 => connect_with(v, "n", rng.u8(..), rng.u16(..), &[rng.u8(..), rng.u8(..)], &[0; 9]),
                5 => packet(0xA2, &[0, 1, 0, 0, 1, b'a']),
                _ => (0..rng.usize(1..60)).map(|_| rng.u8(..)).collect(),
            };
            if rng.bool() {
                let at = rng.usize(0..part.len());
                part[at] = rng.u8(..);
            }
            bytes.extend(part);
        }
        bytes.truncate(rng.usize(1..=bytes.len()));
        let mut io = Raw::open(at, v).await.into_io();
        // The broker may close before all is written.
        let _ = io.write_all(&bytes).await;
    }
    until("all gone", || broker.stats().connections == 0).await;
    alive(&broker, at).await;
}
