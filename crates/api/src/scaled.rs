//! Numbers that may be percentages (`k8s.io/apimachinery/pkg/util/intstr`).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a percentage that is no whole number goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Up,
    Down,
}

/// The value, or for `"30%"` that share of `total`. An error for a string that is no percentage.
pub fn scaled_value(value: &IntOrString, total: i32, round: Round) -> Result<i32, String> {
    match value {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok());
            let percent = percent.ok_or_else(|| {
                format!("invalid value for IntOrString: invalid type: string is not a percentage: {text:?}")
            })?;
            let hundredths = percent * i64::from(total);
            let whole = match round {
                Round::Up => hundredths.div_euclid(100) + i64::from(hundredths.rem_euclid(100) != 0),
                Round::Down => hundredths.div_euclid(100),
            };
            Ok(i32::try_from(whole).unwrap_or(i32::MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_told() {
        for (value, total, up, down) in [("25%", 10, 3, 2), ("0%", 10, 0, 0), ("100%", 7, 7, 7), ("1%", 1, 1, 0)] {
            let value = IntOrString::String(value.into());
            assert_eq!(scaled_value(&value, total, Round::Up), Ok(up));
            assert_eq!(scaled_value(&value, total, Round::Down), Ok(down));
        }
        assert_eq!(scaled_value(&IntOrString::Int(4), 1, Round::Up), Ok(4));
        assert!(scaled_value(&IntOrString::String("4".into()), 1, Round::Up).is_err());
    }
}
