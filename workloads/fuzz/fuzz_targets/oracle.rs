//! No bytes but the page's own are right, and none make the oracle panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use xfi_workloads::http::oracle::{Expected, judge_body};

static EXPECTED: LazyLock<Expected> = LazyLock::new(|| Expected::for_bytes(64));

fuzz_target!(|body: &[u8]| {
    let right = judge_body(&EXPECTED, body).detail.is_none();
    assert_eq!(right, body == EXPECTED.body().as_bytes());
});
