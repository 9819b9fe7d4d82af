//! Wills over the end of the process: of clients that were there when it was killed or stopped, clean ones, too.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use fieldgate::broker::{Broker, Options};
use fieldgate::config::model::{self, Transport};
use fieldgate::message::Shelf;
use fieldgate::store::Sessions;

use crate::kept::{begin, come, payload};
use crate::raw::*;

/// CONNECT of a client whose will says on `on/NAME` that it is gone (`0`), retained, with QoS 1; then it says there that it is here (`1`),
/// and is told that it is kept. `stays`: so does its session, for a minute (3.1.1: for ever).
async fn here(at: SocketAddr, v: V, name: &str, stays: bool, delay: u8) -> Raw {
    let mut c = Raw::open(at, v).await;
    let topic = format!("on/{name}");
    let mut rest = if v == V::Five { vec![5, 0x18, 0, 0, 0, delay] } else { Vec::new() };
    rest.extend([text(&topic), text("0")].concat());
    let props: &[u8] = if v == V::Five && stays { &[0x11, 0, 0, 0, 60] } else { &[] };
    c.send(&connect_with(v, name, 0x2C | if stays { 0 } else { 2 }, 0, props, &rest)).await;
    c.recv().await;
    c.send(&publish(v, 3, &topic, 1, &[], b"1")).await;
    assert_eq!(c.recv().await[0], 0x40);
    c
}

/// What is said of all who are or were here.
async fn said(broker: &Broker) -> String {
    let mut all: Vec<_> = broker
        .retained("on/#")
        .await
        .iter()
        .map(|m| format!("{}={}", &m.topic[3..], String::from_utf8_lossy(&m.payload)))
        .collect();
    all.sort();
    all.join(" ")
}

async fn until_said(broker: &Broker, what: &str) {
    let done = async {
        while said(broker).await != what {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(LONG, done).await.is_err() {
        panic!("{} instead of {what}", said(broker).await);
    }
}

/// How many rows of sessions are kept, now that the broker is gone or about to be.
async fn rows(dir: &Path) -> usize {
    let mut found = None;
    until("nobody has it open", || {
        found = Sessions::at(dir, 0).load().ok();
        found.is_some()
    })
    .await;
    found.map_or(0, |kept| kept.sessions.len())
}

#[tokio::test]
async fn wills_of_those_who_were_there_when_it_was_killed_are_published_by_the_next_start() {
    an_end(true).await;
}

#[tokio::test]
async fn wills_of_those_who_were_there_when_it_stopped_are_published_by_the_next_start() {
    an_end(false).await;
}

async fn an_end(killed: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (broker, at) = begin(dir.path()).await;
    let mut watcher = come(at, V::Four, "watcher", false).await;
    watcher.subscribed("on/back", 1).await;
    let mut there = vec![(V::Four, here(at, V::Four, "back", false, 0).await)];
    assert_eq!(payload(&watcher.recv().await), b'1');
    watcher.send(&[0x40, 2, 0, 1]).await;
    watcher.bye().await;
    here(at, V::Five, "polite", false, 0).await.bye().await;
    until("they are gone", || broker.stats().clients == 1).await;
    // What these are told is kept, and what was before it.
    for (v, name, stays, delay) in [
        (V::Four, "clean4", false, 0),
        // Its session ends with the connection, and so does its delay.
        (V::Five, "clean5", false, 200),
        (V::Four, "kept4", true, 0),
        (V::Five, "kept5", true, 1),
        (V::Five, "patient", true, 1),
    ] {
        there.push((v, here(at, v, name, stays, delay).await));
    }
    let all_here = "back=1 clean4=1 clean5=1 kept4=1 kept5=1 patient=1 polite=1";
    assert_eq!(said(&broker).await, all_here);
    if killed {
        drop(broker);
    } else {
        broker.close().await;
        for (v, mut client) in there {
            // A server that goes away says so, where there is a word for it.
            if v == V::Five {
                client.expect(&[0xE0, 1, 0x8B]).await;
            }
            assert_eq!(client.next().await, None);
        }
    }
    let (broker, at) = begin(dir.path()).await;
    assert_eq!(said(&broker).await, all_here, "who comes back at once finds things as they were");
    // Back within its delay: there is no will. Back without one: the will comes, and then what the client says.
    come(at, V::Five, "patient", true).await.bye().await;
    let _back = here(at, V::Four, "back", false, 0).await;
    until_said(&broker, "back=1 clean4=0 clean5=0 kept4=0 kept5=0 patient=1 polite=1").await;
    let mut watcher = come(at, V::Four, "watcher", true).await;
    let got = [watcher.recv().await, watcher.recv().await];
    assert_eq!(got.each_ref().map(|p| payload(p)), [b'0', b'1'], "once, and in this order");
    watcher.ping().await;
    broker.close().await;
    // watcher, kept4, kept5, patient; and the will of `back`, which is here again.
    assert_eq!(rows(dir.path()).await, 5, "{killed}: what was published is not kept");
}

#[tokio::test]
async fn a_will_of_a_clean_client_is_kept_while_the_client_is_there_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, at) = begin(dir.path()).await;
    // Gone by themselves, by good-bye, by being taken over (once the last one is here), and back with a session that stays.
    drop(here(at, V::Four, "lost", false, 0).await);
    here(at, V::Five, "polite", false, 0).await.bye().await;
    let first = here(at, V::Four, "twice", false, 0).await;
    let second = here(at, V::Four, "twice", false, 0).await;
    let kept = here(at, V::Five, "kept", true, 0).await;
    drop(kept);
    until_said(&broker, "kept=0 lost=0 polite=1 twice=1").await;
    let clean = here(at, V::Four, "kept", false, 0).await;
    // All of that is noted before this is acknowledged.
    let last = here(at, V::Four, "last", false, 0).await;
    drop(broker);
    assert_eq!(rows(dir.path()).await, 3, "kept, last, twice");
    drop((first, second, clean, last));
}

#[tokio::test]
async fn a_broker_that_keeps_nothing_publishes_wills_when_it_is_closed_and_a_listener_when_it_is_removed() {
    let (broker, at) = broker_with(Options::default()).await;
    let mut inside = broker.subscribe("inside", &["on/#"]).await;
    let _patient = here(at, V::Five, "patient", true, 200).await;
    assert_eq!(inside.recv().await.map(|m| m.payload), Some("1".into()));
    broker.close().await;
    assert_eq!(inside.recv().await.map(|m| m.payload), Some("0".into()));

    let config =
        |n| model::Broker { listener: vec![listener(Transport::Tcp); n], ..model::Broker::default() };
    let broker = Broker::start_with(&config(1), Options::default()).await.unwrap();
    let at = broker.addresses()[0].1;
    let _client = here(at, V::Five, "c", false, 0).await;
    let other = model::Listener { transport: Transport::Websocket, ..listener(Transport::Tcp) };
    broker.reconfigure(&model::Broker { listener: vec![other], ..model::Broker::default() }).await.unwrap();
    until_said(&broker, "c=0").await;
}
