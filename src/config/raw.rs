//! Tables as they stand in the files, before anyone has understood them.
//!
//! Keeps the place of every key, so that whoever finds a mistake later can point at it.

use std::ops::Range;

use driver_api::table::nearest;
use driver_api::{Place, Problem, SourceId, Table};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source::Sources;

/// One table of one file.
#[derive(Debug, Clone)]
pub(super) struct Raw<'i> {
    pub source: SourceId,
    pub header: Range<usize>,
    pub table: DeTable<'i>,
}

/// All sections of all files, in file order.
#[derive(Debug, Default)]
pub(super) struct Everything<'i> {
    pub gateway: Vec<Raw<'i>>,
    pub broker: Vec<Raw<'i>>,
    pub store: Vec<Raw<'i>>,
    pub uplinks: Vec<Raw<'i>>,
    pub buses: Vec<Raw<'i>>,
    pub devices: Vec<Raw<'i>>,
}

const SECTIONS: &[&str] = &["gateway", "broker", "store", "uplink", "bus", "device"];

impl<'i> Raw<'i> {
    /// The driver contract's view of it.
    pub fn table(&self) -> Table<'i> {
        Table::new(self.source, self.header.clone(), self.table.clone())
    }

    /// The place of the header line.
    pub fn place(&self) -> Place {
        Place { source: self.source, range: self.header.clone() }
    }

    /// The place of a value, as `tls.cert` or `listener.0.bind`; of the innermost table that is there
    /// where the key is not.
    pub fn at(&self, path: &str) -> Place {
        let mut range = self.header.clone();
        let mut table = Some(&self.table);
        let mut list = None;
        for step in path.split('.') {
            let next = match (table, list) {
                (Some(t), _) => t.get(step),
                (None, Some(items)) => step.parse().ok().and_then(|i: usize| <[_]>::get(items, i)),
                (None, None) => None,
            };
            let Some(value) = next else { break };
            range = value.span();
            table = value.get_ref().as_table();
            list = value.get_ref().as_array().map(|a| &**a);
        }
        Place { source: self.source, range }
    }

    /// The place of a key's own name.
    pub fn key(&self, key: &str) -> Place {
        let range = self.table.get_key_value(key).map_or(self.header.clone(), |(k, _)| k.span());
        Place { source: self.source, range }
    }

    /// A key's value, if it is there and text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.table.get(key)?.get_ref().as_str()
    }

    /// Takes a list of tables (`[[…]]`) out of this table.
    pub fn take_list(&mut self, key: &str, title: &str, problems: &mut Vec<Problem>) -> Vec<Raw<'i>> {
        match self.table.remove_entry(key) {
            None => Vec::new(),
            Some((key, value)) => tables(self.source, title, key.span(), value, problems),
        }
    }

    /// This table with the keys of `base` that it does not have itself. What comes from another file
    /// is said to stand at this table's name, for its own place would be in the wrong file.
    pub fn over(mut self, base: Raw<'i>) -> Raw<'i> {
        let anchor = self.at("name").range;
        for (mut key, mut value) in base.table {
            if self.table.contains_key(key.get_ref().as_ref()) {
                continue;
            }
            if base.source != self.source {
                key = Spanned::new(anchor.clone(), key.into_inner());
                stand_at(&mut value, &anchor);
            }
            self.table.insert(key, value);
        }
        self
    }
}

fn stand_at(value: &mut Spanned<DeValue<'_>>, anchor: &Range<usize>) {
    match value.get_mut() {
        DeValue::Array(items) => items.iter_mut().for_each(|item| stand_at(item, anchor)),
        DeValue::Table(table) => {
            let entries = std::mem::take(table);
            for (key, mut inner) in entries {
                stand_at(&mut inner, anchor);
                table.insert(Spanned::new(anchor.clone(), key.into_inner()), inner);
            }
        }
        _ => {}
    }
    let inner = std::mem::replace(value.get_mut(), DeValue::Boolean(false));
    *value = Spanned::new(anchor.clone(), inner);
}

/// Sorts the tables of all configuration files by section.
pub(super) fn gather<'i>(
    sources: &'i Sources,
    files: impl Iterator<Item = SourceId>,
    problems: &mut Vec<Problem>,
) -> Everything<'i> {
    let mut all = Everything::default();
    for source in files {
        for (key, value) in sources.parse(source) {
            let (name, span) = (key.get_ref().clone(), key.span());
            match name.as_ref() {
                "gateway" => all.gateway.extend(table(source, &name, span, value, problems)),
                "broker" => all.broker.extend(table(source, &name, span, value, problems)),
                "store" => all.store.extend(table(source, &name, span, value, problems)),
                "uplink" => all.uplinks.extend(tables(source, &name, span, value, problems)),
                "bus" => all.buses.extend(tables(source, &name, span, value, problems)),
                "device" => all.devices.extend(tables(source, &name, span, value, problems)),
                other => problems.push(unknown_section(other, Place { source, range: span })),
            }
        }
    }
    all
}

fn unknown_section(name: &str, place: Place) -> Problem {
    let problem = Problem::new(place, format!("unknown section `{name}`"));
    match (name, nearest(name, SECTIONS)) {
        ("web", _) => problem.hint("this version has no dashboard; leave the section out"),
        ("point", _) => problem.hint("a point stands under its device: `[[device.point]]`"),
        (_, Some(near)) => problem.hint(format!("did you mean `{near}`?")),
        (_, None) => problem.hint(format!("the sections are {}", SECTIONS.join(", "))),
    }
}

/// A section that is there once.
pub(super) fn table<'i>(
    source: SourceId,
    name: &str,
    key: Range<usize>,
    value: Spanned<DeValue<'i>>,
    problems: &mut Vec<Problem>,
) -> Option<Raw<'i>> {
    let header = value.span();
    match value.into_inner() {
        DeValue::Table(table) => Some(Raw { source, header, table }),
        _ => {
            let problem = Problem::new(Place { source, range: key }, format!("`{name}` is one table"));
            problems.push(problem.hint(format!("write `[{name}]` and its keys below")));
            None
        }
    }
}

/// A section that may be there several times.
pub(super) fn tables<'i>(
    source: SourceId,
    name: &str,
    key: Range<usize>,
    value: Spanned<DeValue<'i>>,
    problems: &mut Vec<Problem>,
) -> Vec<Raw<'i>> {
    let hint = format!("write `[[{name}]]`, in double brackets, before each one");
    let span = value.span();
    match value.into_inner() {
        DeValue::Array(items) => {
            let mut list = Vec::new();
            for item in items {
                let header = item.span();
                match item.into_inner() {
                    DeValue::Table(table) => list.push(Raw { source, header, table }),
                    _ => {
                        let place = Place { source, range: header };
                        problems
                            .push(Problem::new(place, format!("`{name}` is a list of tables")).hint(&hint));
                    }
                }
            }
            list
        }
        DeValue::Table(table) => {
            let place = Place { source, range: key };
            problems.push(Problem::new(place, format!("`{name}` is a list of tables")).hint(hint));
            // Its keys are checked all the same.
            vec![Raw { source, header: span, table }]
        }
        _ => {
            let place = Place { source, range: key };
            problems.push(Problem::new(place, format!("`{name}` is a list of tables")).hint(hint));
            Vec::new()
        }
    }
}
