//! Rules that have no number in the specifications and break clients all the same, and what MQTT 3.1 asks for.
//!
//! Among them is what protocol engines of others fell over: a Topic Alias Maximum of 0, packet id 0, answers to nothing,
//! header flags, wildcards and U+0000 where they do not belong, windows after a reconnect, a Receive Maximum that 3.1.1 does not
//! have, lengths that announce more than comes.

use crate::suite::{Row, V, rows};
use crate::{connect, format, publish, qos, rest, retain, session, subscribe, topics, will};

pub const FIVE: &[Row] = rows! { V::Five;
    "1.5.5 longer" "A length in a longer form than need be is malformed" => format::longer_lengths;
    "1.5.5 five bytes" "A length has four bytes at most" => format::five_byte_lengths;
    "2.1.2 servers only" "A client sends no packet of servers, and none of type 0" => format::packets_of_servers;
    "2.1.4 lies" "A length that does not fit what is in the packet is malformed" => format::lengths_that_lie;
    "2.2.2.2 elsewhere" "A property of another packet is malformed: 0x81" => subscribe::property_of_another_packet;
    "2.2.2.2 twice" "A property that is there twice is a protocol error: 0x82" => subscribe::property_twice;
    "2.2.2.2 cut" "A property that is cut short is malformed" => subscribe::property_cut_short;
    "4.2 pieces" "Packets come in pieces, and many at once" => connect::pieces;
    "2.2.1 zero" "Answers with packet id 0 are an error" => format::answers_to_packet_id_0;
    "2.2.2.2 user" "User Properties are allowed everywhere, any number of them" => rest::user_properties_everywhere;
    "3.1.2.9 alone" "A password needs no user name" => connect::password_alone_is_fine;
    "3.1.2.9 login" "User name and password let a client in" => connect::login;
    "3.1.2.10 pings" "Pings keep a connection alive" => connect::pings_keep_alive;
    "3.1.2.10 none" "Keep alive 0 is none" => connect::no_keep_alive;
    "3.1.2.11" "Each property of CONNECT is there once, and has a value that there is" => rest::properties_of_connect;
    "3.1.2.11.5 zero" "Topic Alias Maximum 0 is a number like any other" => rest::no_aliases_wanted;
    "3.1.2.11.10" "Authentication data need a method" => rest::data_without_method;
    "3.1.3.2.2" "A will waits for its delay" => will::waits_for_its_delay;
    "3.1.3.2.2 end" "… but not longer than the session" => will::ends_with_the_session;
    "3.1.3.2.3" "A will's payload is UTF-8 if it says so (0x99)" => will::payload_is_what_it_says;
    "3.1.3.2.4" "A will's expiry counts from its publication" => will::expires_from_its_publication;
    "3.1.3.3" "A will's topic is a topic name: 0x90" => will::topic_is_a_name;
    "3.1.4 will" "A client that is taken over leaves its will" => will::fires_on_take_over;
    "3.1.2.5 silence" "A client that falls silent leaves its will" => will::fires_when_keep_alive_ends;
    "3.1.2.5 order" "A will comes after what the client said before" => will::comes_last;
    "3.1.4 session" "A session that is taken over goes on" => session::taken_over_as_it_is;
    "3.2.2.3.6 larger" "A packet larger than our maximum: 0x95" => publish::larger_than_we_take;
    "3.3.1.1 dup" "QoS 0 with DUP is malformed" => publish::no_dup_at_qos_0;
    "3.3.1.3 shared" "A shared subscription gets nothing retained" => topics::shared_gets_nothing_retained;
    "3.3.2.1 empty" "Neither topic nor alias: 0x82" => publish::neither_topic_nor_alias;
    "3.3.2.3.2" "A payload is UTF-8 if it says so (0x99)" => publish::payload_that_is_not_utf8;
    "3.4.2.1 nobody" "Nobody subscribed: 0x10" => publish::nothing_matches;
    "3.4.2.1 denied" "Not authorised: 0x87" => publish::not_authorised;
    "3.4.2.1 unknown" "A reason that there is not is an error" => qos::codes_that_there_are_not;
    "3.4.2.2 why" "Answers may say why" => qos::answers_that_explain;
    "3.6.2.1 unknown" "Answers to nothing end no connection: 0x92" => qos::unknown_answers;
    "3.8.2.1.2" "Identifier 0, or two of them: 0x82" => subscribe::identifier_0;
    "3.8.2.1.2 again" "The identifier is the subscription's last" => subscribe::identifier_is_replaced;
    "3.8.3.1 three" "QoS 3, or Retain Handling 3: 0x82" => subscribe::options_that_mean_nothing;
    "3.8.4 retained" "Retained messages come with the identifier" => retain::with_the_subscription_id;
    "3.14.2.1 will" "DISCONNECT asks for the will with any reason but 0x00" => will::goodbye_can_ask_for_it;
    "3.14.2.1 unknown" "DISCONNECT with a reason that there is not is an error" => session::goodbye_with_a_code_that_there_is_not;
    "3.14.2.2.2" "DISCONNECT changes the session's expiry, but not from 0" => session::goodbye_changes_the_interval;
    "4.7.3 levels" "A name with too many levels is not acknowledged and dropped" => publish::deep_names;
    "4.8.2 dollar" "Shared filters keep off `$` topics, too" => topics::shared_and_dollar;
    "4.8.2 own" "A member's own subscription counts beside the shared one" => topics::shared_and_own;
    "3.8.4 again" "A filter again and again: the last options count, nothing is lost" => subscribe::replaces;
    "4.3.3 break" "QoS 2 is exactly once over two connections" => qos::quality_2_over_two_connections;
    "4.9 again" "What comes again is within the window, too" => qos::again_within_the_window;
    "4.9 anew" "The window begins anew with each connection" => qos::the_window_begins_anew;
    "4.13 reasons" "The reason reaches a client that is still sending" => rest::reasons_arrive;
    "4.13 others" "An error ends nobody else's connection, and no session" => rest::errors_end_nobody_else;
    "session versions" "A session goes on with another version" => session::over_versions;
};

pub const FOUR: &[Row] = rows! { V::Four;
    "2.2.3 longer" "A length in a longer form than need be is a length (nothing forbids it)" => format::longer_lengths_of_version_4;
    "2.2.3 five bytes" "A length has four bytes at most" => format::five_byte_lengths;
    "2.2.1 servers only" "A client sends no packet of servers, and none of type 0 or 15" => format::packets_of_servers;
    "2.2.3 lies" "A length that does not fit what is in the packet is malformed" => format::lengths_that_lie;
    "3.1.2.9 login" "User name and password let a client in" => connect::login;
    "3.1.2.10 pings" "Pings keep a connection alive" => connect::pings_keep_alive;
    "3.1.2.10 none" "Keep alive 0 is none" => connect::no_keep_alive;
    "3.1.2.5 order" "A will comes after what the client said before" => will::comes_last;
    "3.1.2.5 rule" "A client that breaks a rule leaves its will" => will::fires_when_a_rule_is_broken;
    "3.1.2.5 silence" "A client that falls silent leaves its will" => will::fires_when_keep_alive_ends;
    "3.1.4 will" "A client that is taken over leaves its will" => will::fires_on_take_over;
    "4.2 pieces" "Packets come in pieces, and many at once" => connect::pieces;
    "2.3.1 zero" "Answers with packet id 0 are an error" => format::answers_to_packet_id_0;
    "3.1.4 session" "A session that is taken over goes on" => session::taken_over_as_it_is;
    "4.3 no maximum" "There is no Receive Maximum" => qos::no_receive_maximum;
    "3.3.1.1 dup" "QoS 0 with DUP ends the connection" => publish::no_dup_at_qos_0;
    "3.8.4 replaces" "The same filter takes the place of the old one" => subscribe::replaces;
    "3.8.4 stream" "… and interrupts no stream of messages" => subscribe::replaces_in_a_stream;
    "4.3 unknown" "Answers to nothing end no connection" => qos::unknown_answers;
    "4.3.3 break" "QoS 2 is exactly once over two connections" => qos::quality_2_over_two_connections;
    "4.7.3 levels" "A name with too many levels is not acknowledged and dropped" => publish::deep_names;
    "4.8 others" "An error ends nobody else's connection, and no session" => rest::errors_end_nobody_else;
    "session versions" "A session goes on with another version" => session::over_versions;
};

pub const OLD: &[Row] = rows! { V::Old;
    "connects" "MQIsdp with level 3 is served on the same port" => rest::old_connects;
    "levels" "No other level goes with MQIsdp, and 3 not with MQTT" => rest::old_name_and_level;
    "ids" "An empty id is refused with code 2; one of more than 23 bytes is not (leniently)" => rest::old_ids;
    "session" "CONNACK says nothing of the session, which is there" => rest::old_session;
    "clean" "A clean session begins with nothing" => old::clean;
    "missing fields" "A user name or password may be missing though its flag is set" => rest::old_flags_without_fields;
    "password" "A wrong password is refused" => connect::wrong_password;
    "login" "User name and password let a client in" => connect::login;
    "repeats" "SUBSCRIBE, UNSUBSCRIBE and PUBREL may have DUP" => rest::old_repeats;
    "suback" "SUBACK never holds 0x80: what is refused is granted with QoS 0 and brings nothing" => subscribe::not_authorised;
    "websocket" "Over WebSocket its subprotocol is `mqttv3.1`" => rest::websocket_protocol;
    "websocket frames" "… and frames are no packets" => rest::websocket_frames_are_no_packets;
    "filters" "A filter that is none ends the connection" => old::bad_filter;
    "versions" "Clients of all three versions hear each other" => rest::old_beside_new;
    "quality 1" "QoS 1, sending" => qos::quality_1_sent;
    "quality 2" "QoS 2, sending" => qos::quality_2_sent;
    "quality 2 in" "QoS 2, receiving" => qos::quality_2_received;
    "retained" "Retained messages" => retain::last_of_each_topic;
    "will" "The will is published when the connection is lost" => will::fires_when_the_client_vanishes;
    "will back" "DISCONNECT takes it back" => will::goodbye_takes_it_back;
    "4.2 pieces" "Packets come in pieces, and many at once" => connect::pieces;
    "session over" "A session that is taken over goes on" => session::taken_over_as_it_is;
    "takes over" "A client with the same id is disconnected" => connect::takes_over;
    "silence" "After one and a half keep alives of silence the connection ends" => connect::silence_ends;
    "second" "A second CONNECT ends the connection" => connect::comes_once;
    "utf-8" "Strings are UTF-8" => format::not_utf8;
    "wildcards" "A topic has no wildcard" => publish::no_wildcard_in_a_topic;
    "lesser" "Delivery is at the lesser QoS" => subscribe::lesser_quality;
};

/// Cases that only 3.1 has.
mod old {
    use crate::suite::{Ctx, Verdict};
    use crate::wire::subscribe;

    pub async fn clean(ctx: Ctx) -> Verdict {
        let topic = ctx.topic("t");
        ctx.with(ctx.keeping("c")).await?.subscribe(&topic, 1).await?;
        ctx.client("p").await?.publish(1, &topic, "x").await?;
        ctx.client("c").await?.quiet().await?;
        ctx.with(ctx.keeping("c")).await?.quiet().await
    }

    pub async fn bad_filter(ctx: Ctx) -> Verdict {
        let mut c = ctx.client("c").await?;
        c.send(&subscribe(ctx.v, 1, &[], &[("a/#/b", 0)])).await;
        c.ended(&[]).await
    }
}
