//! The syntax of Go's pflag, which upstream's command lines are written in: `--flag=value`, `--flag value`, switches without
//! a value, `-v2`, `-v=2` and `-v 2`; underscores in names are dashes.

/// What the syntax must know of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape<'a> {
    /// The value of the flag where none follows; a flag without one takes the next argument.
    pub(super) bare: Option<&'a str>,
}

/// The flags that there are.
pub(super) trait Known {
    fn long(&self, name: &str) -> Option<Shape<'_>>;
    /// The name of the flag with this letter.
    fn short(&self, letter: char) -> Option<&str>;
}

/// A flag as it was given, under its name with dashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) name: String,
    pub(super) value: String,
}

/// A command line that is none, in pflag's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SyntaxError {
    #[error("unknown flag: --{0}")]
    Unknown(String),
    #[error("unknown shorthand flag: '{letter}' in -{given}")]
    UnknownShort { letter: char, given: String },
    #[error("flag needs an argument: --{0}")]
    NeedsArgument(String),
    #[error("flag needs an argument: '{letter}' in -{given}")]
    ShortNeedsArgument { letter: char, given: String },
    #[error("bad flag syntax: {0}")]
    Bad(String),
}

/// Splits a command line into flags and what is none.
pub(super) fn split(arguments: &[String], known: &impl Known) -> Result<(Vec<Given>, Vec<String>), SyntaxError> {
    let mut given = Vec::new();
    let mut others = Vec::new();
    let mut left = arguments.iter();
    while let Some(argument) = left.next() {
        if argument == "--" {
            others.extend(left.by_ref().cloned());
        } else if let Some(text) = argument.strip_prefix("--") {
            given.push(long(argument, text, &mut left, known)?);
        } else if let Some(text) = argument.strip_prefix('-').filter(|text| !text.is_empty()) {
            shorts(text, &mut left, known, &mut given)?;
        } else {
            others.push(argument.clone());
        }
    }
    Ok((given, others))
}

/// Upstream takes `_` for `-`.
pub(super) fn normalize(name: &str) -> String {
    name.replace('_', "-")
}

fn long<'a>(
    argument: &str,
    text: &str,
    left: &mut impl Iterator<Item = &'a String>,
    known: &impl Known,
) -> Result<Given, SyntaxError> {
    if text.starts_with(['-', '=']) {
        return Err(SyntaxError::Bad(argument.to_owned()));
    }
    let (written, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let name = normalize(written);
    let shape = known.long(&name).ok_or_else(|| SyntaxError::Unknown(written.to_owned()))?;
    let value = value.or(shape.bare).or_else(|| left.next().map(String::as_str));
    let value = value.ok_or_else(|| SyntaxError::NeedsArgument(written.to_owned()))?.to_owned();
    Ok(Given { name, value })
}

/// `-v2`, or several switches in one.
fn shorts<'a>(
    given: &str,
    left: &mut impl Iterator<Item = &'a String>,
    known: &impl Known,
    out: &mut Vec<Given>,
) -> Result<(), SyntaxError> {
    let mut rest = given;
    while let Some(letter) = rest.chars().next() {
        let unknown = || SyntaxError::UnknownShort { letter, given: rest.to_owned() };
        let name = known.short(letter).ok_or_else(unknown)?.to_owned();
        let shape = known.long(&name).ok_or_else(unknown)?;
        let after = &rest[letter.len_utf8()..];
        let (value, next) = match (after.strip_prefix('='), shape.bare) {
            (Some(value), _) if !value.is_empty() => (value, ""),
            (_, Some(bare)) => (bare, after),
            (_, None) if !after.is_empty() => (after, ""),
            (_, None) => {
                let error = || SyntaxError::ShortNeedsArgument { letter, given: rest.to_owned() };
                (left.next().map(String::as_str).ok_or_else(error)?, "")
            }
        };
        out.push(Given { name, value: value.to_owned() });
        rest = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Some3;

    impl Known for Some3 {
        fn long(&self, name: &str) -> Option<Shape<'_>> {
            match name {
                "switch-on" => Some(Shape { bare: Some("true") }),
                "help" => Some(Shape { bare: Some("true") }),
                "value" | "v" => Some(Shape { bare: None }),
                _ => None,
            }
        }

        fn short(&self, letter: char) -> Option<&str> {
            [('v', "v"), ('h', "help")].into_iter().find(|(l, _)| *l == letter).map(|(_, name)| name)
        }
    }

    fn read(line: &str) -> Result<String, String> {
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (given, others) = split(&arguments, &Some3).map_err(|error| error.to_string())?;
        let given = given.into_iter().map(|g| format!("{}={}", g.name, g.value)).chain(others);
        Ok(given.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn flags_are_read_as_pflag_does() {
        for (line, expect) in [
            ("--value=1 --value 2", "value=1 value=2"),
            ("--value --switch-on", "value=--switch-on"),
            ("--value= x", "value= x"),
            ("--value=a=b", "value=a=b"),
            ("--switch-on false", "switch-on=true false"),
            ("--switch-on=false", "switch-on=false"),
            ("--switch_on", "switch-on=true"),
            ("-v 4", "v=4"),
            ("-v=4", "v=4"),
            ("-v4", "v=4"),
            ("-hv4", "help=true v=4"),
            ("--v=4 -- --value", "v=4 --value"),
            ("- x", "- x"),
        ] {
            assert_eq!(read(line).as_deref(), Ok(expect), "{line}");
        }
    }

    #[test]
    fn what_is_none() {
        for (line, expect) in [
            ("--nonsense=1", "unknown flag: --nonsense"),
            ("--non_sense", "unknown flag: --non_sense"),
            ("-x", "unknown shorthand flag: 'x' in -x"),
            ("-hx", "unknown shorthand flag: 'x' in -x"),
            ("--value", "flag needs an argument: --value"),
            ("-v", "flag needs an argument: 'v' in -v"),
            ("--=x", "bad flag syntax: --=x"),
            ("---value", "bad flag syntax: ---value"),
        ] {
            assert_eq!(read(line), Err(expect.to_owned()), "{line}");
        }
    }
}
