//! Rules of what goes by routes: `[[uplink.subscribe]]` and `[[uplink.forward]]` have topics that MQTT allows, and no circle;
//! `allow_commands` names points that there are.

use driver_api::{Place, Problem};

use super::Findings;
use crate::config::buses::CompiledBus;
use crate::config::model::{Format, Forward, Subscribe, Uplink};
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
    for (index, route) in uplink.forward.iter().enumerate() {
        let at = |key: &str| raw.at(&format!("forward.{index}.{key}"));
        check_source(route, gateway, at("filter"), problems);
        check_place(uplink, &whole(&route.to), gateway, at("to"), problems);
    }
}

/// What of the local broker may be forwarded.
fn check_source(route: &Forward, gateway: &str, at: Place, problems: &mut Vec<Problem>) {
    let (written, filter) = (&route.filter, route.filter.replace("{gateway}", gateway));
    let message = format!("`{written}` is no filter of topics");
    let own = format!("gw/{gateway}");
    if filter.contains(['{', '}']) {
        problems.push(Problem::new(at, message).hint("the only placeholder of a filter is {gateway}"));
    } else if !topic::is_filter(&filter, LEVELS) || topic::is_shared(&filter) {
        let hint =
            "`+` stands for one whole level, `#` for the rest and only at the end; no shared subscriptions";
        problems.push(Problem::new(at, message).hint(hint));
    } else if filter.starts_with('$') {
        let message = format!("`{written}` takes what a broker says of itself");
        problems.push(Problem::new(at, message).hint("topics that begin with `$` are never forwarded"));
    } else if filter == own || filter.starts_with(&format!("{own}/")) {
        let message =
            format!("`{written}` takes what this gateway itself publishes, which is never forwarded");
        problems.push(Problem::new(at, message).hint("readings, status and events go to the cloud already"));
    }
}

/// Where in the cloud it may go.
fn check_place(uplink: &Uplink, to: &str, gateway: &str, at: Place, problems: &mut Vec<Problem>) {
    let made = to.replace("{topic}", "x");
    let own = uplink.topic_root.replace("{gateway}", gateway);
    let within = |root: &str| made == root || made.starts_with(&format!("{root}/"));
    if made.contains(['{', '}']) {
        let problem = Problem::new(at, format!("`{to}` has a placeholder that is not known"));
        problems.push(problem.hint("there are {topic}, the whole local topic, and {gateway}"));
    } else if !topic::is_name(&made, LEVELS) || made.starts_with('$') {
        let problem = Problem::new(at, format!("`{to}` is no topic"));
        problems.push(problem.hint("a topic has no `+` and no `#`, and does not begin with `$`"));
    } else if within(&own) {
        let problem = Problem::new(at, format!("`{to}` lies in the tree of the gateway itself (`{own}`)"));
        problems.push(problem.hint("choose another place: no device may look like a point of the gateway"));
    } else if uplink.format == Format::SparkplugB && within("spBv1.0") {
        let problem = Problem::new(at, format!("`{to}` lies in Sparkplug's own tree"));
        problems.push(problem.hint("choose a place outside `spBv1.0`: only nodes and hosts publish there"));
    }
}

/// What goes up by a forward must not come down by a subscription to a place where it is forwarded again. Between two
/// uplinks that shows where they have a broker in common; between two gateways only while it happens.
pub(super) fn check_circles(uplinks: &[(Uplink, &Raw<'_>)], gateway: &str, problems: &mut Vec<Problem>) {
    let whole = |text: &str| text.replace("{gateway}", gateway);
    for (up, raw) in uplinks {
        for (index, forward) in up.forward.iter().enumerate() {
            let sent = pattern(&whole(&forward.to), &whole(&forward.filter));
            let downs = uplinks.iter().filter(|(down, _)| down.name == up.name || down.url == up.url);
            let comes_round = |subscribe: &&Subscribe| {
                topic::overlap(&whole(&subscribe.filter), &sent)
                    && topic::overlap(&pattern(&whole(&subscribe.to), "#"), &whole(&forward.filter))
            };
            let circle = downs.flat_map(|(down, _)| &down.subscribe).find(comes_round);
            if let Some(Subscribe { filter, to }) = circle {
                let message = format!(
                    "what goes to `{}` comes back by the subscription to `{filter}`, and is on `{to}` taken again",
                    forward.to
                );
                let hint = "a message would go round for ever: give one of the two another place";
                problems.push(Problem::new(raw.at(&format!("forward.{index}.to")), message).hint(hint));
            }
        }
    }
}

/// A filter of all topics that are made of `to`, where `{topic}` is something of `topics`.
fn pattern(to: &str, topics: &str) -> String {
    let made = to.replace("{topic}", topics);
    match made.find('#') {
        Some(end) if made[..end].is_empty() || made[..end].ends_with('/') => made[..=end].to_owned(),
        // Within a level anything may follow.
        Some(end) => format!("{}#", &made[..made[..end].rfind('/').map_or(0, |at| at + 1)]),
        None => made,
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
