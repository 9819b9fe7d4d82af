//! Sessions and retained messages over the end of the process, in exact packets: a broker that is dropped ends as if it were
//! killed, and the next one begins with the same `broker.db`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use fieldgate::broker::{Broker, Options, Persistence};
use fieldgate::clock::Clock;
use fieldgate::message::{BootMs, Change, Docket, Kept, Message, Shelf, ShelfError, WallMs};
use fieldgate::store::Sessions;

use crate::raw::*;

/// A clock of a boot: its wall time in ms, when the boot was, its id.
#[derive(Debug)]
pub struct Boot(AtomicI64, tokio::time::Instant, String);

impl Boot {
    pub fn new(boot: u32, wall: i64) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(wall), tokio::time::Instant::now(), format!("boot-{boot}")))
    }
}

impl Clock for Boot {
    fn boot(&self) -> BootMs {
        BootMs(u64::try_from(self.1.elapsed().as_millis()).unwrap())
    }
    fn wall(&self) -> WallMs {
        WallMs(self.0.load(SeqCst))
    }
    fn synced(&self) -> bool {
        true
    }
    fn boot_id(&self) -> &str {
        &self.2
    }
}

/// A shelf whose disk can be made to fail, or to wait.
pub struct Moody {
    pub inner: Sessions,
    pub fails: Arc<AtomicBool>,
    pub waits: Arc<AtomicBool>,
}

impl Shelf for Moody {
    fn load(&mut self) -> Result<Kept, ShelfError> {
        self.inner.load()
    }
    fn reopen(&mut self) -> Result<(), ShelfError> {
        self.inner.reopen()
    }
    fn look(&mut self) -> Result<(), ShelfError> {
        self.inner.look()
    }
    fn renew(&mut self) -> Result<Option<String>, ShelfError> {
        self.inner.renew()
    }
    fn begin(&mut self, grows: bool) -> Result<(), ShelfError> {
        while self.waits.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        if self.fails.load(SeqCst) {
            return Err(ShelfError::Disk("no room".into()));
        }
        self.inner.begin(grows)
    }
    fn put(&mut self, change: Change<'_>) -> Result<(), ShelfError> {
        self.inner.put(change)
    }
    fn commit(&mut self) -> Result<(), ShelfError> {
        self.inner.commit()
    }
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }
}

pub async fn begin_with(shelf: Box<dyn Shelf>, clock: Arc<dyn Clock>) -> (Broker, SocketAddr) {
    begin_after(shelf, clock, None).await
}

/// Begins where the log says that this is the last docket it has.
pub async fn begin_after(
    shelf: Box<dyn Shelf>,
    clock: Arc<dyn Clock>,
    logged: Option<Docket>,
) -> (Broker, SocketAddr) {
    let never_retain = vec!["cmd/#".to_owned()];
    let within = Duration::from_millis(50);
    let persistence = Some(Persistence { shelf, clock, within, logged });
    broker_with(Options { persistence, never_retain, ..Options::default() }).await
}

pub async fn begin(dir: &Path) -> (Broker, SocketAddr) {
    begin_with(Box::new(Sessions::at(dir, 0)), Boot::new(1, 1_000_000)).await
}

/// CONNECT with a session that stays for so long (3.1.1: for ever).
pub async fn come(at: SocketAddr, v: V, id: &str, present: bool) -> Raw {
    let mut c = Raw::open(at, v).await;
    let props: &[u8] = if v == V::Five { &[0x11, 0, 0, 0, 60] } else { &[] };
    c.send(&connect_with(v, id, 0, 0, props, &[])).await;
    c.connack(present).await;
    c
}

pub fn payload(packet: &[u8]) -> u8 {
    *packet.last().unwrap()
}

/// Nothing comes for so many milliseconds.
async fn silent(c: &mut Raw, ms: u64) -> bool {
    tokio::time::timeout(Duration::from_millis(ms), c.recv()).await.is_err()
}

/// The packet id of a PUBLISH to a topic of one letter.
fn id(packet: &[u8]) -> [u8; 2] {
    [packet[5], packet[6]]
}

#[tokio::test]
async fn what_was_in_flight_comes_again_under_its_id_and_what_waited_after_it() {
    for v in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let (broker, at) = begin(dir.path()).await;
        let mut c = come(at, v, "c", false).await;
        c.subscribed("a", 2).await;
        let mut p = Raw::connected(at, v, "p").await;
        for n in 1..=3u8 {
            p.send(&publish(v, if n == 2 { 2 } else { 4 }, "a", n.into(), &[], &[n])).await;
            p.recv().await;
        }
        let first = [c.recv().await, c.recv().await, c.recv().await];
        // PUBREC for the first: its PUBREL comes when that is durable, and from then on it is all that is repeated.
        c.send(&[0x50, 2, id(&first[0])[0], id(&first[0])[1]]).await;
        c.expect(&[0x62, 2, id(&first[0])[0], id(&first[0])[1]]).await;
        drop(c);
        until("away", || broker.stats().sessions_away == 1).await;
        p.send(&publish(v, 2, "a", 9, &[], &[4])).await;
        p.recv().await;
        drop(broker);
        let (broker, at) = begin(dir.path()).await;
        assert_eq!((broker.stats().sessions_away, broker.stats().subscriptions), (1, 1));
        let mut c = come(at, v, "c", true).await;
        let mut rest = [c.recv().await, c.recv().await, c.recv().await, c.recv().await].to_vec();
        // PUBREL waits for the disk and for no place in the window: it stands in no order with messages.
        let release = [0x62, 2, id(&first[0])[0], id(&first[0])[1]];
        rest.remove(rest.iter().position(|packet| *packet == release).expect("PUBREL"));
        for (again, before) in rest.iter().zip(&first[1..]) {
            assert_eq!((again[0], &again[1..]), (before[0] | 8, &before[1..]), "same packet, marked");
        }
        let waited = rest.remove(2);
        assert_eq!((waited[0] & 6, payload(&waited)), (2, 4));
        // All is acknowledged: nothing of it comes again.
        c.send(&[0x70, 2, id(&first[0])[0], id(&first[0])[1]]).await;
        c.send(&[0x40, 2, id(&first[1])[0], id(&first[1])[1]]).await;
        c.send(&[0x40, 2, id(&waited)[0], id(&waited)[1]]).await;
        c.send(&[0x50, 2, id(&first[2])[0], id(&first[2])[1]]).await;
        c.recv().await;
        c.send(&[0x70, 2, id(&first[2])[0], id(&first[2])[1]]).await;
        c.ping().await;
        broker.close().await;
        let (_broker, at) = begin(dir.path()).await;
        let mut c = come(at, v, "c", true).await;
        c.ping().await;
        // And it is still subscribed.
        let mut p = Raw::connected(at, v, "p").await;
        p.send(&publish(v, 4, "a", 1, &[], b"5")).await;
        assert_eq!(payload(&c.recv().await), b'5');
    }
}

#[tokio::test]
async fn a_packet_id_that_was_taken_is_still_taken_and_one_that_is_free_is_free() {
    for v in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let (broker, at) = begin(dir.path()).await;
        let mut c = come(at, v, "c", false).await;
        c.subscribed("a", 1).await;
        let mut p = come(at, v, "p", false).await;
        p.send(&publish(v, 4, "a", 7, &[], b"1")).await;
        p.expect(&[0x50, 2, 0, 7]).await;
        assert_eq!(payload(&c.recv().await), b'1');
        drop((broker, c));
        let (broker, at) = begin(dir.path()).await;
        let mut c = come(at, v, "c", true).await;
        assert_eq!(payload(&c.recv().await), b'1', "QoS 1, unacknowledged");
        let mut p = come(at, v, "p", true).await;
        p.send(&publish(v, 4 | 8, "a", 7, &[], b"1")).await;
        p.expect(&[0x50, 2, 0, 7]).await;
        c.ping().await;
        p.send(&[0x62, 2, 0, 7]).await;
        p.expect(&[0x70, 2, 0, 7]).await;
        drop((broker, c));
        let (_broker, at) = begin(dir.path()).await;
        let mut p = come(at, v, "p", true).await;
        // A client that marks no repeats (rumqttc) gets no worse: this is another message, for the id was given back.
        p.send(&publish(v, 4, "a", 7, &[], b"2")).await;
        p.expect(&[0x50, 2, 0, 7]).await;
        let mut c = come(at, v, "c", true).await;
        assert_eq!([payload(&c.recv().await), payload(&c.recv().await)], [b'1', b'2']);
    }
}

#[tokio::test]
async fn retained_messages_of_clients_stay_with_their_properties_and_those_of_this_process_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, at) = begin(dir.path()).await;
    let mut p = Raw::connected(at, V::Five, "p").await;
    // Content type "x", expiry 100 s.
    p.send(&publish(V::Five, 1 | 2, "温/1", 1, &[3, 0, 1, b'x', 2, 0, 0, 0, 100], b"kept")).await;
    p.recv().await;
    for (id, topic, payload) in
        [(2, "cmd/x", &b"never"[..]), (3, "cleared", b"x"), (4, "cleared", b""), (5, "own", b"x")]
    {
        p.send(&publish(V::Five, 1 | 2, topic, id, &[], payload)).await;
        p.recv().await;
    }
    p.send(&publish(V::Five, 1, "qos0", 0, &[], b"x")).await;
    p.ping().await;
    broker.publish(vec![Message::new("own", "of the gateway", true), Message::new("status", "up", true)]);
    p.send(&publish(V::Five, 1 | 2, "last", 6, &[], b"x")).await;
    p.recv().await;
    drop(broker);
    let (broker, at) = begin(dir.path()).await;
    let mut topics: Vec<_> = broker.retained("#").await.iter().map(|m| m.topic.to_string()).collect();
    topics.sort();
    assert_eq!(topics, ["last", "qos0", "温/1"]);
    assert_eq!(broker.stats().retained, 3);
    let mut c = Raw::connected(at, V::Five, "c").await;
    c.subscribed("温/+", 1).await;
    let got = c.recv().await;
    let has = |part: &[u8]| got.windows(part.len()).any(|w| w == part);
    assert!(got[0] & 1 == 1 && has(&[3, 0, 1, b'x']) && has(b"kept"), "{got:02x?}");
    assert!(has(&[2, 0, 0, 0, 100]) || has(&[2, 0, 0, 0, 99]), "{got:02x?}");
}

#[tokio::test]
async fn all_of_a_subscription_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, at) = begin(dir.path()).await;
    let mut c = come(at, V::Five, "c", false).await;
    // No Local and Retain As Published, with identifier 9; a shared one; and one that is given up.
    c.send(&subscribe_with(V::Five, 1, "a", 1 | 4 | 8, &[11, 9])).await;
    c.recv().await;
    c.subscribed("$share/g/s", 1).await;
    c.subscribed("b", 1).await;
    c.send(&packet(0xA2, &[&[0, 5, 0][..], &text("b")].concat())).await;
    c.recv().await;
    drop((c, broker));
    let (broker, at) = begin(dir.path()).await;
    assert_eq!((broker.stats().subscriptions, broker.stats().shared_subscriptions), (2, 1));
    let mut c = come(at, V::Five, "c", true).await;
    c.send(&publish(V::Five, 2, "a", 1, &[], b"own")).await;
    c.recv().await;
    let mut p = Raw::connected(at, V::Five, "p").await;
    for topic in ["b", "a", "s"] {
        p.send(&publish(V::Five, 3, topic, 1, &[], b"x")).await;
        p.recv().await;
    }
    let (a, s) = (c.recv().await, c.recv().await);
    assert_eq!((a[0], a[4], &a[7..]), (0x33, b'a', &[2, 11, 9, b'x'][..]), "{a:02x?}");
    assert_eq!((s[0], s[4]), (0x32, b's'));
    c.ping().await;
}

#[tokio::test]
async fn nobody_is_told_before_the_disk_has_it_and_who_needs_no_disk_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let waits = Arc::new(AtomicBool::new(false));
    let shelf = Moody { inner: Sessions::at(dir.path(), 0), fails: Arc::default(), waits: waits.clone() };
    let (broker, at) = begin_with(Box::new(shelf), Boot::new(1, 1_000_000)).await;
    for (v, name) in [(V::Four, "c4"), (V::Five, "c5")] {
        let mut c = come(at, v, name, false).await;
        c.subscribed("a", 2).await;
        let mut clean = Raw::connected(at, v, "clean").await;
        clean.subscribed("+", 2).await;
        let (mut p, mut q) = (Raw::connected(at, v, "p").await, Raw::connected(at, v, "q").await);
        waits.store(true, SeqCst);
        p.send(&publish(v, 4, "a", 1, &[], b"1")).await;
        p.send(&publish(v, 2, "a", 2, &[], b"2")).await;
        assert_eq!(payload(&clean.recv().await), b'1', "a clean session waits for nothing");
        assert_eq!(payload(&clean.recv().await), b'2');
        // Nobody who is kept wants these.
        q.send(&publish(v, 2, "b", 1, &[], b"x")).await;
        assert_eq!(q.recv().await[0], 0x40);
        q.send(&publish(v, 0, "a", 0, &[], b"3")).await;
        q.ping().await;
        assert!(silent(&mut p, 150).await, "neither PUBREC nor PUBACK");
        assert!(silent(&mut c, 50).await, "nor QoS 2 before it is kept, nor what comes behind it");
        waits.store(false, SeqCst);
        assert_eq!([p.recv().await[0], p.recv().await[0]], [0x50, 0x40]);
        let got = [c.recv().await, c.recv().await, c.recv().await];
        assert_eq!(got.each_ref().map(|p| payload(p)), [b'1', b'2', b'3'], "in order");
        // PUBREL after PUBREC waits, too; and so does PUBCOMP.
        waits.store(true, SeqCst);
        c.send(&[0x50, 2, id(&got[0])[0], id(&got[0])[1]]).await;
        assert!(silent(&mut c, 100).await);
        waits.store(false, SeqCst);
        assert_eq!(c.recv().await[0], 0x62);
        c.bye().await;
    }
    assert_eq!(broker.stats().persistence_unkept, 0);
}

#[tokio::test]
async fn a_disk_that_is_out_of_order_holds_up_nobody_and_is_caught_up_with() {
    let dir = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicBool::new(true));
    let shelf = Moody { inner: Sessions::at(dir.path(), 0), fails: fails.clone(), waits: Arc::default() };
    let (broker, at) = begin_with(Box::new(shelf), Boot::new(1, 1_000_000)).await;
    let mut c = come(at, V::Four, "c", false).await;
    c.subscribed("a", 2).await;
    let mut p = come(at, V::Four, "p", false).await;
    for n in 1..=3u8 {
        p.send(&publish(V::Four, 4, "a", n.into(), &[], &[n])).await;
        p.expect(&[0x50, 2, 0, n]).await;
        assert_eq!(payload(&c.recv().await), n);
    }
    let stats = broker.stats();
    assert_eq!((stats.persistence, &*stats.persistence_error), ("memory", "no room"));
    assert!(stats.persistence_unkept > 0 && stats.persistence_failures > 0);
    fails.store(false, SeqCst);
    until("it is kept again", || broker.stats().persistence == "ok").await;
    drop((broker, c, p));
    let (_broker, at) = begin(dir.path()).await;
    let mut c = come(at, V::Four, "c", true).await;
    for n in 1..=3u8 {
        assert_eq!(payload(&c.recv().await), n);
    }
    let mut p = come(at, V::Four, "p", true).await;
    p.send(&publish(V::Four, 12, "a", 2, &[], &[2])).await;
    p.expect(&[0x50, 2, 0, 2]).await;
    c.ping().await;
}

/// Takes the database away, and waits until it was begun anew and has everything.
async fn begun_anew(broker: &Broker, dir: &Path) {
    let before = broker.stats().persistence_commits;
    std::fs::remove_file(dir.join("broker.db")).unwrap();
    until("it is missed", || broker.stats().persistence_failures > 0).await;
    until("it is kept again", || broker.stats().persistence == "ok").await;
    until("all is noted again", || broker.stats().persistence_commits >= before + 2).await;
}

#[tokio::test]
async fn what_waits_is_kept_again_when_the_file_was_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, at) = begin(dir.path()).await;
    // One is away with two in flight, the receiver has the first of them; two more wait.
    let mut c = come(at, V::Four, "c", false).await;
    c.subscribed("a", 2).await;
    let mut p = come(at, V::Four, "p", false).await;
    for n in 1..=2u8 {
        p.send(&publish(V::Four, 4, "a", n.into(), &[], &[n])).await;
        p.recv().await;
    }
    let got = [c.recv().await, c.recv().await];
    c.send(&[0x50, 2, id(&got[0])[0], id(&got[0])[1]]).await;
    c.recv().await;
    drop(c);
    until("away", || broker.stats().sessions_away == 1).await;
    for n in 3..=4u8 {
        p.send(&publish(V::Four, 4, "a", n.into(), &[], &[n])).await;
        p.recv().await;
    }
    drop(p);
    until("both away", || broker.stats().sessions_away == 2).await;
    begun_anew(&broker, dir.path()).await;
    drop(broker);
    let (broker, at) = begin(dir.path()).await;
    let mut c = come(at, V::Four, "c", true).await;
    let judge = |again: &[Vec<u8>; 4]| {
        let (released, messages): (Vec<_>, Vec<_>) = again.iter().partition(|packet| packet[0] == 0x62);
        assert_eq!(released, [&[0x62, 2, 0, 1]], "the receiver has the first");
        assert_eq!(messages.iter().map(|p| payload(p)).collect::<Vec<_>>(), [2, 3, 4]);
    };
    let again = [c.recv().await, c.recv().await, c.recv().await, c.recv().await];
    judge(&again);
    // The second is in its hands still when the file goes; it is noted when the client has left.
    begun_anew(&broker, dir.path()).await;
    drop(c);
    until("away", || broker.stats().sessions_away == 2).await;
    broker.close().await;
    let (_broker, at) = begin(dir.path()).await;
    let mut c = come(at, V::Four, "c", true).await;
    let again = [c.recv().await, c.recv().await, c.recv().await, c.recv().await];
    judge(&again);
    // The publisher's packets 1 to 4 are known still.
    let mut p = come(at, V::Four, "p", true).await;
    p.send(&publish(V::Four, 12, "a", 3, &[], &[3])).await;
    p.expect(&[0x50, 2, 0, 3]).await;
    assert!(silent(&mut c, 100).await);
}

#[tokio::test]
async fn a_session_whose_time_passed_while_all_was_off_is_gone_and_no_clock_is_a_panic() {
    // Boot, wall time in ms since the first, and whether the session (60 s) is still there.
    for (boot, wall, there) in [
        (1, i64::MIN, true),
        (1, i64::MAX, true),
        (2, 59_000, true),
        (2, 61_000, false),
        (2, -5_000_000_000, true),
        (2, i64::MAX, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let first = Boot::new(1, 1_000_000);
        let (broker, at) = begin_with(Box::new(Sessions::at(dir.path(), 0)), first.clone()).await;
        let mut c = come(at, V::Five, "c", false).await;
        c.subscribed("a", 1).await;
        c.bye().await;
        until("away", || broker.stats().sessions_away == 1).await;
        broker.close().await;
        let clock: Arc<dyn Clock> = if boot == 1 {
            first.0.store(wall, SeqCst);
            first
        } else {
            Boot::new(boot, wall.saturating_add(1_000_000))
        };
        let (broker, at) = begin_with(Box::new(Sessions::at(dir.path(), 0)), clock).await;
        if !there {
            until("its end", || broker.stats().sessions_ended == 1).await;
        }
        come(at, V::Five, "c", there).await.bye().await;
    }
}

#[tokio::test]
async fn a_client_that_begins_anew_leaves_nothing_and_damage_is_no_reason_not_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, at) = begin(dir.path()).await;
    let mut c = come(at, V::Four, "c", false).await;
    c.subscribed("a", 1).await;
    c.bye().await;
    Raw::connected(at, V::Four, "c").await.bye().await;
    until("nobody", || broker.stats().clients == 0 && broker.stats().sessions_away == 0).await;
    broker.close().await;
    let (broker, at) = begin(dir.path()).await;
    assert_eq!((broker.stats().sessions_away, broker.stats().subscriptions), (0, 0));
    come(at, V::Four, "c", false).await.bye().await;
    broker.close().await;
    std::fs::write(dir.path().join("broker.db"), b"not a database, for a power cut came at a bad moment")
        .unwrap();
    let (broker, at) = begin(dir.path()).await;
    come(at, V::Four, "c", false).await.bye().await;
    assert_eq!(broker.stats().persistence, "ok");
    assert!(dir.path().join("broker.db.bad-1").exists());
}

#[tokio::test]
async fn what_is_retained_reaches_a_subscriber_that_was_cut_off_while_it_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, at) = begin(dir.path()).await;
    let mut p = Raw::connected(at, V::Five, "p").await;
    for n in 0..200u16 {
        p.send(&publish(V::Five, 3, &format!("r/{n}"), n + 1, &[], b"x")).await;
        p.recv().await;
    }
    let mut c = come(at, V::Five, "c", false).await;
    c.subscribed("r/#", 1).await;
    let mut topics = std::collections::BTreeSet::new();
    let topic = |packet: &[u8]| {
        packet[4..].iter().copied().take_while(u8::is_ascii).map(char::from).collect::<String>()
    };
    for _ in 0..5 {
        topics.insert(topic(&c.recv().await));
    }
    drop((broker, c));
    let (_broker, at) = begin(dir.path()).await;
    let mut c = come(at, V::Five, "c", true).await;
    let mut got = std::collections::BTreeSet::new();
    while got.len() < 200 {
        let packet = c.recv().await;
        if packet[0] >> 4 == 3 {
            let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            got.insert(packet[4..4 + length].to_vec());
            c.send(&[0x40, 2, packet[4 + length], packet[5 + length]]).await;
        }
    }
    assert!(!topics.is_empty());
}
