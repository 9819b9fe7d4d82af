//! Floods: of messages to those who do not read, of filters, of retained messages.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::house::House;
use crate::raw::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_that_never_read_under_a_flood() {
    let house = House::start("").await;
    let mut deaf = Vec::new();
    for n in 0..60u8 {
        let v = BOTH[usize::from(n) % 2];
        let mut c = Raw::connected(house.tcp, v, &format!("deaf{n}")).await;
        c.subscribed("flood/#", n % 3).await;
        deaf.push(c);
    }
    let mut reader = Raw::connected(house.tcp, V::Four, "reader").await;
    reader.subscribed("flood/mark", 1).await;
    let mut p = Raw::connected(house.tcp, V::Four, "p").await;
    for n in 0..1200u32 {
        let id = u16::try_from(n + 1).unwrap();
        // QoS 0 and 2 in turn: the one is dropped first, the other fills windows that nobody acknowledges.
        p.send(&publish(V::Four, 0, "flood/x", 0, &[], &[7; 8000])).await;
        p.send(&publish(V::Four, 2, "flood/x", id, &[], &[7; 100_000])).await;
        p.recv().await;
        if n % 20 == 0 {
            p.send(&publish(V::Four, 2, "flood/mark", id, &[], &n.to_be_bytes())).await;
            p.recv().await;
            let got = reader.recv().await;
            assert!(got.ends_with(&n.to_be_bytes()), "message {n} of the client that reads");
            let topic = 2 + usize::from(u16::from_be_bytes([got[2], got[3]]));
            reader.send(&[0x40, 2, got[2 + topic], got[3 + topic]]).await;
        }
    }
    house.alive().await;
    assert!(house.figure("dropped") > 10_000);
    drop(deaf);
    until("the deaf to be gone", || house.figure("clients") == 2).await;
    // 64 MiB may wait for all clients together; the rest is what each has half written, and what glibc rounds up.
    house.memory("60 subscribers that never read, 130 MB", 100 * 1024, 6144).await;
}

/// SUBSCRIBE to all of these.
fn bomb(id: u16, filters: &[String]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(0);
    for filter in filters {
        body.extend(text(filter));
        body.push(0);
    }
    packet(0x82, &body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_thousand_filters_and_the_deepest() {
    let house = House::start("").await;
    let mut bombers = Vec::new();
    let (mut taken, mut refused) = (0, 0);
    for n in 0..12u32 {
        let mut c = Raw::connected(house.tcp, V::Five, &format!("bomber{n}")).await;
        for batch in 0..41u32 {
            let filters: Vec<String> = (0..100u32)
                .map(|i| match n {
                    // Wildcards at every place of twelve levels: each topic below matches all of them.
                    0 => (0..12)
                        .map(|bit| if (batch * 100 + i) >> bit & 1 == 0 { "+" } else { "a" })
                        .collect::<Vec<_>>()
                        .join("/"),
                    1..8 => format!("+/bomber{n}/{batch}/{i}/#"),
                    _ => format!("{n}-{batch}-{i}{}", "/x".repeat(62)),
                })
                .collect();
            c.send(&bomb(u16::try_from(batch + 1).unwrap(), &filters)).await;
            let answer = c.recv().await;
            assert_eq!(answer[0], 0x90);
            let codes = &answer[answer.len() - 100..];
            taken += codes.iter().filter(|code| **code == 0).count();
            refused += codes.iter().filter(|code| **code == 0x97).count();
        }
        bombers.push(c);
    }
    println!("{taken} filters taken, {refused} refused");
    assert!(taken > 20_000 && refused > 10_000 && taken + refused == 12 * 4100);
    let mut p = Raw::connected(house.tcp, V::Four, "p").await;
    for _ in 0..50 {
        p.send(&publish(V::Four, 2, &["a"; 12].join("/"), 1, &[], b"x")).await;
        p.recv().await;
    }
    house.alive().await;
    drop(bombers);
    until("the bombers to be gone", || house.figure("clients") == 1).await;
    house.memory("49,200 filters", 48 * 1024, 6144).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_floods_stop_at_their_number_and_at_their_bytes() {
    let house = House::start("").await;
    let at = house.tcp;
    // The gateway's own values are retained, too.
    let own = house.figure("retained");
    let all = |payload: &'static [u8]| async move {
        let mut tasks = JoinSet::new();
        for task in 0..2u32 {
            tasks.spawn(async move {
                let mut c = Raw::connected(at, V::Four, &format!("p{task}")).await;
                for n in 0..55_000u32 {
                    c.send(&publish(V::Four, 1, &format!("flood/{task}/{n}"), 0, &[], payload)).await;
                }
                c.ping().await;
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    };
    all(b"0123456789").await;
    let kept = house.figure("retained");
    assert!((100_000..100_100).contains(&kept), "{kept}");
    // Values of the gateway that are new since then are kept beyond the number.
    let refused = house.figure("refused_retained");
    assert!((10_000 + own..10_100 + own).contains(&refused), "{refused} refused beside {own} of its own");
    house.alive().await;
    all(b"").await;
    assert!((own..own + 100).contains(&house.figure("retained")));
    let own = house.figure("retained");
    // By bytes: no more than 64 MiB of a hundred.
    let mut p = Raw::connected(at, V::Four, "p").await;
    let big = vec![7; 1_000_000];
    for n in 0..100u16 {
        p.send(&publish(V::Four, 3, &format!("big/{n}"), n + 1, &[], &big)).await;
        p.recv().await;
    }
    let kept = house.figure("retained") - own;
    assert!((60..=67).contains(&kept), "{kept}");
    for n in 0..100u16 {
        p.send(&publish(V::Four, 3, &format!("big/{n}"), n + 1, &[], b"")).await;
        p.recv().await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    house.alive().await;
    house.memory("110,000 retained messages, and 100 of a megabyte", 110 * 1024, 8192).await;
}
