//! Rules of `share`: a bus that can be shared, a port of its own, and units that can be on the line.

use driver_api::{Problem, Span};

use super::broker::collide;
use super::{Findings, Sections};
use crate::config::buses::BusDraft;

/// Beyond this an answer is no longer one of now.
const LONGEST_CACHE: Span = Span::s(60);

pub(super) fn check(sections: &Sections<'_, '_>, buses: &[BusDraft<'_>], findings: &mut Findings) {
    let Findings { problems, warnings } = findings;
    let mut taken: Vec<_> =
        sections.broker.listener.iter().map(|l| (l.bind, "a listener of the broker".to_owned())).collect();
    for bus in buses {
        let (Some(share), Some(driver)) = (&bus.common.share, bus.driver) else { continue };
        if !driver.name().starts_with("modbus-") {
            let message = format!("`share` is for Modbus buses; this one speaks `{}`", driver.name());
            let hint = "take it out; this version cannot pass the bytes of other buses on";
            problems.push(Problem::new(bus.raw.key("share"), message).hint(hint));
            continue;
        }
        let table = bus.raw.text("share").is_none();
        let at = |key: &str| bus.raw.at(&if table { format!("share.{key}") } else { "share".to_owned() });
        let bind = share.bind;
        if let Some((_, by)) = taken.iter().find(|(other, _)| collide(*other, bind)) {
            let problem = Problem::new(at("bind"), format!("`{bind}` is taken by {by}"));
            problems.push(problem.hint("give each server a port of its own"));
        }
        taken.push((bind, format!("the share of bus `{}`", bus.common.name)));
        if !bind.ip().is_loopback() {
            let can = if share.writes.is_empty() { "read" } else { "read and write" };
            let message = format!("everybody who reaches `{bind}` can {can} this bus: Modbus knows no login");
            let hint = "bind it to 127.0.0.1, or let a firewall say who may connect";
            warnings.push(Problem::new(at("bind"), message).hint(hint));
        }
        if let Some(cache) = share.cache
            && (cache.0.is_zero() || cache > LONGEST_CACHE)
        {
            let problem = Problem::new(at("cache"), format!("`cache` cannot be {cache}"));
            problems.push(problem.hint(format!("it is more than 0 and at most {LONGEST_CACHE}")));
        }
        for (index, range) in share.writes.iter().enumerate() {
            if driver.name() != "modbus-tcp" && !(1..=247).contains(&range.unit) {
                let message = format!("no unit on a line has the id {}", range.unit);
                let problem = Problem::new(at(&format!("writes.{index}")), message);
                problems.push(problem.hint("unit ids go from 1 to 247"));
            }
        }
    }
}
