//! Every statement of MQTT 5.0, chapters 1 to 3.3, by the ids of its appendix B, in our words.

use crate::suite::{Row, V, rows};
use crate::{connect, format, publish, qos, rest, retain, session, subscribe, will};

/// How many statements there are in each section.
pub const SECTIONS: &[(&str, usize)] = &[
    ("1.5.4", 3),
    ("1.5.5", 1),
    ("1.5.7", 1),
    ("2.1.3", 1),
    ("2.2.1", 5),
    ("2.2.2", 1),
    ("3.1.0", 2),
    ("3.1.2", 30),
    ("3.1.3", 12),
    ("3.1.4", 6),
    ("3.2.0", 2),
    ("3.2.2", 22),
    ("3.3.1", 13),
    ("3.3.2", 20),
    ("3.3.4", 10),
];

pub const ROWS: &[Row] = rows! { V::Five;
    "1.5.4-1" "Strings are well-formed UTF-8 without surrogates" => format::not_utf8;
    "1.5.4-2" "No string holds U+0000" => format::null;
    "1.5.4-3" "EF BB BF is a character like any other and is not stripped" => format::byte_order_mark;
    "1.5.5-1" "Lengths have their shortest form" => format::shortest_lengths;
    "1.5.7-1" "Both strings of a pair are strings" => format::string_pairs;
    "2.1.3-1" "Reserved header flags have the value of the table" => format::reserved_flags;
    "2.2.1-2" "PUBLISH with QoS 0 has no packet id" => format::no_id_at_qos_0;
    "2.2.1-3" "A client's ids are not 0, and free" => format::packet_id_0;
    "2.2.1-4" "The server's ids are not 0, and free" => format::ids_of_the_server;
    "2.2.1-5" "PUBACK, PUBREC, PUBREL and PUBCOMP have the id of their PUBLISH" => format::answers_carry_the_id;
    "2.2.1-6" "SUBACK and UNSUBACK have the id of their request" => format::subscribing_carries_the_id;
    "2.2.2-1" "No properties are a property length of 0" => format::empty_properties;
    "3.1.0-1" "The first packet is CONNECT" => connect::comes_first;
    "3.1.0-2" "A second CONNECT ends the connection" => connect::comes_once;
    "3.1.2-1" "Another protocol name ends the connection" => connect::name_is_mqtt;
    "3.1.2-2" "Another version ends the connection" => connect::level_is_known;
    "3.1.2-3" "The reserved connect flag is checked" => connect::reserved_flag;
    "3.1.2-4" "A clean start begins with nothing" => session::clean_forgets;
    "3.1.2-5" "Otherwise a session that is there goes on" => session::resumed;
    "3.1.2-6" "Or a new one begins" => session::new_if_there_is_none;
    "3.1.2-7" "The will is kept with the session" => will::fires_when_a_rule_is_broken;
    "3.1.2-8" "It is published after the connection, its delay or the session has ended" => will::fires_when_the_client_vanishes;
    "3.1.2-9" "With the will flag its fields are there" => will::needs_topic_and_payload;
    "3.1.2-10" "Published, or after DISCONNECT, it is gone" => will::goodbye_takes_it_back;
    "3.1.2-11" "Without the will flag its QoS is 0" => will::flag_0_wants_qos_0;
    "3.1.2-12" "The will's QoS is 0, 1 or 2" => will::qualities;
    "3.1.2-13" "Without the will flag its retain flag is 0" => will::flag_0_wants_retain_0;
    "3.1.2-14" "A will without the retain flag is not retained" => will::not_retained;
    "3.1.2-15" "A will with the retain flag is retained" => will::retained;
    "3.1.2-16" "Without its flag there is no user name" => connect::user_without_flag;
    "3.1.2-17" "With its flag there is a user name" => connect::flag_without_user;
    "3.1.2-18" "Without its flag there is no password" => connect::password_without_flag;
    "3.1.2-19" "With its flag there is a password" => connect::flag_without_password;
    "3.1.2-20" "The client sends something within its keep alive", left Client "the server's half is 3.1.2-22";
    "3.1.2-21" "The client uses the server's keep alive", left Client "this server sends none";
    "3.1.2-22" "After one and a half keep alives of silence the connection ends" => connect::silence_ends;
    "3.1.2-23" "A session with an expiry interval is kept" => session::expires;
    "3.1.2-24" "No packet is larger than the client takes" => connect::answers_fit;
    "3.1.2-25" "A message that is too large counts as sent" => crate::flow::too_large_counts_as_sent;
    "3.1.2-26" "No alias above the client's maximum" => publish::aliases_of_the_server;
    "3.1.2-27" "No alias where the client gives no maximum" => publish::aliases_of_the_server;
    "3.1.2-28" "No Response Information where it is not asked for" => connect::no_response_information;
    "3.1.2-29" "Problem information only where it is asked for" => connect::answers_are_bare;
    "3.1.2-30" "With a method a client sends nothing but AUTH until CONNACK", left Client "this server knows no method: 4.12.0-1";
    "3.1.3-1" "The payload's fields have their order" => connect::order_of_the_payload;
    "3.1.3-2" "The client id names the session" => connect::id_names_the_session;
    "3.1.3-3" "The client id is there" => connect::no_id_at_all;
    "3.1.3-4" "The client id is UTF-8" => connect::id_is_utf8;
    "3.1.3-5" "Ids of 1 to 23 letters and digits are allowed" => connect::ids_that_must_be_allowed;
    "3.1.3-6" "A client without an id gets one that nobody has" => connect::empty_ids;
    "3.1.3-7" "… is told, and it is its id" => connect::assigned_id_is_the_id;
    "3.1.3-8" "An id may be refused with 0x85", left Unused "no id that is a string is refused";
    "3.1.3-9" "A client that comes back within the delay takes back its will" => will::forgotten_if_the_client_comes_back;
    "3.1.3-10" "The will's user properties keep their order" => will::properties_travel;
    "3.1.3-11" "The will topic is UTF-8" => connect::will_topic_is_utf8;
    "3.1.3-12" "The user name is UTF-8" => connect::user_is_utf8;
    "3.1.4-1" "A malformed CONNECT ends the connection" => connect::connect_is_checked;
    "3.1.4-2" "So does one that fails a check of ours" => connect::wrong_password;
    "3.1.4-3" "A client with the same id gets 0x8E and is disconnected" => connect::takes_over;
    "3.1.4-4" "Clean start is done as it says" => session::clean_forgets;
    "3.1.4-5" "A good CONNECT is answered with 0x00" => connect::accepted;
    "3.1.4-6" "What follows a refused CONNECT is not heard" => connect::refused_is_not_heard;
    "3.2.0-1" "CONNACK is the first packet" => connect::connack_is_first;
    "3.2.0-2" "There is one CONNACK" => connect::connack_once;
    "3.2.2-1" "Its other flags are 0" => connect::clean_says_no_session;
    "3.2.2-2" "A clean start is told that there is no session" => connect::clean_says_no_session;
    "3.2.2-3" "Otherwise whether there is one" => connect::a_session_is_said;
    "3.2.2-4" "The client closes where it knows of no session", left Client "nothing is asked of the server";
    "3.2.2-5" "The client discards what the server has forgotten", left Client "nothing is asked of the server";
    "3.2.2-6" "A refusal says that there is no session" => connect::refusals_say_no_session;
    "3.2.2-7" "A refusal ends the connection" => connect::wrong_password;
    "3.2.2-8" "Its reason is one that there is" => rest::unknown_method;
    "3.2.2-9" "Who does not know every QoS says so" => connect::all_qualities;
    "3.2.2-10" "… and still takes subscriptions with any" => connect::all_qualities;
    "3.2.2-11" "A client keeps to the maximum QoS", left Client "this server has none";
    "3.2.2-12" "A will above it is refused", left Unused "every QoS is known";
    "3.2.2-13" "A retained will is refused where nothing is retained", left Unused "messages are retained";
    "3.2.2-14" "A client retains nothing where that is not available", left Client "it is";
    "3.2.2-15" "A client keeps to the maximum packet size", left Client "what the server does otherwise is a row of those without a number";
    "3.2.2-16" "An assigned id is one that nobody has" => connect::empty_ids;
    "3.2.2-17" "A client keeps to the alias maximum", left Client "the server's half is a row of those without a number";
    "3.2.2-18" "… and uses none where there is no maximum", left Client "this server gives one";
    "3.2.2-19" "No Reason String that makes CONNACK too large" => connect::reasons_fit;
    "3.2.2-20" "No User Property that makes CONNACK too large" => connect::reasons_fit;
    "3.2.2-21" "The client uses the server's keep alive", left Client "this server sends none";
    "3.2.2-22" "Without one the client's counts" => connect::silence_ends;
    "3.3.1-1" "What is sent again has DUP" => qos::again_in_order;
    "3.3.1-2" "QoS 0 has no DUP" => publish::dup_does_not_travel;
    "3.3.1-3" "The publisher's DUP does not reach subscribers" => publish::dup_does_not_travel;
    "3.3.1-4" "There is no QoS 3" => publish::no_qos_3;
    "3.3.1-5" "A retained message replaces the one before" => retain::kept_for_later;
    "3.3.1-6" "An empty one is delivered, and clears" => retain::empty_clears;
    "3.3.1-7" "An empty one is not kept" => retain::empty_is_not_kept;
    "3.3.1-8" "Without the flag nothing retained changes" => retain::plain_ones_change_nothing;
    "3.3.1-9" "Retain Handling 0: retained ones come" => retain::handling_0;
    "3.3.1-10" "Retain Handling 1: … if the subscription is new" => retain::handling_1;
    "3.3.1-11" "Retain Handling 2: they do not" => retain::handling_2;
    "3.3.1-12" "Without Retain As Published the flag is 0" => retain::as_published_0;
    "3.3.1-13" "With it the flag is as it was" => retain::as_published_1;
    "3.3.2-1" "PUBLISH begins with a topic, in UTF-8" => publish::topic_comes_first;
    "3.3.2-2" "A topic has no wildcard" => publish::no_wildcard_in_a_topic;
    "3.3.2-3" "What a subscriber gets matches its filter" => publish::topic_matches_the_filter;
    "3.3.2-4" "The payload format reaches all subscribers" => publish::properties_travel;
    "3.3.2-5" "What has expired is deleted" => publish::expires;
    "3.3.2-6" "The interval is told less what it waited" => publish::expiry_counts_down;
    "3.3.2-7" "Aliases end with the connection" => publish::aliases_end_with_the_connection;
    "3.3.2-8" "There is no alias 0" => publish::alias_0;
    "3.3.2-9" "A client keeps to our alias maximum" => publish::alias_beyond_the_maximum;
    "3.3.2-10" "A client takes every alias up to its own", left Client "this server sends none";
    "3.3.2-11" "We keep to the client's" => publish::aliases_of_the_server;
    "3.3.2-12" "We take every alias up to ours" => publish::aliases;
    "3.3.2-13" "The response topic is UTF-8" => publish::strings_of_properties_are_utf8;
    "3.3.2-14" "The response topic has no wildcard" => publish::response_topic_is_a_name;
    "3.3.2-15" "The response topic reaches all subscribers" => publish::properties_travel;
    "3.3.2-16" "Correlation data reach all subscribers" => publish::properties_travel;
    "3.3.2-17" "User properties reach all subscribers" => publish::properties_travel;
    "3.3.2-18" "… in their order" => publish::properties_travel;
    "3.3.2-19" "The content type is UTF-8" => publish::strings_of_properties_are_utf8;
    "3.3.2-20" "The content type reaches all subscribers" => publish::properties_travel;
    "3.3.4-1" "PUBLISH is answered as its QoS asks for" => publish::answers_by_quality;
    "3.3.4-2" "Overlapping subscriptions deliver at the highest of their QoS" => publish::overlapping_filters;
    "3.3.4-3" "Identifiers of the subscriptions go along" => subscribe::identifiers;
    "3.3.4-4" "… all of them with a single copy" => subscribe::identifiers;
    "3.3.4-5" "… or each with its copy" => subscribe::identifiers;
    "3.3.4-6" "A client sends no identifiers" => publish::subscription_id_of_a_client;
    "3.3.4-7" "A client keeps to our Receive Maximum" => qos::receive_maximum_of_the_server;
    "3.3.4-8" "… and delays nothing but PUBLISH", left Client "the server's half is 3.3.4-10";
    "3.3.4-9" "We keep to the client's" => qos::receive_maximum_of_the_client;
    "3.3.4-10" "… and delay nothing but PUBLISH" => qos::answers_beside_a_full_window;
};
