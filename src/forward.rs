//! Which messages of other devices go to the cloud, and under which names. Pure.
//!
//! Promises: nothing of the gateway's own tree is forwarded (readings go already), nor anything that this uplink itself
//! brought here, nor what this gateway has forwarded before; nothing gets into the tree that the gateway itself has
//! in the cloud, so no device can forge a reading; a topic that MQTT does not allow is never made. What the first route
//! that takes a topic makes of it counts; so a message goes once, however many filters take it.

use serde::{Deserialize, Serialize};

use crate::config::model::{Format, Uplink};
use crate::message::Forwarded;
use crate::topic;

/// Most levels of a topic that is made, as of one that comes down.
const LEVELS: usize = 128;

/// Sparkplug's own tree: nothing else may be in it.
const SPARKPLUG: &str = "spBv1.0";

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Route {
    filter: String,
    to: String,
}

/// All forwards of an uplink. The queue remembers them with what was stored under them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwards {
    uplink: String,
    gateway: String,
    routes: Vec<Route>,
    /// Roots of trees that messages come from never, and go to never.
    from_not: String,
    to_not: Vec<String>,
}

impl Forwards {
    /// The forwards of an uplink of the gateway with this id.
    #[must_use]
    pub fn new(uplink: &Uplink, gateway: &str) -> Self {
        let whole = |text: &str| text.replace("{gateway}", gateway);
        let mut to_not = vec![whole(&uplink.topic_root)];
        if uplink.format == Format::SparkplugB {
            to_not.push(SPARKPLUG.to_owned());
        }
        Self {
            uplink: uplink.name.clone(),
            gateway: gateway.to_owned(),
            routes: uplink
                .forward
                .iter()
                .map(|f| Route { filter: whole(&f.filter), to: whole(&f.to) })
                .collect(),
            from_not: own_tree(gateway),
            to_not,
        }
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// What to take of the local broker.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| route.filter.as_str())
    }

    /// Whether a message goes up this uplink.
    #[must_use]
    pub fn takes(&self, message: &Forwarded) -> bool {
        self.target(&message.topic).is_some() && !self.is_a_circle(message)
    }

    /// Whether a route takes this message, but to a place that is spoken for, or that MQTT does not allow: it stays here.
    #[must_use]
    pub fn misplaces(&self, message: &Forwarded) -> bool {
        self.place(&message.topic).is_some_and(|to| !self.is_free(&to)) && !self.is_a_circle(message)
    }

    /// Where a message on this local topic goes. `None`: nowhere.
    #[must_use]
    pub fn target(&self, from: &str) -> Option<String> {
        self.place(from).filter(|to| self.is_free(to))
    }

    fn is_a_circle(&self, message: &Forwarded) -> bool {
        message.origin.as_deref() == Some(self.uplink.as_str()) || message.was_here(&self.gateway)
    }

    /// What the routes make of this local topic.
    fn place(&self, from: &str) -> Option<String> {
        let route = self.routes.iter().find(|route| topic::matches(&route.filter, from))?;
        let ours = is_within(from, &self.from_not) || from.starts_with('$');
        (!ours).then(|| route.to.replace("{topic}", from))
    }

    fn is_free(&self, to: &str) -> bool {
        let good = topic::is_name(to, LEVELS) && !to.starts_with('$');
        good && !self.to_not.iter().any(|root| is_within(to, root))
    }

    /// The gateway's id, for the mark of what it forwards.
    #[must_use]
    pub fn gateway(&self) -> &str {
        &self.gateway
    }
}

/// The root of the gateway's own tree on the local broker.
#[must_use]
pub fn own_tree(gateway: &str) -> String {
    format!("gw/{gateway}")
}

/// Whether a topic lies at or below a root.
#[must_use]
pub fn is_within(topic: &str, root: &str) -> bool {
    topic.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::{BootMs, Props, VIA};

    fn forwards(more: &str) -> Forwards {
        let text = format!("name = \"cloud\"\nurl = \"mqtt://broker\"\n{more}");
        Forwards::new(&toml::from_str(&text).expect("an uplink"), "plant-7")
    }

    fn message(topic: &str) -> Forwarded {
        let (topic, payload) = (topic.into(), "x".into());
        Forwarded {
            at: BootMs(1),
            topic,
            payload,
            qos: 0,
            retain: false,
            props: None,
            expiry: None,
            origin: None,
        }
    }

    const ROUTES: &str = "\
        [[forward]]\nfilter = \"zigbee2mqtt/bridge/#\"\nto = \"bridges/{gateway}\"\n\
        [[forward]]\nfilter = \"zigbee2mqtt/#\"\nto = \"sites/{gateway}/{topic}\"\n\
        [[forward]]\nfilter = \"#\"\nto = \"{topic}\"\n";

    #[test]
    fn the_whole_topic_gets_a_new_place_and_the_first_route_counts() {
        let forwards = forwards(ROUTES);
        for (from, to) in [
            ("zigbee2mqtt/lamp", Some("sites/plant-7/zigbee2mqtt/lamp")),
            ("zigbee2mqtt/bridge/state", Some("bridges/plant-7")),
            ("zigbee2mqtt", Some("sites/plant-7/zigbee2mqtt")),
            ("zigbee2mqtt//x/", Some("sites/plant-7/zigbee2mqtt//x/")),
            ("温度/1", Some("温度/1")),
            ("gw/plant-7/data/d/p", None),
            ("gw/plant-7", None),
            ("gw/plant-70/data/d/p", Some("gw/plant-70/data/d/p")),
            ("$SYS/broker", None),
        ] {
            assert_eq!(forwards.target(from).as_deref(), to, "{from}");
        }
        assert_eq!(self::forwards("").target("a"), None);
    }

    #[test]
    fn nothing_gets_into_a_tree_that_is_spoken_for() {
        let root = "topic_root = \"sites/{gateway}/own\"\n[[forward]]\nfilter = \"#\"\nto = \"{topic}\"\n";
        assert_eq!(forwards(root).target("sites/plant-7/own/command/d/p"), None);
        let node = forwards(
            "format = \"sparkplug-b\"\nsparkplug = { group = \"plants\" }\n[[forward]]\nfilter = \"#\"\nto = \"{topic}\"\n",
        );
        assert_eq!(node.target("spBv1.0/plants/DDATA/plant-7/meter"), None);
        assert_eq!(node.target("lamps/1").as_deref(), Some("lamps/1"));
        for (topic, stays) in
            [("spBv1.0/plants/DDATA/plant-7/meter", true), ("lamps/1", false), ("gw/plant-7/data/d/p", false)]
        {
            assert_eq!(node.misplaces(&message(topic)), stays, "{topic}");
        }
    }

    #[test]
    fn what_this_uplink_brought_or_this_gateway_forwarded_stays_here() {
        let forwards = forwards(ROUTES);
        assert!(forwards.takes(&message("lamps/1")));
        let from = |uplink: &str| Forwarded { origin: Some(Arc::from(uplink)), ..message("lamps/1") };
        assert!(!forwards.takes(&from("cloud")) && forwards.takes(&from("plant")));
        let via = |gateway: &str| {
            let user = vec![("a".to_owned(), "plant-7".to_owned()), (VIA.to_owned(), gateway.to_owned())];
            Forwarded { props: Some(Box::new(Props { user, ..Props::default() })), ..message("lamps/1") }
        };
        assert!(!forwards.takes(&via("plant-7")) && forwards.takes(&via("plant-8")));
        let rooted =
            self::forwards("topic_root = \"lamps\"\n[[forward]]\nfilter = \"#\"\nto = \"{topic}\"\n");
        assert!(rooted.misplaces(&message("lamps/1")) && rooted.misplaces(&via("plant-8")));
        for circle in [from("cloud"), via("plant-7")] {
            assert!(!rooted.misplaces(&circle) && !rooted.takes(&circle), "a circle is nobody's fault");
        }
    }
}
