//! Certificates and keys in PEM files, for the local broker and the uplinks: read in one way, and what is wrong
//! with them in words. Reads a certificate's term and its owner's name itself, for rustls does not tell them.
//!
//! Nothing that stands in a file can make this panic.

use std::path::Path;

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::message::WallMs;

/// All certificates of a PEM file, at least one. Reads the file: call it where blocking is allowed.
///
/// # Errors
/// Why it cannot be used, without its name.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let list: Result<Vec<_>, Error> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    match list.map_err(|e| words(&e))? {
        list if list.is_empty() => Err("it holds no certificate".to_owned()),
        list => Ok(list),
    }
}

/// The private key of a PEM file (PKCS#8, PKCS#1 or SEC1). Reads the file.
///
/// # Errors
/// Why it cannot be used, without its name and without anything that stands in it.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| match e {
        Error::NoItemsFound => "it holds no private key that is not encrypted".to_owned(),
        e => words(&e),
    })
}

/// What rustls says of a key that it cannot use with a certificate, in words.
#[must_use]
pub fn unfit(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => "the key does not belong to the certificate".to_owned(),
        other => other.to_string(),
    }
}

fn words(error: &Error) -> String {
    match error {
        Error::Io(e) => e.to_string(),
        Error::NoItemsFound => "there is none in it".to_owned(),
        Error::MissingSectionEnd { .. } => "a section of it does not end".to_owned(),
        Error::IllegalSectionStart { .. } => "a section of it does not begin as one of PEM".to_owned(),
        Error::Base64Decode(_) => "it is damaged (not base64)".to_owned(),
        _ => "it is no PEM file".to_owned(),
    }
}

/// From when to when a certificate is valid (RFC 5280, section 4.1.2.5). `None` if that cannot be read.
#[must_use]
pub fn term(certificate: &[u8]) -> Option<(WallMs, WallMs)> {
    let (_, term, _) = element(from_term(certificate)?)?;
    let (tag, from, rest) = element(term)?;
    let from = time(tag, from)?;
    let (tag, to, _) = element(rest)?;
    Some((from, time(tag, to)?))
}

/// The name of a certificate's owner: the first common name of its subject (RFC 5280, section 4.1.2.6), at most 256 bytes of UTF-8
/// without control characters. `None` if there is none like that.
#[must_use]
pub fn common_name(certificate: &[u8]) -> Option<String> {
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03]; // 2.5.4.3
    let after_term = element(from_term(certificate)?)?.2;
    let (_, mut sets, _) = element(after_term)?;
    while let Some((_, mut set, more)) = element(sets) {
        sets = more;
        while let Some((_, pair, others)) = element(set) {
            set = others;
            let (_, kind, value) = element(pair)?;
            if kind != COMMON_NAME {
                continue;
            }
            // UTF8String, PrintableString and IA5String; the others have encodings of their own.
            let (0x0c | 0x13 | 0x16, name, _) = element(value)? else { return None };
            let name = std::str::from_utf8(name).ok()?;
            let fits = !name.is_empty() && name.len() <= 256 && !name.chars().any(char::is_control);
            return fits.then(|| name.to_owned());
        }
    }
    None
}

/// What stands in a certificate from its term on: term, subject, key.
fn from_term(certificate: &[u8]) -> Option<&[u8]> {
    let (_, whole, _) = element(certificate)?;
    let (_, mut rest, _) = element(whole)?;
    // The version may be missing; before the term come the serial number, the signature's kind and the issuer.
    let (tag, _, after) = element(rest)?;
    if tag == 0xa0 {
        rest = after;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    Some(rest)
}

/// The first DER element of `bytes`: its tag, what is in it, and what comes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) {
            return None;
        }
        let (digits, after) = rest.split_at_checked(count)?;
        length = digits.iter().try_fold(0usize, |n, d| n.checked_mul(256)?.checked_add(usize::from(*d)))?;
        rest = after;
    }
    let (inside, after) = rest.split_at_checked(length)?;
    Some((tag, inside, after))
}

/// UTCTime (`YYMMDDhhmmssZ`, 1950 to 2049) or GeneralizedTime (`YYYYMMDDhhmmssZ`).
fn time(tag: u8, text: &[u8]) -> Option<WallMs> {
    let text = std::str::from_utf8(text).ok()?;
    let text = match tag {
        0x17 if text.starts_with(['5', '6', '7', '8', '9']) => format!("19{text}"),
        0x17 => format!("20{text}"),
        0x18 => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| text.get(from..to);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    let at: jiff::Timestamp = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z").parse().ok()?;
    Some(WallMs(at.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_term_of_a_certificate_is_read() {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 2, 3);
        params.not_after = rcgen::date_time_ymd(2061, 4, 5);
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let (from, to) = term(made.der()).unwrap();
        assert_eq!(from.to_string(), "2001-02-03T00:00:00.000Z");
        assert_eq!(to.to_string(), "2061-04-05T00:00:00.000Z");
    }

    #[test]
    fn the_name_of_a_certificate_is_read_if_it_has_one() {
        let name_of = |names: &[(rcgen::DnType, &str)]| {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            for (kind, value) in names {
                params.distinguished_name.push(kind.clone(), *value);
            }
            let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            common_name(made.der())
        };
        use rcgen::DnType::{CommonName, OrganizationName};
        assert_eq!(
            name_of(&[(OrganizationName, "plant"), (CommonName, "pümp-7")]).as_deref(),
            Some("pümp-7")
        );
        assert_eq!(name_of(&[(OrganizationName, "plant")]), None);
        for none in ["", "a\0b", "a\nb", &"x".repeat(257)] {
            assert_eq!(name_of(&[(CommonName, none)]), None, "{none:?}");
        }
    }

    #[test]
    fn files_that_are_none_are_told_apart_and_never_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pem");
        let told = |text: &str| {
            std::fs::write(&path, text).unwrap();
            (certificates(&path).unwrap_err(), private_key(&path).unwrap_err())
        };
        assert_eq!(told("").0, "it holds no certificate");
        assert_eq!(told("secret").1, "it holds no private key that is not encrypted");
        let broken = told("-----BEGIN CERTIFICATE-----\nsecret!\n-----END CERTIFICATE-----\n").0;
        assert_eq!(broken, "it is damaged (not base64)");
        let open = told("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n").1;
        assert_eq!(open, "a section of it does not end");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), length in any::<u8>()) {
            let _ = (term(&bytes), common_name(&bytes));
            let framed = [&[0x30, length, 0x30, length], bytes.as_slice()].concat();
            let _ = (term(&framed), common_name(&framed));
        }
    }
}
