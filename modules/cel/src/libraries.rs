//! Functions of Kubernetes' own libraries (quantities, addresses, networks, URLs, versions, formats), and of those that it takes from CEL's
//! extensions beyond the first ones (lists, strings).
//!
//! Facts: <https://kubernetes.io/docs/reference/using-api/cel/#cel-options-language-features-and-libraries>.

use std::net::IpAddr;
use std::sync::Arc;

use pintle_values::quantity::Quantity;

use crate::eval::{Result, fail};
use crate::functions::shown;
use crate::opaque::{Format, Opaque, address, holds, masked, network, version};
use crate::url::Url;
use crate::value::Value;
use crate::{Budget, Error};

/// Longest list that `lists.range` makes.
const RANGE_MAX: i64 = 100_000;

/// The functions of this file, but for those that share a name with one of [`crate::functions`].
pub(crate) const NAMES: &[&str] = &[
    "add",
    "allowed",
    "asApproximateFloat",
    "asInteger",
    "check",
    "cidr",
    "compareTo",
    "containsCIDR",
    "containsIP",
    "distinct",
    "error",
    "errored",
    "family",
    "fieldSelector",
    "first",
    "flatten",
    "format",
    "format.byte",
    "format.date",
    "format.datetime",
    "format.dns1035Label",
    "format.dns1035LabelPrefix",
    "format.dns1123Label",
    "format.dns1123LabelPrefix",
    "format.dns1123Subdomain",
    "format.dns1123SubdomainPrefix",
    "format.labelValue",
    "format.named",
    "format.qualifiedName",
    "format.uri",
    "format.uuid",
    "getEscapedPath",
    "getHost",
    "getHostname",
    "getPort",
    "getQuery",
    "getScheme",
    "group",
    "includes",
    "ip",
    "ip.isCanonical",
    "isCIDR",
    "isGlobalUnicast",
    "isGreaterThan",
    "isInteger",
    "isLessThan",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isLoopback",
    "isQuantity",
    "isSemver",
    "isUnspecified",
    "labelSelector",
    "last",
    "lists.range",
    "major",
    "masked",
    "minor",
    "name",
    "namespace",
    "optional.ofNonZeroValue",
    "patch",
    "path",
    "prefixLength",
    "quantity",
    "reason",
    "resource",
    "semver",
    "serviceAccount",
    "sign",
    "slice",
    "sort",
    "strings.quote",
    "sub",
    "subresource",
    "url",
    "validate",
];

/// `None`: no function of this name takes such arguments.
pub(crate) fn call<'a>(name: &str, all: &[Value<'a>], budget: &Budget) -> Result<Option<Value<'a>>> {
    use Value::{Bool, Double, Int, Optional, String};
    let made = |opaque: std::result::Result<Opaque, std::string::String>| opaque.map(opaque_value).map_err(Error::Evaluation);
    if let Some(value) = of_lists(name, all, budget)? {
        return Ok(Some(value));
    }
    if let [Value::Opaque(opaque), rest @ ..] = all
        && let Some(value) = of_opaque(name, opaque, rest, budget)?
    {
        return Ok(Some(value));
    }
    Ok(Some(match (name, all) {
        ("quantity", [String(text)]) => made(quantity(text).map(Opaque::Quantity))?,
        ("isQuantity", [String(text)]) => Bool(Quantity::parse(text).is_some()),
        ("ip", [String(text)]) => made(address(text).map(Opaque::Ip))?,
        ("isIP", [String(text)]) => Bool(address(text).is_ok()),
        ("ip.isCanonical", [String(text)]) => Bool(address(text).map_err(Error::Evaluation)?.to_string() == **text),
        ("cidr", [String(text)]) => made(network(text).map(|(host, bits)| Opaque::Cidr(host, bits)))?,
        ("isCIDR", [String(text)]) => Bool(network(text).is_ok()),
        ("url", [String(text)]) => made(Url::parse(text).map(Opaque::Url))?,
        ("isURL", [String(text)]) => Bool(Url::parse(text).is_ok()),
        ("semver", [String(text)]) => made(version(text, false).map(Opaque::Semver))?,
        ("semver", [String(text), Bool(normalize)]) => made(version(text, *normalize).map(Opaque::Semver))?,
        ("isSemver", [String(text)]) => Bool(version(text, false).is_ok()),
        ("isSemver", [String(text), Bool(normalize)]) => Bool(version(text, *normalize).is_ok()),
        ("format.named", [String(name)]) => Optional(Format::named(name).map(|format| Arc::new(opaque_value(Opaque::Format(format))))),
        ("format", [String(template), arguments]) => {
            let Some(arguments) = arguments.elements(budget)? else { return Ok(None) };
            Value::text(&crate::format::fill(template, &arguments, budget)?)
        }
        ("strings.quote", [String(text)]) => Value::text(&crate::format::quoted(text)),
        ("optional.ofNonZeroValue", [value]) => {
            let zero = match value {
                Value::Null | Bool(false) | Int(0) | Value::Uint(0) => true,
                Double(n) => *n == 0.0,
                String(text) => text.is_empty(),
                Value::Bytes(bytes) => bytes.is_empty(),
                Optional(inner) => inner.is_none(),
                Value::Message(_, fields) => fields.is_empty(),
                value => value.elements(budget)?.is_some_and(|items| items.is_empty()),
            };
            Optional((!zero).then(|| Arc::new(value.clone())))
        }
        (name, []) => match name.strip_prefix("format.").and_then(Format::named) {
            Some(format) => opaque_value(Opaque::Format(format)),
            None => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

fn opaque_value<'a>(opaque: Opaque) -> Value<'a> {
    Value::Opaque(Arc::new(opaque))
}

fn quantity(text: &str) -> std::result::Result<Quantity, String> {
    Quantity::parse(text).ok_or_else(|| pintle_values::quantity::MALFORMED.to_owned())
}

/// What can be asked of a library's value.
fn of_opaque<'a>(name: &str, opaque: &Opaque, rest: &[Value<'a>], budget: &Budget) -> Result<Option<Value<'a>>> {
    use Value::{Bool, Int, String};
    let order = |order: std::cmp::Ordering| match name {
        "isLessThan" => Some(Bool(order.is_lt())),
        "isGreaterThan" => Some(Bool(order.is_gt())),
        "compareTo" => Some(Int(order as i64)),
        _ => None,
    };
    let other = if let [Value::Opaque(other)] = rest { Some(&**other) } else { None };
    Ok(match (opaque, name, rest) {
        (Opaque::Quantity(q), "isInteger", []) => Some(Bool(q.as_integer().is_some())),
        (Opaque::Quantity(q), "asInteger", []) => {
            Some(Int(q.as_integer().ok_or_else(|| Error::Evaluation("cannot convert value to integer".to_owned()))?))
        }
        (Opaque::Quantity(q), "asApproximateFloat", []) => Some(Value::Double(q.as_f64())),
        (Opaque::Quantity(q), "sign", []) => Some(Int(q.sign())),
        (Opaque::Quantity(q), "add" | "sub", [operand]) => {
            let operand = match (operand, other) {
                (Int(n), _) => Quantity::of_integer(*n),
                (_, Some(Opaque::Quantity(other))) => *other,
                _ => return Ok(None),
            };
            Some(opaque_value(Opaque::Quantity(if name == "add" { q.plus(operand) } else { q.minus(operand) })))
        }
        (Opaque::Quantity(q), _, _) => {
            if let Some(Opaque::Quantity(other)) = other {
                order(q.compare(*other))
            } else {
                None
            }
        }
        (Opaque::Semver(v), "major", []) => Some(Int(v.major as i64)),
        (Opaque::Semver(v), "minor", []) => Some(Int(v.minor as i64)),
        (Opaque::Semver(v), "patch", []) => Some(Int(v.patch as i64)),
        (Opaque::Semver(v), _, _) => {
            if let Some(Opaque::Semver(other)) = other {
                order(v.cmp_precedence(other))
            } else {
                None
            }
        }
        (Opaque::Ip(ip), _, []) => of_address(name, *ip),
        (Opaque::Cidr(host, _), "ip", []) => Some(opaque_value(Opaque::Ip(*host))),
        (Opaque::Cidr(host, bits), "masked", []) => Some(opaque_value(Opaque::Cidr(masked(*host, *bits), *bits))),
        (Opaque::Cidr(_, bits), "prefixLength", []) => Some(Int(i64::from(*bits))),
        (Opaque::Cidr(host, bits), "containsIP", [operand]) => {
            let asked = match (operand, other) {
                (String(text), _) => address(text).map_err(Error::Evaluation)?,
                (_, Some(Opaque::Ip(ip))) => *ip,
                _ => return Ok(None),
            };
            Some(Bool(holds((*host, *bits), asked)))
        }
        (Opaque::Cidr(host, bits), "containsCIDR", [operand]) => {
            let (asked, length) = match (operand, other) {
                (String(text), _) => network(text).map_err(Error::Evaluation)?,
                (_, Some(Opaque::Cidr(host, bits))) => (*host, *bits),
                _ => return Ok(None),
            };
            Some(Bool(length >= *bits && holds((*host, *bits), asked)))
        }
        (Opaque::Url(url), _, []) => Some(match name {
            "getScheme" => Value::text(&url.scheme),
            "getHost" => Value::text(&url.host),
            "getHostname" => Value::text(url.hostname()),
            "getPort" => Value::text(url.port()),
            "getEscapedPath" => Value::text(&url.escaped_path()),
            "getQuery" => {
                budget.pay_text(url.text().len())?;
                let values = |values: &[std::string::String]| Value::list(values.iter().map(|value| Value::text(value)).collect());
                Value::Map(Arc::new(url.query().iter().map(|(key, all)| (Value::text(key), values(all))).collect()))
            }
            _ => return Ok(None),
        }),
        (Opaque::Format(format), "validate", [String(text)]) => {
            budget.pay_text(text.len() * 4)?;
            let wrong = format.wrong(text).map(|why| Arc::new(Value::list(vec![Value::text(&why)])));
            Some(Value::Optional(wrong))
        }
        (Opaque::Access(stage, access, _), _, rest) => crate::authorizer::narrowed(name, *stage, access, rest)?,
        (Opaque::Decision(allowed, _), "allowed", []) => Some(Bool(*allowed)),
        (Opaque::Decision(_, reason), "reason", []) => Some(Value::text(reason)),
        // Roles either allow or do not: asking them does not fail.
        (Opaque::Decision(..), "errored", []) => Some(Bool(false)),
        (Opaque::Decision(..), "error", []) => Some(Value::text("")),
        _ => None,
    })
}

fn of_address<'a>(name: &str, ip: IpAddr) -> Option<Value<'a>> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    Some(Value::Bool(match name {
        "family" => return Some(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => ip.is_unspecified(),
        "isLoopback" => ip.is_loopback(),
        "isLinkLocalMulticast" => match ip {
            IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
        },
        "isLinkLocalUnicast" => link_local,
        "isGlobalUnicast" => {
            let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local || broadcast)
        }
        _ => return None,
    }))
}

/// Functions of lists.
fn of_lists<'a>(name: &str, all: &[Value<'a>], budget: &Budget) -> Result<Option<Value<'a>>> {
    use Value::{Bool, Int};
    if !matches!(name, "includes" | "distinct" | "flatten" | "reverse" | "slice" | "sort" | "first" | "last" | "lists.range") {
        return Ok(None);
    }
    if let ("lists.range", [Int(end)]) = (name, all) {
        if *end > RANGE_MAX {
            return fail(format!("lists.range: more than {RANGE_MAX} elements"));
        }
        budget.pay(usize::try_from(*end).unwrap_or_default())?;
        return Ok(Some(Value::list((0..*end).map(Int).collect())));
    }
    let [list, rest @ ..] = all else { return Ok(None) };
    if let ("includes", [needle]) = (name, rest) {
        let Some(items) = list.elements(budget)? else { return Ok(Some(Bool(list.same(needle, budget)?))) };
        return Ok(Some(Bool(has(&items, needle, budget)?)));
    }
    if list.type_name() != "list" {
        return Ok(None);
    }
    let Some(mut items) = list.elements(budget)? else { return Ok(None) };
    Ok(Some(match (name, rest) {
        ("distinct", []) => {
            let mut kept: Vec<Value<'a>> = Vec::new();
            for item in items {
                if !has(&kept, &item, budget)? {
                    kept.push(item);
                }
            }
            Value::list(kept)
        }
        ("flatten", []) => Value::list(flat(items, 1, budget)?),
        ("flatten", [Int(depth)]) if *depth >= 0 => Value::list(flat(items, *depth, budget)?),
        ("flatten", [Int(_)]) => return fail("level must be non-negative"),
        ("reverse", []) => {
            items.reverse();
            Value::list(items)
        }
        ("slice", [Int(from), Int(to)]) => {
            let range = usize::try_from(*from).ok().zip(usize::try_from(*to).ok()).filter(|(from, to)| from <= to && *to <= items.len());
            let Some((from, to)) = range else { return fail(format!("cannot slice({from}, {to}), list is length {}", items.len())) };
            Value::list(items.drain(from..to).collect())
        }
        ("sort", []) => {
            let keys = items.clone();
            Value::list(sorted(items, &keys, budget)?)
        }
        ("first", []) => Value::Optional(items.into_iter().next().map(Arc::new)),
        ("last", []) => Value::Optional(items.pop().map(Arc::new)),
        _ => return Ok(None),
    }))
}

/// The items in the order of their keys.
pub(crate) fn sorted<'a>(items: Vec<Value<'a>>, keys: &[Value<'a>], budget: &Budget) -> Result<Vec<Value<'a>>> {
    budget.pay(items.len().saturating_mul(usize::BITS as usize - items.len().leading_zeros() as usize))?;
    for pair in keys.windows(2) {
        if pair[0].type_name() != pair[1].type_name() {
            return fail("list elements must have the same type");
        }
    }
    if keys.first().is_some_and(|key| key.order(key).is_none()) {
        return fail("list elements must be comparable");
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| keys[*a].order(&keys[*b]).unwrap_or(std::cmp::Ordering::Equal));
    Ok(order.into_iter().map(|at| items[at].clone()).collect())
}

fn flat<'a>(items: Vec<Value<'a>>, depth: i64, budget: &Budget) -> Result<Vec<Value<'a>>> {
    let mut out = Vec::with_capacity(items.len());
    for item in items {
        if depth > 0 && item.type_name() == "list" {
            out.extend(flat(item.elements(budget)?.unwrap_or_default(), depth - 1, budget)?);
        } else {
            out.push(item);
        }
    }
    Ok(out)
}

fn has<'a>(items: &[Value<'a>], needle: &Value<'a>, budget: &Budget) -> Result<bool> {
    for item in items {
        if item.same(needle, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A library's value as text, where there is one.
pub(crate) fn text_of(opaque: &Opaque) -> Option<String> {
    Some(match opaque {
        Opaque::Quantity(quantity) => quantity.canonical(),
        Opaque::Ip(ip) => ip.to_string(),
        Opaque::Cidr(host, bits) => format!("{host}/{bits}"),
        Opaque::Url(url) => url.text().to_owned(),
        Opaque::Semver(version) => version.to_string(),
        Opaque::Format(_) | Opaque::Access(..) | Opaque::Decision(..) => return None,
    })
}

/// A value as `%s` shows it.
pub(crate) fn display(value: &Value<'_>, budget: &Budget) -> Result<String> {
    let text = match value {
        Value::Null => "null".to_owned(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Type(name) => (*name).to_owned(),
        Value::List(_) | Value::Map(_) | Value::Json(..) => {
            let is_map = value.type_name() == "map";
            let mut parts = Vec::new();
            for item in value.elements(budget)?.unwrap_or_default() {
                let shown = display(&item, budget)?;
                parts.push(match is_map {
                    true => format!("{shown}: {}", display(&value.at(&item).unwrap_or(Value::Null), budget)?),
                    false => shown,
                });
            }
            if is_map {
                parts.sort();
            }
            let joined = parts.join(", ");
            if is_map { format!("{{{joined}}}") } else { format!("[{joined}]") }
        }
        Value::Optional(_) | Value::Message(..) | Value::Opaque(_) => {
            return fail(
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
            );
        }
        scalar => shown(scalar),
    };
    budget.pay_text(text.len())?;
    Ok(text)
}
