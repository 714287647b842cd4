//! Named formats of texts: `format.dns1123Label().validate(name)`.

use kybern_apimachinery::validation;

use crate::decl::{Functions, Native};
use crate::error::EvalError;
use crate::opaque::Opaque;
use crate::value::Value;
use crate::{convert, time};

use super::url::Url;
use super::{of, opaque, str};

#[derive(Debug)]
pub struct Format {
    pub(crate) name: &'static str,
    validate: fn(&str) -> Vec<String>,
    /// The length of the regular expression that costs are computed from.
    pub(crate) regex_size: u64,
}

/// Names that others are to follow may end with a dash.
fn prefix(name: &str, validate: fn(&str) -> Vec<String>) -> Vec<String> {
    match name.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let mut shorter = rest.to_owned();
            shorter.pop();
            shorter.push('a');
            validate(&shorter)
        }
        _ => validate(name),
    }
}

fn only_if(valid: bool, complaint: &str) -> Vec<String> {
    if valid { Vec::new() } else { vec![complaint.to_owned()] }
}

fn is_uuid(text: &str) -> bool {
    let mut rest = text;
    for (i, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        let Some(part) = rest.get(..length) else { return false };
        if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return false;
        }
        rest = &rest[length..];
    }
    rest.is_empty()
}

macro_rules! formats {
    ($($function:literal $id:ident $name:literal $size:literal $validate:expr;)*) => {
        $(static $id: Format = Format { name: $name, validate: $validate, regex_size: $size };)*
        const ALL: &[(&str, &Format, Native)] =
            &[$(($function, &$id, |_| Ok(of(Opaque::Format(&$id)))),)*];
    };
}

formats! {
    "format.dns1123Label" LABEL "DNS1123Label" 30 validation::dns1123_label;
    "format.dns1123Subdomain" SUBDOMAIN "DNS1123Subdomain" 60 validation::dns1123_subdomain;
    "format.dns1035Label" LABEL_1035 "DNS1035Label" 30 validation::dns1035_label;
    "format.qualifiedName" QUALIFIED "QualifiedName" 60 validation::label_key;
    "format.dns1123LabelPrefix" LABEL_PREFIX "DNS1123LabelPrefix" 30 |s| prefix(s, validation::dns1123_label);
    "format.dns1123SubdomainPrefix" SUBDOMAIN_PREFIX "DNS1123SubdomainPrefix" 60
        |s| prefix(s, validation::dns1123_subdomain);
    "format.dns1035LabelPrefix" LABEL_1035_PREFIX "DNS1035LabelPrefix" 30 |s| prefix(s, validation::dns1035_label);
    "format.labelValue" LABEL_VALUE "LabelValue" 40 validation::label_value;
    "format.uri" URI "URI" 1103 |s| Url::parse(s).err().into_iter().collect();
    "format.uuid" UUID "uuid" 78 |s| only_if(is_uuid(s), "does not match the UUID format");
    "format.byte" BYTE "byte" 84 |s| only_if(convert::base64(s).is_some(), "invalid base64");
    "format.date" DATE "date" 75 |s| only_if(time::parse_date(s).is_some(), "invalid date");
    "format.datetime" DATE_TIME "datetime" 75
        |s| only_if(!s.is_empty() && time::parse_loose_date_time(s).is_some(), "invalid datetime");
}

pub(super) fn declare(f: &mut Functions) {
    for (function, _, native) in ALL {
        f.add(function, function, "() -> kubernetes.NamedFormat", *native);
    }
    f.add("format.named", "format-named", "(string) -> optional(kubernetes.NamedFormat)", |a| {
        let name = str(&a[0])?;
        let found = ALL.iter().find(|(function, ..)| function["format.".len()..] == **name);
        Ok(Value::optional(found.map(|(_, format, _)| of(Opaque::Format(format)))))
    });
    f.add("validate", "format-validate", "kubernetes.NamedFormat.(string) -> optional(list(string))", |a| {
        let Opaque::Format(format) = opaque(&a[0])? else { return Err(EvalError::no_such_overload()) };
        let complaints = (format.validate)(str(&a[1])?);
        Ok(Value::optional((!complaints.is_empty()).then(|| Value::strings(complaints))))
    });
}
