//! Numbers for people.

/// `1.5 MiB`.
#[must_use]
pub fn bytes(n: f64) -> String {
    let mut n = n.max(0.0);
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if n < 1024.0 {
            return if unit == "B" { format!("{n:.0} B") } else { format!("{n:.1} {unit}") };
        }
        n /= 1024.0;
    }
    format!("{n:.1} TiB")
}

/// `1,234,567`.
#[must_use]
pub fn count(n: f64) -> String {
    let digits = format!("{:.0}", n.max(0.0));
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `2d 3h`, `5m 12s`, `40s`.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to integer saturates")]
pub fn span_s(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_like_a_person_would_write_them() {
        assert_eq!((bytes(512.0), bytes(1_572_864.0)), ("512 B".into(), "1.5 MiB".into()));
        assert_eq!(
            (count(0.0), count(999.0), count(1_234_567.0)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!(
            (span_s(40.0), span_s(312.0), span_s(183_600.0)),
            ("40s".into(), "5m 12s".into(), "2d 3h".into())
        );
    }
}
