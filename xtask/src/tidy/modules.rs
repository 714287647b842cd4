//! The layers within a crate: a module may import only modules that stand before it in its crate's list.

use std::collections::BTreeSet;
use std::path::Path;

/// A crate's modules, lowest layer first. A crate that is not here has no such order yet; add its list to have it kept.
pub(super) const CRATES: &[(&str, &[&str])] = &[(
    "apiserver",
    &[
        // Requests and responses, of anything.
        "body",
        "gzip",
        "drain",
        "forward",
        "warnings",
        "held",
        "in_flight",
        "contention",
        "options",
        "negotiate",
        "continue_token",
        "request_info",
        // What other crates fill in.
        "access",
        "audit",
        "routes",
        "transaction",
        "strategy",
        "connect",
        "flow",
        "resource",
        "protobuf_store",
        // What is served, and its bytes.
        "openapi_parts",
        "resources",
        "registrations",
        "metadata",
        "cache",
        "codec",
        "convert",
        "admission",
        "table",
        "respond",
        "discovery",
        "openapi",
        "health",
        "metrics",
        // The server's parts together, and a request's.
        "server",
        "authorization",
        "exchange",
        // Writes.
        "managed",
        "write",
        "deletion",
        "objects",
        "flow_status",
        // From a connection to a verb's handler.
        "handlers",
        "pipeline",
        "serve",
    ],
)];

/// Complains about a file of a listed crate that imports upward.
pub(super) fn check(file: &Path, text: &str, complaints: &mut Vec<String>) {
    for (name, order) in CRATES {
        let Ok(within) = file.strip_prefix(format!("crates/{name}/src")) else { continue };
        let Some(module) = within.iter().next().and_then(|first| Path::new(first).file_stem()?.to_str()) else {
            continue;
        };
        // A file of tests beside a module's own is no part of what ships.
        let is_tests = within.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.ends_with("tests"));
        if is_tests || matches!(module, "lib" | "main") {
            continue;
        }
        let shown = file.display();
        let Some(layer) = order.iter().position(|m| *m == module) else {
            complaints.push(format!(
                "{shown}: module {module} has no place in its crate's layers (xtask/src/tidy/modules.rs)"
            ));
            continue;
        };
        for on in imports(text, within.iter().count() == 1) {
            if order.iter().position(|m| *m == on).is_some_and(|other| other > layer) {
                complaints.push(format!("{shown} imports crate::{on}, which is not below {module}"));
            }
        }
    }
}

/// The modules of its crate that a file's text names, without its tests and comments. `top`: whether the file lies in the
/// crate's root, so that `super` is the crate.
fn imports(text: &str, top: bool) -> BTreeSet<String> {
    let code = shipped(text);
    let mut found = BTreeSet::new();
    for root in ["crate::", "super::"].iter().take(if top { 2 } else { 1 }) {
        for (at, _) in code.match_indices(root) {
            // `$crate::` and `other_crate::` are not meant.
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$' || c == ':') {
                continue;
            }
            names(&code[at + root.len()..], &mut found);
        }
    }
    found
}

/// The first segments of what follows a path's root: `a::b` names `a`, `{a, b::{c, d}, E}` names `a`, `b` and `E`.
fn names(rest: &str, found: &mut BTreeSet<String>) {
    let ident = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = rest.strip_prefix('{') else {
        found.insert(ident(rest));
        return;
    };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.insert(ident(group[start..at].trim()));
                start = at + 1;
                if c == '}' {
                    return;
                }
            }
            _ => {}
        }
    }
}

/// A file's text without comments and without what only tests compile.
fn shipped(text: &str) -> String {
    let mut code = String::new();
    // The indentation of an item that is left out, once its first line was seen.
    let mut skipped: Option<Option<usize>> = None;
    for line in text.lines() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        match skipped {
            Some(None) if trimmed.starts_with("#[") => continue,
            Some(None) => {
                let whole = trimmed.ends_with(';') || trimmed.ends_with('}');
                skipped = (!whole).then_some(Some(indent));
                continue;
            }
            Some(Some(outer)) => {
                // rustfmt puts an item's end where it began.
                if indent == outer && trimmed.starts_with('}') {
                    skipped = None;
                }
                continue;
            }
            None => {}
        }
        if trimmed.starts_with("#[cfg(test)]") {
            skipped = Some(None);
        } else if !trimmed.starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(file: &str, text: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        check(Path::new(file), text, &mut complaints);
        complaints
    }

    #[test]
    fn imports_go_downward() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("write.rs", "use crate::server::Server;\nuse crate::{Body, metadata};", &[]),
            ("server.rs", "use crate::pipeline;", &["pipeline"]),
            (
                "server.rs",
                "use crate::{\n    Body,\n    cache::{Cache, Entry},\n    write::{self, Writer},\n};",
                &["write"],
            ),
            ("server.rs", "fn a() { crate::handlers::serve(); }", &["handlers"]),
            ("server.rs", "use super::handlers;", &["handlers"]),
            ("handlers/get.rs", "use super::list::wait_for;\nuse crate::exchange::Exchange;", &[]),
            ("handlers/get.rs", "use crate::serve::serve;", &["serve"]),
            ("server.rs", "// crate::pipeline\n/// [`crate::serve`]\nuse kybern_crate::serve;", &[]),
            ("server.rs", "#[cfg(test)]\nmod tests {\n    use crate::pipeline;\n}\n", &[]),
            ("server.rs", "#[cfg(test)]\nuse crate::serve;\nuse crate::pipeline;", &["pipeline"]),
            ("server.rs", "#[cfg(test)]\n#[path = \"x.rs\"]\nmod x;\nuse crate::pipeline;", &["pipeline"]),
            ("cache/kind_tests.rs", "use crate::serve;", &[]),
            ("lib.rs", "pub use crate::serve::serve;", &[]),
        ];
        for (file, text, expect) in cases {
            let got = complaints(&format!("crates/apiserver/src/{file}"), text);
            let upward = |on: &&str| got.iter().any(|c| c.contains(&format!("imports crate::{on},")));
            assert!(got.len() == expect.len() && expect.iter().all(upward), "{file}: {text:?} gives {got:?}");
        }
        assert_eq!(complaints("crates/auth/src/server.rs", "use crate::serve;"), Vec::<String>::new());
    }

    #[test]
    fn a_module_without_a_place_is_told() {
        let got = complaints("crates/apiserver/src/elsewhere/mod.rs", "");
        assert!(got[0].contains("module elsewhere has no place"), "{got:?}");
    }
}
