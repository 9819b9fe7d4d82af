//! What the gateway was called when a reading was taken.
//!
//! Promises: `(gateway, epoch, seq)` is for ever. The numbers of an epoch carry the id that the gateway had when it began; another id
//! begins another epoch, as every start does, and what is queued keeps its own.

use super::epochs::Start;
use super::state::State;

impl State {
    /// The epoch of this start begins at `first`; what was before `needed` nobody asks for.
    pub(super) fn begin_epoch(&mut self, first: u64, needed: u64) {
        let epoch = [self.epoch.start, self.epoch.random];
        let start = Start { first, epoch, boot: self.boot, gateway: self.gateway.clone() };
        self.epochs.begin(start, needed);
        if let (Some(was), Some(now)) = (self.epochs.renamed_from(), &self.gateway) {
            tracing::warn!(
                "this gateway was called `{was}` until now, and is `{now}` from epoch {} on",
                self.epoch
            );
        }
    }
}
