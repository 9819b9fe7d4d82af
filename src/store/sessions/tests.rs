//! The shelf against a model, over reopenings, cuts and damage.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn shelf(dir: &Path) -> (Sessions, Kept) {
    let mut shelf = Sessions::at(dir, 0);
    let kept = shelf.load().expect("it opens");
    (shelf, kept)
}

fn write(shelf: &mut Sessions, changes: &[Change<'_>]) {
    shelf.begin(true).expect("begins");
    changes.iter().for_each(|change| shelf.put(*change).expect("takes it"));
    shelf.commit().expect("commits");
}

fn entry<'a>(session: u64, seq: u64, body: u64) -> Change<'a> {
    Change::Entry { session, seq, body, data: b"how" }
}

const DOCKET: Docket = Docket { life: u64::MAX - 1, n: 3 };

const SOME: [Change<'static>; 15] = [
    Change::Session(7, b"who"),
    Change::Filter(7, "a/+", Some(b"options")),
    Change::Body(3, b"what"),
    Change::Entry { session: 7, seq: 1, body: 3, data: b"how" },
    Change::Entry { session: 7, seq: 2, body: 0, data: b"walk" },
    Change::Id(7, 65_535, Standing::Begun(Some(DOCKET))),
    Change::Id(7, 65_535, Standing::Taken),
    Change::Id(7, 8, Standing::Taken),
    Change::Id(7, 8, Standing::Begun(None)),
    Change::Id(7, 9, Standing::Begun(None)),
    Change::Id(7, 9, Standing::Begun(Some(DOCKET))),
    Change::Id(7, 10, Standing::Begun(Some(DOCKET))),
    Change::Id(7, 10, Standing::Free),
    Change::Retained("温度/1", Some(b"21")),
    Change::Mark(b"now"),
];

#[test]
fn what_was_committed_is_there_again_and_what_was_not_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut first, empty) = shelf(dir.path());
    assert_eq!(empty, Kept::default());
    write(&mut first, &SOME);
    // Cut in the middle of a group.
    first.begin(true).expect("begins");
    first.put(Change::Drop(7)).expect("takes it");
    drop(first);
    let (mut second, kept) = shelf(dir.path());
    assert_eq!(kept.sessions, [(7, b"who".to_vec())]);
    assert_eq!(kept.filters, [(7, "a/+".to_owned(), b"options".to_vec())]);
    assert_eq!(kept.bodies, [(3, b"what".to_vec())].into());
    assert_eq!(kept.entries.iter().map(|e| (e.seq, e.body)).collect::<Vec<_>>(), [(1, 3), (2, 0)]);
    assert_eq!((kept.taken, kept.begun), (vec![(7, 65_535)], vec![(7, 8, None), (7, 9, Some(DOCKET))]));
    assert_eq!(kept.mark, Some(b"now".to_vec()));
    assert_eq!(kept.retained, [("温度/1".to_owned(), b"21".to_vec())]);
    write(&mut second, &[Change::Drop(7), Change::Retained("温度/1", None)]);
    drop(second);
    let (_, kept) = shelf(dir.path());
    assert_eq!(kept, Kept { mark: Some(b"now".to_vec()), ..Kept::default() });
}

#[test]
fn a_body_goes_with_the_last_entry_that_names_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut first, _) = shelf(dir.path());
    write(
        &mut first,
        &[Change::Body(3, b"x"), entry(1, 1, 3), entry(2, 1, 3), entry(2, 1, 3), entry(3, 9, 3)],
    );
    write(&mut first, &[Change::Remove(1, 1), Change::Remove(1, 1), Change::Released(2, 1)]);
    drop(first);
    let (mut second, kept) = shelf(dir.path());
    assert_eq!(kept.bodies.len(), 1);
    assert!(kept.entries.iter().any(|e| e.session == 2 && e.released && e.body == 0));
    write(&mut second, &[Change::Drop(3)]);
    drop(second);
    let (_, kept) = shelf(dir.path());
    assert_eq!((kept.bodies.len(), kept.entries.len()), (0, 1));
}

#[test]
fn a_damaged_file_is_set_aside_and_a_new_one_begun() {
    let dir = tempfile::tempdir().expect("a directory");
    for (n, damage) in
        [&b"no database at all, but a text of some length"[..], &[0xFF; 9000], b"SQLite format 3\0"]
            .into_iter()
            .enumerate()
    {
        std::fs::write(dir.path().join(FILE), damage).expect("writes");
        let (mut shelf, kept) = shelf(dir.path());
        assert_eq!(kept.set_aside, Some(format!("broker.db.bad-{}", n + 1)), "{n}");
        assert_eq!(
            std::fs::read(dir.path().join(format!("broker.db.bad-{}", n + 1))).expect("there"),
            damage
        );
        write(&mut shelf, &SOME);
    }
}

#[test]
fn a_flipped_bit_costs_a_row_and_is_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut first, _) = shelf(dir.path());
    write(&mut first, &SOME);
    drop(first);
    let db = Connection::open(dir.path().join(FILE)).expect("opens");
    db.execute("UPDATE body SET data=X'7768657400000000'", []).expect("writes");
    drop(db);
    let (_, kept) = shelf(dir.path());
    assert_eq!((kept.damaged, kept.bodies.len(), kept.sessions.len()), (1, 0, 1));
}

#[test]
fn a_file_of_before_dockets_is_completed_and_its_packet_ids_are_begun_as_they_were() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut first, _) = shelf(dir.path());
    write(&mut first, &SOME);
    drop(first);
    let sql = |text: &str| {
        let db = Connection::open(dir.path().join(FILE)).expect("opens");
        db.execute_batch(text).expect("writes");
    };
    // As it was made then; and of before there was any of it.
    for (old, begun) in [
        (
            "CREATE TABLE begun(session INTEGER, id INTEGER, PRIMARY KEY(session,id)) WITHOUT ROWID; INSERT INTO begun VALUES(7,8);",
            vec![(7, 8, None)],
        ),
        ("", vec![]),
    ] {
        sql(&format!("DROP TABLE begun; {old}"));
        let (mut second, kept) = shelf(dir.path());
        assert_eq!((kept.begun, kept.damaged), (begun, 0));
        write(&mut second, &[Change::Id(7, 8, Standing::Begun(Some(DOCKET)))]);
        drop(second);
        let (_, kept) = shelf(dir.path());
        assert_eq!(kept.begun, [(7, 8, Some(DOCKET))]);
    }
    // What knows nothing of dockets writes beside them.
    sql("INSERT OR IGNORE INTO begun(session,id) VALUES(7,8),(7,11)");
    let (third, kept) = shelf(dir.path());
    drop(third);
    assert_eq!(kept.begun, [(7, 8, Some(DOCKET)), (7, 11, None)]);
    // A damaged docket is none, and counted.
    sql("UPDATE begun SET data=zeroblob(20) WHERE id=8");
    let (_, kept) = shelf(dir.path());
    assert_eq!((kept.begun, kept.damaged), (vec![(7, 8, None), (7, 11, None)], 1));
}

#[test]
fn a_file_of_a_later_version_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut first, _) = shelf(dir.path());
    write(&mut first, &SOME);
    drop(first);
    let db = Connection::open(dir.path().join(FILE)).expect("opens");
    db.execute_batch("PRAGMA user_version=2").expect("writes");
    drop(db);
    let before = std::fs::read(dir.path().join(FILE)).expect("there");
    let mut shelf = Sessions::at(dir.path(), 0);
    assert!(matches!(shelf.load(), Err(ShelfError::Newer(_))));
    drop(shelf);
    assert_eq!(std::fs::read(dir.path().join(FILE)).expect("there"), before);
}

#[test]
fn a_disk_with_no_room_to_spare_takes_nothing_new_but_lets_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut first, _) = shelf(dir.path());
    write(&mut first, &SOME);
    first.min_free = u64::MAX;
    assert!(matches!(first.begin(true), Err(ShelfError::Disk(_))));
    first.begin(false).expect("begins");
    first.put(Change::Drop(7)).expect("takes it");
    first.commit().expect("commits");
}

#[test]
fn a_file_that_went_away_is_noticed_when_it_is_opened_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut first, _) = shelf(dir.path());
    write(&mut first, &SOME);
    first.conn = None;
    first.reopen().expect("it is there");
    write(&mut first, &[Change::Remove(7, 1)]);
    let path = dir.path().join(FILE);
    first.look().expect("it is where it was");
    std::fs::copy(&path, dir.path().join("copy")).expect("copies");
    std::fs::remove_file(&path).expect("removes");
    assert!(matches!(first.look(), Err(ShelfError::Disk(_))) && first.conn.is_none());
    // The same from elsewhere, as on a file system that is mounted again.
    std::fs::rename(dir.path().join("copy"), &path).expect("renames");
    first.reopen().expect("it is the same");
    // Another one is not written into.
    first.conn = None;
    std::fs::remove_file(&path).expect("removes");
    shelf(dir.path());
    assert!(matches!(first.reopen(), Err(ShelfError::Disk(_))));
    std::fs::remove_file(&path).expect("removes");
    assert!(matches!(first.reopen(), Err(ShelfError::Damaged(_))));
    assert_eq!(first.renew(), Ok(None));
    write(&mut first, &SOME);
}

/// What a session's entries are in the model: the body each names.
type Model = BTreeMap<(u64, u64), (u64, bool)>;

proptest! {
    #[test]
    fn entries_and_their_bodies_are_those_of_a_model(
        steps in prop::collection::vec((0u8..5, 1u64..4, 1u64..6, 1u64..5), 1..24),
        cuts in prop::collection::vec(0usize..24, 0..3),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut shelf, _) = self::shelf(dir.path());
        let mut model = Model::new();
        for (n, (kind, session, seq, body)) in steps.into_iter().enumerate() {
            match kind {
                // What is released never gets a body again, and a place is given out once: so it is here.
                0 | 1 if !model.contains_key(&(session, seq)) => {
                    write(&mut shelf, &[Change::Body(body, b"x"), entry(session, seq, body)]);
                    model.insert((session, seq), (body, false));
                }
                2 => {
                    write(&mut shelf, &[Change::Remove(session, seq)]);
                    model.remove(&(session, seq));
                }
                3 => {
                    write(&mut shelf, &[Change::Released(session, seq)]);
                    model.entry((session, seq)).and_modify(|e| *e = (0, true));
                }
                4 => {
                    write(&mut shelf, &[Change::Drop(session)]);
                    model.retain(|(s, _), _| *s != session);
                }
                _ => {}
            }
            if cuts.contains(&n) {
                shelf.conn = None;
                shelf.reopen().expect("opens");
            }
        }
        drop(shelf);
        let (_, kept) = self::shelf(dir.path());
        let found: Model = kept.entries.iter().map(|e| ((e.session, e.seq), (e.body, e.released))).collect();
        let bodies: std::collections::BTreeSet<u64> = kept.bodies.keys().copied().collect();
        let named: std::collections::BTreeSet<u64> =
            model.values().map(|(body, _)| *body).filter(|body| *body > 0).collect();
        prop_assert_eq!(found, model);
        prop_assert_eq!(bodies, named);
    }
}
