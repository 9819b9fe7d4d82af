//! Rules that no single key can break alone: names, limits, and what must fit together across sections.
//!
//! Each rule is a function from understood sections to problems and warnings; none changes anything.

mod broker;
mod field;
mod routes;
mod share;
mod store;
mod uplink;

use std::collections::HashMap;
use std::path::Path;

use driver_api::{Place, Problem};

use super::Findings;
use super::buses::{BusDraft, DeviceDraft};
use super::problems::locate;
use super::raw::Everything;
use super::sections::{Sections, last_place};
use super::source::Sources;
pub(super) use field::after_compiling;
pub(super) use routes::check_commands;
pub(super) use store::after_compiling as store_after_compiling;

/// Longest name of anything. Names are levels of topics; four of them fit well into MQTT's 65,535 bytes.
const MAX_NAME: usize = 128;

/// Checks everything that can be checked without asking a driver.
pub(super) fn before_compiling(
    sections: &Sections<'_, '_>,
    all: &Everything<'_>,
    (buses, orphans): (&[BusDraft<'_>], &[DeviceDraft<'_>]),
    sources: &Sources,
    findings: &mut Findings,
) {
    let id = &sections.gateway.id;
    if !is_name(id) || id.chars().any(|c| c.is_ascii_uppercase()) {
        let problem = Problem::new(last_place(&all.gateway, "id"), format!("`{id}` cannot be a gateway id"));
        findings.problems.push(problem.hint("use lower-case letters, digits, `_` and `-`"));
    }
    broker::check(sections, all, findings);
    store::check(&sections.store, all, findings);
    uplink::check(sections, sources, findings);
    field::check(buses, orphans, sources, findings);
    share::check(sections, buses, findings);
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(allowed)
}

/// The names of one kind of thing: well formed, and each there once.
struct Names<'s> {
    what: &'static str,
    sources: &'s Sources,
    seen: HashMap<String, Place>,
}

impl<'s> Names<'s> {
    fn of(what: &'static str, sources: &'s Sources) -> Self {
        Self { what, sources, seen: HashMap::new() }
    }

    fn add(&mut self, name: &str, place: Place, problems: &mut Vec<Problem>) {
        let what = self.what;
        if name.is_empty() && place.range.is_empty() {
            return;
        }
        if !is_name(name) {
            let hint = if name.len() > MAX_NAME {
                format!("a name has at most {MAX_NAME} characters")
            } else {
                "use letters, digits, `_` and `-`: names are parts of topics".to_owned()
            };
            let a = if what.starts_with('u') { "an" } else { "a" };
            problems
                .push(Problem::new(place, format!("`{name}` cannot be the name of {a} {what}")).hint(hint));
            return;
        }
        match self.seen.get(name) {
            None => {
                self.seen.insert(name.to_owned(), place);
            }
            Some(first) => {
                let at = locate(self.sources, first);
                let message = format!("there are two {what}{} called `{name}`", plural(what));
                let hint = format!("the first is at {}:{}; give this one another name", at.file, at.line);
                problems.push(Problem::new(place, message).hint(hint));
            }
        }
    }
}

fn plural(what: &str) -> &'static str {
    if what.ends_with('s') { "es" } else { "s" }
}

/// A file that a key names must be there.
fn must_exist(path: &Path, key: &str, place: Place, hint: &str, problems: &mut Vec<Problem>) {
    // systemd puts credentials there when the service starts, and only then.
    if path.starts_with("/run/credentials") {
        return;
    }
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            problems
                .push(Problem::new(place, format!("`{key}`: `{shown}` is a directory")).hint("name a file"));
        }
        // A checker who may not look into the directory cannot know better.
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {}
        Err(_) => {
            problems.push(Problem::new(place, format!("`{key}`: there is no file `{shown}`")).hint(hint))
        }
    }
}
