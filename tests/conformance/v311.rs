//! Every statement of MQTT 3.1.1, by the ids of its appendix B, in our words: what tries it, or why it is left out.

use crate::suite::{Row, V, rows};
use crate::{connect, format, publish, qos, rest, retain, session, subscribe, topics, will};

/// How many statements there are in each section.
pub const SECTIONS: &[(&str, usize)] = &[
    ("1.5.3", 3),
    ("2.2.2", 2),
    ("2.3.1", 7),
    ("3.1.0", 2),
    ("3.1.2", 24),
    ("3.1.3", 11),
    ("3.1.4", 5),
    ("3.2.0", 1),
    ("3.2.2", 6),
    ("3.3.1", 12),
    ("3.3.2", 3),
    ("3.3.4", 1),
    ("3.3.5", 2),
    ("3.6.1", 1),
    ("3.8.1", 1),
    ("3.8.3", 4),
    ("3.8.4", 6),
    ("3.9.3", 2),
    ("3.10.1", 1),
    ("3.10.3", 2),
    ("3.10.4", 6),
    ("3.12.4", 1),
    ("3.14.1", 1),
    ("3.14.4", 3),
    ("4.1.0", 2),
    ("4.3.1", 1),
    ("4.3.2", 2),
    ("4.3.3", 2),
    ("4.4.0", 1),
    ("4.5.0", 2),
    ("4.6.0", 6),
    ("4.7.1", 3),
    ("4.7.2", 1),
    ("4.7.3", 4),
    ("4.8.0", 2),
    ("6.0.0", 4),
    ("7.0.0", 2),
    ("7.1.1", 1),
    ("7.1.2", 1),
];

pub const ROWS: &[Row] = rows! { V::Four;
    "1.5.3-1" "Strings are well-formed UTF-8 without surrogates; who sends another is disconnected" => format::not_utf8;
    "1.5.3-2" "No string holds U+0000; who sends one is disconnected" => format::null;
    "1.5.3-3" "EF BB BF is a character like any other and is not stripped" => format::byte_order_mark;
    "2.2.2-1" "Reserved header flags have the value of the table" => format::reserved_flags;
    "2.2.2-2" "Wrong header flags end the connection" => format::reserved_flags;
    "2.3.1-1" "SUBSCRIBE, UNSUBSCRIBE and PUBLISH above QoS 0 have a packet id that is not 0" => format::packet_id_0;
    "2.3.1-2" "A client's new packet takes an id that is free", left Client "which ids are free only the client knows";
    "2.3.1-3" "A client repeats a packet under its id", left Client "the server's half is 2.3.1-4";
    "2.3.1-4" "The server's ids are free ones too, and repeated packets keep theirs" => qos::quality_1_sent;
    "2.3.1-5" "PUBLISH with QoS 0 has no packet id" => format::no_id_at_qos_0;
    "2.3.1-6" "PUBACK, PUBREC, PUBREL and PUBCOMP have the id of their PUBLISH" => format::answers_carry_the_id;
    "2.3.1-7" "SUBACK and UNSUBACK have the id of their request" => format::subscribing_carries_the_id;
    "3.1.0-1" "The first packet is CONNECT" => connect::comes_first;
    "3.1.0-2" "A second CONNECT ends the connection" => connect::comes_once;
    "3.1.2-1" "Another protocol name is not served as MQTT 3.1.1" => connect::name_is_mqtt;
    "3.1.2-2" "An unknown level is answered with code 1 and the end" => connect::level_is_known;
    "3.1.2-3" "The reserved connect flag is checked" => connect::reserved_flag;
    "3.1.2-4" "Without clean session the session goes on, or a new one begins and is kept" => session::resumed;
    "3.1.2-5" "Messages of QoS 1 and 2 are kept for a client that is away" => session::collects_while_away;
    "3.1.2-6" "A clean session begins with nothing and leaves nothing" => session::clean_forgets;
    "3.1.2-7" "Retained messages outlive the session of who published them" => retain::outlive_sessions;
    "3.1.2-8" "The will is published when the connection is lost" => will::fires_when_the_client_vanishes;
    "3.1.2-9" "With the will flag there are a will topic and a will message" => will::needs_topic_and_payload;
    "3.1.2-10" "DISCONNECT takes the will back for good" => will::goodbye_takes_it_back;
    "3.1.2-11" "Without the will flag the other will flags and fields are not there" => will::flag_0_wants_no_fields;
    "3.1.2-12" "Without the will flag no will is published" => will::flag_0_has_none;
    "3.1.2-13" "Without the will flag its QoS is 0" => will::flag_0_wants_qos_0;
    "3.1.2-14" "The will's QoS is 0, 1 or 2" => will::qualities;
    "3.1.2-15" "Without the will flag its retain flag is 0" => will::flag_0_wants_retain_0;
    "3.1.2-16" "A will without the retain flag is not retained" => will::not_retained;
    "3.1.2-17" "A will with the retain flag is retained" => will::retained;
    "3.1.2-18" "Without its flag there is no user name" => connect::user_without_flag;
    "3.1.2-19" "With its flag there is a user name" => connect::flag_without_user;
    "3.1.2-20" "Without its flag there is no password" => connect::password_without_flag;
    "3.1.2-21" "With its flag there is a password" => connect::flag_without_password;
    "3.1.2-22" "No password without a user name" => connect::password_without_user;
    "3.1.2-23" "The client sends something within its keep alive", left Client "the server's half is 3.1.2-24";
    "3.1.2-24" "After one and a half keep alives of silence the connection ends" => connect::silence_ends;
    "3.1.3-1" "The payload's fields have their order" => connect::order_of_the_payload;
    "3.1.3-2" "The client id names the session" => connect::id_names_the_session;
    "3.1.3-3" "The client id is there" => connect::no_id_at_all;
    "3.1.3-4" "The client id is UTF-8" => connect::id_is_utf8;
    "3.1.3-5" "Ids of 1 to 23 letters and digits are allowed" => connect::ids_that_must_be_allowed;
    "3.1.3-6" "A client without an id gets one that nobody has" => connect::empty_ids;
    "3.1.3-7" "A client without an id asks for a clean session", left Client "the server's half is 3.1.3-8";
    "3.1.3-8" "No id and no clean session: code 2 and the end" => connect::empty_id_and_no_clean_session;
    "3.1.3-9" "An id that is refused: code 2 and the end" => connect::empty_id_and_no_clean_session;
    "3.1.3-10" "The will topic is UTF-8" => connect::will_topic_is_utf8;
    "3.1.3-11" "The user name is UTF-8" => connect::user_is_utf8;
    "3.1.4-1" "A malformed CONNECT ends the connection without CONNACK" => connect::connect_is_checked;
    "3.1.4-2" "A client with the same id is disconnected" => connect::takes_over;
    "3.1.4-3" "Clean session is done as it says" => session::clean_forgets;
    "3.1.4-4" "A good CONNECT is answered with code 0" => connect::accepted;
    "3.1.4-5" "What follows a refused CONNECT is not heard" => connect::refused_is_not_heard;
    "3.2.0-1" "The first packet of the server is CONNACK" => connect::connack_is_first;
    "3.2.2-1" "A clean session is told that there was none" => connect::clean_says_no_session;
    "3.2.2-2" "A session that is there is said to be" => connect::a_session_is_said;
    "3.2.2-3" "One that is not is said not to be" => connect::no_session;
    "3.2.2-4" "A refusal says that there is no session" => connect::refusals_say_no_session;
    "3.2.2-5" "A refusal ends the connection" => connect::wrong_password;
    "3.2.2-6" "Where no code fits the connection ends without CONNACK" => will::topic_is_a_name;
    "3.3.1-1" "What is sent again has DUP" => qos::again_in_order;
    "3.3.1-2" "QoS 0 has no DUP" => publish::dup_does_not_travel;
    "3.3.1-3" "The publisher's DUP does not reach subscribers" => publish::dup_does_not_travel;
    "3.3.1-4" "QoS 3 ends the connection" => publish::no_qos_3;
    "3.3.1-5" "A retained message is kept with its QoS" => retain::kept_for_later;
    "3.3.1-6" "A new subscription gets the last retained message of each topic" => retain::last_of_each_topic;
    "3.3.1-7" "A retained message of QoS 0 takes the place of the one before" => retain::quality_0_replaces;
    "3.3.1-8" "What comes for a new subscription has the retain flag" => retain::flag_marks_old_ones_only;
    "3.3.1-9" "What comes for an old one has not" => retain::flag_marks_old_ones_only;
    "3.3.1-10" "An empty retained message is delivered, and clears" => retain::empty_clears;
    "3.3.1-11" "An empty message is not retained" => retain::empty_is_not_kept;
    "3.3.1-12" "Without the flag nothing retained changes" => retain::plain_ones_change_nothing;
    "3.3.2-1" "PUBLISH begins with a topic, in UTF-8" => publish::topic_comes_first;
    "3.3.2-2" "A topic has no wildcard" => publish::no_wildcard_in_a_topic;
    "3.3.2-3" "What a subscriber gets matches its filter" => publish::topic_matches_the_filter;
    "3.3.4-1" "PUBLISH is answered as its QoS asks for" => publish::answers_by_quality;
    "3.3.5-1" "Overlapping subscriptions deliver at the highest of their QoS" => publish::overlapping_filters;
    "3.3.5-2" "What a client may not publish is acknowledged all the same, or ends the connection" => publish::not_authorised;
    "3.6.1-1" "PUBREL has the flags 0010" => format::pubrel_flags;
    "3.8.1-1" "SUBSCRIBE has the flags 0010" => format::subscribe_flags;
    "3.8.3-1" "Filters of SUBSCRIBE are UTF-8" => subscribe::filters_are_utf8;
    "3.8.3-2" "Who does not know wildcards refuses them" => subscribe::wildcards_are_there;
    "3.8.3-3" "SUBSCRIBE has a filter at least" => subscribe::at_least_one;
    "3.8.3-4" "Reserved bits, or QoS 3, end the connection" => subscribe::reserved_options;
    "3.8.4-1" "SUBSCRIBE is answered with SUBACK" => subscribe::answered;
    "3.8.4-2" "SUBACK has its packet id" => format::subscribing_carries_the_id;
    "3.8.4-3" "The same filter replaces, sends retained messages again, and interrupts nothing" => retain::subscribing_again;
    "3.8.4-4" "Several filters count as several packets with one answer" => subscribe::several;
    "3.8.4-5" "SUBACK has a code for each filter" => subscribe::refused_in_its_place;
    "3.8.4-6" "Delivery is at the lesser QoS" => subscribe::lesser_quality;
    "3.9.3-1" "The codes have the order of the filters" => subscribe::several;
    "3.9.3-2" "Codes are 0, 1, 2 and 0x80" => subscribe::not_authorised;
    "3.10.1-1" "UNSUBSCRIBE has the flags 0010" => format::unsubscribe_flags;
    "3.10.3-1" "Filters of UNSUBSCRIBE are UTF-8" => subscribe::unsubscribe_filters_are_utf8;
    "3.10.3-2" "UNSUBSCRIBE has a filter at least" => subscribe::at_least_one_to_leave;
    "3.10.4-1" "Only the very same filter is unsubscribed" => subscribe::leaves_the_exact_filter;
    "3.10.4-2" "Nothing new comes afterwards" => subscribe::leaves_the_exact_filter;
    "3.10.4-3" "What has begun is finished" => subscribe::finishes_what_it_began;
    "3.10.4-4" "UNSUBACK has the packet id" => format::subscribing_carries_the_id;
    "3.10.4-5" "UNSUBSCRIBE is answered where nothing was subscribed" => subscribe::leaving_is_answered;
    "3.10.4-6" "Several filters, one answer" => subscribe::leaving_is_answered;
    "3.12.4-1" "PINGREQ is answered" => subscribe::pings;
    "3.14.1-1" "DISCONNECT with wrong flags ends the connection as an error" => format::disconnect_flags;
    "3.14.4-1" "The client closes after DISCONNECT", left Client "the server closes too, which every good-bye here waits for";
    "3.14.4-2" "The client sends nothing after DISCONNECT", left Client "nothing is asked of the server";
    "3.14.4-3" "DISCONNECT discards the will" => will::goodbye_takes_it_back;
    "4.1.0-1" "The session is kept for its whole time" => session::resumed;
    "4.1.0-2" "The session lasts as long as the connection at least" => session::lasts_as_long_as_the_connection;
    "4.3.1-1" "QoS 0 goes out with QoS 0 and without DUP" => qos::quality_0;
    "4.3.2-1" "QoS 1, sending: a free id, no DUP, kept until PUBACK" => qos::quality_1_sent;
    "4.3.2-2" "QoS 1, receiving: PUBACK; then the id is new" => qos::quality_1_received;
    "4.3.3-1" "QoS 2, sending: a free id, no DUP, PUBREL for PUBREC, each kept until answered" => qos::quality_2_sent;
    "4.3.3-2" "QoS 2, receiving: PUBREC each time, one delivery, PUBCOMP; then the id is new" => qos::quality_2_received;
    "4.4.0-1" "After a break what is unacknowledged comes again, PUBREL too" => qos::pubrel_again;
    "4.5.0-1" "A message is added for every client that has a matching subscription" => session::collects_while_away;
    "4.5.0-2" "A client acknowledges what it gets", left Client "nothing is asked of the server";
    "4.6.0-1" "What is sent again keeps its order" => qos::again_in_order;
    "4.6.0-2" "A client's PUBACKs keep the order", left Client "the server's half is 4.6.0-6";
    "4.6.0-3" "A client's PUBRECs keep the order", left Client "the server's half is 4.6.0-6";
    "4.6.0-4" "A client's PUBRELs keep the order", left Client "the server's half is 4.6.0-6";
    "4.6.0-5" "Every topic is ordered" => qos::order;
    "4.6.0-6" "Messages of one client keep their order" => qos::order;
    "4.7.1-1" "Wildcards are for filters, not for names" => publish::no_wildcard_in_a_topic;
    "4.7.1-2" "`#` is the last level, alone in it" => topics::multi_level;
    "4.7.1-3" "`+` is a whole level" => topics::single_level;
    "4.7.2-1" "Filters that begin with a wildcard do not match `$` topics" => topics::dollar;
    "4.7.3-1" "Names and filters have a character at least" => topics::not_empty;
    "4.7.3-2" "Names and filters hold no U+0000" => topics::no_null;
    "4.7.3-3" "Names and filters have up to 65,535 bytes" => topics::longest;
    "4.7.3-4" "Names and filters are compared as they are" => topics::no_normalisation;
    "4.8.0-1" "A protocol violation ends the connection" => rest::errors_end;
    "4.8.0-2" "So does a transient error", left Unseen "no client can bring one about";
    "6.0.0-1" "WebSocket frames are binary, or the connection ends" => rest::websocket_binary_only;
    "6.0.0-2" "Frames of WebSocket are not packets of MQTT" => rest::websocket_frames_are_no_packets;
    "6.0.0-3" "The client offers the subprotocol `mqtt`", left Client "the server's half is 6.0.0-4";
    "6.0.0-4" "The server chooses the subprotocol `mqtt`" => rest::websocket_protocol;
    "7.0.0-1" "Who connects to other servers, too, is a client as well", left Unused "the broker connects to nobody; uplinks are clients with tests of their own";
    "7.0.0-2" "No extension is needed", left Unseen "every case here does without";
    "7.1.1-1" "The server has a transport that is ordered and loses nothing", left Unseen "TCP, under all of these cases";
    "7.1.2-1" "So has the client", left Client "nothing is asked of the server";
};
