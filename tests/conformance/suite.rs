//! What a row of the tables is, and how rows are run: all of one broker at once, each with client ids and topics of its own.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// MQTT version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum V {
    /// 3.1
    Old,
    /// 3.1.1
    Four,
    /// 5.0
    Five,
}

impl V {
    pub fn name(self) -> &'static str {
        match self {
            Self::Old => "3.1",
            Self::Four => "3.1.1",
            Self::Five => "5.0",
        }
    }
}

/// `Err`: what the broker did instead.
pub type Verdict = Result<(), String>;

/// A case at work.
pub type Run = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// Where one broker listens.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// Everybody may do everything.
    pub open: SocketAddr,
    /// User `u` with password `p` may read and write `free/#` and read `look/#`.
    pub guarded: SocketAddr,
    /// As `open`, over WebSocket.
    pub websocket: SocketAddr,
}

/// What a case is run with.
#[derive(Debug, Clone)]
pub struct Ctx {
    pub at: Places,
    pub v: V,
    /// No other case has it.
    pub tag: Arc<str>,
    /// The broker is ours: where the specification leaves a choice, it must be the one we made.
    pub strict: bool,
}

impl Ctx {
    /// A client id of this case.
    pub fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    /// A topic of this case.
    pub fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.tag)
    }
}

/// One statement.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub v: V,
    /// `3.1.2-24` for MQTT-3.1.2-24; a section, a word or both for what has no number.
    pub id: &'static str,
    /// What it asks for, in our words.
    pub says: &'static str,
    pub proof: Proof,
}

/// How it stands with a statement.
#[derive(Debug, Clone, Copy)]
pub enum Proof {
    /// This tries it.
    Case(fn(Ctx) -> Run),
    /// It is left out.
    Left(Why, &'static str),
}

/// Why a statement is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// It binds clients; what the broker does with one that breaks it is a row of its own where the specification says it.
    Client,
    /// Nobody can see from outside whether it is kept.
    Unseen,
    /// It is about something that this broker does not do.
    Unused,
}

/// Rows: `"id" "what it says" => case;` or `"id" "what it says" left Why "why";`.
macro_rules! rows {
    ($v:expr; $($id:literal $says:literal $(=> $case:path)? $(, left $why:ident $reason:literal)?;)*) => {
        &[$($crate::suite::Row {
            v: $v,
            id: $id,
            says: $says,
            proof: $crate::suite::proof!($($case)? $(, $why $reason)?),
        }),*]
    };
}

macro_rules! proof {
    ($case:path) => {
        $crate::suite::Proof::Case(|ctx| Box::pin($case(ctx)))
    };
    (, $why:ident $reason:literal) => {
        $crate::suite::Proof::Left($crate::suite::Why::$why, $reason)
    };
}

pub(crate) use {proof, rows};

/// Cases under way at once: enough that those with timers wait together.
const TOGETHER: usize = 96;

/// Runs every case against one broker; what came of each, in the order of the rows.
pub async fn run(at: Places, strict: bool, rows: &[&Row]) -> Vec<Verdict> {
    let places = Arc::new(Semaphore::new(TOGETHER));
    let mut tasks = JoinSet::new();
    for (n, row) in rows.iter().enumerate() {
        let Proof::Case(case) = row.proof else { continue };
        let tag = format!("{}_{n}", row.v.name().replace('.', ""));
        let ctx = Ctx { at, v: row.v, tag: tag.into(), strict };
        let places = places.clone();
        tasks.spawn(async move {
            let _place = places.acquire_owned().await;
            // Packets as long as a will make no table.
            (n, case(ctx).await.map_err(|what| what.chars().take(400).collect()))
        });
    }
    let unfinished = |row: &&Row| match row.proof {
        Proof::Case(_) => Err("the case itself broke off".to_owned()),
        Proof::Left(..) => Ok(()),
    };
    let mut verdicts: Vec<Verdict> = rows.iter().map(unfinished).collect();
    while let Some(done) = tasks.join_next().await {
        if let Ok((n, verdict)) = done {
            verdicts[n] = verdict;
        }
    }
    verdicts
}
