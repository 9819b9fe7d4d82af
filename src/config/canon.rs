//! What a configuration says, free of comments, spelling and order of keys: the ground of
//! `config_hash` and of "this bus did not change".

use std::fmt::Write as _;

use toml::de::{DeTable, DeValue};

/// Appends one table in its canonical form: keys sorted, no spans, numbers as written.
pub(super) fn table(out: &mut String, table: &DeTable<'_>) {
    let mut entries: Vec<(&str, &DeValue<'_>)> =
        table.iter().map(|(k, v)| (k.get_ref().as_ref(), v.get_ref())).collect();
    entries.sort_by_key(|(k, _)| *k);
    out.push('{');
    for (key, inner) in entries {
        let _infallible = write!(out, "{key:?}=");
        value(out, inner);
        out.push(',');
    }
    out.push('}');
}

fn value(out: &mut String, of: &DeValue<'_>) {
    // Writing to a string cannot fail.
    let _infallible = match of {
        DeValue::String(text) => write!(out, "{text:?}"),
        DeValue::Integer(i) => match i64::from_str_radix(i.as_str(), i.radix()) {
            Ok(number) => write!(out, "{number}"),
            Err(_) => write!(out, "{i}"),
        },
        DeValue::Float(f) => write!(out, "{}", f.as_str()),
        DeValue::Boolean(b) => write!(out, "{b}"),
        DeValue::Datetime(d) => write!(out, "{d}"),
        DeValue::Array(items) => {
            out.push('[');
            for item in items.iter() {
                value(out, item.get_ref());
                out.push(',');
            }
            out.push(']');
            Ok(())
        }
        DeValue::Table(inner) => {
            table(out, inner);
            Ok(())
        }
    };
}

/// Sixteen hex digits of a text's SHA-256: stable over versions and machines.
pub(super) fn fingerprint(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).fold(String::new(), |mut hex, byte| {
        let _infallible = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        let mut out = String::new();
        table(&mut out, DeTable::parse(text).expect("TOML").get_ref());
        out
    }

    #[test]
    fn spelling_and_order_do_not_matter_and_values_do() {
        let a = canonical("x = 0x10 # sixteen\ny = { b = 'z', a = [1, 2.5] }\n");
        assert_eq!(a, canonical("y.a = [1,2.5]\ny.b = \"z\"\nx = 16\n"));
        assert_ne!(a, canonical("y.a = [1,2.5]\ny.b = \"z\"\nx = 17\n"));
        assert_eq!(fingerprint(""), "e3b0c44298fc1c14", "SHA-256 of nothing, as FIPS 180 gives it");
    }
}
