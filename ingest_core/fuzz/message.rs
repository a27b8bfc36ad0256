//! The mutation run's entry under a fuzzer that sees which branches a message reaches: `make fuzz`.

#![no_main]

#[path = "../tests/parts/mod.rs"]
mod parts;

use libfuzzer_sys::fuzz_target;
use parts::hostile::{catalogue, core, hold_to, offer};

fuzz_target!(|message: &[u8]| {
    let catalogue = catalogue();
    let mut core = core();
    let verdict = offer(&mut core, &catalogue, message);
    hold_to(&verdict, &mut core, &catalogue, message);
});
