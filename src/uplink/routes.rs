//! Which topics of the cloud come to the local broker, and under which names. Pure.
//!
//! Promises: nothing that comes from the cloud by a route gets into the gateway's own tree, so no route can forge a
//! reading or a command, and nothing that a route brings is sent up again by the same uplink; a topic that MQTT does not allow is never
//! made.

use crate::config::model::Subscribe;
use crate::topic;

/// Most levels of a topic that is made; the local broker's own limit is asked again when it is published.
const LEVELS: usize = 128;

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    filter: String,
    to: String,
}

/// All routes of an uplink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    routes: Vec<Route>,
    own: String,
}

impl Routes {
    /// The routes of the gateway with this id.
    #[must_use]
    pub fn new(subscribe: &[Subscribe], gateway: &str) -> Self {
        let whole = |text: &str| text.replace("{gateway}", gateway);
        let route = |s: &Subscribe| Route { filter: whole(&s.filter), to: whole(&s.to) };
        Self { routes: subscribe.iter().map(route).collect(), own: format!("gw/{gateway}") }
    }

    /// What to subscribe to.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| route.filter.as_str())
    }

    /// Where a message on this topic of the cloud goes. `None`: nowhere.
    #[must_use]
    pub fn target(&self, from: &str) -> Option<String> {
        let route = self.routes.iter().find(|route| topic::matches(&route.filter, from))?;
        let to = route.to.replace("{topic}", rest(&route.filter, from));
        // `a/#` takes `a` as well, and then there is no rest.
        let to = if from.ends_with('/') { &to[..] } else { to.trim_end_matches('/') };
        let own =
            to.strip_prefix(self.own.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (topic::is_name(to, LEVELS) && !to.starts_with('$') && !own).then(|| to.to_owned())
    }
}

/// What the wildcards of `filter` stand for in `topic`: from the first of them on; all of it, if there is none.
fn rest<'t>(filter: &str, topic: &'t str) -> &'t str {
    let prefix = topic::literal_prefix(filter);
    if prefix.len() == filter.len() {
        return topic;
    }
    topic.get(prefix.len()..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(list: &[(&str, &str)]) -> Routes {
        let one = |(filter, to): &(&str, &str)| Subscribe { filter: (*filter).into(), to: (*to).into() };
        Routes::new(&list.iter().map(one).collect::<Vec<_>>(), "plant-7")
    }

    #[test]
    fn the_rest_from_the_first_wildcard_on_gets_a_new_place() {
        let routes = routes(&[
            ("sites/{gateway}/down/#", "down/{topic}"),
            ("weather/+/now", "outside/{topic}"),
            ("time", "clock/{topic}"),
            ("news/#", "board"),
        ]);
        let filters: Vec<_> = routes.filters().collect();
        assert_eq!(filters, ["sites/plant-7/down/#", "weather/+/now", "time", "news/#"]);
        for (from, to) in [
            ("sites/plant-7/down/lamp/set", Some("down/lamp/set")),
            ("sites/plant-7/down/a//b/", Some("down/a//b/")),
            ("sites/plant-7/down", Some("down")),
            ("sites/plant-8/down/lamp", None),
            ("weather/hamburg/now", Some("outside/hamburg/now")),
            ("time", Some("clock/time")),
            ("news/today/sport", Some("board")),
            ("$SYS/broker", None),
        ] {
            assert_eq!(routes.target(from).as_deref(), to, "{from}");
        }
    }

    #[test]
    fn nothing_gets_into_the_gateways_own_tree() {
        let routes = routes(&[("x/#", "{topic}"), ("y/#", "gw/{topic}")]);
        for from in ["x/gw/plant-7/command/d/p", "x/gw/plant-7", "y/plant-7/data/d/p", "x/$SYS/a", "x", "x/"]
        {
            assert_eq!(routes.target(from), None, "{from}");
        }
        assert_eq!(routes.target("y/plant-70/data/d/p").as_deref(), Some("gw/plant-70/data/d/p"));
        assert_eq!(routes.target("x/温度/1").as_deref(), Some("温度/1"));
    }
}
