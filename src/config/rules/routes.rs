//! Rules of what comes down an uplink: `[[uplink.subscribe]]` has topics that MQTT allows, and no circle; `allow_commands`
//! names points that there are.

use driver_api::{Place, Problem};

use super::Findings;
use crate::config::buses::CompiledBus;
use crate::config::model::Uplink;
use crate::config::raw::Raw;
use crate::topic;

/// Longest path of levels in a filter or topic.
const LEVELS: usize = 128;

/// Checks the routes of one uplink of the gateway with this id.
pub(super) fn check(uplink: &Uplink, gateway: &str, raw: &Raw<'_>, problems: &mut Vec<Problem>) {
    let whole = |text: &str| text.replace("{gateway}", gateway);
    let own = format!("{}/#", whole(&uplink.topic_root));
    let mut filters: Vec<String> = Vec::new();
    for (index, route) in uplink.subscribe.iter().enumerate() {
        let at = |key: &str| raw.at(&format!("subscribe.{index}.{key}"));
        let filter = whole(&route.filter);
        check_filter(&route.filter, &filter, &own, at("filter"), problems);
        if let Some(other) = filters.iter().find(|other| topic::overlap(other, &filter)) {
            let message = format!("`{filter}` and `{other}` take the same topics");
            let hint = "brokers send what two filters take once or twice, as they like: make them disjoint";
            problems.push(Problem::new(at("filter"), message).hint(hint));
        }
        filters.push(filter);
        check_target(&whole(&route.to), gateway, at("to"), problems);
    }
}

/// Filters of commands that take no point, and those that take none that can be written.
pub(in crate::config) fn check_commands(
    uplink: &Uplink,
    raw: &Raw<'_>,
    buses: &[CompiledBus],
    findings: &mut Findings,
) {
    let names = || {
        buses.iter().flat_map(|bus| {
            let device = |index: usize| bus.devices.get(index).map_or("", |device| device.name.as_str());
            let points = bus.bus.plan().points.iter().zip(&bus.points);
            points.map(move |(info, settings)| {
                (format!("{}/{}", device(info.device), info.name), settings.writable)
            })
        })
    };
    for (index, filter) in uplink.allow_commands.iter().enumerate() {
        let at = || raw.at(&format!("allow_commands.{index}"));
        if !topic::is_filter(filter, 2) || topic::is_shared(filter) {
            let problem = Problem::new(at(), format!("`{filter}` names no points"));
            findings.problems.push(problem.hint("write `device/point`, `device/+`, or `#` for all"));
            continue;
        }
        if filter == "#" {
            continue;
        }
        let taken: Vec<bool> =
            names().filter(|(name, _)| topic::matches(filter, name)).map(|(_, w)| w).collect();
        if !taken.contains(&true) {
            let what =
                if taken.is_empty() { "matches no point" } else { "matches no point that can be written" };
            let problem = Problem::new(at(), format!("`{filter}` {what}"));
            findings
                .warnings
                .push(problem.hint("`fieldgate check` lists the points; `writable = true` allows commands"));
        }
    }
}

fn check_filter(written: &str, filter: &str, own: &str, at: Place, problems: &mut Vec<Problem>) {
    let message = format!("`{written}` is no filter of topics");
    if filter.contains(['{', '}']) {
        problems.push(Problem::new(at, message).hint("the only placeholder of a filter is {gateway}"));
    } else if !topic::is_filter(filter, LEVELS) || topic::is_shared(filter) {
        let hint =
            "`+` stands for one whole level, `#` for the rest and only at the end; no shared subscriptions";
        problems.push(Problem::new(at, message).hint(hint));
    } else if topic::overlap(filter, own) {
        let message = format!("`{written}` takes what this gateway itself sends to the cloud (`{own}`)");
        problems.push(Problem::new(at, message).hint("name a part of the cloud's tree outside `topic_root`"));
    }
}

fn check_target(to: &str, gateway: &str, at: Place, problems: &mut Vec<Problem>) {
    let made = to.replace("{topic}", "x");
    let own = format!("gw/{gateway}");
    if made.contains(['{', '}']) {
        let problem = Problem::new(at, format!("`{to}` has a placeholder that is not known"));
        problems.push(problem.hint("there are {topic} and {gateway}"));
    } else if !topic::is_name(&made, LEVELS) || made.starts_with('$') {
        let problem = Problem::new(at, format!("`{to}` is no topic"));
        problems.push(problem.hint("a topic has no `+` and no `#`, and does not begin with `$`"));
    } else if made == own || made.starts_with(&format!("{own}/")) {
        let problem = Problem::new(at, format!("`{to}` lies in the gateway's own tree"));
        problems.push(
            problem.hint("choose another place; commands reach the gateway under `topic_root`/command"),
        );
    }
}
