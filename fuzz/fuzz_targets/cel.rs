#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kybern_fuzzing::run("cel", data));
