//! Topic names and filters: what is well-formed, what matches what. Pure.
//!
//! The rules are MQTT 5.0 §4.7 (the same words as 3.1.1 §4.7): `+` one level, `#` the rest, and a
//! filter that starts with a wildcard never matches a topic that starts with `$`.

/// Longest topic name or filter in bytes: the two-byte length of MQTT strings.
const MAX_BYTES: usize = 65_535;

/// Whether `topic` can be published to: not empty, no wildcard, no U+0000, at most `levels` levels.
#[must_use]
pub fn is_name(topic: &str, levels: usize) -> bool {
    !topic.is_empty()
        && topic.len() <= MAX_BYTES
        && !topic.bytes().any(|b| matches!(b, b'+' | b'#' | 0))
        && within(topic, levels)
}

/// Whether `filter` can be subscribed to: wildcards fill whole levels, `#` only the last.
#[must_use]
pub fn is_filter(filter: &str, levels: usize) -> bool {
    if filter.is_empty() || filter.len() > MAX_BYTES || filter.contains('\0') || !within(filter, levels) {
        return false;
    }
    let mut parts = filter.split('/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let good = match part {
            "#" => last,
            "+" => true,
            other => !other.contains(['+', '#']),
        };
        if !good {
            return false;
        }
    }
    true
}

fn within(topic: &str, levels: usize) -> bool {
    topic.bytes().filter(|b| *b == b'/').take(levels).count() < levels
}

/// Whether a filter asks for a shared subscription.
#[must_use]
pub fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/") || filter == "$share"
}

/// Whether `filter` matches `topic`. Both well-formed.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut f, mut t) = (filter.split('/'), topic.split('/'));
    loop {
        match (f.next(), t.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            // `a/#` matches `a` too: its parent level; the next turn sees the `#`.
            (Some(_) | None, _) => return false,
        }
    }
}

/// Whether some topic could match both filters. Used to refuse a subscription that could never
/// deliver anything its client may read.
#[must_use]
pub fn overlap(a: &str, b: &str) -> bool {
    let wild = |f: &str| f.starts_with(['+', '#']);
    if (a.starts_with('$') && wild(b)) || (b.starts_with('$') && wild(a)) {
        return false;
    }
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(x), Some(y)) if x == y => {}
            _ => return false,
        }
    }
}

/// The part of a filter before its first wildcard: every topic it matches starts with this, or is
/// this without its last `/`.
#[must_use]
pub fn literal_prefix(filter: &str) -> &str {
    let end = filter.find(['+', '#']).unwrap_or(filter.len());
    &filter[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_specification() {
        for (filter, topic, is) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("ACCOUNTS", "Accounts", false),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!(matches(filter, topic), is, "{filter} {topic}");
        }
        for bad in ["", "sport/tennis#", "sport/tennis/#/ranking", "sport+", "a\0b", "+a/b", "#/a"] {
            assert!(!is_filter(bad, 32), "{bad:?}");
        }
        for bad in ["", "a/+", "#", "a\0"] {
            assert!(!is_name(bad, 32), "{bad:?}");
        }
        assert!(is_name("温度/1", 32) && is_filter("温度/#", 32) && is_name("/", 32));
        assert!(is_name("a/b/c", 3) && !is_name("a/b/c/d", 3));
    }

    fn filter() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "", "+", "$x"]), 1..5).prop_flat_map(|v| {
            any::<bool>().prop_map(move |tail| {
                let mut v = v.clone();
                if tail {
                    v.push("#");
                }
                v.join("/")
            })
        })
    }

    proptest! {
        #[test]
        fn filters_that_match_one_topic_overlap(
            a in filter(), b in filter(),
            topic in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "$x"]), 1..6),
        ) {
            let topic = topic.join("/");
            prop_assume!(is_name(&topic, 32) && is_filter(&a, 32) && is_filter(&b, 32));
            if matches(&a, &topic) && matches(&b, &topic) {
                prop_assert!(overlap(&a, &b), "{a} {b} {topic}");
            }
            if matches(&a, &topic) {
                let prefix = literal_prefix(&a);
                prop_assert!(topic.starts_with(prefix) || prefix.strip_suffix('/') == Some(&topic));
            }
        }
    }
}
