//! Every statement of MQTT 5.0, chapters 3.4 to 6, by the ids of its appendix B, in our words.

use crate::suite::{Row, V, rows};
use crate::{connect, flow, format, publish, qos, rest, retain, session, subscribe, topics, will};

/// How many statements there are in each section.
pub const SECTIONS: &[(&str, usize)] = &[
    ("3.4.2", 3),
    ("3.5.2", 3),
    ("3.6.1", 1),
    ("3.6.2", 3),
    ("3.7.2", 3),
    ("3.8.1", 1),
    ("3.8.3", 5),
    ("3.8.4", 8),
    ("3.9.2", 2),
    ("3.9.3", 2),
    ("3.10.1", 1),
    ("3.10.3", 2),
    ("3.10.4", 6),
    ("3.11.2", 2),
    ("3.11.3", 2),
    ("3.12.4", 1),
    ("3.14.0", 1),
    ("3.14.1", 1),
    ("3.14.2", 4),
    ("3.14.4", 3),
    ("3.15.1", 1),
    ("3.15.2", 3),
    ("4.1.0", 2),
    ("4.2.0", 1),
    ("4.3.1", 1),
    ("4.3.2", 5),
    ("4.3.3", 13),
    ("4.4.0", 2),
    ("4.5.0", 2),
    ("4.6.0", 6),
    ("4.7.0", 1),
    ("4.7.1", 2),
    ("4.7.2", 1),
    ("4.7.3", 4),
    ("4.8.2", 6),
    ("4.9.0", 3),
    ("4.12.0", 7),
    ("4.12.1", 2),
    ("4.13.1", 1),
    ("4.13.2", 1),
    ("6.0.0", 4),
];

pub const ROWS: &[Row] = rows! { V::Five;
    "3.4.2-1" "PUBACK has a reason that there is" => publish::nothing_matches;
    "3.4.2-2" "… and no Reason String that is too large" => connect::answers_are_bare;
    "3.4.2-3" "… and no User Property that is too large" => connect::answers_are_bare;
    "3.5.2-1" "PUBREC has a reason that there is" => publish::nothing_matches;
    "3.5.2-2" "… and no Reason String that is too large" => connect::answers_are_bare;
    "3.5.2-3" "… and no User Property that is too large" => connect::answers_are_bare;
    "3.6.1-1" "PUBREL has the flags 0010" => format::pubrel_flags;
    "3.6.2-1" "PUBREL has a reason that there is" => qos::unknown_answers;
    "3.6.2-2" "… and no Reason String that is too large" => connect::answers_are_bare;
    "3.6.2-3" "… and no User Property that is too large" => connect::answers_are_bare;
    "3.7.2-1" "PUBCOMP has a reason that there is" => qos::unknown_answers;
    "3.7.2-2" "… and no Reason String that is too large" => connect::answers_are_bare;
    "3.7.2-3" "… and no User Property that is too large" => connect::answers_are_bare;
    "3.8.1-1" "SUBSCRIBE has the flags 0010" => format::subscribe_flags;
    "3.8.3-1" "Filters of SUBSCRIBE are UTF-8" => subscribe::filters_are_utf8;
    "3.8.3-2" "SUBSCRIBE has a filter at least" => subscribe::at_least_one;
    "3.8.3-3" "No Local: not what the same client id published" => subscribe::no_local;
    "3.8.3-4" "No Local on a shared subscription is an error" => subscribe::no_local_shared;
    "3.8.3-5" "Reserved bits of the options are an error" => subscribe::reserved_options;
    "3.8.4-1" "SUBSCRIBE is answered with SUBACK" => subscribe::answered;
    "3.8.4-2" "SUBACK has its packet id" => format::subscribing_carries_the_id;
    "3.8.4-3" "The same filter replaces, options and all" => subscribe::replaces_options;
    "3.8.4-4" "… sends retained messages again, and loses nothing" => retain::subscribing_again_in_a_stream;
    "3.8.4-5" "Several filters count as several packets with one answer" => subscribe::several;
    "3.8.4-6" "SUBACK has a code for each filter" => subscribe::several;
    "3.8.4-7" "… the QoS that is granted, or a refusal" => subscribe::refused_in_its_place;
    "3.8.4-8" "Delivery is at the lesser QoS" => subscribe::lesser_quality;
    "3.9.2-1" "SUBACK has no Reason String that is too large" => connect::answers_are_bare;
    "3.9.2-2" "SUBACK has no User Property that is too large" => connect::answers_are_bare;
    "3.9.3-1" "The codes have the order of the filters" => subscribe::several;
    "3.9.3-2" "… and are codes that there are" => subscribe::not_authorised;
    "3.10.1-1" "UNSUBSCRIBE has the flags 0010" => format::unsubscribe_flags;
    "3.10.3-1" "Filters of UNSUBSCRIBE are UTF-8" => subscribe::unsubscribe_filters_are_utf8;
    "3.10.3-2" "UNSUBSCRIBE has a filter at least" => subscribe::at_least_one_to_leave;
    "3.10.4-1" "Only the very same filter is unsubscribed" => subscribe::leaves_the_exact_filter;
    "3.10.4-2" "Nothing new comes afterwards" => subscribe::leaves_the_exact_filter;
    "3.10.4-3" "What has begun is finished" => subscribe::finishes_what_it_began;
    "3.10.4-4" "UNSUBSCRIBE is answered with UNSUBACK" => subscribe::leaving_is_answered;
    "3.10.4-5" "… with its packet id, where nothing was subscribed too" => subscribe::leaving_is_answered;
    "3.10.4-6" "Several filters, one answer" => subscribe::leaving_is_answered;
    "3.11.2-1" "UNSUBACK has no Reason String that is too large" => connect::answers_are_bare;
    "3.11.2-2" "UNSUBACK has no User Property that is too large" => connect::answers_are_bare;
    "3.11.3-1" "Its codes have the order of the filters" => subscribe::leaving_is_answered;
    "3.11.3-2" "… and are codes that there are" => subscribe::leaving_is_answered;
    "3.12.4-1" "PINGREQ is answered" => subscribe::pings;
    "3.14.0-1" "No DISCONNECT of the server before CONNACK" => session::nothing_before_connack;
    "3.14.1-1" "DISCONNECT with wrong flags is answered with 0x81" => format::disconnect_flags;
    "3.14.2-1" "DISCONNECT has a reason that there is" => session::goodbye_of_the_server;
    "3.14.2-2" "… and from a server no Session Expiry Interval" => session::goodbye_of_the_server;
    "3.14.2-3" "… and no Reason String that is too large" => connect::reasons_fit;
    "3.14.2-4" "… and no User Property that is too large" => connect::reasons_fit;
    "3.14.4-1" "Nothing follows DISCONNECT" => session::goodbye_of_the_server;
    "3.14.4-2" "Who sends DISCONNECT closes" => session::goodbye_of_the_server;
    "3.14.4-3" "A client's DISCONNECT with 0x00 discards the will" => will::goodbye_takes_it_back;
    "3.15.1-1" "AUTH has the flags 0000" => format::auth_flags;
    "3.15.2-1" "AUTH has a reason that there is", left Unused "this server sends no AUTH";
    "3.15.2-2" "… and no Reason String that is too large", left Unused "this server sends no AUTH";
    "3.15.2-3" "… and no User Property that is too large", left Unused "this server sends no AUTH";
    "4.1.0-1" "The session is kept while the connection lasts" => session::lasts_as_long_as_the_connection;
    "4.1.0-2" "It is discarded when its interval is over" => session::expires;
    "4.2.0-1" "There is a transport that is ordered and loses nothing", left Unseen "TCP, under all of these cases";
    "4.3.1-1" "QoS 0 goes out with QoS 0 and without DUP" => qos::quality_0;
    "4.3.2-1" "QoS 1, sending: a free id" => qos::quality_1_sent;
    "4.3.2-2" "… first without DUP" => qos::quality_1_sent;
    "4.3.2-3" "… unacknowledged until PUBACK" => qos::quality_1_sent;
    "4.3.2-4" "QoS 1, receiving: PUBACK" => qos::quality_1_received;
    "4.3.2-5" "… and then the id is new" => qos::quality_1_received;
    "4.3.3-1" "QoS 2, sending: a free id" => qos::quality_2_sent;
    "4.3.3-2" "… first without DUP" => qos::quality_2_sent;
    "4.3.3-3" "… unacknowledged until PUBREC" => qos::quality_2_sent;
    "4.3.3-4" "… PUBREL for a PUBREC below 0x80" => qos::quality_2_sent;
    "4.3.3-5" "… PUBREL unacknowledged until PUBCOMP" => qos::pubrel_again;
    "4.3.3-6" "… after PUBREL no PUBLISH again" => qos::pubrel_again;
    "4.3.3-7" "… no expiry once it was sent" => qos::no_expiry_once_sent;
    "4.3.3-8" "QoS 2, receiving: PUBREC" => qos::quality_2_exchange;
    "4.3.3-9" "… after a PUBREC of 0x80 or more the id is new" => flow::refused_ids_are_free;
    "4.3.3-10" "… until PUBREL every repeat gets PUBREC, and nothing is delivered twice" => qos::quality_2_received;
    "4.3.3-11" "… PUBCOMP for PUBREL" => qos::quality_2_exchange;
    "4.3.3-12" "… after PUBCOMP the id is new" => qos::quality_2_exchange;
    "4.3.3-13" "… to its end even if the message expires" => qos::expiry_and_the_rest_of_quality_2;
    "4.4.0-1" "After a break what is unacknowledged comes again; otherwise never" => qos::again_in_order;
    "4.4.0-2" "A refusal acknowledges, too" => qos::refused_by_the_receiver;
    "4.5.0-1" "A message is added for every client that has a matching subscription" => session::collects_while_away;
    "4.5.0-2" "A client acknowledges what it gets", left Client "nothing is asked of the server";
    "4.6.0-1" "What a client sends again keeps its order", left Client "ours does, too: 4.4.0-1";
    "4.6.0-2" "A client's PUBACKs keep the order", left Client "the server's half is 4.6.0-5";
    "4.6.0-3" "A client's PUBRECs keep the order", left Client "the server's half is 4.6.0-5";
    "4.6.0-4" "A client's PUBRELs keep the order", left Client "the server's half is 4.6.0-5";
    "4.6.0-5" "Messages of one client keep their order" => qos::order;
    "4.6.0-6" "Every topic is ordered" => qos::order;
    "4.7.0-1" "Wildcards are for filters, not for names" => publish::no_wildcard_in_a_topic;
    "4.7.1-1" "`#` is the last level, alone in it" => topics::multi_level;
    "4.7.1-2" "`+` is a whole level" => topics::single_level;
    "4.7.2-1" "Filters that begin with a wildcard do not match `$` topics" => topics::dollar;
    "4.7.3-1" "Names and filters have a character at least" => topics::not_empty;
    "4.7.3-2" "Names and filters hold no U+0000" => topics::no_null;
    "4.7.3-3" "Names and filters have up to 65,535 bytes" => topics::longest;
    "4.7.3-4" "Names and filters are compared as they are" => topics::no_normalisation;
    "4.8.2-1" "A shared filter begins with $share/ and a name" => topics::share_is_named;
    "4.8.2-2" "… a name without wildcards, then / and a filter" => topics::share_name_has_no_wildcard;
    "4.8.2-3" "Each member gets the QoS it was granted" => topics::shared_quality;
    "4.8.2-4" "QoS 2 is finished with the member that began it" => topics::shared_is_finished;
    "4.8.2-5" "… and with no other if its session ends" => topics::shared_ends_with_the_session;
    "4.8.2-6" "What a member refuses goes to no other" => topics::shared_refused;
    "4.9.0-1" "The window is what Receive Maximum says" => qos::receive_maximum_of_the_client;
    "4.9.0-2" "With nothing left of it no PUBLISH goes out" => qos::receive_maximum_of_the_client;
    "4.9.0-3" "… but everything else is processed" => qos::pubrel_beside_a_full_window;
    "4.12.0-1" "An unknown method ends the connection, with 0x8C" => rest::unknown_method;
    "4.12.0-2" "AUTH of the server has 0x18", left Unused "this server knows no method";
    "4.12.0-3" "AUTH of the client has 0x18", left Client "this server knows no method";
    "4.12.0-4" "A refusal ends the exchange and the connection" => rest::unknown_method;
    "4.12.0-5" "The method stays the same", left Unused "this server knows no method";
    "4.12.0-6" "Without one there is no AUTH and no method in CONNACK" => rest::no_method;
    "4.12.0-7" "Without one a client sends no AUTH" => rest::auth_unasked;
    "4.12.1-1" "Re-authentication uses the same method", left Client "this server knows no method";
    "4.12.1-2" "A failed one ends the connection", left Unused "this server knows no method";
    "4.13.1-1" "Malformed packets and protocol errors end the connection" => rest::errors_end;
    "4.13.2-1" "A reason of 0x80 or more in CONNACK or DISCONNECT ends it" => connect::wrong_password;
    "6.0.0-1" "WebSocket frames are binary, or the connection ends" => rest::websocket_binary_only;
    "6.0.0-2" "Frames of WebSocket are not packets of MQTT" => rest::websocket_frames_are_no_packets;
    "6.0.0-3" "The client offers the subprotocol `mqtt`", left Client "the server's half is 6.0.0-4";
    "6.0.0-4" "The server chooses the subprotocol `mqtt`" => rest::websocket_protocol;
};
