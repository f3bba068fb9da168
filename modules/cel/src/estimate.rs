//! What an expression may cost at most, known from the schemas of its variables before it ever runs.
//!
//! One walk gives each part of the expression a cost and the most that its value may hold: bytes of text, items of a list, entries of a map. What a
//! schema does not limit is limited by what a request may hold. Costs follow the estimator of CEL in Kubernetes (its factors are below): names
//! and members 1, calls 1 and a tenth for each byte of text they go through, comprehensions their body for each item.

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators as op};
use serde_json::Value as Json;

use crate::macros::Macro;
use crate::value::unescape;
use crate::{Program, Variable, below, functions};

/// What one expression of a definition may cost, over all the places where it may run.
pub const EXPRESSION_COST_MAX: u64 = 10_000_000;
/// What all expressions of one schema may cost.
pub const SCHEMA_COST_MAX: u64 = 100_000_000;
/// A request's body, bytes.
const REQUEST_BYTES: u64 = 3 << 20;
const LIST_BASE: u64 = 10;
const MAP_BASE: u64 = 30;
const MESSAGE_BASE: u64 = 40;
/// A code point's bytes at most.
const POINT_BYTES: u64 = 4;

static UNKNOWN: Json = Json::Null;

impl Program {
    /// The most that one run may cost, with these variables.
    pub fn cost_estimate(&self, variables: &[Variable<'_>]) -> u64 {
        let variables = variables.iter().map(|(name, schema)| ((*name).to_owned(), Most::of(schema))).collect();
        Walk { variables }.walk(&self.expr).0
    }
}

/// How often a value of this schema can stand in one request, where nothing around it limits that.
pub fn occurrences(schema: &Json) -> u64 {
    REQUEST_BYTES / (least_bytes(schema) + 1)
}

/// The fewest bytes that a value takes as JSON.
fn least_bytes(schema: &Json) -> u64 {
    match schema["type"].as_str() {
        Some("string") => match text_format(schema) {
            Some(length) => length + 2,
            None => 2 + schema["minLength"].as_u64().unwrap_or(0),
        },
        Some("boolean") => 4,
        Some("array") => 2,
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str);
            // A name in quotes, a colon, a value, a comma.
            required.map(|name| name.len() as u64 + 4 + schema["properties"].get(name).map_or(1, least_bytes)).sum::<u64>() + 2
        }
        _ => 1,
    }
}

/// The length of text of a format that has one.
fn text_format(schema: &Json) -> Option<u64> {
    match schema["format"].as_str()? {
        "date" => Some("2006-01-02".len() as u64),
        "date-time" => Some("2006-01-02T15:04:05Z".len() as u64),
        "duration" => Some("1s".len() as u64),
        _ => None,
    }
}

/// The most that a value may hold.
#[derive(Clone, Copy)]
struct Most<'s> {
    /// Of the value; null: not known.
    schema: &'s Json,
    /// Bytes of text, items or entries; 1 for what has no size.
    size: u64,
    /// The same for each part of what has no schema.
    inner: u64,
}

impl<'s> Most<'s> {
    const ONE: Most<'static> = Most { schema: &UNKNOWN, size: 1, inner: 1 };

    fn sized(size: u64) -> Most<'static> {
        Most { schema: &UNKNOWN, size, inner: size }
    }

    fn of(schema: &'s Json) -> Most<'s> {
        let limit = |key: &str| schema[key].as_u64();
        let (size, inner) = match schema["type"].as_str() {
            Some("string") => {
                let listed = schema["enum"].as_array().and_then(|all| all.iter().filter_map(Json::as_str).map(str::len).max());
                let length = listed.map(|length| length as u64);
                let length = length.or_else(|| limit("maxLength").map(|points| points.saturating_mul(POINT_BYTES)));
                (length.or_else(|| text_format(schema).map(|length| length.max(30))).unwrap_or(REQUEST_BYTES - 2), 1)
            }
            Some("integer" | "number" | "boolean") => (1, 1),
            Some("array") => (limit("maxItems").unwrap_or_else(|| (REQUEST_BYTES - 2) / (least_bytes(&schema["items"]) + 1)), 1),
            Some("object") if schema["additionalProperties"].is_object() => {
                let each = least_bytes(&schema["additionalProperties"]) + 6;
                (limit("maxProperties").unwrap_or((REQUEST_BYTES - 2) / each), 1)
            }
            Some("object") if schema["properties"].is_object() => (1, 1),
            _ => (REQUEST_BYTES - 2, REQUEST_BYTES - 2),
        };
        Most { schema, size, inner }
    }

    /// A part of it, whose schema may be known.
    fn part(self, schema: Option<&'s Json>) -> Most<'s> {
        match schema.filter(|schema| schema.is_object()) {
            Some(schema) => Most::of(schema),
            None => Most::sized(self.inner),
        }
    }

    fn member(self, name: &str) -> Most<'s> {
        let schema = self.schema["properties"].get(&unescape(name)).or_else(|| self.schema.get("additionalProperties"));
        self.part(schema)
    }

    fn item(self) -> Most<'s> {
        match self.schema.get("items") {
            Some(items) => self.part(Some(items)),
            None => self.part(self.schema.get("additionalProperties")),
        }
    }

    /// What a comprehension's variable holds: items of lists, keys of maps.
    fn element(self) -> Most<'s> {
        if self.schema["type"] == "object" { Most::sized(REQUEST_BYTES / self.size.max(1)) } else { self.item() }
    }

    fn or(self, other: Most<'s>) -> Most<'s> {
        if self.size >= other.size { self } else { other }
    }
}

/// Going through so many bytes.
fn text(bytes: u64) -> u64 {
    bytes.div_ceil(10)
}

struct Walk<'s> {
    variables: Vec<(String, Most<'s>)>,
}

impl<'s> Walk<'s> {
    fn walk(&mut self, expr: &IdedExpr) -> (u64, Most<'s>) {
        match &expr.expr {
            Expr::Literal(LiteralValue::String(text)) => (0, Most::sized(text.inner().len() as u64)),
            Expr::Literal(LiteralValue::Bytes(bytes)) => (0, Most::sized(bytes.inner().len() as u64)),
            Expr::Literal(_) | Expr::Unspecified => (0, Most::ONE),
            Expr::Ident(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                (1, known.map_or(Most::ONE, |(_, most)| *most))
            }
            Expr::Select(select) => {
                let (cost, operand) = self.walk(&select.operand);
                (cost.saturating_add(1), if select.test { Most::ONE } else { operand.member(&select.field) })
            }
            Expr::List(list) => {
                let (cost, inner) = self.sum(list.elements.iter());
                (cost.saturating_add(LIST_BASE), Most { schema: &UNKNOWN, size: list.elements.len() as u64, inner })
            }
            Expr::Map(map) => {
                let (cost, inner) = self.sum(below(&expr.expr));
                (cost.saturating_add(MAP_BASE), Most { schema: &UNKNOWN, size: map.entries.len() as u64, inner })
            }
            Expr::Struct(_) => {
                let (cost, inner) = self.sum(below(&expr.expr));
                (cost.saturating_add(MESSAGE_BASE), Most::sized(inner))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Call(call) => self.call(call),
        }
    }

    /// The cost of all, and the largest size.
    fn sum<'e>(&mut self, parts: impl IntoIterator<Item = &'e IdedExpr>) -> (u64, u64) {
        parts.into_iter().fold((0, 1), |(cost, size), part| {
            let (more, most) = self.walk(part);
            (u64::saturating_add(cost, more), size.max(most.size))
        })
    }

    /// Walks with more variables.
    fn within<T>(&mut self, variables: impl IntoIterator<Item = (String, Most<'s>)>, walk: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.variables.len();
        self.variables.extend(variables);
        let made = walk(self);
        self.variables.truncate(before);
        made
    }

    fn comprehension(&mut self, c: &ComprehensionExpr) -> (u64, Most<'s>) {
        let (range_cost, range) = self.walk(&c.iter_range);
        let (start_cost, start) = self.walk(&c.accu_init);
        let builds = matches!(c.accu_init.expr, Expr::List(_) | Expr::Map(_));
        let accumulated = if builds { Most { size: 0, ..start } } else { start };
        let (each, made) = self.within([(c.iter_var.clone(), range.element()), (c.accu_var.clone(), accumulated)], |walk| {
            let (condition, _) = walk.walk(&c.loop_cond);
            let (step, made) = walk.walk(&c.loop_step);
            (condition.saturating_add(step), made)
        });
        // A list grows by what a step adds.
        let made = if builds { Most { size: range.size.saturating_mul(made.size.max(1)), ..made } } else { made };
        let (result_cost, result) = self.within([(c.accu_var.clone(), made)], |walk| walk.walk(&c.result));
        let cost = range_cost.saturating_add(start_cost).saturating_add(range.size.saturating_mul(each.saturating_add(1)));
        (cost.saturating_add(result_cost), result)
    }

    /// Macros that the parser leaves as calls.
    fn macro_call(&mut self, call: &Macro<'_>) -> (u64, Most<'s>) {
        let (cost, target) = self.walk(call.target);
        let optional = call.name.starts_with("opt");
        let bound = match call.variables.as_slice() {
            [one] if optional => vec![((*one).to_owned(), target)],
            [key, value] => vec![((*key).to_owned(), target.element()), ((*value).to_owned(), target.item())],
            names => names.iter().map(|name| ((*name).to_owned(), target.item())).collect(),
        };
        let (each, inner) = self.within(bound, |walk| walk.sum(call.arguments));
        let times = if optional { 1 } else { target.size };
        let cost = cost.saturating_add(times.saturating_mul(each.saturating_add(1)));
        let most = match call.name {
            "all" | "exists" | "existsOne" => Most::ONE,
            "sortBy" => target,
            "optMap" | "optFlatMap" => Most::sized(inner),
            _ => Most { schema: &UNKNOWN, size: target.size, inner },
        };
        (cost, most)
    }

    fn call(&mut self, call: &CallExpr) -> (u64, Most<'s>) {
        if let Some(call) = Macro::of(call) {
            return self.macro_call(&call);
        }
        let library = functions::library(call);
        let target = call.target.iter().filter(|_| library.is_none()).map(AsRef::as_ref);
        let parts: Vec<(u64, Most<'s>)> = target.chain(&call.args).map(|part| self.walk(part)).collect();
        let before = parts.iter().fold(0, |sum: u64, (cost, _)| sum.saturating_add(*cost));
        let of = |at: usize| parts.get(at).map_or(Most::ONE, |(_, most)| *most);
        let (left, right) = (of(0), of(1));
        let all = parts.iter().fold(0, |sum: u64, (_, most)| sum.saturating_add(most.size));
        let (own, most) = match library.as_deref().unwrap_or(&call.func_name) {
            op::CONDITIONAL => {
                let cost = |at: usize| parts.get(at).map_or(0, |(cost, _)| *cost);
                // One of the two runs.
                return (cost(0).saturating_add(cost(1).max(cost(2))), of(1).or(of(2)));
            }
            op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE => (0, Most::ONE),
            op::EQUALS | op::NOT_EQUALS | op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
                (1 + text(left.size.min(right.size)), Most::ONE)
            }
            op::IN => (1 + right.size, Most::ONE),
            op::ADD => {
                let size = left.size.saturating_add(right.size);
                (1 + text(size), Most { schema: left.schema, size, inner: left.inner.max(right.inner) })
            }
            op::INDEX | op::OPT_INDEX => (1, left.item()),
            op::OPT_SELECT => match call.args.get(1).map(|field| &field.expr) {
                Some(Expr::Literal(LiteralValue::String(name))) => (1, left.member(name.inner())),
                _ => (1, left.item()),
            },
            "matches" | "find" | "findAll" => ((1 + text(left.size)).saturating_mul(right.size.div_ceil(4)), left),
            "contains" => ((1 + text(left.size)).saturating_mul(1 + text(right.size)), Most::ONE),
            "startsWith" | "endsWith" => (1 + text(right.size), Most::ONE),
            "size" => (1, Most::ONE),
            "split" => (1 + text(all), Most { schema: &UNKNOWN, size: left.size, inner: left.size }),
            "join" => {
                let each = left.item().size.saturating_add(right.size);
                let size = left.size.saturating_mul(each);
                (1 + text(size), Most::sized(size))
            }
            "replace" => {
                let size = left.size.saturating_mul(of(2).size.max(1));
                (1 + text(size), Most::sized(size))
            }
            "sets.contains" | "sets.equivalent" | "sets.intersects" => (1 + left.size.saturating_mul(right.size), Most::ONE),
            "isSorted" | "sum" | "min" | "max" | "indexOf" | "lastIndexOf" | "distinct" | "sort" | "reverse" | "slice" | "flatten" => {
                let each = 1 + text(left.item().size);
                (1 + left.size.saturating_mul(each), left)
            }
            // Numbers and times are made of text in one step, however long that may be.
            "duration" | "timestamp" | "int" | "uint" | "double" | "bool" if parts.len() == 1 => (1, Most::ONE),
            // What is left goes through its text once: other conversions, parsers of addresses, quantities and versions, changes of case.
            _ => (1 + text(all), Most { schema: &UNKNOWN, ..left }),
        };
        (before.saturating_add(own), most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cost(source: &str, schema: &Json) -> u64 {
        Program::compile(source, &[("self", schema)], "bool").unwrap().cost_estimate(&[("self", schema)])
    }

    #[test]
    fn what_a_schema_limits_is_cheap_and_what_it_does_not_is_as_long_as_a_request() {
        let list = |items: Json, most: Option<u64>| match most {
            Some(most) => json!({"type": "object", "properties": {"list": {"type": "array", "items": items, "maxItems": most}}}),
            None => json!({"type": "object", "properties": {"list": {"type": "array", "items": items}}}),
        };
        let number = json!({"type": "integer"});
        assert!(cost("self.list.all(x, x > 3)", &list(number.clone(), Some(10))) < 200);
        let unbounded = cost("self.list.all(x, x > 3)", &list(number.clone(), None));
        assert!((1_000_000..EXPRESSION_COST_MAX).contains(&unbounded), "{unbounded}");
        let nested = cost("self.list.all(x, self.list.all(y, x == y))", &list(number, None));
        assert!(nested > 100 * EXPRESSION_COST_MAX, "{nested}");
        let text = |most: Option<u64>| {
            list(most.map_or(json!({"type": "string"}), |most| json!({"type": "string", "maxLength": most})), Some(100))
        };
        assert!(cost("self.list.exists(x, x.contains(self.list[0]))", &text(Some(20))) < 20_000);
        assert!(cost("self.list.exists(x, x.contains(self.list[0]))", &text(None)) > EXPRESSION_COST_MAX);
    }

    #[test]
    fn sizes_go_through_what_expressions_make() {
        let words = json!({"type": "object", "properties": {"words": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 8}}}});
        // 5 words of at most 32 bytes, twice.
        let built = cost("self.words.map(w, w + w).exists(w, w.matches('a+b+'))", &words);
        assert!((20..1_000).contains(&built), "{built}");
        let names = json!({"type": "object", "maxProperties": 3, "additionalProperties": {"type": "integer"}});
        assert!(cost("self.all(k, self[k] > 1)", &names) < 100);
        assert!(cost("self.all(k, v, v > 1)", &names) < 100);
        assert!(cost("true ? true : false", &names) < 10);
        let times = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}});
        assert!(cost("duration(self.a) != duration('0s') && duration(self.b) > duration(self.a)", &times) < 30);
    }

    #[test]
    fn a_value_that_takes_more_room_occurs_less_often() {
        assert_eq!(occurrences(&json!({"type": "integer"})), REQUEST_BYTES / 2);
        let object = json!({"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}});
        assert_eq!(occurrences(&object), REQUEST_BYTES / (2 + 8 + 2 + 1));
    }
}
