//! Who may read and write what: mosquitto's ACL file format. Pure.
//!
//! Lines: `user NAME`; `topic [read|write|readwrite|deny] FILTER` for the user above (before any user:
//! for clients without a name); `pattern …` for everyone, with `%u` and `%c`. As with mosquitto a filter that
//! holds spaces needs the word before it: otherwise a misspelt `deny` would be the beginning of a topic that
//! everybody may use. What no line allows is denied; a matching `deny` wins. A name that holds `/`, `+` or `#` fills no pattern: it could otherwise
//! reach into the topics of somebody else.

use std::collections::HashMap;

use driver_api::table::nearest;

use super::lines::LineError;
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

/// The words for them.
const ACCESS: &[&str] = &["read", "write", "readwrite", "deny"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    right: Right,
    filter: String,
}

/// A parsed ACL file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    anonymous: Vec<Rule>,
    users: HashMap<String, Vec<Rule>>,
    patterns: Vec<Rule>,
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
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let rest = rest.trim();
            match word {
                "user" if rest.is_empty() => {
                    errors.push(LineError::at(text, word, "`user` needs a name").hint(
                        "write `user NAME`; lines for clients without a name stand before the first `user`",
                    ))
                }
                "user" => user = Some(rest.to_owned()),
                "topic" | "pattern" => match rule(text, word, rest) {
                    Err(error) => errors.push(error),
                    Ok(rule) if word == "pattern" => acl.patterns.push(rule),
                    Ok(rule) => match &user {
                        None => acl.anonymous.push(rule),
                        Some(user) => acl.users.entry(user.clone()).or_default().push(rule),
                    },
                },
                other => {
                    let error = LineError::at(text, word, format!("`{other}` is not known here"));
                    errors.push(error.hint(match nearest(other, &["user", "topic", "pattern"]) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "lines start with `user`, `topic` or `pattern`".to_owned(),
                    }));
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

/// What stands behind `topic` or `pattern`: an access word and a filter, or a filter without spaces.
fn rule(text: &str, line: &str, rest: &str) -> Result<Rule, LineError> {
    let (right, filter) = match rest.split_once(char::is_whitespace) {
        None => (Right::ReadWrite, rest),
        Some((word, filter)) => {
            let right = match word {
                "read" => Right::Read,
                "write" => Right::Write,
                "readwrite" => Right::ReadWrite,
                "deny" => Right::Deny,
                _ => {
                    let error = LineError::at(text, word, format!("`{word}` is no kind of access"));
                    return Err(error.hint(match nearest(word, ACCESS) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "it is read, write, readwrite or deny; a topic with spaces needs one of them before it"
                            .to_owned(),
                    }));
                }
            };
            (right, filter.trim())
        }
    };
    if filter.is_empty() {
        return Err(LineError::at(text, line, "a topic filter is missing")
            .hint(format!("write `{line} read FILTER`, for example `{line} read sensors/#`")));
    }
    if !topic::is_filter(filter, usize::MAX) {
        return Err(LineError::at(text, filter, format!("`{filter}` is not a topic filter"))
            .hint("`+` and `#` stand for whole levels, `#` only at the end"));
    }
    if rest == filter && ACCESS.contains(&filter) {
        return Err(LineError::at(text, filter, format!("a topic filter is missing behind `{filter}`"))
            .hint(format!("a topic that is called so is written `{line} readwrite {filter}`")));
    }
    Ok(Rule { right, filter: filter.to_owned() })
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
        topic readwrite name with spaces\n\
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
        let text = "topik read a\nuser\ntopic read a/#/b\ntopic\nuser x\n  topic dney secret/#\npattern my own/#\ntopic write\nallow a/b\n";
        let told: Vec<String> = Acl::parse(text)
            .expect_err("mistakes")
            .iter()
            .map(|e| format!("{}:{}: {} | {}", e.line, e.column, e.message, e.hint.as_deref().unwrap_or("-")))
            .collect();
        let wanted = [
            "1:1: `topik` is not known here | did you mean `topic`?",
            "2:1: `user` needs a name",
            "3:12: `a/#/b` is not a topic filter | `+` and `#`",
            "4:1: a topic filter is missing | write `topic read FILTER`",
            "6:9: `dney` is no kind of access | did you mean `deny`?",
            "7:9: `my` is no kind of access | it is read, write, readwrite or deny; a topic with spaces",
            "8:7: a topic filter is missing behind `write` | a topic that is called so",
            "9:1: `allow` is not known here | lines start with",
        ];
        assert_eq!(told.len(), wanted.len(), "{told:#?}");
        for (told, wanted) in told.iter().zip(wanted) {
            assert!(told.starts_with(wanted), "{told}\n{wanted}");
        }
    }
}
