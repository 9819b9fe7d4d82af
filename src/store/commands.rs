//! Ids of recent commands (keys of whoever asks: an id and its point), so that a repeated one is answered and not executed again, even after a
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

    /// Puts what the database remembers before what came in while there was none. The numbers of the
    /// older ones stay, so that the database's rows keep their order.
    pub fn preceded_by(&mut self, older: Self) {
        let newer = std::mem::replace(self, older);
        for id in newer.by_age.into_values() {
            let Some((_, result)) = newer.by_id.get(&id) else { continue };
            if let Some((n, _)) = self.by_id.remove(&id) {
                self.by_age.remove(&n);
                self.unsaved.remove(&n);
            }
            self.insert(id, result.clone());
        }
        self.forget();
    }

    /// Notes the id, unless it is known.
    pub fn begin(&mut self, id: &str) -> Begun {
        if let Some((_, result)) = self.by_id.get(id) {
            return Begun::Repeat(result.clone());
        }
        self.insert(id.to_owned(), None);
        self.forget();
        Begun::Fresh
    }

    fn insert(&mut self, id: String, result: Option<String>) {
        let n = self.next;
        self.next += 1;
        self.by_age.insert(n, id.clone());
        self.by_id.insert(id, (n, result));
        self.unsaved.insert(n, ());
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
    fn what_was_begun_without_a_database_is_newer_than_what_it_remembers() {
        let rows = |ids: std::ops::Range<usize>| ids.map(|n| (format!("old-{n}"), n as u64 + 500, None));
        let disk = Commands::from_rows(rows(0..bounds::STORE_COMMANDS).collect());
        let mut commands = Commands::default();
        commands.begin("c-1");
        commands.done("c-1", "{}");
        commands.begin("old-7");
        commands.done("old-7", "again");
        commands.preceded_by(disk);
        assert_eq!(commands.begin("c-1"), Begun::Repeat(Some("{}".into())));
        assert_eq!(commands.begin("old-7"), Begun::Repeat(Some("again".into())));
        assert_eq!((commands.seen("old-0"), commands.seen("old-1")), (None, Some(None)), "the oldest went");
        let (unsaved, from) = commands.unsaved();
        let next = 500 + bounds::STORE_COMMANDS as u64;
        let expected = [
            ("c-1".to_owned(), next, Some("{}".into())),
            ("old-7".to_owned(), next + 1, Some("again".into())),
        ];
        assert_eq!((&unsaved[..], from), (&expected[..], 501));
        commands.saved(&unsaved);
        assert!(commands.unsaved().0.is_empty());
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
