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

impl Mode {
    const ALL: [Self; 6] = [Self::Node, Self::Rbac, Self::Webhook, Self::Abac, Self::AlwaysAllow, Self::AlwaysDeny];

    /// The mode of upstream's name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Rbac => "RBAC",
            Self::Webhook => "Webhook",
            Self::Abac => "ABAC",
            Self::AlwaysAllow => "AlwaysAllow",
            Self::AlwaysDeny => "AlwaysDeny",
        }
    }

    /// What an authorizer is called that is none of several: in metrics, and in the file of authorizers.
    pub fn usual_name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Rbac => "rbac",
            Self::Webhook => "default",
            Self::Abac => "abac",
            Self::AlwaysAllow => "alwaysallow",
            Self::AlwaysDeny => "alwaysdeny",
        }
    }
}

/// Reads a comma-separated list such as `Node,RBAC`.
pub fn parse_modes(text: &str) -> Result<Vec<Mode>, UnknownMode> {
    let mut modes = Vec::new();
    for word in text.split(',').map(str::trim) {
        let mode = Mode::named(word).ok_or_else(|| UnknownMode(word.to_owned()))?;
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
