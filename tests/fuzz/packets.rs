//! Fuzz target: any bytes as packets, in every version of MQTT.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = fieldgate::broker::fuzz::read(bytes);
});
