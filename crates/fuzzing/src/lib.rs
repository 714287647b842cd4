//! Functions that take any bytes to the parsers of what others send. None may panic, overflow its stack, or hang; some check
//! that what was read can be written and read again. They are driven twice: by `tests/short.rs` over the corpus and
//! mutations of it with every run of the tests, and by libFuzzer (`fuzz/`, `cargo xtask fuzz`) for as long as one likes.

mod credentials;
mod images;
mod patches;
mod trees;
mod wire;
mod words;

/// One parser, or a few that take the same bytes.
pub struct Target {
    /// The name of its corpus and of its libFuzzer program.
    pub name: &'static str,
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

pub const TARGETS: &[Target] = &[
    target("apply", patches::apply),
    target("cel", words::cel),
    target("certificate", credentials::certificate),
    target("cni_result", words::cni),
    target("dns_message", wire::dns),
    target("field_path", words::field_path),
    target("image_archive", images::archive),
    target("image_manifest", images::manifest),
    target("json_body", trees::json),
    target("json_patch", patches::json),
    target("kubeconfig", credentials::kubeconfig),
    target("merge_patch", patches::merge),
    target("protobuf_body", trees::protobuf),
    target("selector", words::selector),
    target("spdy_frame", wire::spdy),
    target("stored_entry", trees::stored),
    target("strategic_patch", patches::strategic),
    target("token", credentials::token),
    target("websocket_frame", wire::websocket),
    target("yaml_body", trees::yaml),
];

/// Runs one target.
///
/// # Panics
/// When there is none of this name, and when the parser does what it must not.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no target is called {name}"));
    (target.run)(data);
}

/// Two inputs in one: what stands before the first line break, and what follows it.
fn halves(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = data.iter().position(|byte| *byte == b'\n')?;
    Some((&data[..at], &data[at + 1..]))
}
