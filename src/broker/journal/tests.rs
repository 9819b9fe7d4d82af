//! The journal with a shelf that does as it is told.

use std::sync::atomic::AtomicU8;

use super::*;
use crate::clock::SystemClock;
use crate::message::Change;

const WELL: u8 = 0;
const FAILS: u8 = 1;
const HANGS: u8 = 2;
const GONE: u8 = 3;
const ROTS: u8 = 4;
const DIES: u8 = 5;

/// Counts what is committed.
struct Moody {
    mood: Arc<AtomicU8>,
    retained: Arc<Mutex<Vec<String>>>,
    group: Vec<String>,
    load: Result<Kept, ShelfError>,
    renewed: Arc<AtomicUsize>,
}

impl Shelf for Moody {
    fn load(&mut self) -> Result<Kept, ShelfError> {
        self.load.clone()
    }
    fn reopen(&mut self) -> Result<(), ShelfError> {
        self.look()
    }
    fn look(&mut self) -> Result<(), ShelfError> {
        match self.mood.load(Relaxed) {
            GONE => Err(ShelfError::Disk("not where it was".into())),
            DIES => panic!("a fault of ours"),
            _ => Ok(()),
        }
    }
    fn renew(&mut self) -> Result<Option<String>, ShelfError> {
        self.renewed.fetch_add(1, Relaxed);
        Ok(Some("aside".into()))
    }
    fn begin(&mut self, _: bool) -> Result<(), ShelfError> {
        self.group.clear();
        Ok(())
    }
    fn put(&mut self, change: Change<'_>) -> Result<(), ShelfError> {
        if let Change::Retained(topic, _) = change {
            self.group.push(topic.to_owned());
        }
        Ok(())
    }
    fn commit(&mut self) -> Result<(), ShelfError> {
        while self.mood.load(Relaxed) == HANGS {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.mood.load(Relaxed) == FAILS {
            return Err(ShelfError::Disk("no room".into()));
        }
        if self.mood.load(Relaxed) == ROTS {
            return Err(ShelfError::Damaged("malformed".into()));
        }
        self.retained.lock().unwrap().append(&mut self.group);
        Ok(())
    }
    fn bytes(&self) -> u64 {
        7
    }
}

struct Scene {
    journal: Journal,
    mood: Arc<AtomicU8>,
    retained: Arc<Mutex<Vec<String>>>,
    renewed: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

async fn scene(load: Result<Kept, ShelfError>) -> Scene {
    let (mood, retained, renewed, counters) =
        (Arc::default(), Arc::default(), Arc::default(), Arc::<Counters>::default());
    let shelf = Moody {
        mood: Arc::clone(&mood),
        retained: Arc::clone(&retained),
        group: Vec::new(),
        load,
        renewed: Arc::clone(&renewed),
    };
    let clock = Arc::new(SystemClock::new(true));
    let persistence =
        Persistence { shelf: Box::new(shelf), clock, within: Duration::from_secs(9), logged: None };
    let (journal, _) = Journal::start(persistence, counters.clone()).await;
    Scene { journal, mood, retained, renewed, counters }
}

impl Scene {
    fn note(&self, topic: &str, urgent: bool) -> u64 {
        self.journal.note(urgent, |pending| pending.retain(topic.into(), None)).0
    }

    async fn written(&self, group: u64) -> Durable {
        let mut durable = self.journal.durable();
        let done = durable.wait_for(|durable| !durable.degraded && durable.has(group));
        *tokio::time::timeout(Duration::from_secs(20), done).await.expect("in time").expect("it runs")
    }

    fn shows(&self) -> &'static str {
        self.counters.snapshot().persistence
    }
}

#[tokio::test]
async fn what_is_noted_together_is_one_group_and_what_nobody_waits_for_takes_its_time() {
    let scene = scene(Ok(Kept::default())).await;
    assert_eq!((scene.shows(), scene.journal.fence()), ("ok", BEFORE));
    let lazy = scene.note("a", false);
    let urgent = scene.note("b", true);
    assert_eq!(lazy, urgent);
    assert!(!scene.journal.durable().borrow().has(urgent));
    scene.written(urgent).await;
    assert_eq!(scene.retained.lock().unwrap().len(), 2);
    let began = Instant::now();
    scene.written(scene.note("c", false)).await;
    assert!(began.elapsed() >= LAZY, "{:?}", began.elapsed());
    assert_eq!(scene.counters.snapshot().persistence_commits, 2);
    scene.journal.within(Duration::from_millis(20));
    let began = Instant::now();
    scene.written(scene.note("d", false)).await;
    assert!(began.elapsed() < LAZY, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_disk_that_fails_holds_up_nobody_and_gets_everything_when_it_is_back() {
    let scene = scene(Ok(Kept::default())).await;
    scene.mood.store(FAILS, Relaxed);
    let first = scene.note("a", true);
    let mut durable = scene.journal.durable();
    let excused = durable.wait_for(|durable| durable.is_excused(first));
    tokio::time::timeout(Duration::from_secs(20), excused).await.unwrap().unwrap();
    let stats = scene.counters.snapshot();
    assert_eq!((stats.persistence, &*stats.persistence_error), ("memory", "no room"));
    let second = scene.note("b", true);
    assert!(scene.journal.durable().borrow().has(second), "nobody waits");
    scene.mood.store(WELL, Relaxed);
    scene.written(second).await;
    let mut retained = scene.retained.lock().unwrap().clone();
    retained.sort();
    assert_eq!(retained, ["a", "b"]);
    assert_eq!(scene.shows(), "ok");
}

#[tokio::test]
async fn a_disk_that_does_not_answer_is_not_waited_for_for_ever() {
    let scene = scene(Ok(Kept::default())).await;
    scene.mood.store(HANGS, Relaxed);
    let group = scene.note("a", true);
    while scene.journal.shared.lock().writing.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scene.journal.look(Instant::now());
    assert!(!scene.journal.durable().borrow().has(group), "it has some time");
    scene.journal.look(Instant::now() + PATIENCE + Duration::from_secs(1));
    assert!(scene.journal.durable().borrow().is_excused(group));
    assert_eq!(scene.shows(), "memory");
    scene.mood.store(WELL, Relaxed);
    scene.written(group).await;
    assert_eq!(scene.shows(), "ok");
}

#[tokio::test]
async fn nobody_waits_for_a_thread_that_is_gone() {
    let scene = scene(Ok(Kept::default())).await;
    scene.mood.store(DIES, Relaxed);
    let is_gone = || {
        let thread = scene.journal.life.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(JoinHandle::is_finished)
    };
    let done = async {
        while !is_gone() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), done).await.expect("it looks after the file now and then");
    let group = scene.note("a", true);
    assert!(!scene.journal.durable().borrow().has(group));
    scene.journal.look(Instant::now());
    assert!(scene.journal.durable().borrow().is_excused(group));
    assert_eq!(scene.shows(), "memory");
}

#[tokio::test]
async fn a_file_that_goes_away_is_noticed_and_found_again_though_nobody_writes() {
    let scene = scene(Ok(Kept::default())).await;
    for (mood, shown) in [(GONE, "memory"), (WELL, "ok")] {
        scene.mood.store(mood, Relaxed);
        let done = async {
            while scene.shows() != shown {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), done).await.expect(shown);
    }
    assert!(!scene.journal.durable().borrow().degraded);
}

#[tokio::test]
async fn one_of_a_later_version_is_left_alone_and_one_that_cannot_be_read_is_begun_anew() {
    let newer = scene(Err(ShelfError::Newer("later".into()))).await;
    let group = newer.note("a", true);
    assert!(newer.journal.durable().borrow().has(group));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((newer.renewed.load(Relaxed), newer.retained.lock().unwrap().len()), (0, 0));
    assert_eq!(newer.shows(), "memory");
    let damaged = scene(Err(ShelfError::Damaged("bad".into()))).await;
    damaged.written(damaged.note("a", true)).await;
    assert_eq!((damaged.renewed.load(Relaxed), damaged.shows()), (1, "ok"));
    assert!(!damaged.journal.wants_all(), "nothing was taken in, so all that there is was noted since");
}

#[tokio::test]
async fn one_that_turns_out_to_be_damaged_is_begun_anew_with_all_that_there_is() {
    let scene = scene(Ok(Kept::default())).await;
    scene.mood.store(ROTS, Relaxed);
    let group = scene.note("a", true);
    let mut durable = scene.journal.durable();
    let excused = durable.wait_for(|durable| durable.is_excused(group));
    tokio::time::timeout(Duration::from_secs(20), excused).await.unwrap().unwrap();
    scene.mood.store(WELL, Relaxed);
    scene.written(group).await;
    assert!(scene.renewed.load(Relaxed) > 0 && scene.journal.wants_all() && !scene.journal.wants_all());
    assert_eq!(*scene.retained.lock().unwrap(), ["a"]);
}

#[tokio::test]
async fn closing_writes_what_there_is_and_dropping_does_not() {
    let closed = scene(Ok(Kept::default())).await;
    closed.note("a", false);
    closed.journal.close();
    assert_eq!(*closed.retained.lock().unwrap(), ["a"]);
    let killed = scene(Ok(Kept::default())).await;
    killed.note("a", false);
    let retained = Arc::clone(&killed.retained);
    let thread = killed.journal.life.thread.lock().unwrap().take();
    drop(killed);
    thread.unwrap().join().unwrap();
    assert_eq!(retained.lock().unwrap().len(), 0);
}
