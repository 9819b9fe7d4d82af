//! The last answers of a shared bus, so that five clients with the same question cost the bus one. Pure: `now`
//! comes in.
//!
//! - An answer is given again for `cache` after it came, and only to the same question of the same unit.
//! - After a write through the share nothing that was read of the unit before is given again.
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
    /// Counts writes.
    age: u64,
}

/// A question whose answer may be kept, if nothing was written since it was asked.
#[derive(Debug)]
pub struct Asked {
    key: (u8, Vec<u8>),
    age: u64,
}

impl Cache {
    /// Empty; answers are kept for so long.
    #[must_use]
    pub fn new(keep: Duration) -> Self {
        Self { keep, answers: HashMap::new(), age: 0 }
    }

    /// The answer to this read, if it is new enough; or what to hand to [`Self::keep`] once it is there.
    ///
    /// # Errors
    /// It must be asked.
    pub fn answer(&self, unit: u8, request: &[u8], now: Instant) -> Result<Vec<u8>, Asked> {
        let key = (unit, request.to_vec());
        match self.answers.get(&key) {
            Some((at, answer)) if now < *at + self.keep => Ok(answer.clone()),
            _ => Err(Asked { key, age: self.age }),
        }
    }

    /// A good answer came.
    pub fn keep(&mut self, asked: Asked, answer: &[u8], now: Instant) {
        if asked.age != self.age {
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

    /// Something was, or may have been, written to this unit.
    pub fn written(&mut self, unit: u8) {
        self.age += 1;
        self.answers.retain(|(of, _), _| *of != unit);
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
        let asked = cache.answer(1, &[3, 0], now).expect_err("nothing is there");
        cache.keep(asked, b"one", now);
        assert_eq!(cache.answer(1, &[3, 0], now + KEEP / 2).ok(), Some(b"one".to_vec()));
        for (unit, request) in [(2, [3, 0]), (1, [3, 1])] {
            assert!(cache.answer(unit, &request, now).is_err(), "another question");
        }
        assert!(cache.answer(1, &[3, 0], now + KEEP).is_err(), "too old");
        // A read that was under way during a write may hold either value.
        let under_way = cache.answer(1, &[3, 9], now).expect_err("not there");
        cache.written(1);
        cache.keep(under_way, b"old", now);
        assert!(cache.answer(1, &[3, 0], now).is_err() && cache.answer(1, &[3, 9], now).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_and_forgets_the_oldest() {
        let (mut cache, start) = (Cache::new(KEEP), Instant::now());
        for n in 0..=u16::try_from(bounds::SHARE_CACHE).expect("small") {
            let now = start + Duration::from_millis(u64::from(n));
            let asked = cache.answer(1, &n.to_be_bytes(), now).expect_err("new");
            cache.keep(asked, &[1], now);
        }
        assert_eq!(cache.answers.len(), bounds::SHARE_CACHE);
        assert!(cache.answer(1, &[0, 0], start).is_err() && cache.answer(1, &[0, 1], start).is_ok());
    }
}
