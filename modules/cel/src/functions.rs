//! The functions that expressions may call. Each is one arm; what it costs is paid before it works.

use std::collections::HashMap;
use std::sync::Arc;

use cel::common::ast::{CallExpr, Expr, operators as op};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use regex::{Regex, RegexBuilder};

use crate::eval::{Result, fail};
use crate::libraries;
use crate::value::Value;
use crate::{Budget, Error};

/// Every function that [`call`] knows by name, operators aside.
pub(crate) const NAMES: [&str; 56] = [
    "bool",
    "bytes",
    "charAt",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "find",
    "findAll",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "hasValue",
    "indexOf",
    "int",
    "isIP",
    "isSorted",
    "isURL",
    "join",
    "jsonpatch.escapeKey",
    "lastIndexOf",
    "lowerAscii",
    "matches",
    "max",
    "min",
    "optFlatMap",
    "optMap",
    "optional.none",
    "optional.of",
    "or",
    "orValue",
    "replace",
    "reverse",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "size",
    "split",
    "startsWith",
    "string",
    "substring",
    "sum",
    "timestamp",
    "trim",
    "type",
    "uint",
    "upperAscii",
    "value",
];

/// Whether there is a function of this name.
pub(crate) fn is_known(name: &str) -> bool {
    NAMES.contains(&name) || libraries::NAMES.contains(&name)
}

/// Pattern size that may be compiled at run time, bytes of its program.
const PATTERN_BYTES_MAX: usize = 1 << 18;

/// The whole name of a function of a library, such as `sets.contains`.
pub(crate) fn library(call: &CallExpr) -> Option<String> {
    let Expr::Ident(library) = &call.target.as_ref()?.expr else { return None };
    let name = format!("{library}.{}", call.func_name);
    is_known(&name).then_some(name)
}

pub(crate) fn call<'a>(
    name: &str,
    target: Option<Value<'a>>,
    args: Vec<Value<'a>>,
    patterns: &HashMap<String, Regex>,
    budget: &Budget,
) -> Result<Value<'a>> {
    use Value::{Bool, Bytes, Double, Duration, Int, Json, List, Map, Optional, String, Uint};
    let wrong = |all: &[Value<'a>]| {
        let types: Vec<&str> = all.iter().map(Value::type_name).collect();
        fail(format!("no such overload: {name}({})", types.join(", ")))
    };
    let all: Vec<Value<'a>> = target.into_iter().chain(args).collect();
    for text in all.iter().filter_map(|value| if let String(text) = value { Some(text) } else { None }) {
        budget.pay_text(text.len())?;
    }
    Ok(match (name, all.as_slice()) {
        (op::EQUALS, [a, b]) => Bool(a.same(b, budget)?),
        (op::NOT_EQUALS, [a, b]) => Bool(!a.same(b, budget)?),
        (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [a, b]) => {
            if matches!(a, Value::Null) || a.order(b).is_none() && (a.as_f64().is_none() || b.as_f64().is_none()) {
                return wrong(&all);
            }
            let order = a.order(b);
            Bool(match name {
                op::LESS => order.is_some_and(|o| o.is_lt()),
                op::LESS_EQUALS => order.is_some_and(|o| o.is_le()),
                op::GREATER => order.is_some_and(|o| o.is_gt()),
                _ => order.is_some_and(|o| o.is_ge()),
            })
        }
        (op::LOGICAL_NOT, [Bool(value)]) => Bool(!value),
        (op::NEGATE, [Int(n)]) => Int(n.checked_neg().ok_or_else(overflow)?),
        (op::NEGATE, [Double(n)]) => Double(-n),
        (op::ADD, [String(a), String(b)]) => String(format!("{a}{b}").into()),
        (op::ADD, [Bytes(a), Bytes(b)]) => {
            budget.pay_text(a.len() + b.len())?;
            Bytes([&a[..], &b[..]].concat().into())
        }
        (op::ADD, [List(_) | Json(..), List(_) | Json(..)]) => match (all[0].elements(budget)?, all[1].elements(budget)?) {
            (Some(mut a), Some(b)) => {
                a.extend(b);
                Value::list(a)
            }
            _ => return wrong(&all),
        },
        (op::ADD, [Duration(a), Duration(b)]) => Duration(a.checked_add(*b).ok_or_else(overflow)?),
        (op::SUBSTRACT, [Duration(a), Duration(b)]) => Duration(a.checked_sub(*b).ok_or_else(overflow)?),
        (op::ADD, [Value::Timestamp(t), Duration(d)] | [Duration(d), Value::Timestamp(t)]) => {
            Value::Timestamp(t.checked_add(*d).map_err(|_| overflow())?)
        }
        (op::SUBSTRACT, [Value::Timestamp(t), Duration(d)]) => Value::Timestamp(t.checked_sub(*d).map_err(|_| overflow())?),
        (op::SUBSTRACT, [Value::Timestamp(a), Value::Timestamp(b)]) => Duration(a.duration_since(*b)),
        (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, [a, b]) => match arithmetic(name, a, b)? {
            Some(value) => value,
            None => return wrong(&all),
        },
        (op::INDEX, [Optional(_), _]) => return wrong(&all),
        (op::INDEX, [container, key]) => match container.at(key) {
            Some(value) => value,
            None if container.type_name() == "list" => return fail("index out of bounds"),
            None => return fail(format!("no such key: {}", shown(key))),
        },
        (op::IN, [needle, haystack]) => match haystack {
            Map(_) | Json(serde_json::Value::Object(_), _) => Bool(haystack.at(needle).is_some()),
            _ => {
                let Some(items) = haystack.elements(budget)? else { return wrong(&all) };
                Bool(has(&items, needle, budget)?)
            }
        },
        ("size", [String(text)]) => Int(text.chars().count() as i64),
        ("size", [Bytes(bytes)]) => Int(bytes.len() as i64),
        ("size", [value]) => match value.elements(budget)? {
            Some(items) => Int(items.len() as i64),
            None => return wrong(&all),
        },
        ("dyn", [value]) => value.clone(),
        ("type", [value]) => Value::Type(value.type_name()),
        ("int", [value]) => match value {
            Int(n) => Int(*n),
            Uint(n) => Int(i64::try_from(*n).map_err(|_| overflow())?),
            Double(n) if n.abs() < 9.2e18 => Int(*n as i64),
            String(text) => text.parse().map(Int).map_err(|_| Error::Evaluation(format!("{text:?} is not an int")))?,
            Value::Timestamp(time) => Int(time.as_second()),
            _ => return wrong(&all),
        },
        ("uint", [value]) => match value {
            Uint(n) => Uint(*n),
            Int(n) => Uint(u64::try_from(*n).map_err(|_| overflow())?),
            Double(n) if (0.0..1.8e19).contains(n) => Uint(*n as u64),
            String(text) => text.parse().map(Uint).map_err(|_| Error::Evaluation(format!("{text:?} is not a uint")))?,
            _ => return wrong(&all),
        },
        ("double", [String(text)]) => text.parse().map(Double).map_err(|_| Error::Evaluation(format!("{text:?} is not a double")))?,
        ("double", [value]) => match value.as_f64() {
            Some(n) => Double(n),
            None => return wrong(&all),
        },
        ("bool", [Bool(value)]) => Bool(*value),
        ("bool", [String(text)]) => match &**text {
            "true" | "1" | "t" | "TRUE" | "True" => Bool(true),
            "false" | "0" | "f" | "FALSE" | "False" => Bool(false),
            _ => return fail(format!("{text:?} is not a bool")),
        },
        ("string", [value]) => match value {
            Value::Opaque(opaque) => match libraries::text_of(opaque) {
                Some(text) => String(text.into()),
                None => return wrong(&all),
            },
            Bytes(bytes) => Value::text(std::str::from_utf8(bytes).map_err(|_| Error::Evaluation("the bytes are not UTF-8".into()))?),
            List(_) | Map(_) | Json(..) | Optional(_) | Value::Message(..) | Value::Null => return wrong(&all),
            scalar => Value::text(&shown(scalar)),
        },
        ("bytes", [String(text)]) => Bytes(text.as_bytes().into()),
        ("duration", [Duration(value)]) => Duration(*value),
        ("duration", [String(text)]) => text.parse().map(Duration).map_err(|_| Error::Evaluation(format!("{text:?} is not a duration")))?,
        ("timestamp", [Value::Timestamp(time)]) => Value::Timestamp(*time),
        ("timestamp", [Int(seconds)]) => Value::Timestamp(Timestamp::from_second(*seconds).map_err(|_| overflow())?),
        ("timestamp", [String(text)]) => {
            text.parse().map(Value::Timestamp).map_err(|_| Error::Evaluation(format!("{text:?} is not a timestamp")))?
        }
        ("contains", [String(text), String(part)]) => Bool(text.contains(&**part)),
        ("startsWith", [String(text), String(part)]) => Bool(text.starts_with(&**part)),
        ("endsWith", [String(text), String(part)]) => Bool(text.ends_with(&**part)),
        ("matches", [String(text), String(pattern)]) => Bool(regex(pattern, text, patterns, budget)?.is_match(text)),
        ("find", [String(text), String(pattern)]) => {
            Value::text(regex(pattern, text, patterns, budget)?.find(text).map_or("", |found| found.as_str()))
        }
        ("findAll", [String(text), String(pattern), rest @ ..]) => {
            let most = limit(rest);
            let regex = regex(pattern, text, patterns, budget)?;
            Value::list(regex.find_iter(text).take(most).map(|found| Value::text(found.as_str())).collect())
        }
        ("lowerAscii", [String(text)]) => Value::text(&text.to_ascii_lowercase()),
        ("upperAscii", [String(text)]) => Value::text(&text.to_ascii_uppercase()),
        ("trim", [String(text)]) => Value::text(text.trim()),
        ("charAt", [String(text), Int(at)]) => {
            let found = usize::try_from(*at).ok().and_then(|at| text.chars().nth(at));
            Value::text(&found.map(|c| c.to_string()).unwrap_or_default())
        }
        ("reverse", [String(text)]) => Value::text(&text.chars().rev().collect::<std::string::String>()),
        ("indexOf", [String(text), String(part)]) => Int(text.find(&**part).map_or(-1, |at| text[..at].chars().count() as i64)),
        ("lastIndexOf", [String(text), String(part)]) => Int(text.rfind(&**part).map_or(-1, |at| text[..at].chars().count() as i64)),
        ("substring", [String(text), Int(from), rest @ ..]) => {
            let length = text.chars().count() as i64;
            let to = if let [Int(to)] = rest { *to } else { length };
            if *from < 0 || to > length || *from > to {
                return fail("index out of range");
            }
            String(text.chars().skip(*from as usize).take((to - from) as usize).collect::<std::string::String>().into())
        }
        ("replace", [String(text), String(from), String(to), rest @ ..]) => {
            let most = limit(rest);
            let times = text.matches(&**from).take(most).count();
            budget.pay_text(text.len() + times * to.len())?;
            Value::text(&text.replacen(&**from, to, times))
        }
        ("split", [String(text), String(by), rest @ ..]) => {
            let most = limit(rest);
            budget.pay(text.matches(&**by).take(most).count())?;
            let parts: Vec<Value<'a>> = match (by.is_empty(), most) {
                (_, 0) => Vec::new(),
                (true, _) => text.chars().map(|c| Value::text(&c.to_string())).collect(),
                (false, most) => text.splitn(most, &**by).map(Value::text).collect(),
            };
            Value::list(parts)
        }
        ("join", [list, rest @ ..]) => {
            let by = if let [String(by)] = rest { by.clone() } else { "".into() };
            let Some(items) = list.elements(budget)? else { return wrong(&all) };
            let mut joined = std::string::String::new();
            for (index, item) in items.iter().enumerate() {
                let String(text) = item else { return wrong(&all) };
                budget.pay_text(text.len() + by.len())?;
                if index > 0 {
                    joined.push_str(&by);
                }
                joined.push_str(text);
            }
            String(joined.into())
        }
        ("indexOf" | "lastIndexOf", [list, needle]) => {
            let Some(items) = list.elements(budget)? else { return wrong(&all) };
            let mut found = -1;
            for (index, item) in items.iter().enumerate() {
                if (found < 0 || name == "lastIndexOf") && item.same(needle, budget)? {
                    found = index as i64;
                }
            }
            Int(found)
        }
        ("isSorted" | "sum" | "min" | "max", [list]) => {
            let Some(items) = list.elements(budget)? else { return wrong(&all) };
            return over_list(name, &items);
        }
        ("sets.contains" | "sets.intersects" | "sets.equivalent", [a, b]) => {
            let (Some(a), Some(b)) = (a.elements(budget)?, b.elements(budget)?) else { return wrong(&all) };
            let count =
                |a: &[Value<'a>], b: &[Value<'a>]| b.iter().try_fold(0, |n, item| Ok::<_, Error>(n + usize::from(has(a, item, budget)?)));
            Bool(match name {
                "sets.contains" => count(&a, &b)? == b.len(),
                "sets.intersects" => count(&a, &b)? > 0,
                _ => count(&a, &b)? == b.len() && count(&b, &a)? == a.len(),
            })
        }
        ("optional.none", []) => Optional(None),
        ("optional.of", [value]) => Optional(Some(Arc::new(value.clone()))),
        ("hasValue", [Optional(value)]) => Bool(value.is_some()),
        ("value", [Optional(Some(value))]) => Value::clone(value),
        ("value", [Optional(None)]) => return fail("optional.none() dereference"),
        ("orValue", [Optional(value), other]) => value.as_ref().map_or_else(|| other.clone(), |value| Value::clone(value)),
        ("or", [Optional(value), other]) => {
            if value.is_some() {
                all[0].clone()
            } else {
                other.clone()
            }
        }
        ("jsonpatch.escapeKey", [String(text)]) => Value::text(&text.replace('~', "~0").replace('/', "~1")),
        (part, [Value::Timestamp(time), rest @ ..]) => {
            let zone = match rest {
                [String(zone)] => TimeZone::get(zone).map_err(|_| Error::Evaluation(format!("{zone:?} is not a time zone")))?,
                _ => TimeZone::UTC,
            };
            let at = time.to_zoned(zone);
            Int(i64::from(match part {
                "getFullYear" => i32::from(at.year()),
                "getMonth" => i32::from(at.month()) - 1,
                "getDate" => i32::from(at.day()),
                "getDayOfMonth" => i32::from(at.day()) - 1,
                "getDayOfWeek" => i32::from(at.weekday().to_sunday_zero_offset()),
                "getDayOfYear" => i32::from(at.day_of_year()) - 1,
                "getHours" => i32::from(at.hour()),
                "getMinutes" => i32::from(at.minute()),
                "getSeconds" => i32::from(at.second()),
                "getMilliseconds" => i32::from(at.millisecond()),
                _ => return wrong(&all),
            }))
        }
        ("getHours", [Duration(value)]) => Int(value.as_hours()),
        ("getMinutes", [Duration(value)]) => Int(value.as_mins()),
        ("getSeconds", [Duration(value)]) => Int(value.as_secs()),
        ("getMilliseconds", [Duration(value)]) => Int(i64::from(value.subsec_millis())),
        _ => match libraries::call(name, &all, budget)? {
            Some(value) => value,
            None => return wrong(&all),
        },
    })
}

fn overflow() -> Error {
    Error::Evaluation("integer overflow".into())
}

/// A last argument that says how many at most; negative or none means all.
fn limit(rest: &[Value<'_>]) -> usize {
    if let [Value::Int(most)] = rest { usize::try_from(*most).unwrap_or(usize::MAX) } else { usize::MAX }
}

fn has<'a>(items: &[Value<'a>], needle: &Value<'a>, budget: &Budget) -> Result<bool> {
    for item in items {
        if item.same(needle, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn arithmetic<'a>(name: &str, a: &Value<'a>, b: &Value<'a>) -> Result<Option<Value<'a>>> {
    let zero = || Error::Evaluation(if name == op::MODULO { "modulus by zero" } else { "division by zero" }.into());
    let value = match (a, b) {
        (Value::Int(a), Value::Int(b)) => {
            let done = match name {
                op::ADD => a.checked_add(*b),
                op::SUBSTRACT => a.checked_sub(*b),
                op::MULTIPLY => a.checked_mul(*b),
                _ if *b == 0 => return Err(zero()),
                op::DIVIDE => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            Value::Int(done.ok_or_else(overflow)?)
        }
        (Value::Uint(a), Value::Uint(b)) => {
            let done = match name {
                op::ADD => a.checked_add(*b),
                op::SUBSTRACT => a.checked_sub(*b),
                op::MULTIPLY => a.checked_mul(*b),
                _ if *b == 0 => return Err(zero()),
                op::DIVIDE => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            Value::Uint(done.ok_or_else(overflow)?)
        }
        (Value::Double(a), Value::Double(b)) if name != op::MODULO => Value::Double(match name {
            op::ADD => a + b,
            op::SUBSTRACT => a - b,
            op::MULTIPLY => a * b,
            _ => a / b,
        }),
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn over_list<'a>(name: &str, items: &[Value<'a>]) -> Result<Value<'a>> {
    let unordered = || Error::Evaluation(format!("no such overload: {name} of elements without an order"));
    if name == "sum" {
        let Some((first, rest)) = items.split_first() else { return Ok(Value::Int(0)) };
        let add = |sum: Value<'a>, item: &Value<'a>| match (&sum, item) {
            (Value::Duration(a), Value::Duration(b)) => Ok(Value::Duration(a.checked_add(*b).ok_or_else(overflow)?)),
            (a, b) => arithmetic(op::ADD, a, b)?.ok_or_else(unordered),
        };
        return rest.iter().try_fold(first.clone(), add);
    }
    if name == "isSorted" {
        for pair in items.windows(2) {
            if pair[0].order(&pair[1]).ok_or_else(unordered)?.is_gt() {
                return Ok(Value::Bool(false));
            }
        }
        return Ok(Value::Bool(true));
    }
    let Some((first, rest)) = items.split_first() else { return fail(format!("{name} called on empty list")) };
    let mut best = first;
    for item in rest {
        let order = item.order(best).ok_or_else(unordered)?;
        if if name == "min" { order.is_lt() } else { order.is_gt() } {
            best = item;
        }
    }
    Ok(best.clone())
}

/// The compiled pattern. Those that stand in the expression were compiled with it.
fn regex(pattern: &str, text: &str, known: &HashMap<String, Regex>, budget: &Budget) -> Result<Regex> {
    budget.pay((1 + text.len() / 10) * (1 + pattern.len() / 4))?;
    if let Some(regex) = known.get(pattern) {
        return Ok(regex.clone());
    }
    budget.pay(500 + pattern.len() * 50)?;
    compile(pattern).map_err(|_| Error::Evaluation(format!("{pattern:?} is not a regular expression")))
}

pub(crate) fn compile(pattern: &str) -> std::result::Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX).build()
}

/// A scalar as text.
pub(crate) fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(n) => n.to_string(),
        Value::String(text) => text.to_string(),
        Value::Timestamp(time) => time.to_string(),
        Value::Duration(span) => seconds(*span),
        other => other.type_name().to_owned(),
    }
}

/// A duration as protobuf writes it: seconds with an `s`.
fn seconds(span: SignedDuration) -> String {
    let nanos = span.subsec_nanos().unsigned_abs();
    let sign = if span.is_negative() { "-" } else { "" };
    let fraction = if nanos == 0 { String::new() } else { format!(".{nanos:09}").trim_end_matches('0').to_owned() };
    format!("{sign}{}{fraction}s", span.as_secs().unsigned_abs())
}
