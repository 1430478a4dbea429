//! Either side of the agent's protocol: any line is read or refused, and what
//! is read is written back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xfi_model::{Event, Request};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let text = serde_json::to_vec(&request).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<Request>(&text).expect("and read"), request);
    }
    if let Ok(event) = serde_json::from_slice::<Event>(bytes) {
        serde_json::to_vec(&event).expect("what was read can be written");
    }
});
