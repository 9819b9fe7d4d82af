//! Ids of recent commands, so that a repeated one is answered and not executed again, even after a
//! restart. Pure; the writer makes it durable.
//!
//! An id is made durable *before* its command is executed. After a crash in between, the repeated
//! command is answered without a result: it may or may not have been executed, and is not tried again.

use std::collections::{BTreeMap, HashMap};

use crate::bounds;

/// What is known of a command's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// Never seen: execute it.
    Fresh,
    /// Seen before: answer with its result, if there was one yet.
    Repeat(Option<String>),
}

/// The newest [`bounds::STORE_COMMANDS`] ids.
#[derive(Debug, Clone, Default)]
pub struct Commands {
    by_id: HashMap<String, (u64, Option<String>)>,
    by_age: BTreeMap<u64, String>,
    next: u64,
    unsaved: BTreeMap<u64, ()>,
}

impl Commands {
    /// What the database remembers.
    #[must_use]
    pub fn from_rows(rows: Vec<(String, u64, Option<String>)>) -> Self {
        let mut commands = Self::default();
        for (id, n, result) in rows {
            commands.next = commands.next.max(n + 1);
            commands.by_age.insert(n, id.clone());
            commands.by_id.insert(id, (n, result));
        }
        commands.forget();
        commands
    }

    /// Notes the id, unless it is known.
    pub fn begin(&mut self, id: &str) -> Begun {
        if let Some((_, result)) = self.by_id.get(id) {
            return Begun::Repeat(result.clone());
        }
        let n = self.next;
        self.next += 1;
        self.by_id.insert(id.to_owned(), (n, None));
        self.by_age.insert(n, id.to_owned());
        self.unsaved.insert(n, ());
        self.forget();
        Begun::Fresh
    }

    /// Notes the result of a known id.
    pub fn done(&mut self, id: &str, result: &str) {
        if let Some((n, known)) = self.by_id.get_mut(id) {
            *known = (result.len() <= bounds::STORE_COMMAND_TEXT).then(|| result.to_owned());
            self.unsaved.insert(*n, ());
        }
    }

    /// What is known of an id.
    #[must_use]
    pub fn seen(&self, id: &str) -> Option<Option<String>> {
        self.by_id.get(id).map(|(_, result)| result.clone())
    }

    /// What the database does not know yet, and the oldest counter it should keep.
    #[must_use]
    pub fn unsaved(&self) -> (Vec<(String, u64, Option<String>)>, u64) {
        let rows = self.unsaved.keys().filter_map(|n| {
            let id = self.by_age.get(n)?;
            Some((id.clone(), *n, self.by_id.get(id)?.1.clone()))
        });
        (rows.collect(), self.by_age.first_key_value().map_or(0, |(n, _)| *n))
    }

    /// These rows are durable now, if they did not change in the meantime.
    pub fn saved(&mut self, rows: &[(String, u64, Option<String>)]) {
        for (id, n, result) in rows {
            if self.by_id.get(id).is_none_or(|(_, now)| now == result) {
                self.unsaved.remove(n);
            }
        }
    }

    /// A new database knows none of them.
    pub fn all_unsaved(&mut self) {
        self.unsaved = self.by_age.keys().map(|n| (*n, ())).collect();
    }

    fn forget(&mut self) {
        while self.by_age.len() > bounds::STORE_COMMANDS
            && let Some((n, id)) = self.by_age.pop_first()
        {
            self.by_id.remove(&id);
            self.unsaved.remove(&n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_id_gets_the_first_result() {
        let mut commands = Commands::default();
        assert_eq!(commands.begin("c-1"), Begun::Fresh);
        assert_eq!(commands.begin("c-1"), Begun::Repeat(None));
        commands.done("c-1", "{}");
        assert_eq!(commands.begin("c-1"), Begun::Repeat(Some("{}".into())));
        let again = Commands::from_rows(commands.unsaved().0);
        assert_eq!(again.seen("c-1"), Some(Some("{}".into())));
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_oldest() {
        let mut commands = Commands::default();
        for n in 0..bounds::STORE_COMMANDS + 10 {
            assert_eq!(commands.begin(&n.to_string()), Begun::Fresh);
        }
        assert_eq!(commands.seen("9"), None);
        assert_eq!(commands.seen("10"), Some(None));
        let (rows, from) = commands.unsaved();
        assert_eq!((rows.len(), from), (bounds::STORE_COMMANDS, 10));
        commands.saved(&rows);
        assert!(commands.unsaved().0.is_empty());
    }
}
