//! Checks the expressions by which DeviceClasses and ResourceClaims select devices.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_cel::devices::{ENV, MAX_COST};
use kybern_cel::{CompileError, Type};

use crate::validation::Errors;

/// A complaint where an expression does not compile to a condition, or could cost too much.
pub(super) fn validate(out: &mut Errors, path: &FieldPath, expression: &str) {
    match ENV.compile(expression) {
        Err(CompileError::Issues(issues)) => {
            out.push(FieldError::invalid(path, expression, format!("compilation failed: {issues}")));
        }
        Err(CompileError::Instantiation(message)) => {
            out.push(FieldError::internal(path, format!("program instantiation failed: {message}")));
        }
        Ok(program) => match program.result_type() {
            Type::Bool | Type::Dyn | Type::Any if program.estimate().max > MAX_COST => {
                out.push(FieldError::forbidden(path, "too complex, exceeds cost limit"));
            }
            Type::Bool | Type::Dyn | Type::Any => {}
            other => {
                let detail = format!("must evaluate to bool or the unknown type, not {}", other.declared_name());
                out.push(FieldError::invalid(path, expression, detail));
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(expression: &str) -> Vec<String> {
        let mut out = Vec::new();
        validate(&mut out, &FieldPath::new("expression"), expression);
        out.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn selectors_are_conditions_on_a_device() {
        for fine in [
            "device.driver == 'dra.example.com'",
            "device.attributes['dra.example.com'].healthy",
            "device.attributes['dra.example.com'].model == 'a' && device.capacity['dra.example.com'].memory.compareTo(quantity('1Gi')) >= 0",
            "cel.bind(dra, device.attributes['dra.example.com'], dra.one && dra.two)",
            "device.attributes['dra.example.com'].version.isGreaterThan(semver('1.0.0'))",
            "device.allowMultipleAllocations == true",
        ] {
            assert_eq!(faults(fine), Vec::<String>::new(), "{fine}");
        }
        assert_eq!(
            faults("device.driver"),
            ["expression: Invalid value: \"device.driver\": must evaluate to bool or the unknown type, not string"]
        );
        assert_eq!(
            faults("device.nope == 1"),
            [
                "expression: Invalid value: \"device.nope == 1\": compilation failed: ERROR: <input>:1:7: undefined field 'nope'\n | device.nope == 1\n | ......^"
            ]
        );
        assert!(faults("cel.bind('x', 1, true)")[0].contains("cel.bind() variable names must be simple identifiers"));
        let costly = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, \
                      device.attributes.all(e, a + b + c + d + e != '')))))";
        assert_eq!(faults(costly), ["expression: Forbidden: too complex, exceeds cost limit"]);
    }
}
