//! `format`: texts with places for values, and `strings.quote`.

use crate::eval::{Result, fail};
use crate::libraries::display;
use crate::value::Value;
use crate::{Budget, Error};

/// Digits behind the point unless told otherwise, and the most.
const PRECISION: usize = 6;
const PRECISION_MAX: usize = 1000;

/// The template with its places filled.
pub(crate) fn fill(template: &str, arguments: &[Value<'_>], budget: &Budget) -> Result<String> {
    let (mut out, mut rest, mut arguments) = (String::new(), template.chars().peekable(), arguments.iter());
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if rest.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut precision = None;
        if rest.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            let given = digits.parse::<usize>().ok().filter(|n| *n <= PRECISION_MAX);
            precision =
                Some(given.ok_or_else(|| Error::Evaluation("could not parse formatting clause: error while parsing precision".into()))?);
        }
        let Some(verb) = rest.next() else { return fail("could not parse formatting clause: unexpected end of string") };
        let Some(value) = arguments.next() else { return fail("index out of range: there are fewer arguments than formatting clauses") };
        let made = filled(verb, precision.unwrap_or(PRECISION), value, budget)?;
        budget.pay_text(made.len())?;
        out.push_str(&made);
    }
    Ok(out)
}

fn filled(verb: char, precision: usize, value: &Value<'_>, budget: &Budget) -> Result<String> {
    Ok(match (verb, value) {
        ('s', value) => display(value, budget)?,
        ('d', Value::Int(_) | Value::Uint(_)) => display(value, budget)?,
        ('f', value) if value.as_f64().is_some() => format!("{:.precision$}", value.as_f64().unwrap_or_default()),
        ('e', value) if value.as_f64().is_some() => exponential(value.as_f64().unwrap_or_default(), precision),
        ('b', Value::Bool(value)) => i32::from(*value).to_string(),
        ('b', Value::Int(n)) => signed(*n, |n| format!("{n:b}")),
        ('b', Value::Uint(n)) => format!("{n:b}"),
        ('o', Value::Int(n)) => signed(*n, |n| format!("{n:o}")),
        ('o', Value::Uint(n)) => format!("{n:o}"),
        ('x', Value::Int(n)) => signed(*n, |n| format!("{n:x}")),
        ('X', Value::Int(n)) => signed(*n, |n| format!("{n:X}")),
        ('x', Value::Uint(n)) => format!("{n:x}"),
        ('X', Value::Uint(n)) => format!("{n:X}"),
        ('x' | 'X', Value::String(text)) => hex(text.as_bytes(), verb),
        ('x' | 'X', Value::Bytes(bytes)) => hex(bytes, verb),
        ('d' | 'f' | 'e' | 'b' | 'o' | 'x' | 'X', value) => {
            return fail(format!("error during formatting: %{verb} cannot be used on {}", value.type_name()));
        }
        (verb, _) => return fail(format!("could not parse formatting clause: unrecognized formatting clause \"{verb}\"")),
    })
}

fn signed(n: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if n < 0 { "-" } else { "" }, digits(n.unsigned_abs()))
}

fn hex(bytes: &[u8], verb: char) -> String {
    bytes.iter().map(|byte| if verb == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") }).collect()
}

/// With a sign and two digits in the exponent at least.
fn exponential(number: f64, precision: usize) -> String {
    let made = format!("{number:.precision$e}");
    let Some((digits, exponent)) = made.split_once('e') else { return made };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// In quotes, with what cannot stand there escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
