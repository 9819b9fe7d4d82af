//! Who may read and write what: mosquitto's ACL file format. Pure.
//!
//! Lines: `user NAME`; `topic [read|write|readwrite|deny] FILTER` for the user above (before any user:
//! for clients without a name); `pattern …` for everyone, with `%u` and `%c`. What no line allows is
//! denied; a matching `deny` wins. A name that holds `/`, `+` or `#` fills no pattern: it could otherwise
//! reach into the topics of somebody else.

use std::collections::HashMap;

use crate::topic;

/// What a client wants to do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Receive.
    Read,
    /// Publish.
    Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    Read,
    Write,
    ReadWrite,
    Deny,
}

impl Right {
    fn allows(self, access: Access) -> bool {
        match self {
            Self::Read => access == Access::Read,
            Self::Write => access == Access::Write,
            Self::ReadWrite => true,
            Self::Deny => false,
        }
    }
}

#[derive(Debug, Clone)]
struct Rule {
    right: Right,
    filter: String,
}

/// A parsed ACL file.
#[derive(Debug, Clone, Default)]
pub struct Acl {
    anonymous: Vec<Rule>,
    users: HashMap<String, Vec<Rule>>,
    patterns: Vec<Rule>,
}

/// A mistake in an ACL or password file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl Acl {
    /// Reads the text of an ACL file.
    ///
    /// # Errors
    /// Every line that cannot be understood.
    pub fn parse(text: &str) -> Result<Self, Vec<LineError>> {
        let mut acl = Self::default();
        let mut errors = Vec::new();
        let mut user: Option<String> = None;
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            let rest = rest.trim();
            let mut wrong = |message: String| errors.push(LineError { line, message });
            match word {
                "user" if rest.is_empty() => wrong("`user` needs a name".to_owned()),
                "user" => user = Some(rest.to_owned()),
                "topic" | "pattern" => match rule(rest) {
                    Err(message) => wrong(message),
                    Ok(rule) if word == "pattern" => acl.patterns.push(rule),
                    Ok(rule) => match &user {
                        None => acl.anonymous.push(rule),
                        Some(user) => acl.users.entry(user.clone()).or_default().push(rule),
                    },
                },
                other => {
                    wrong(format!("`{other}` is not known here; lines start with user, topic or pattern"))
                }
            }
        }
        if errors.is_empty() { Ok(acl) } else { Err(errors) }
    }

    /// Whether this client may do this with this topic.
    #[must_use]
    pub fn allows(&self, user: Option<&str>, client_id: &str, topic: &str, access: Access) -> bool {
        let mut allowed = false;
        for (filter, right) in self.rules(user, client_id) {
            if topic::matches(&filter, topic) {
                if right == Right::Deny {
                    return false;
                }
                allowed |= right.allows(access);
            }
        }
        allowed
    }

    /// Whether a subscription to `filter` could ever deliver something this client may read.
    #[must_use]
    pub fn may_subscribe(&self, user: Option<&str>, client_id: &str, filter: &str) -> bool {
        self.rules(user, client_id)
            .any(|(rule, right)| right.allows(Access::Read) && topic::overlap(&rule, filter))
    }

    fn rules<'a>(
        &'a self,
        user: Option<&'a str>,
        client_id: &'a str,
    ) -> impl Iterator<Item = (std::borrow::Cow<'a, str>, Right)> {
        let own = match user {
            None => self.anonymous.as_slice(),
            Some(user) => self.users.get(user).map_or(&[][..], Vec::as_slice),
        };
        let own = own.iter().map(|r| (r.filter.as_str().into(), r.right));
        let patterns = self.patterns.iter().filter_map(move |r| {
            let mut filter: std::borrow::Cow<'a, str> = r.filter.as_str().into();
            for (mark, name) in [("%u", user), ("%c", Some(client_id))] {
                if filter.contains(mark) {
                    let name = name.filter(|n| !n.is_empty() && !n.contains(['/', '+', '#']))?;
                    filter = filter.replace(mark, name).into();
                }
            }
            Some((filter, r.right))
        });
        own.chain(patterns)
    }
}

fn rule(text: &str) -> Result<Rule, String> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or(("", text));
    let (right, filter) = match word {
        "read" => (Right::Read, rest),
        "write" => (Right::Write, rest),
        "readwrite" => (Right::ReadWrite, rest),
        "deny" => (Right::Deny, rest),
        // A topic may hold spaces; the word was its beginning.
        _ => (Right::ReadWrite, text),
    };
    let filter = filter.trim();
    if topic::is_filter(filter, usize::MAX) {
        Ok(Rule { right, filter: filter.to_owned() })
    } else if filter.is_empty() {
        Err("a topic filter is missing".to_owned())
    } else {
        Err(format!(
            "`{filter}` is not a topic filter; `+` and `#` stand for whole levels, `#` only at the end"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# house rules\n\
        topic read public/#\n\
        user anna\n\
        topic gw/+/command/#\n\
        topic deny gw/x/command/secret\n\
        topic write only/write\n\
        topic name with spaces\n\
        pattern readwrite clients/%c/#\n\
        pattern read users/%u/inbox\n";

    #[test]
    fn a_file_as_mosquitto_reads_it() {
        let acl = Acl::parse(FILE).unwrap();
        let may = |user, id, topic, access| acl.allows(user, id, topic, access);
        assert!(may(None, "c", "public/a", Access::Read));
        assert!(!may(None, "c", "public/a", Access::Write));
        assert!(!may(Some("anna"), "c", "public/a", Access::Read));
        assert!(may(Some("anna"), "c", "gw/x/command/d/p", Access::Write));
        assert!(!may(Some("anna"), "c", "gw/x/command/secret", Access::Read));
        assert!(may(Some("anna"), "c", "only/write", Access::Write));
        assert!(!may(Some("anna"), "c", "only/write", Access::Read));
        assert!(may(Some("anna"), "c", "name with spaces", Access::Read));
        assert!(may(Some("bert"), "c7", "clients/c7/a/b", Access::Write));
        assert!(may(Some("bert"), "c7", "users/bert/inbox", Access::Read));
        assert!(!may(None, "c7", "users//inbox", Access::Read));
        assert!(!may(Some("bert"), "+", "clients/other/a", Access::Read));
        assert!(!may(Some("bert"), "a/b", "clients/a/b", Access::Read));
    }

    #[test]
    fn a_subscription_is_refused_when_nothing_of_it_can_be_read() {
        let acl = Acl::parse(FILE).unwrap();
        assert!(acl.may_subscribe(Some("anna"), "c", "#"));
        assert!(acl.may_subscribe(Some("anna"), "c", "gw/x/#"));
        assert!(!acl.may_subscribe(Some("anna"), "c", "only/write"));
        assert!(!acl.may_subscribe(None, "c", "gw/#"));
    }

    #[test]
    fn every_wrong_line_is_named() {
        let errors = Acl::parse("topik read a\nuser\ntopic read a/#/b\ntopic\nuser x\n").unwrap_err();
        assert_eq!(errors.iter().map(|e| e.line).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(errors[0].message.contains("topik"));
    }
}
