//! The parts of times and durations.

use crate::decl::{Functions, Native};
use crate::error::EvalError;
use crate::time::{self, Part};
use crate::value::Value;

use super::str;

fn part<'a>(args: &[Value<'a>], part: Part) -> super::Result<'a> {
    let Value::Timestamp(time) = args[0] else { return Err(EvalError::no_such_overload()) };
    let zone = args.get(1).map(str).transpose()?;
    time::part(time, zone.map(|z| &**z), part).map(Value::Int)
}

fn units<'a>(args: &[Value<'a>], unit: i64) -> super::Result<'a> {
    let Value::Duration(nanos) = args[0] else { return Err(EvalError::no_such_overload()) };
    Ok(Value::Int(nanos / unit))
}

pub(super) fn declare(f: &mut Functions) {
    macro_rules! parts {
        ($($name:literal $id:literal $part:ident;)*) => {$(
            let native: Native = |a| part(a, Part::$part);
            f.add($name, $id, "timestamp.() -> int", native);
            f.add($name, concat!($id, "_with_tz"), "timestamp.(string) -> int", native);
        )*};
    }
    parts! {
        "getFullYear" "timestamp_to_year" FullYear;
        "getMonth" "timestamp_to_month" Month;
        "getDayOfYear" "timestamp_to_day_of_year" DayOfYear;
        "getDayOfMonth" "timestamp_to_day_of_month" DayOfMonth;
        "getDate" "timestamp_to_day_of_month_1_based" Date;
        "getDayOfWeek" "timestamp_to_day_of_week" DayOfWeek;
        "getHours" "timestamp_to_hours" Hours;
        "getMinutes" "timestamp_to_minutes" Minutes;
        "getSeconds" "timestamp_to_seconds" Seconds;
        "getMilliseconds" "timestamp_to_milliseconds" Milliseconds;
    }
    f.add("getHours", "duration_to_hours", "duration.() -> int", |a| units(a, 3_600_000_000_000));
    f.add("getMinutes", "duration_to_minutes", "duration.() -> int", |a| units(a, 60_000_000_000));
    f.add("getSeconds", "duration_to_seconds", "duration.() -> int", |a| units(a, 1_000_000_000));
    f.add("getMilliseconds", "duration_to_milliseconds", "duration.() -> int", |a| units(a, 1_000_000));
}
