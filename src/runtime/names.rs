//! Names that people say: which device or point they mean, and what to say where there is none. Pure.

use driver_api::table::nearest;

use crate::poll::commander::Targets;

/// `device` or `device/point`.
#[must_use]
pub fn split(what: &str) -> (&str, Option<&str>) {
    let (device, point) = what.split_once('/').unwrap_or((what, ""));
    (device, Some(point).filter(|point| !point.is_empty()))
}

/// Said of a device or point that there is not.
#[must_use]
pub fn unknown(targets: &Targets, device: &str, point: Option<&str>) -> String {
    let devices: Vec<&str> = targets.keys().map(|(d, _)| d.as_str()).collect();
    if !devices.contains(&device) {
        return format!("no device `{device}`; {}", instead(device, devices));
    }
    let points = targets.keys().filter(|(d, _)| d == device).map(|(_, p)| p.as_str()).collect();
    let point = point.unwrap_or_default();
    format!("`{device}` has no point `{point}`; {}", instead(point, points))
}

/// Most names that are listed where none is like the one that was said.
const LISTED: usize = 20;

/// What to say behind a name that there is not: the one that was meant, or which there are.
#[must_use]
pub fn instead(name: &str, mut known: Vec<&str>) -> String {
    known.sort_unstable();
    known.dedup();
    if let Some(near) = nearest(name, &known) {
        return format!("did you mean `{near}`?");
    }
    match known.len().saturating_sub(LISTED) {
        _ if known.is_empty() => "there is none".to_owned(),
        0 => format!("there is {}", known.join(", ")),
        more => format!("there is {}, and {more} more", known[..LISTED].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_name_that_there_is_not_stands_what_was_meant_or_what_there_is() {
        assert_eq!(instead("tnak", vec!["tank", "pump", "tank"]), "did you mean `tank`?");
        assert_eq!(instead("xyz", vec!["tank", "pump", "tank"]), "there is pump, tank");
        assert_eq!(instead("xyz", Vec::new()), "there is none");
        let many: Vec<String> = (0..LISTED + 3).map(|n| format!("point{n:02}")).collect();
        let told = instead("x", many.iter().map(String::as_str).collect());
        assert!(told.ends_with("point18, point19, and 3 more"), "{told}");
    }
}
