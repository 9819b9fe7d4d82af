//! Users and groups by name, from `/etc/passwd` and `/etc/group`: a number means another user on another box. Those
//! of a directory service are not found, and then what belongs to them gets its directory's owner.

use std::path::Path;

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// Name of a user, or empty.
#[must_use]
pub fn user(id: u32) -> String {
    name(&text(USERS), id)
}

/// Name of a group, or empty.
#[must_use]
pub fn group(id: u32) -> String {
    name(&text(GROUPS), id)
}

/// A user of this name.
#[must_use]
pub fn user_id(name: &str) -> Option<u32> {
    id(&text(USERS), name)
}

/// A group of this name.
#[must_use]
pub fn group_id(name: &str) -> Option<u32> {
    id(&text(GROUPS), name)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(path)).unwrap_or_default()
}

/// Lines are `name:password:number:…` in both files (passwd(5), group(5)).
fn rows(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| {
        let mut parts = line.split(':');
        let (name, number) = (parts.next()?, parts.nth(1)?);
        Some((name, number.parse().ok()?))
    })
}

fn name(text: &str, id: u32) -> String {
    rows(text).find(|(_, n)| *n == id).map_or_else(String::new, |(name, _)| name.to_owned())
}

fn id(text: &str, name: &str) -> Option<u32> {
    rows(text).find(|(known, _)| *known == name && !name.is_empty()).map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found_and_odd_lines_are_not() {
        let text = "root:x:0:0:root:/root:/bin/bash\n+::::::\n\nfieldgate:x:997:\nbad:x:many:1\n";
        assert_eq!((name(text, 997), id(text, "fieldgate")), ("fieldgate".to_owned(), Some(997)));
        assert_eq!((name(text, 5), id(text, "bad"), id(text, "")), (String::new(), None, None));
    }
}
