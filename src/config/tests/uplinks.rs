//! Mistakes in `[[uplink]]`: each at its place, with a message and a hint.

use super::*;

fn uplink(keys: &str) -> String {
    format!("[[uplink]]\nname = 'u'\n{keys}\n")
}

#[test]
fn every_rule_of_an_uplink_has_its_place_and_its_hint() {
    for (keys, expected, hint) in [
        ("url = 'tcp://h'", "3:7: unknown scheme `tcp`", "mqtt://"),
        ("url = 'mqtt://h'\nfallback_urls = ['mqtt://h:0']", "4:18: `h:0` has no valid port", "1 to 65535"),
        ("url = 'mqtt://h'\ncompression = 'zstd'", "4:15: only `json-batch`", "json-batch"),
        ("url = 'mqtt://h'\npassword = 'x'", "4:1: unknown key `password`", "a secret"),
        ("url = 'mqtt://h'\nbatch = { max_readings = 0 }", "4:26: `max_readings` cannot be 0", "1 to"),
        ("url = 'mqtt://h'\nqos = 3", "4:7: `qos`: MQTT has qos 0, 1 and 2, not 3", "-"),
        ("url = 'mqtt://h'\ntopic_root = 'a/#'", "4:14: `topic_root` cannot hold `#`", "gw/{gateway}"),
        ("url = 'mqtts://h'\ncert_file = '/dev/null'", "4:1: `cert_file` without `key_file`", "needs both"),
        ("url = 'mqtt://h'\nkeep_alive = '0s'", "4:14: `keep_alive` cannot be 0s", "1s to 65535s"),
        (
            "url = 'mqtt://h'\nwait_for_clock = '25h'",
            "4:18: `wait_for_clock` of 25h is too long",
            "it goes up to",
        ),
        ("url = 'mqtt://h'\nmax_rate = '100B'", "4:12: a `max_rate` of 100B is too little", "256B"),
        ("url = 'mqtt://h'\nmax_rate = 100", "4:12: `max_rate`: invalid type: integer", "put it in quotes"),
        ("url = 'mqtt://h'\nconnect = 'hourly'", "4:11: `connect`: `hourly` is neither", "every 15m for 2m"),
        (
            "url = 'mqtt://h'\nconnect = 'every 5m for 5m'",
            "4:11: `connect`: a window of 5m",
            "every 15m for 2m",
        ),
        (
            "url = 'mqtt://h'\nformat = 'compact'\ncompression = 'zstd'",
            "5:15: only `json-batch` can be compressed",
            "leave it out: `compact`",
        ),
        (
            "url = 'mqtt://h'\nformat = 'sparkplug-b'",
            "4:10: `sparkplug-b` needs a group",
            "add `sparkplug = ",
        ),
        (
            "url = 'mqtt://h'\nsparkplug = { group = 'g' }",
            "4:1: `sparkplug` has no effect with this format",
            "add `format = ",
        ),
        (
            "url = 'mqtt://h'\nformat = 'sparkplug-b'\nsparkplug = { group = 'a/b' }",
            "5:23: `group` cannot be `a/b`",
            "it is one level",
        ),
        (
            "url = 'mqtt://h'\nformat = 'sparkplug-b'\norder = 'strict'\nsparkplug = { group = 'a' }",
            "5:9: Sparkplug has no strict order",
            "leave it out",
        ),
        (
            "url = 'mqtt://h'\nformat = 'sparkplug-b'\nqos = 2\nsparkplug = { group = 'a' }",
            "5:7: Sparkplug data cannot go with qos 2",
            "QoS 0 for data",
        ),
        (
            "url = 'mqtt://h'\nformat = 'sparkplug-b'\nretain = true\nsparkplug = { group = 'a' }",
            "5:10: Sparkplug data is never retained",
            "leave it out",
        ),
        (
            "url = 'mqtt://h'\nsubscribe = [{ filter = 'a/#/b', to = 'x' }]",
            "4:25: `a/#/b` is no filter of topics",
            "only at the end",
        ),
        (
            "url = 'mqtt://h'\nsubscribe = [{ filter = 'a/{name}', to = 'x' }]",
            "4:25: `a/{name}` is no filter of topics",
            "{gateway}",
        ),
        (
            "url = 'mqtt://h'\ntopic_root = 'sites/{gateway}'\n[[uplink.subscribe]]\nfilter = 'sites/#'\nto = 'x'",
            "6:10: `sites/#` takes what this gateway itself sends",
            "outside `topic_root`",
        ),
        (
            "url = 'mqtt://h'\n[[uplink.subscribe]]\nfilter = 'a/#'\nto = 'x'\n[[uplink.subscribe]]\nfilter = 'a/b'\nto = 'y'",
            "8:10: `a/b` and `a/#` take the same topics",
            "disjoint",
        ),
        (
            "url = 'mqtt://h'\nsubscribe = [{ filter = 'a/#', to = 'x/{rest}' }]",
            "4:37: `x/{rest}` has a placeholder",
            "{topic} and {gateway}",
        ),
        (
            "url = 'mqtt://h'\nsubscribe = [{ filter = 'a/#', to = 'x/#' }]",
            "4:37: `x/#` is no topic",
            "no `#`",
        ),
        (
            "url = 'mqtt://h'\nsubscribe = [{ filter = 'a/#', to = 'gw/{gateway}/command/d/p' }]",
            "4:37: `gw/",
            "commands reach the gateway",
        ),
        (
            "url = 'mqtt://h'\nforward = [{ filter = 'a/#/b', to = 'x' }]",
            "4:23: `a/#/b` is no filter of topics",
            "only at the end",
        ),
        (
            "url = 'mqtt://h'\nforward = [{ filter = '{topic}/#', to = 'x' }]",
            "4:23: `{topic}/#` is no filter of topics",
            "{gateway}",
        ),
        (
            "url = 'mqtt://h'\nforward = [{ filter = '$SYS/#', to = 'x' }]",
            "4:23: `$SYS/#` takes what a broker says of itself",
            "never forwarded",
        ),
        (
            "url = 'mqtt://h'\nforward = [{ filter = 'gw/{gateway}/data/#', to = 'x/{topic}' }]",
            "4:23: `gw/{gateway}/data/#` takes what this gateway itself publishes",
            "go to the cloud already",
        ),
        (
            "url = 'mqtt://h'\nforward = [{ filter = 'a/#', to = 'x/{rest}' }]",
            "4:35: `x/{rest}` has a placeholder",
            "the whole local topic",
        ),
        ("url = 'mqtt://h'\nforward = [{ filter = 'a/#', to = 'x/#' }]", "4:35: `x/#` is no topic", "no `#`"),
        (
            "url = 'mqtt://h'\ntopic_root = 'sites/{gateway}'\nforward = [{ filter = 'a/#', to = 'sites/{gateway}/{topic}' }]",
            "5:35: `sites/",
            "look like a point",
        ),
        (
            "url = 'mqtt://h'\nformat = 'sparkplug-b'\nsparkplug = { group = 'g' }\nforward = [{ filter = 'a/#', to = 'spBv1.0/{topic}' }]",
            "6:35: `spBv1.0/{topic}` lies in Sparkplug's own tree",
            "outside `spBv1.0`",
        ),
        (
            "url = 'mqtt://h'\nforward = [{ filter = 'a/#', to = 'up/{topic}' }]\nsubscribe = [{ filter = 'up/#', to = 'a/{topic}' }]",
            "4:35: what goes to `up/{topic}` comes back by the subscription to `up/#`",
            "another place",
        ),
        ("url = 'mqtts://h'\nalpn = ['mqtt', '']", "4:17: `alpn` cannot hold a name of 0 bytes", "mqtt"),
        ("url = 'mqtts://h'\nalpn = 'mqtt'", "4:8: `alpn`: invalid type: string", "list"),
        ("url = 'mqtts://h'\nallow_commands = ['a/#/b']", "4:19: `a/#/b` names no points", "device/+"),
        ("url = 'mqtts://h'\nallow_commands = ['#', 'a/b/c']", "4:24: `a/b/c` names no points", "device/+"),
        ("url = 'mqtts://h'\nproxy = 'proxy:3128'", "4:9: `proxy`: `proxy:3128` has no scheme", "http://"),
        (
            "url = 'mqtts://h'\nproxy = 'http://a:b@p'",
            "4:9: `proxy`: a password does not stand in `proxy`; put it into the file of `proxy_password_file`",
            "http://user@",
        ),
        (
            "url = 'mqtts://h'\nproxy = 'http://p'\nproxy_password_file = '/dev/null'",
            "5:1: a password for a proxy without a user",
            "http://user@host",
        ),
        (
            "url = 'mqtts://h'\nproxy = 'socks5://me@p'",
            "4:9: SOCKS5 has no user without a password",
            "proxy_password_file",
        ),
        (
            "url = 'mqtts://h'\nproxy = 'http://me@p'\nproxy_password_file = 'nowhere'",
            "5:23: `proxy_password_file`: there is no file",
            "first line",
        ),
        ("url = 'mqtts://h'\ninterface = 'wwan0/1'", "4:13: `wwan0/1` is no network interface", "ip link"),
        (
            "url = 'mqtts://h'\ninterface = 'much-too-long-name'",
            "4:13: `much-too-long-name` is no",
            "ip link",
        ),
    ] {
        let found = wrong(&uplink(keys));
        assert_eq!(found.len(), 1, "{keys}\n{found:#?}");
        let (told, told_hint) = found[0].split_once(" | ").expect("a hint");
        assert!(told.starts_with(&format!("f.toml:{expected}")), "{keys}\n{found:#?}");
        assert!(told_hint.contains(hint), "{keys}\n{found:#?}");
    }
}

#[test]
fn what_works_but_is_hardly_meant_is_a_warning() {
    for (keys, expected) in [
        ("url = 'mqtt://h'\nca_file = '/dev/null'", "`ca_file` has no effect without TLS"),
        (
            "url = 'mqtt://h'\nmqtt_version = '3.1.1'\nallow_redirect = true",
            "`allow_redirect` has no effect in MQTT 3.1.1",
        ),
        (
            "url = 'mqtt://h'\nmqtt_version = '3.1.1'\ncontent_type = true",
            "`content_type` has no effect in MQTT 3.1.1",
        ),
        ("url = 'mqtt://h'\nalpn = ['mqtt']", "`alpn` has no effect without TLS"),
        ("url = 'mqtt://h'\nallow_commands = ['pomp/+']", "`pomp/+` matches no point"),
        (
            "url = 'mqtts://x-ats.iot.eu-central-1.amazonaws.com:443'",
            "AWS IoT speaks MQTT on port 443 only if it is asked to",
        ),
    ] {
        let loaded = good(&[("f.toml", &uplink(keys))]);
        let warned = told(&loaded.warnings, &loaded.warnings.warnings);
        assert!(warned.len() == 1 && warned[0].contains(expected), "{keys}\n{warned:#?}");
    }
}

#[test]
fn a_way_with_everything_is_accepted() {
    let loaded = good(&[(
        "f.toml",
        &uplink(
            "url = 'mqtts://x.amazonaws.com:443'\nalpn = ['x-amzn-mqtt-ca']\nproxy = 'socks5h://me@p'\nproxy_password_file = '/dev/null'\ninterface = 'wwan0'\nmax_rate = '20KiB'\nconnect = 'every 15m for 2m'",
        ),
    )]);
    assert!(loaded.warnings.warnings.is_empty());
    assert_eq!(
        loaded.uplinks[0].proxy.as_ref().map(ToString::to_string).as_deref(),
        Some("socks5://me@p:1080")
    );
}

#[test]
fn routes_up_and_down_that_make_no_circle_are_accepted_and_one_over_two_uplinks_of_a_broker_is_not() {
    let both = "url = 'mqtt://h'\nforward = [{ filter = 'zigbee2mqtt/#', to = 'sites/{gateway}/{topic}' }]\n\
                subscribe = [{ filter = 'sites/{gateway}/down/#', to = 'zigbee2mqtt/{topic}' }]";
    let loaded = good(&[("f.toml", &uplink(both))]);
    assert_eq!(loaded.uplinks[0].forward[0].to, "sites/{gateway}/{topic}");
    // It comes back to a place from where nothing goes up.
    good(&[(
        "f.toml",
        &uplink(&both.replace("sites/{gateway}/down/#', to = 'zigbee2mqtt", "sites/#', to = 'mirror")),
    )]);
    let two = "[[uplink]]\nname = 'a'\nurl = 'mqtt://h'\nforward = [{ filter = 'x/#', to = '{topic}' }]\n\
               [[uplink]]\nname = 'b'\nurl = 'mqtt://h'\nclient_id = 'b'\nsubscribe = [{ filter = 'x/+', to = 'x/{topic}' }]\n";
    let told = wrong(two);
    assert!(told.iter().any(|line| line.contains("4:35: what goes to `{topic}` comes back")), "{told:#?}");
    good(&[("f.toml", &two.replacen("mqtt://h", "mqtt://other", 1))]);
}

#[test]
fn two_uplinks_of_one_name_at_one_broker_are_refused() {
    let second =
        |keys: &str| wrong(&format!("{}[[uplink]]\nname = 'v'\n{keys}\n", uplink("url = 'mqtt://h'")));
    let found = second("url = 'mqtt://g'\nfallback_urls = ['mqtt://H:1883']");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("f.toml:6:7: two uplinks are `"), "{found:#?}");
    assert!(found[0].ends_with("f.toml:3; give this one a `client_id` of its own"), "{found:#?}");
    assert_eq!(second("url = 'mqtt://h'\nclient_id = 'other'"), [""; 0]);
    assert_eq!(second("url = 'mqtts://h'"), [""; 0], "another port may be another broker");
}

#[test]
fn names_that_mqtt_cannot_carry_are_refused() {
    let long = "x".repeat(65_536);
    for (keys, expected) in [
        ("client_id = \"a\\u0000b\"".to_owned(), "f.toml:4:13: `client_id` holds control characters"),
        (format!("client_id = '{long}'"), "f.toml:4:13: `client_id` is longer than 65535 bytes"),
        (format!("username = '{long}'"), "f.toml:4:12: `username` is longer than 65535 bytes"),
    ] {
        let found = wrong(&uplink(&format!("url = 'mqtt://h'\n{keys}")));
        assert_eq!(found.len(), 1, "{expected}");
        assert!(found[0].starts_with(expected), "{expected}");
    }
}
