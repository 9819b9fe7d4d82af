//! Sessions: kept, resumed, taken over, ended; wills.

use std::time::Duration;

use crate::kept::come;
use crate::raw::*;
use fieldgate::broker::{Broker, EngineChoice, Options};
use fieldgate::config::model;
use fieldgate::message::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Flags of CONNECT: a will with QoS 1.
const WILL: u8 = 4 | 8;

#[tokio::test]
async fn a_session_is_kept_and_its_messages_are_sent_again_in_order_with_dup() {
    let (broker, at) = broker().await;
    for v in BOTH {
        let forever: &[u8] = if v == V::Five { &[0x11, 0xFF, 0xFF, 0xFF, 0xFF] } else { &[] };
        let hello = connect_with(v, "keep", 0, 0, forever, &[]);
        let mut c = Raw::open(at, v).await;
        c.send(&hello).await;
        c.connack(false).await;
        c.subscribed("k/#", 2).await;
        let mut p = Raw::connected(at, v, "p").await;
        for (id, flags) in [(1, 2), (2, 4), (3, 2)] {
            p.send(&publish(v, flags, "k/1", id, &[], &[b'0' + u8::try_from(id).unwrap()])).await;
            p.recv().await;
        }
        let first: Vec<_> = [c.recv().await, c.recv().await, c.recv().await].into();
        assert_eq!(first.iter().map(|p| p[0]).collect::<Vec<_>>(), [0x32, 0x34, 0x32]);
        c.send(&[0x50, 2, 0, 2]).await;
        c.expect(&[0x62, 2, 0, 2]).await;
        drop(c);
        until("away", || broker.stats().sessions_away == 1).await;
        // While it is away: QoS 0 is not kept, QoS 1 is.
        p.send(&publish(v, 0, "k/0", 0, &[], b"no")).await;
        p.send(&publish(v, 2, "k/4", 4, &[], b"4")).await;
        p.recv().await;
        let mut c = Raw::open(at, v).await;
        c.send(&hello).await;
        c.connack(true).await;
        let mut dup = first.clone();
        dup[0][0] |= 8;
        dup[2][0] |= 8;
        c.expect(&[0x62, 2, 0, 2]).await;
        c.expect(&dup[0]).await;
        c.expect(&dup[2]).await;
        let fourth = c.recv().await;
        assert_eq!((fourth[0], *fourth.last().unwrap()), (0x32, b'4'));
        c.ping().await;
        c.bye().await;
        // Clean: the session is gone.
        let mut c = Raw::connected(at, v, "keep").await;
        p.send(&publish(v, 0, "k/0", 0, &[], b"no")).await;
        p.ping().await;
        c.ping().await;
        assert_eq!(broker.stats().subscriptions, 0);
        c.bye().await;
        p.bye().await;
    }
}

#[tokio::test]
async fn a_second_client_takes_over_and_the_old_will_fires() {
    let (broker, at) = broker().await;
    for v in BOTH {
        let no_props: &[u8] = if v == V::Five { &[0] } else { &[] };
        let mut watcher = Raw::connected(at, v, "watcher").await;
        watcher.subscribed("will/#", 0).await;
        let will = |word: &str| [no_props, &text("will/x"), &text(word)].concat();
        let mut old = Raw::open(at, v).await;
        old.send(&connect_with(v, "same", 2 | WILL, 0, &[], &will("old"))).await;
        old.connack(false).await;
        let mut new = Raw::open(at, v).await;
        new.send(&connect_with(v, "same", 2 | WILL, 0, &[], &will("new"))).await;
        new.connack(false).await;
        old.expect_end(0x8E).await;
        watcher.expect(&packet(0x30, &[&text("will/x"), no_props, b"old"].concat())).await;
        // DISCONNECT: no will.
        new.bye().await;
        watcher.ping().await;
        watcher.bye().await;
        until("gone", || broker.stats().clients == 0).await;
    }
}

#[tokio::test]
async fn in_a_storm_of_take_overs_everyone_gets_a_connack() {
    let (broker, at) = broker().await;
    let mut all = Vec::new();
    for n in 0..240 {
        let mut c = Raw::open(at, BOTH[n % 2]).await;
        c.send(&connect(BOTH[n % 2], "storm", n % 3 == 0)).await;
        all.push(c);
    }
    let mut ended = 0;
    for mut c in all {
        let got = c.recv().await;
        assert_eq!((got[0], got[3]), (0x20, 0), "{got:02x?}");
        ended += 1;
        drop(c);
    }
    assert_eq!(ended, 240);
    until("gone", || broker.stats().connections == 0).await;
    Raw::connected(at, V::Four, "storm").await.ping().await;
}

#[tokio::test]
async fn a_will_waits_for_its_delay_and_is_dropped_if_the_client_comes_back() {
    let (_broker, at) = broker().await;
    let v = V::Five;
    let mut watcher = Raw::connected(at, v, "watcher").await;
    watcher.subscribed("will/#", 0).await;
    let hello = |delay: u8| {
        let will = [&[5, 0x18, 0, 0, 0, delay][..], &text("will/x"), &text("gone")].concat();
        connect_with(v, "late", WILL, 0, &[0x11, 0, 0, 0, 60], &will)
    };
    let mut c = Raw::open(at, v).await;
    c.send(&hello(30)).await;
    c.connack(false).await;
    drop(c);
    let mut c = Raw::open(at, v).await;
    // The old connection may not have been seen to end yet; either way the session goes on.
    c.send(&hello(1)).await;
    c.connack(true).await;
    watcher.ping().await;
    drop(c);
    let sent = tokio::time::Instant::now();
    watcher.expect(&packet(0x30, &[&text("will/x"), &[0][..], b"gone"].concat())).await;
    assert!(sent.elapsed().as_millis() >= 900);
}

#[tokio::test]
async fn a_session_expires_and_its_waiting_will_fires_then() {
    let (broker, at) = broker().await;
    let v = V::Five;
    let mut watcher = Raw::connected(at, v, "watcher").await;
    watcher.subscribed("will/#", 0).await;
    let will = [&[5, 0x18, 0, 0, 1, 0][..], &text("will/x"), &text("gone")].concat();
    let mut c = Raw::open(at, v).await;
    c.send(&connect_with(v, "short", WILL, 0, &[0x11, 0, 0, 0, 1], &will)).await;
    c.connack(false).await;
    drop(c);
    watcher.expect(&packet(0x30, &[&text("will/x"), &[0][..], b"gone"].concat())).await;
    until("forgotten", || broker.stats().sessions_away == 0).await;
}

#[tokio::test]
async fn a_silent_client_is_ended_after_one_and_a_half_keep_alives_and_its_will_fires() {
    let (_broker, at) = broker().await;
    for v in BOTH {
        let no_props: &[u8] = if v == V::Five { &[0] } else { &[] };
        let mut watcher = Raw::connected(at, v, "watcher").await;
        watcher.subscribed("will/#", 0).await;
        let will = [no_props, &text("will/x"), &text("gone")].concat();
        let mut c = Raw::open(at, v).await;
        let start = tokio::time::Instant::now();
        c.send(&connect_with(v, "silent", 2 | WILL, 1, &[], &will)).await;
        c.connack(false).await;
        c.expect_end(0x8D).await;
        let took = start.elapsed().as_millis();
        assert!((1400..4000).contains(&took), "{took} ms");
        watcher.expect(&packet(0x30, &[&text("will/x"), no_props, b"gone"].concat())).await;
        watcher.bye().await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_acknowledge_holds_up_nobody_and_its_queue_is_bounded() {
    let limits = fieldgate::broker::Limits { queue: 500, ..Default::default() };
    let (broker, at) = broker_with(fieldgate::broker::Options { limits, ..Default::default() }).await;
    let mut slow = Raw::connected(at, V::Four, "slow").await;
    slow.subscribed("f/#", 1).await;
    let mut fast = Raw::connected(at, V::Four, "fast").await;
    fast.subscribed("f/#", 0).await;
    let mut p = Raw::connected(at, V::Four, "p").await;
    for n in 0..2000u16 {
        p.send(&publish(V::Four, 2, "f/x", n + 1, &[], &n.to_be_bytes())).await;
        p.expect(&[0x40, 2, (n + 1).to_be_bytes()[0], (n + 1).to_be_bytes()[1]]).await;
        assert_eq!(fast.recv().await.last(), n.to_be_bytes().last());
    }
    let stats = broker.stats();
    // 128 in flight, 500 queued, one more on its way: the rest is dropped for this client, and counted.
    assert!((1360..=1372).contains(&stats.dropped), "{stats:?}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_taken_over_at_once() {
    let (broker, at) = broker().await;
    let mut deaf = Raw::connected(at, V::Four, "deaf").await;
    deaf.subscribed("flood", 0).await;
    let mut p = Raw::connected(at, V::Four, "p").await;
    let message = publish(V::Four, 0, "flood", 0, &[], &[0; 100_000]);
    while broker.stats().dropped == 0 {
        p.send(&message).await;
    }
    let start = tokio::time::Instant::now();
    let mut new = Raw::connected(at, V::Four, "deaf").await;
    new.ping().await;
    assert!(start.elapsed().as_millis() < 900, "{:?}", start.elapsed());
}

#[tokio::test]
async fn retained_messages_go_on_where_the_connection_broke() {
    let (broker, at) = broker().await;
    let list = |i| fieldgate::message::Message::new(format!("r/{i:04}"), "x", true);
    broker.publish((0..2000).map(list).collect());
    let mut c = Raw::open(at, V::Four).await;
    c.send(&connect(V::Four, "half", false)).await;
    c.connack(false).await;
    c.subscribed("r/#", 1).await;
    let mut seen = std::collections::BTreeSet::new();
    let mut take = |packet: &[u8]| {
        seen.insert(packet[4..10].to_vec());
    };
    for _ in 0..300 {
        let got = c.recv().await;
        take(&got);
        c.send(&[0x40, 2, got[10], got[11]]).await;
    }
    drop(c);
    until("away", || broker.stats().sessions_away == 1).await;
    let mut c = Raw::open(at, V::Four).await;
    c.send(&connect(V::Four, "half", false)).await;
    c.connack(true).await;
    while seen_all(&mut c, &mut take).await {}
    assert_eq!(seen.len(), 2000);
}

/// Takes and acknowledges one message; `false`: it was the last topic.
async fn seen_all(c: &mut Raw, take: &mut impl FnMut(&[u8])) -> bool {
    let got = c.recv().await;
    take(&got);
    c.send(&[0x40, 2, got[10], got[11]]).await;
    &got[4..10] != b"r/1999"
}

#[tokio::test]
async fn members_of_a_shared_subscription_take_turns_and_one_that_leaves_is_not_waited_for() {
    let (broker, at) = broker().await;
    let mut a = Raw::connected(at, V::Five, "a").await;
    let mut b = Raw::connected(at, V::Four, "b").await;
    let mut all = Raw::connected(at, V::Four, "all").await;
    a.subscribed("$share/g/s/+", 1).await;
    b.subscribed("$share/g/s/+", 1).await;
    all.subscribed("s/#", 0).await;
    let mut p = Raw::connected(at, V::Four, "p").await;
    for n in 0..10 {
        p.send(&publish(V::Four, 2, "s/x", n + 1, &[], &[u8::try_from(n).unwrap()])).await;
        p.recv().await;
    }
    for n in 0..10 {
        let got = if n % 2 == 0 { a.recv().await } else { b.recv().await };
        assert_eq!((got[0], got.last()), (0x32, Some(&n)));
        assert_eq!(all.recv().await.last(), Some(&n));
    }
    a.ping().await;
    b.ping().await;
    // One leaves without a word: the other gets everything.
    drop(b);
    until("gone", || broker.stats().clients == 3).await;
    for n in 0..4 {
        p.send(&publish(V::Four, 2, "s/x", n + 1, &[], &[u8::try_from(n).unwrap()])).await;
        p.recv().await;
        assert_eq!(a.recv().await.last(), Some(&u8::try_from(n).unwrap()));
    }
    // The last one unsubscribes: the group is gone from the trie.
    a.send(&packet(0xA2, &[&[0, 9, 0][..], &text("$share/g/s/+")].concat())).await;
    a.expect(&[0xB0, 4, 0, 9, 0, 0]).await;
    assert_eq!(broker.stats().subscriptions, 1);
}

#[tokio::test]
async fn answers_that_come_before_their_messages_are_sent_again_are_answers() {
    for v in BOTH {
        let (broker, at) = broker().await;
        let mut c = come(at, v, "early", false).await;
        c.subscribed("q", 1).await;
        let mut p = Raw::connected(at, v, "p").await;
        let mut answers = Vec::new();
        for id in 1..=3 {
            p.send(&publish(v, 2, "q", id, &[], b"x")).await;
            p.recv().await;
            let got = c.recv().await;
            answers.extend([0x40, 2, got[5], got[6]]);
        }
        drop(c);
        until("it is away", || broker.stats().sessions_away == 1).await;
        // As from a client that noted them while there was no connection.
        let forever: &[u8] = if v == V::Five { &[0x11, 0, 0, 0, 60] } else { &[] };
        let mut c = Raw::open(at, v).await;
        c.send(&[connect_with(v, "early", 0, 0, forever, &[]), answers].concat()).await;
        c.connack(true).await;
        p.send(&publish(v, 2, "q", 9, &[], b"new")).await;
        p.recv().await;
        assert!(c.recv().await.ends_with(b"new"));
        assert_eq!(broker.stats().panics, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_pings_and_takes_a_large_message_slowly_is_not_silent() {
    let config = model::Broker { listener: Vec::new(), ..model::Broker::default() };
    let options = Options { engine: EngineChoice::Native, ..Options::default() };
    let broker = Broker::start_with(&config, options).await.unwrap();
    let (mut io, theirs) = tokio::io::duplex(4096);
    let serving = broker.clone();
    tokio::spawn(async move { serving.serve(theirs).await });
    io.write_all(&connect_with(V::Four, "slow", 2, 1, &[], &[])).await.unwrap();
    io.write_all(&subscribe(V::Four, 1, "big", 0)).await.unwrap();
    io.read_exact(&mut [0; 9]).await.unwrap();
    broker.publish(vec![Message::new("big", "x".repeat(900_000), false)]);
    // Some 160 kB a second, and two pings.
    let (mut got, mut buffer) = (0, [0; 4096]);
    for n in 0.. {
        tokio::time::sleep(Duration::from_millis(25)).await;
        if n % 20 == 0 {
            io.write_all(&[0xC0, 0]).await.unwrap();
        }
        match io.read(&mut buffer).await.unwrap() {
            0 => panic!("ended after {got} bytes"),
            more => got += more,
        }
        if got > 900_000 {
            break;
        }
    }
}
