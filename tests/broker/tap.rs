//! What is tapped is acknowledged when it is kept, and whoever publishes too much of it waits alone.

use fieldgate::broker::{Keeper, Receipt, Taps};
use fieldgate::message::{BootMs, Forwarded, Message};
use tokio::time::timeout;

use crate::kept::{begin, come, payload};
use crate::raw::*;

const AT: BootMs = BootMs(7);

/// The next message that the keeper gets.
pub async fn kept(keeper: &mut Keeper) -> (Forwarded, Receipt) {
    let tapped = timeout(LONG, keeper.recv()).await.expect("in time").expect("the broker is there");
    tapped.into_parts(AT)
}

pub fn taps(list: &[&str], except: &str) -> Taps {
    Taps { filters: list.iter().map(|filter| (*filter).to_owned()).collect(), except: except.to_owned() }
}

#[tokio::test]
async fn what_is_tapped_is_acknowledged_when_it_is_kept_and_in_order() {
    for v in BOTH {
        let (broker, at) = broker().await;
        let mut keeper = broker.keeper().expect("one");
        assert!(broker.keeper().is_none(), "and only one");
        broker.tap(taps(&["z/#", "#"], "gw/box"));
        let mut s = Raw::connected(at, v, "s").await;
        s.subscribed("z/+", 1).await;
        s.subscribed("gw/#", 1).await;
        let mut p = Raw::connected(at, v, "p").await;
        p.send(&publish(v, 2, "z/a", 1, &[], b"1")).await;
        // Nobody keeps this one, so that it is through at once; its acknowledgement waits for the one before it.
        p.send(&publish(v, 2, "gw/box/x", 2, &[], b"2")).await;
        p.send(&publish(v, 4, "z/b", 3, &[], b"3")).await;
        p.send(&publish(v, 1, "z/c", 0, &[], b"4")).await;
        for payload in [b"1", b"2", b"3", b"4"] {
            assert!(s.recv().await.ends_with(payload), "subscribers get it at once");
        }
        p.send(&[0xC0, 0]).await;
        p.expect(&[0xD0, 0]).await;
        let (mut messages, mut receipts) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (message, receipt) = kept(&mut keeper).await;
            messages.push((message.topic.to_string(), message.payload.to_vec(), message.qos, message.retain));
            assert_eq!((message.at, message.origin), (AT, None));
            receipts.push(receipt);
        }
        let expected = [("z/a", b"1", 1, false), ("z/b", b"3", 2, false), ("z/c", b"4", 0, true)];
        assert_eq!(messages, expected.map(|(t, p, q, r)| (t.to_owned(), p.to_vec(), q, r)));
        broker.stored(vec![receipts.remove(0)]).await;
        p.expect(&[0x40, 2, 0, 1]).await;
        p.expect(&[0x40, 2, 0, 2]).await;
        p.send(&[0xC0, 0]).await;
        p.expect(&[0xD0, 0]).await;
        broker.stored(receipts).await;
        p.expect(&[0x50, 2, 0, 3]).await;
        let stats = broker.stats();
        assert_eq!((stats.forward_taken, stats.forward_skipped, stats.forward_oversize), (3, 0, 0));
    }
}

#[tokio::test]
async fn whoever_publishes_more_than_there_is_room_for_waits_alone_and_qos_0_is_skipped() {
    let (broker, at) = broker().await;
    let mut keeper = broker.keeper().expect("one");
    broker.tap(taps(&["z/#"], ""));
    let large = vec![b'x'; 200 << 10];
    let mut p = Raw::connected(at, V::Four, "p").await;
    let mut receipts = Vec::new();
    // 4 MiB are 20 of them.
    for id in 1..=20 {
        p.send(&publish(V::Four, 2, "z/a", id, &[], &large)).await;
        receipts.push(kept(&mut keeper).await.1);
    }
    p.send(&publish(V::Four, 2, "z/a", 21, &[], &large)).await;
    p.send(&publish(V::Four, 2, "z/a", 22, &[], b"small")).await;
    let mut other = Raw::connected(at, V::Five, "other").await;
    other.send(&publish(V::Five, 0, "z/b", 0, &[], &large)).await;
    other.ping().await;
    assert_eq!((broker.stats().forward_skipped, broker.stats().forward_taken), (1, 20));
    assert!(keeper.is_empty(), "the 21st waits, and what is behind it as well");
    broker.stored(receipts.drain(..2).collect()).await;
    for id in [1, 2] {
        p.expect(&[0x40, 2, 0, id]).await;
    }
    for size in [large.len(), 5] {
        let (message, receipt) = kept(&mut keeper).await;
        assert_eq!(message.payload.len(), size);
        receipts.push(receipt);
    }
    broker.stored(receipts).await;
    for id in 3..=22 {
        p.expect(&[0x40, 2, 0, id]).await;
    }
    // Of this process it is skipped as well, or taken, and says who brought it.
    let message = Message::new("z/c", "down", false);
    broker.publish_from(&"cloud".into(), vec![(message, vec!["a".to_owned()])]);
    let (message, _receipt) = kept(&mut keeper).await;
    assert_eq!(message.origin.as_deref(), Some("cloud"));
    assert!(message.was_here("a") && !message.was_here("b"));
}

#[tokio::test]
async fn what_is_too_large_for_the_log_is_said_and_goes_its_way_on_site() {
    let (broker, at) = broker().await;
    let keeper = broker.keeper().expect("one");
    broker.tap(taps(&["z/#"], ""));
    let mut s = Raw::connected(at, V::Four, "s").await;
    s.subscribed("z/#", 1).await;
    let mut p = Raw::connected(at, V::Four, "p").await;
    p.send(&publish(V::Four, 2, "z/a", 1, &[], &vec![0; 300 << 10])).await;
    p.expect(&[0x40, 2, 0, 1]).await;
    assert!(s.recv().await.len() > 300 << 10);
    assert_eq!(broker.stats().forward_oversize, 1);
    assert!(keeper.is_empty());
}

#[tokio::test]
async fn a_connection_that_ends_before_its_message_is_kept_says_it_again_and_nobody_gets_it_twice() {
    for v in BOTH {
        let (broker, at) = broker().await;
        let mut keeper = broker.keeper().expect("one");
        broker.tap(taps(&["z/#"], ""));
        let mut s = Raw::connected(at, v, "s").await;
        s.subscribed("z/#", 0).await;
        let mut p = come(at, v, "p", false).await;
        for id in 1..=3 {
            p.send(&publish(v, 4, "z/a", id, &[], &[id as u8])).await;
        }
        let mut receipts = Vec::new();
        for id in 1..=3u8 {
            let (message, receipt) = kept(&mut keeper).await;
            receipts.push(receipt);
            assert_eq!((&message.payload[..], payload(&s.recv().await)), (&[id][..], id));
        }
        drop(p);
        until("away", || broker.stats().sessions_away == 1).await;
        // Of one it is known while nobody is there, of one while another connection is, and of one after that has said it again.
        broker.stored(vec![receipts.remove(0)]).await;
        let mut p = come(at, v, "p", true).await;
        broker.stored(vec![receipts.remove(0)]).await;
        for id in 1..=3 {
            p.send(&publish(v, 8 | 4, "z/a", id, &[], &[id as u8])).await;
        }
        p.expect(&[0x50, 2, 0, 1]).await;
        p.expect(&[0x50, 2, 0, 2]).await;
        p.send(&[0xC0, 0]).await;
        p.expect(&[0xD0, 0]).await;
        broker.stored(receipts).await;
        p.expect(&[0x50, 2, 0, 3]).await;
        for id in 1..=3 {
            p.send(&[0x62, 2, 0, id]).await;
            p.expect(&[0x70, 2, 0, id]).await;
        }
        // The ids are free for other messages.
        p.send(&publish(v, 4, "z/a", 1, &[], b"9")).await;
        assert_eq!((&kept(&mut keeper).await.0.payload[..], payload(&s.recv().await)), (&b"9"[..], b'9'));
        assert!(keeper.is_empty(), "nothing went into the log twice");
        s.ping().await;
        assert_eq!(broker.stats().forward_taken, 4);
    }
}

#[tokio::test]
async fn after_a_kill_a_message_goes_only_where_it_is_not_yet() {
    for v in BOTH {
        let dir = tempfile::tempdir().expect("a directory");
        let (broker, at) = begin(dir.path()).await;
        let mut keeper = broker.keeper().expect("one");
        broker.tap(taps(&["z/#"], ""));
        let mut s = come(at, v, "s", false).await;
        s.subscribed("z/#", 2).await;
        let mut p = come(at, v, "p", false).await;
        p.send(&publish(v, 5, "z/a", 1, &[], b"1")).await;
        p.send(&publish(v, 4, "z/a", 2, &[], b"2")).await;
        p.send(&publish(v, 4, "z/off", 3, &[], b"3")).await;
        let (_, first) = kept(&mut keeper).await;
        broker.stored(vec![first]).await;
        p.expect(&[0x50, 2, 0, 1]).await;
        // With QoS 2 it is sent when it is on the disk, and so are the packet ids of its publisher.
        for n in [b'1', b'2', b'3'] {
            assert_eq!(payload(&s.recv().await), n);
        }
        drop((broker, keeper));
        let (broker, at) = begin(dir.path()).await;
        let mut keeper = broker.keeper().expect("one");
        broker.tap(taps(&["z/a"], ""));
        let mut p = come(at, v, "p", true).await;
        for (id, topic) in [(1, "z/a"), (2, "z/a"), (3, "z/off")] {
            p.send(&publish(v, 8 | 4, topic, id, &[], &[b'0' + id as u8])).await;
        }
        p.expect(&[0x50, 2, 0, 1]).await;
        let (message, receipt) = kept(&mut keeper).await;
        assert_eq!((&*message.topic, &message.payload[..]), ("z/a", &b"2"[..]));
        broker.stored(vec![receipt]).await;
        p.expect(&[0x50, 2, 0, 2]).await;
        // It is not forwarded any more: nothing is left to do.
        p.expect(&[0x50, 2, 0, 3]).await;
        assert!(keeper.is_empty());
        let mut s = come(at, v, "s", true).await;
        for n in [b'1', b'2', b'3'] {
            let again = s.recv().await;
            assert_eq!((again[0] & 14, payload(&again)), (8 | 4, n), "once, marked as sent before");
        }
        s.ping().await;
        for id in 1..=3 {
            p.send(&[0x62, 2, 0, id]).await;
            p.expect(&[0x70, 2, 0, id]).await;
        }
        drop((broker, keeper));
        // All are free.
        let (broker, at) = begin(dir.path()).await;
        let mut keeper = broker.keeper().expect("one");
        broker.tap(taps(&["z/a"], ""));
        let mut p = come(at, v, "p", true).await;
        p.send(&publish(v, 4, "z/a", 2, &[], b"4")).await;
        assert_eq!(&kept(&mut keeper).await.0.payload[..], b"4");
    }
}

#[tokio::test]
async fn without_filters_nothing_is_tapped_and_a_keeper_that_is_gone_is_no_acknowledgement() {
    let (broker, at) = broker().await;
    let keeper = broker.keeper().expect("one");
    let mut p = Raw::connected(at, V::Four, "p").await;
    p.send(&publish(V::Four, 2, "z/a", 1, &[], b"1")).await;
    p.expect(&[0x40, 2, 0, 1]).await;
    assert!(keeper.is_empty());
    broker.tap(taps(&["z/#"], ""));
    drop(keeper);
    p.send(&publish(V::Four, 2, "z/a", 2, &[], b"1")).await;
    p.send(&[0xC0, 0]).await;
    p.expect(&[0xD0, 0]).await;
}
