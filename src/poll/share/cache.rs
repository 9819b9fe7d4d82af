//! The last answers of a shared bus, so that five clients with the same question cost the bus one. Pure: `now`
//! comes in.
//!
//! - An answer is given again for `cache` after it came, and only to the same question of the same unit.
//! - After a write, through the share or of fieldgate itself, nothing that was read before is given again.
//! - Refusals are not kept: asking again is how a client learns that they are over.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::bounds;

/// Answers by unit and request.
#[derive(Debug)]
pub struct Cache {
    keep: Duration,
    answers: HashMap<(u8, Vec<u8>), (Instant, Vec<u8>)>,
    /// The bus's count of writes ([`BusStats::writes`](crate::poll::stats::BusStats)) when they came.
    writes: u64,
}

/// A question whose answer may be kept, if nothing was written since it was asked.
#[derive(Debug)]
pub struct Asked {
    key: (u8, Vec<u8>),
    writes: u64,
}

impl Cache {
    /// Empty; answers are kept for so long.
    #[must_use]
    pub fn new(keep: Duration) -> Self {
        Self { keep, answers: HashMap::new(), writes: 0 }
    }

    /// The answer to this read, if it is new enough and none of the bus's `writes` came after it; or what to hand to [`Self::keep`] once it is there.
    ///
    /// # Errors
    /// It must be asked.
    pub fn answer(&mut self, unit: u8, request: &[u8], writes: u64, now: Instant) -> Result<Vec<u8>, Asked> {
        self.catch_up(writes);
        let key = (unit, request.to_vec());
        match self.answers.get(&key) {
            Some((at, answer)) if now < *at + self.keep => Ok(answer.clone()),
            _ => Err(Asked { key, writes }),
        }
    }

    /// A good answer came, and so many writes had been by then.
    pub fn keep(&mut self, asked: Asked, answer: &[u8], writes: u64, now: Instant) {
        self.catch_up(writes);
        // A read that was under way during a write may hold either value.
        if asked.writes != writes {
            return;
        }
        if self.answers.len() >= bounds::SHARE_CACHE {
            let keep = self.keep;
            self.answers.retain(|_, (at, _)| now < *at + keep);
        }
        if self.answers.len() >= bounds::SHARE_CACHE
            && let Some(oldest) =
                self.answers.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| key.clone())
        {
            self.answers.remove(&oldest);
        }
        self.answers.insert(asked.key, (now, answer.to_vec()));
    }

    fn catch_up(&mut self, writes: u64) {
        if self.writes != writes {
            self.writes = writes;
            self.answers.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_millis(500);

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_again_for_its_time_and_not_after_a_write() {
        let now = Instant::now();
        let mut cache = Cache::new(KEEP);
        let asked = cache.answer(1, &[3, 0], 0, now).expect_err("nothing is there");
        cache.keep(asked, b"one", 0, now);
        assert_eq!(cache.answer(1, &[3, 0], 0, now + KEEP / 2).ok(), Some(b"one".to_vec()));
        for (unit, request) in [(2, [3, 0]), (1, [3, 1])] {
            assert!(cache.answer(unit, &request, 0, now).is_err(), "another question");
        }
        assert!(cache.answer(1, &[3, 0], 0, now + KEEP).is_err(), "too old");
        let under_way = cache.answer(1, &[3, 9], 0, now).expect_err("not there");
        cache.keep(under_way, b"old", 1, now);
        for request in [[3, 0], [3, 9]] {
            assert!(cache.answer(1, &request, 1, now).is_err(), "read before the write, or during it");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_and_forgets_the_oldest() {
        let (mut cache, start) = (Cache::new(KEEP), Instant::now());
        for n in 0..=u16::try_from(bounds::SHARE_CACHE).expect("small") {
            let now = start + Duration::from_millis(u64::from(n));
            let asked = cache.answer(1, &n.to_be_bytes(), 0, now).expect_err("new");
            cache.keep(asked, &[1], 0, now);
        }
        assert_eq!(cache.answers.len(), bounds::SHARE_CACHE);
        assert!(cache.answer(1, &[0, 0], 0, start).is_err() && cache.answer(1, &[0, 1], 0, start).is_ok());
    }
}
