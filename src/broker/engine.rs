//! The routing seam: what carries a message from its publisher to the subscription trie.
//!
//! An engine gets a *ticket* for each group of messages and must give the tickets back in the same order. The
//! messages themselves stay in the hub's window, so nothing a client sends can reach an engine, and what
//! an engine loses is delivered all the same. The native engine is the absence of one: the hub hands a
//! message straight to the trie.

use tokio::sync::mpsc;

/// The number of a group of messages on its way through an engine; counts up by one.
pub type Ticket = u64;

/// What comes out of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Returned {
    /// The ticket. Coming back proves that all earlier ones were dealt with, or lost.
    pub ticket: Ticket,
    /// How many entries the engine itself says it skipped before this one.
    pub gap: u64,
}

/// The engine is dead; the native one must take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dead;

/// A routing engine. Tickets come back on the receiver that its start gave; that channel closes when it
/// dies.
pub trait Engine: Send {
    /// Its name in stats.
    fn name(&self) -> &'static str;

    /// Takes a ticket. Never blocks: at most [`crate::bounds::BROKER_INSIDE`] tickets are inside.
    ///
    /// # Errors
    /// [`Dead`].
    fn push(&mut self, ticket: Ticket) -> Result<(), Dead>;
}

/// A started engine: where tickets go in, and where they come out.
pub struct Running {
    /// In.
    pub engine: Box<dyn Engine>,
    /// Out.
    pub returned: mpsc::Receiver<Returned>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("engine", &self.engine.name()).finish_non_exhaustive()
    }
}
