//! Something known of each point, found by the identity of its key: one look at an address instead of
//! hashing two names for every reading.
//!
//! A point of a reload has a new key and so a new entry. Entries whose key nobody else holds go before the map
//! would have to grow, so it stays in proportion to the points there are.

use std::collections::HashMap;
use std::sync::Arc;

use crate::message::PointKey;

/// A map from points to `T`.
#[derive(Debug)]
pub struct ByPoint<T>(HashMap<usize, (Arc<PointKey>, T)>);

impl<T> Default for ByPoint<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> ByPoint<T> {
    /// What is known of `point`; asked of `make` once for each key.
    pub fn get_or_insert_with(&mut self, point: &Arc<PointKey>, make: impl FnOnce() -> T) -> &mut T {
        let address = Arc::as_ptr(point).addr();
        if self.0.len() == self.0.capacity() && !self.0.contains_key(&address) {
            self.0.retain(|_, (key, _)| Arc::strong_count(key) > 1);
        }
        // The entry holds its key, so no other key can come to this address while it is here.
        &mut self.0.entry(address).or_insert_with(|| (Arc::clone(point), make())).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Arc<PointKey> {
        Arc::new(PointKey { device: "d".into(), point: n.to_string(), unit: String::new() })
    }

    #[test]
    fn each_key_is_asked_once_and_what_is_gone_goes() {
        let mut known = ByPoint::default();
        let keys: Vec<_> = (0..100).map(key).collect();
        for _ in 0..3 {
            for (n, key) in keys.iter().enumerate() {
                assert_eq!(*known.get_or_insert_with(key, || n), n);
            }
        }
        assert_eq!(*known.get_or_insert_with(&key(0), || 7), 7, "an equal key is another one");
        for n in 0..10_000 {
            assert_eq!(*known.get_or_insert_with(&key(n), || n), n, "an address that is used again");
        }
        assert!(known.0.len() < 500, "{}", known.0.len());
        assert_eq!(*known.get_or_insert_with(&keys[42], || 0), 42);
    }
}
