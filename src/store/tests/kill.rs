//! `kill -9` of a real process at random moments, with a ledger outside of it.
//!
//! The child is this test binary itself. It writes every identity it was given, and every record it
//! read before acknowledging it, into a file with one `write` each: what is in there happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use driver_api::Value;

use super::*;

const DIR: &str = "FIELDGATE_STORE_KILL_DIR";

fn note(file: &mut File, line: &str) {
    file.write_all(line.as_bytes()).expect("the ledger can be written");
}

/// Not a test: the process that gets killed. Without the variable it has nothing to do.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir).to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        let (store, _) = open(&dir.join("queue"), "same boot");
        let mut ledger = OpenOptions::new().append(true).open(dir.join("ledger")).expect("opens");
        let mut acks = ledger.try_clone().expect("clones");
        let drain = store.drain("cloud").expect("configured");
        tokio::spawn(async move {
            let mut head = drain.head();
            loop {
                for range in drain.pending() {
                    let Ok(chunk) = drain.read(range, 60).await else { continue };
                    let Some(first) = chunk.records.first().map(|r| r.id.seq) else { continue };
                    let lines: String = chunk
                        .records
                        .iter()
                        .map(|r| {
                            format!("S {} {} {}\n", r.id.epoch, r.id.seq, r.value.as_ref().expect("good"))
                        })
                        .collect();
                    note(&mut acks, &lines);
                    drain.delivered(first..chunk.next);
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                if head.changed().await.is_err() {
                    return;
                }
            }
        });
        loop {
            let n = fastrand::u64(1..40);
            let values: Vec<u32> = (0..n).map(|_| fastrand::u32(..)).collect();
            let batch = values
                .iter()
                .map(|&v| Reading::good(key(v as usize % 7), BootMs(1), Value::Int(i64::from(v))));
            let taken = store.take(batch.collect());
            let lines: String =
                taken.ids().zip(values).map(|(id, v)| format!("T {} {} {v}\n", id.epoch, id.seq)).collect();
            note(&mut ledger, &lines);
            if fastrand::u8(..4) == 0 {
                tokio::time::sleep(Duration::from_micros(fastrand::u64(..4000))).await;
            }
        }
    });
}

#[tokio::test]
async fn twenty_kills_lose_nothing_stored_and_declare_the_rest_exactly() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = dir.path().join("ledger");
    File::create(&ledger).expect("creates");
    let queue = dir.path().join("queue");
    let mut lost = BTreeSet::new();
    let mut unnoted = 0;
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().expect("the test binary"))
            .args(["--exact", "store::tests::kill::child", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let size = || std::fs::metadata(&ledger).expect("there").len();
        let before = size();
        until("the child takes readings", || size() > before).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..120))).await;
        child.kill().expect("kills");
        child.wait().expect("ends");

        let taken = taken(&ledger);
        let (store, recovery) = open(&queue, "same boot");
        for record in &recovery.losses {
            assert!(!record.bound && record.count == record.seq[1] - record.seq[0] + 1, "{record:?}");
            for n in record.seq[0]..=record.seq[1] {
                assert!(lost.insert(n), "{n} is declared twice");
                // A number that nobody was told of can only be one of the call that was going on.
                unnoted += usize::from(!taken.contains_key(&n));
            }
        }
        let drain = store.drain("cloud").expect("configured");
        balanced(&*drain);
        if round % 3 == 0 {
            store.close().await.expect("closes");
        } else {
            store.crash();
        }
    }
    assert!(unnoted <= 20 * 40, "{unnoted}");
    let (store, recovery) = open(&queue, "same boot");
    assert!(recovery.losses.is_empty());
    let drain = store.drain("cloud").expect("configured");
    let taken = taken(&ledger);
    let mut seen: BTreeMap<u64, (String, String)> = BTreeMap::new();
    for line in std::fs::read_to_string(&ledger).expect("reads").lines().filter(|l| l.starts_with('S')) {
        let [_, epoch, seq, value] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let what = (epoch.to_owned(), value.to_owned());
        let seq = seq.parse().expect("a number");
        let again = seen.insert(seq, what.clone());
        assert!(again.is_none_or(|a| a == what), "a repeat has the same content");
    }
    for record in read_all(&*drain, 4096).await {
        let value = record.value.as_ref().expect("good").to_string();
        seen.insert(record.id.seq, (record.id.epoch.to_string(), value));
    }
    for (seq, what) in &taken {
        match seen.get(seq) {
            Some(arrived) => assert_eq!(arrived, what, "number {seq}"),
            None => assert!(lost.contains(seq), "number {seq} is missing"),
        }
        assert!(!(seen.contains_key(seq) && lost.contains(seq)), "number {seq} arrived and is declared lost");
    }
    let ledger = balanced(&*drain);
    assert_eq!(ledger.lost, lost.len() as u64);
    assert_eq!(ledger.taken, *taken.keys().chain(&lost).max().expect("some"));
    println!(
        "{} taken, {} seen, {} lost, {unnoted} of them in the killed call",
        taken.len(),
        seen.len(),
        lost.len()
    );
    store.close().await.expect("closes");
}

/// What the children were given: number → epoch and value. No number twice.
fn taken(ledger: &Path) -> BTreeMap<u64, (String, String)> {
    let mut taken = BTreeMap::new();
    for line in std::fs::read_to_string(ledger).expect("reads").lines().filter(|l| l.starts_with('T')) {
        let [_, epoch, seq, value] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let what = (epoch.to_owned(), value.to_owned());
        assert!(taken.insert(seq.parse().expect("a number"), what).is_none(), "{seq} was given out twice");
    }
    taken
}
