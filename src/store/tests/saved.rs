//! A damaged database: what of it can be read is not lost with the rest.

use super::power::vfs;
use super::*;
use crate::bounds::STORE_MERGE;
use crate::message::LossReason;

/// Blocks of which none grows, each of so many readings.
const EACH: u64 = STORE_MERGE as u64;

async fn filled(dir: &Path, blocks: u64) -> Store {
    let slow = model::Store { commit_interval: Span::s(3600), ..config(dir) };
    let (store, _) = opened(&slow, &uplinks(&["cloud"]), TestClock::new("a"));
    for block in 0..blocks {
        store.take(readings(block * EACH..block * EACH + EACH));
        store.flush().await.expect("flushes");
    }
    store
}

/// Where the block with this number lies in the file.
fn place(bytes: &[u8], block: u64) -> usize {
    let first = (block * EACH + 1).to_le_bytes();
    let heads = bytes.windows(16).enumerate().filter(|(_, w)| w[..4] == *b"FGB1" && w[8..] == first);
    heads.map(|(at, _)| at).next().expect("it is there")
}

/// What an uplink gets that acknowledges all of it.
async fn drained(store: &Store) -> super::super::Ledger {
    let drain = store.drain("cloud").expect("configured");
    for _ in 0..400 {
        for range in drain.pending() {
            let mut at = range.start;
            while at < range.end {
                let Ok(chunk) = drain.read(at..range.end, 500).await else { break };
                for record in &chunk.records {
                    assert_eq!(
                        record.value,
                        Some(Value::Int(record.id.seq.cast_signed() - 1)),
                        "a wrong value"
                    );
                    drain.delivered(record.id.seq..record.id.seq + 1);
                }
                at = chunk.next;
            }
        }
        if drain.pending().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    balanced(&*drain)
}

/// Nothing waits, at most so many blocks are gone and declared as what they are, and the store works.
async fn assert_saved(store: &Store, blocks: u64, lost: u64, what: &str) {
    let ledger = drained(store).await;
    assert_eq!((ledger.taken, ledger.queued), (blocks * EACH, 0), "{what}: {:?}", store.status());
    assert!((1..=lost * EACH).contains(&ledger.lost), "{what}: {ledger:?}");
    until("it writes again", || store.status().state == "ok").await;
    store.take(readings(blocks * EACH..blocks * EACH + 10));
    store.flush().await.expect("flushes");
    let drain = store.drain("cloud").expect("configured");
    let told = losses(&*drain).await;
    assert!(told.iter().all(|l| l.reason == LossReason::Corrupt && !l.bound), "{what}: {told:?}");
    assert_eq!(told.iter().map(|l| l.count).sum::<u64>(), ledger.lost, "{what}");
    assert_eq!(store.status().set_aside, ["fieldgate.db.bad-1"], "{what}");
}

#[tokio::test]
async fn a_sector_that_cannot_be_read_takes_only_what_is_in_it() {
    for how in ["ended in order", "killed", "killed, and it is the newest"] {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = vfs::watch(dir.path());
        filled(dir.path(), 40).await.close().await.expect("closes");
        if how != "ended in order" {
            filled(dir.path(), 0).await.crash();
        }
        let path = dir.path().join("fieldgate.db");
        let bytes = std::fs::read(&path).expect("reads");
        let at = place(&bytes, if how.ends_with("newest") { 39 } else { 3 }) as u64 / 512 * 512;
        disk.unreadable(&path, at..at + 512);
        let (store, recovery) = opened(&config(dir.path()), &uplinks(&["cloud"]), TestClock::new("a"));
        assert_eq!(recovery.ram_only, None, "{how}");
        assert_saved(&store, 40, 8, how).await;
        store.crash();
        vfs::unwatch(dir.path());
    }
}

#[tokio::test]
async fn a_damaged_page_of_the_tree_takes_only_what_is_in_it() {
    for (flip, running) in [(0, false), (3, false), (0, true)] {
        let dir = tempfile::tempdir().expect("a directory");
        let store = filled(dir.path(), 40).await;
        store.close().await.expect("closes");
        let path = dir.path().join("fieldgate.db");
        let mut bytes = std::fs::read(&path).expect("reads");
        let page = place(&bytes, 20) / 1024 * 1024;
        assert_eq!(bytes[page], 13, "a leaf, of 8 blocks");
        bytes[page + flip] ^= 0x10;
        if !running {
            std::fs::write(&path, &bytes).expect("writes");
        }
        let (store, _) = opened(&config(dir.path()), &uplinks(&["cloud"]), TestClock::new("a"));
        if running {
            use std::os::unix::fs::FileExt;
            let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opens");
            file.write_all_at(&bytes[page..page + 16], page as u64).expect("writes");
        }
        assert_saved(&store, 40, 8, &format!("byte {flip}, running {running}")).await;
        store.close().await.expect("closes");
        let (store, recovery) = opened(&config(dir.path()), &uplinks(&["cloud"]), TestClock::new("a"));
        assert!(recovery.losses.is_empty(), "declared once: {:?}", recovery.losses);
        store.crash();
    }
}

#[tokio::test]
async fn a_directory_under_a_name_of_the_database_is_no_reason_to_live_in_ram() {
    for name in ["fieldgate.db.anew", "fieldgate.db-wal", "fieldgate.db-journal", "mark.tmp"] {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = open(dir.path(), "a");
        store.take(readings(0..10));
        store.close().await.expect("closes");
        let path = dir.path().join(name);
        let _ = std::fs::remove_file(&path);
        std::fs::create_dir(&path).expect("creates");
        std::fs::write(path.join("x"), "x").expect("writes");
        let marked = std::fs::read(dir.path().join("mark")).expect("reads");
        let (store, recovery) = open(dir.path(), "a");
        assert_eq!(recovery.ram_only, None, "{name}");
        assert_eq!(store.drain("cloud").expect("configured").pending(), [1..11], "{name}");
        store.take(readings(10..12));
        store.flush().await.expect("flushes");
        store.mark().await;
        assert!(marked != std::fs::read(dir.path().join("mark")).expect("reads"), "{name}");
        assert_eq!(std::fs::read(dir.path().join(format!("{name}.bad-1/x"))).expect("is kept"), b"x");
        store.crash();
    }
}
