//! A message with QoS 2 that is forwarded, and a kill at every step of its way into two files: `broker.db` of the local broker and
//! `fieldgate.db` of the log. The two are put together as the gateway does it, but each step is the test's, so that the kill falls
//! where it is to fall.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use driver_api::{ByteSize, Span};
use fieldgate::broker::{Broker, Keeper, Receipt};
use fieldgate::config::model;
use fieldgate::forward::Forwards;
use fieldgate::message::Docket;
use fieldgate::store::{Posted, Sessions, Store, StoreError, Wishes};
use tokio::time::timeout;

use crate::kept::{Boot, Moody, begin_after, come, payload};
use crate::raw::*;
use crate::tap::{kept, taps};

/// How far a message came before the kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    /// It is handed over; that it is begun is not on the disk.
    HandedOver,
    /// It is, and the keeper has it.
    Begun,
    /// The store has it, without a commit.
    Posted,
    /// It is in the log; the broker was not told.
    Stored,
    /// The broker was told, but its disk was not.
    Told,
    /// Its publisher was told.
    Answered,
}

const ALL: [Came; 6] =
    [Came::HandedOver, Came::Begun, Came::Posted, Came::Stored, Came::Told, Came::Answered];

/// A broker and a log.
struct Life {
    broker: Broker,
    at: SocketAddr,
    keeper: Keeper,
    store: Store,
    fails: Arc<AtomicBool>,
    waits: Arc<AtomicBool>,
}

fn open(dir: &Path) -> Store {
    let config = model::Store {
        path: dir.to_owned(),
        max_size: ByteSize::mib(64),
        max_age: Span::s(86_400),
        min_free: ByteSize(0),
        history: Span::ms(0),
        // Commits are the test's.
        commit_interval: Span::s(3600),
        thin: None,
    };
    let uplink = "name = \"cloud\"\nurl = \"mqtt://b\"\n[[forward]]\nfilter = \"z/#\"\nto = \"{topic}\"\n";
    let forwards = Arc::new(Forwards::new(&toml::from_str(uplink).unwrap(), "box"));
    let wishes: Wishes = [("cloud".to_owned(), forwards)].into();
    loop {
        let clock = Boot::new(1, 1_000_000);
        match Store::open_with(&config, ("box", &["cloud".to_owned()]), Wishes::clone(&wishes), clock) {
            // Whoever was killed is still ending.
            Err(StoreError::InUse(_)) => std::thread::sleep(Duration::from_millis(2)),
            opened => return opened.unwrap().0,
        }
    }
}

impl Life {
    async fn begin(dir: &Path) -> Self {
        let store = open(dir);
        let logged = store.last_docket();
        Self::after(dir, store, logged).await
    }

    async fn after(dir: &Path, store: Store, logged: Option<Docket>) -> Self {
        let (fails, waits) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let shelf = Moody { inner: Sessions::at(dir, 0), fails: fails.clone(), waits: waits.clone() };
        let (broker, at) = begin_after(Box::new(shelf), Boot::new(1, 1_000_000), logged).await;
        assert_eq!(broker.stats().persistence, "ok");
        broker.tap(taps(&["z/#"], ""));
        let keeper = broker.keeper().unwrap();
        Self { broker, at, keeper, store, fails, waits }
    }

    /// Nothing of it gets to a disk any more.
    fn kill(self) {
        self.fails.store(true, SeqCst);
        self.waits.store(false, SeqCst);
    }

    /// The keeper gives the next message to the store.
    async fn post(&mut self) -> (Vec<u8>, Receipt) {
        let (message, receipt) = kept(&mut self.keeper).await;
        let said = message.payload.to_vec();
        self.store.post([Posted { message: Arc::new(message), docket: receipt.docket() }]);
        (said, receipt)
    }

    /// All of its way.
    async fn carry(&mut self) -> Vec<u8> {
        let (said, receipt) = self.post().await;
        self.store.flush().await.unwrap();
        self.broker.stored(vec![receipt]).await;
        said
    }

    /// One that was just published comes so far.
    async fn come(&mut self, p: &mut Raw, id: u8, far: Came) {
        if far == Came::HandedOver {
            let waits = timeout(Duration::from_millis(150), self.keeper.recv()).await;
            assert!(waits.is_err(), "the log must not have what the journal does not know of");
            return;
        }
        if far == Came::Begun {
            kept(&mut self.keeper).await;
            return;
        }
        let (_, receipt) = self.post().await;
        if far == Came::Posted {
            return;
        }
        self.store.flush().await.unwrap();
        if far == Came::Stored {
            return;
        }
        self.waits.store(far == Came::Told, SeqCst);
        self.broker.stored(vec![receipt]).await;
        match far {
            Came::Told => {
                let told = timeout(Duration::from_millis(150), p.recv()).await;
                assert!(told.is_err(), "its publisher must not know what the journal does not");
            }
            _ => p.expect(&[0x50, 2, 0, id]).await,
        }
    }

    /// What the log has.
    async fn log(&self) -> Vec<u8> {
        self.store.flush().await.unwrap();
        let drain = self.store.drain("cloud").unwrap();
        let mut said = Vec::new();
        for range in drain.pending() {
            let chunk = drain.read(range.clone(), 1000).await.unwrap();
            assert_eq!(chunk.next, range.end);
            said.extend(chunk.messages.iter().map(|m| m.message.payload[0]));
        }
        said
    }
}

/// The publisher gives its packet id back.
async fn release(p: &mut Raw, id: u8) {
    p.send(&[0x62, 2, 0, id]).await;
    p.expect(&[0x70, 2, 0, id]).await;
}

/// A publisher whose session is on the disk, with what it said.
async fn begin(life: &mut Life, v: V, name: &str, said: u8) -> Raw {
    let mut p = come(life.at, v, name, false).await;
    p.send(&publish(v, 4, "z/a", 9, &[], &[said])).await;
    assert_eq!(life.carry().await, [said]);
    p.expect(&[0x50, 2, 0, 9]).await;
    release(&mut p, 9).await;
    p
}

#[tokio::test]
async fn wherever_a_kill_falls_it_is_routed_once_and_is_in_the_log_once() {
    for (v, heard) in [(V::Four, true), (V::Five, true), (V::Five, false)] {
        for far in ALL {
            let dir = tempfile::tempdir().unwrap();
            let mut life = Life::begin(dir.path()).await;
            // Somebody who keeps it, or nobody.
            if heard {
                come(life.at, v, "s", false).await.subscribed("z/#", 2).await;
            }
            let mut p = begin(&mut life, v, "p", b'0').await;
            life.waits.store(far == Came::HandedOver, SeqCst);
            p.send(&publish(v, 4, "z/a", 1, &[], b"1")).await;
            life.come(&mut p, 1, far).await;
            life.kill();
            // Twice: what a start finds out may be on the disk, or not, when the next one comes.
            Life::begin(dir.path()).await.kill();
            let mut life = Life::begin(dir.path()).await;
            let mut p = come(life.at, v, "p", true).await;
            p.send(&publish(v, 8 | 4, "z/a", 1, &[], b"1")).await;
            if far < Came::Stored {
                assert_eq!(life.carry().await, b"1", "{v:?}, {far:?}");
            }
            p.expect(&[0x50, 2, 0, 1]).await;
            assert!(life.keeper.is_empty(), "{v:?}, {far:?}");
            release(&mut p, 1).await;
            // Its packet id is free for another.
            p.send(&publish(v, 4, "z/a", 1, &[], b"2")).await;
            assert_eq!(life.carry().await, b"2", "{v:?}, {far:?}");
            p.expect(&[0x50, 2, 0, 1]).await;
            assert_eq!(life.log().await, b"012", "{v:?}, {far:?}");
            if heard {
                let mut s = come(life.at, v, "s", true).await;
                for n in *b"012" {
                    assert_eq!(payload(&s.recv().await), n, "{v:?}, {far:?}");
                }
                s.ping().await;
            }
        }
    }
}

#[tokio::test]
async fn what_others_say_before_its_publisher_returns_makes_the_log_forget_nothing_that_counts() {
    for far in [Came::Begun, Came::Stored] {
        let v = V::Five;
        let dir = tempfile::tempdir().unwrap();
        let mut life = Life::begin(dir.path()).await;
        let mut p = begin(&mut life, v, "p", b'0').await;
        p.send(&publish(v, 4, "z/a", 1, &[], b"1")).await;
        life.come(&mut p, 1, far).await;
        life.kill();
        // From now on the last docket of the log is of this life; and a higher one.
        let mut life = Life::begin(dir.path()).await;
        for name in ["q", "r", "s"] {
            begin(&mut life, v, name, b'q').await;
        }
        life.kill();
        let mut life = Life::begin(dir.path()).await;
        let mut p = come(life.at, v, "p", true).await;
        p.send(&publish(v, 8 | 4, "z/a", 1, &[], b"1")).await;
        if far == Came::Begun {
            assert_eq!(life.carry().await, b"1");
        }
        p.expect(&[0x50, 2, 0, 1]).await;
        assert!(life.keeper.is_empty());
        let expected: &[u8] = if far == Came::Begun { b"0qqq1" } else { b"01qqq" };
        assert_eq!(life.log().await, expected, "{far:?}");
    }
}

#[tokio::test]
async fn a_log_that_cannot_say_what_it_has_gets_it_again_rather_than_not_at_all() {
    for another in [false, true] {
        let v = V::Four;
        let dir = tempfile::tempdir().unwrap();
        let mut life = Life::begin(dir.path()).await;
        let mut p = begin(&mut life, v, "p", b'0').await;
        p.send(&publish(v, 4, "z/a", 1, &[], b"1")).await;
        life.come(&mut p, 1, Came::Stored).await;
        life.kill();
        let mut life = if another {
            // The database is gone: the new one has nothing, and says so.
            for file in ["fieldgate.db", "fieldgate.db-wal"] {
                std::fs::remove_file(dir.path().join(file)).unwrap();
            }
            Life::begin(dir.path()).await
        } else {
            // It could not be read at the start.
            Life::after(dir.path(), open(dir.path()), None).await
        };
        let mut p = come(life.at, v, "p", true).await;
        p.send(&publish(v, 8 | 4, "z/a", 1, &[], b"1")).await;
        assert_eq!(life.carry().await, b"1");
        p.expect(&[0x50, 2, 0, 1]).await;
        assert_eq!(life.log().await, if another { &b"1"[..] } else { b"011" });
    }
}

#[tokio::test]
async fn what_comes_behind_it_waits_with_it_and_a_journal_that_cannot_write_holds_up_nobody() {
    let v = V::Five;
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path()).await;
    let mut p = begin(&mut life, v, "p", b'0').await;
    life.waits.store(true, SeqCst);
    p.send(&publish(v, 4, "z/a", 1, &[], b"1")).await;
    p.send(&publish(v, 2, "z/a", 2, &[], b"2")).await;
    until("both", || life.broker.stats().forward_taken == 3).await;
    let waits = timeout(Duration::from_millis(150), life.keeper.recv()).await;
    assert!(waits.is_err(), "a publisher's messages keep their order");
    life.waits.store(false, SeqCst);
    assert_eq!([life.carry().await, life.carry().await], [b"1", b"2"]);
    p.expect(&[0x50, 2, 0, 1]).await;
    p.expect(&[0x40, 2, 0, 2]).await;
    life.fails.store(true, SeqCst);
    p.send(&publish(v, 4, "z/a", 3, &[], b"3")).await;
    assert_eq!(life.carry().await, b"3");
    p.expect(&[0x50, 2, 0, 3]).await;
    assert_eq!(life.broker.stats().persistence, "memory");
    assert_eq!(life.log().await, b"0123");
}

#[tokio::test]
async fn a_connection_that_ends_after_the_log_has_it_and_before_its_answer_says_it_to_nobody_again() {
    for v in BOTH {
        let dir = tempfile::tempdir().unwrap();
        let mut life = Life::begin(dir.path()).await;
        let mut p = begin(&mut life, v, "p", b'0').await;
        p.send(&publish(v, 4, "z/a", 1, &[], b"1")).await;
        life.come(&mut p, 1, Came::Told).await;
        // It has heard of it, and waits for the disk.
        p.send(&[0xC0, 0]).await;
        p.expect(&[0xD0, 0]).await;
        drop(p);
        until("away", || life.broker.stats().sessions_away == 1).await;
        life.waits.store(false, SeqCst);
        let mut p = come(life.at, v, "p", true).await;
        p.send(&publish(v, 8 | 4, "z/a", 1, &[], b"1")).await;
        p.expect(&[0x50, 2, 0, 1]).await;
        assert!(life.keeper.is_empty());
        assert_eq!(life.log().await, b"01");
    }
}
