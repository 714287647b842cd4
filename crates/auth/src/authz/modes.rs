//! `--authorization-mode`.

/// An authorizer by upstream's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Node,
    Rbac,
    Webhook,
    Abac,
    AlwaysAllow,
    AlwaysDeny,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "authorization-mode {0:?} is not a valid mode; choose from Node, RBAC, Webhook, ABAC, AlwaysAllow, AlwaysDeny, each at most once"
)]
pub struct UnknownMode(String);

/// Reads a comma-separated list such as `Node,RBAC`.
pub fn parse_modes(text: &str) -> Result<Vec<Mode>, UnknownMode> {
    let mut modes = Vec::new();
    for word in text.split(',').map(str::trim) {
        let mode = match word {
            "Node" => Mode::Node,
            "RBAC" => Mode::Rbac,
            "Webhook" => Mode::Webhook,
            "ABAC" => Mode::Abac,
            "AlwaysAllow" => Mode::AlwaysAllow,
            "AlwaysDeny" => Mode::AlwaysDeny,
            other => return Err(UnknownMode(other.to_owned())),
        };
        if modes.contains(&mode) {
            return Err(UnknownMode(word.to_owned()));
        }
        modes.push(mode);
    }
    Ok(modes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse_modes("Node,RBAC"), Ok(vec![Mode::Node, Mode::Rbac]));
        assert!(parse_modes("").is_err() && parse_modes("RBAC,RBAC").is_err() && parse_modes("abac").is_err());
    }
}
