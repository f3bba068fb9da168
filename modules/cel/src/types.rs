//! What can be known of an expression before it runs: that its variables, fields and functions exist, and that
//! operators have operands that could fit. Where a schema says nothing, everything may be.

use std::collections::HashMap;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, StructExpr, operators as op};
use regex::Regex;
use serde_json::{Value as Json, json};

use crate::macros::Macro;
use crate::value::{below, unescape};
use crate::{Environment, below as parts, functions};

static NONE: Json = Json::Null;

/// The types that have a name in expressions.
pub(crate) fn type_named(name: &str) -> Option<&'static str> {
    const NAMES: [&str; 12] = [
        "bool",
        "bytes",
        "double",
        "google.protobuf.Duration",
        "google.protobuf.Timestamp",
        "int",
        "list",
        "map",
        "null_type",
        "string",
        "type",
        "uint",
    ];
    NAMES.into_iter().find(|known| *known == name)
}

/// What an expression gives, as far as that is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind<'s> {
    /// A type's name; empty: any.
    name: &'static str,
    /// The schema of the value; null: unknown.
    schema: &'s Json,
}

impl Kind<'_> {
    const ANY: Kind<'static> = Kind { name: "", schema: &NONE };

    const fn of(name: &'static str) -> Kind<'static> {
        Kind { name, schema: &NONE }
    }

    pub(crate) fn may_be(self, wanted: &str) -> bool {
        self.name.is_empty() || self.name == wanted
    }

    fn is_number(self) -> bool {
        matches!(self.name, "int" | "uint" | "double")
    }

    /// As a schema: null if nothing is known that a schema can say.
    pub(crate) fn schema(self) -> Json {
        if !self.schema.is_null() {
            return self.schema.clone();
        }
        match self.name {
            "int" => json!({"type": "integer"}),
            "double" => json!({"type": "number"}),
            "bool" => json!({"type": "boolean"}),
            "string" => json!({"type": "string"}),
            "list" => json!({"type": "array"}),
            _ => json!({}),
        }
    }
}

fn of_schema(schema: &Json) -> Kind<'_> {
    let name = match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("string"), None) => "string",
        (Some("integer"), _) => "int",
        (Some("number"), _) => "double",
        (Some("boolean"), _) => "bool",
        (Some("array"), _) => "list",
        (Some("object"), _) => "map",
        _ => "",
    };
    Kind { name: if schema["nullable"] == true { "" } else { name }, schema }
}

/// One check, and what it found on the way.
pub(crate) struct Check<'s> {
    variables: Vec<(String, Kind<'s>)>,
    patterns: HashMap<String, Regex>,
    names: Vec<String>,
    messages: bool,
}

impl<'s> Check<'s> {
    pub(crate) fn new(environment: Environment<'s>) -> Self {
        let variables = environment.variables.iter().map(|(name, schema)| ((*name).to_owned(), of_schema(schema))).collect();
        Check { variables, patterns: HashMap::new(), names: Vec::new(), messages: environment.messages }
    }

    pub(crate) fn found(self) -> (HashMap<String, Regex>, Vec<String>) {
        (self.patterns, self.names)
    }

    pub(crate) fn kind(&mut self, expr: &IdedExpr) -> Result<Kind<'s>, String> {
        Ok(match &expr.expr {
            Expr::Literal(literal) => Kind::of(match literal {
                LiteralValue::Boolean(_) => "bool",
                LiteralValue::Bytes(_) => "bytes",
                LiteralValue::Double(_) => "double",
                LiteralValue::Int(_) => "int",
                LiteralValue::Null => "",
                LiteralValue::String(_) => "string",
                LiteralValue::UInt(_) => "uint",
            }),
            Expr::Ident(name) => {
                self.names.push(name.clone());
                match self.variables.iter().rev().find(|(known, _)| known == name) {
                    Some((_, kind)) => *kind,
                    None if type_named(name).is_some() => Kind::of("type"),
                    None => return Err(format!("undeclared reference to '{name}' (in container '')")),
                }
            }
            Expr::Select(select) => {
                let operand = self.kind(&select.operand)?;
                let kind = field(operand, &select.field)?;
                if select.test { Kind::of("bool") } else { kind }
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension)?,
            Expr::Call(call) => self.call(call)?,
            Expr::Struct(made) => self.message(made)?,
            other => {
                for part in parts(other) {
                    self.kind(part)?;
                }
                Kind::of(if matches!(other, Expr::List(_)) { "list" } else { "map" })
            }
        })
    }

    /// A part of an object, named by its place, or an operation of a patch.
    fn message(&mut self, made: &StructExpr) -> Result<Kind<'s>, String> {
        let name = made.type_name.as_str();
        let is_object = name == "Object" || name.starts_with("Object.");
        if !self.messages || !(is_object || name == "JSONPatch") {
            return Err(format!("undeclared reference to '{name}' (in container '')"));
        }
        for entry in &made.entries {
            let EntryExpr::StructField(field) = &entry.expr else { return Err("a field was expected".to_owned()) };
            let kind = self.kind(&field.value)?;
            match (is_object, field.field.as_str()) {
                (true, _) | (_, "value") => {}
                (_, "op" | "path" | "from") if kind.may_be("string") => {}
                (_, field @ ("op" | "path" | "from")) => {
                    return Err(format!("expected type of field '{field}' is 'string' but provided type is '{}'", kind.name));
                }
                (_, field) => return Err(format!("undefined field '{field}'")),
            }
        }
        Ok(Kind::of(match name {
            "Object" => "Object",
            "JSONPatch" => "JSONPatch",
            _ => "Object.*",
        }))
    }

    fn comprehension(&mut self, c: &ComprehensionExpr) -> Result<Kind<'s>, String> {
        let range = self.kind(&c.iter_range)?;
        if !matches!(range.name, "" | "list" | "map") {
            return Err(format!("expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)", range.name));
        }
        let element = match range.name {
            "map" => Kind::of("string"),
            _ => of_schema(&range.schema["items"]),
        };
        let start = self.kind(&c.accu_init)?;
        self.variables.push((c.iter_var.clone(), element));
        self.variables.push((c.accu_var.clone(), if start.name == "list" { Kind::of("list") } else { Kind::ANY }));
        let checked = self.kind(&c.loop_cond).and_then(|_| self.kind(&c.loop_step)).and_then(|_| self.kind(&c.result));
        self.variables.truncate(self.variables.len() - 2);
        let result = checked?;
        Ok(if matches!(c.result.expr, Expr::Ident(_)) { start } else { result })
    }

    fn call(&mut self, call: &CallExpr) -> Result<Kind<'s>, String> {
        let name = call.func_name.as_str();
        if let Some(call) = Macro::of(call) {
            return self.macro_kind(&call);
        }
        let library = functions::library(call);
        let operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !operator && library.is_none() && !functions::is_known(name) {
            return Err(format!("undeclared reference to '{name}' (in container '')"));
        }
        let target = call.target.iter().filter(|_| library.is_none()).map(AsRef::as_ref);
        let mut kinds = Vec::new();
        for operand in target.chain(&call.args) {
            kinds.push(self.kind(operand)?);
        }
        if let ("matches" | "find" | "findAll", Some(Expr::Literal(LiteralValue::String(pattern)))) =
            (name, call.args.first().map(|arg| &arg.expr))
        {
            let regex = functions::compile(pattern.inner()).map_err(|err| format!("invalid matches argument: {err}"))?;
            self.patterns.insert(pattern.inner().to_owned(), regex);
        }
        self.result(name, &kinds)
    }

    fn macro_kind(&mut self, call: &Macro<'_>) -> Result<Kind<'s>, String> {
        let target = self.kind(call.target)?;
        let element = of_schema(&target.schema["items"]);
        let kinds = match (call.name, target.name) {
            ("optMap" | "optFlatMap", _) => vec![Kind::ANY],
            ("sortBy", _) => vec![element],
            (_, "list") => vec![Kind::of("int"), element],
            (_, "map") => vec![Kind::of("string"), of_schema(&target.schema["additionalProperties"])],
            (_, "") => vec![Kind::ANY, Kind::ANY],
            (_, other) => {
                return Err(format!("expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"));
            }
        };
        let (outside, mut checked) = (self.variables.len(), Ok(Kind::ANY));
        self.variables.extend(call.variables.iter().map(|name| (*name).to_owned()).zip(kinds));
        for argument in call.arguments {
            checked = checked.and_then(|_| self.kind(argument));
        }
        self.variables.truncate(outside);
        let body = checked?;
        Ok(match call.name {
            "all" | "exists" | "existsOne" if !body.may_be("bool") => {
                return Err(format!("found no matching overload for '_&&_' applied to '(bool, {})'", body.name));
            }
            "all" | "exists" | "existsOne" => Kind::of("bool"),
            "sortBy" => target,
            "transformList" => Kind::of("list"),
            "transformMap" | "transformMapEntry" => Kind::of("map"),
            _ => Kind::ANY,
        })
    }

    fn result(&mut self, name: &str, kinds: &[Kind<'s>]) -> Result<Kind<'s>, String> {
        let mismatch = || {
            let types: Vec<&str> = kinds.iter().map(|kind| if kind.name.is_empty() { "dyn" } else { kind.name }).collect();
            Err(format!("found no matching overload for '{name}' applied to '({})'", types.join(", ")))
        };
        Ok(match (name, kinds) {
            (op::EQUALS | op::NOT_EQUALS | op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [a, b]) => {
                let fit = a.may_be(b.name) || b.name.is_empty() || (a.is_number() && b.is_number());
                if !fit {
                    return mismatch();
                }
                Kind::of("bool")
            }
            (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, [a, b]) => {
                let fit = a.name.is_empty() || b.name.is_empty() || a.name == b.name;
                if !fit || (name != op::ADD && matches!(a.name, "string" | "bool" | "list" | "map")) {
                    return mismatch();
                }
                Kind::of(if a.name.is_empty() { b.name } else { a.name })
            }
            (op::LOGICAL_AND | op::LOGICAL_OR, [a, b]) if !a.may_be("bool") || !b.may_be("bool") => return mismatch(),
            (op::LOGICAL_NOT, [a]) if !a.may_be("bool") => return mismatch(),
            (op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT | op::IN | op::NOT_STRICTLY_FALSE, _) => Kind::of("bool"),
            (op::CONDITIONAL, [test, yes, no]) => {
                if !test.may_be("bool") {
                    return mismatch();
                }
                if yes.name == no.name { *yes } else { Kind::ANY }
            }
            (op::INDEX, [container, _]) => match container.name {
                "list" => of_schema(&container.schema["items"]),
                "map" => of_schema(&container.schema["additionalProperties"]),
                _ => Kind::ANY,
            },
            ("quantity" | "add" | "sub", _) => Kind::of("kubernetes.Quantity"),
            ("semver", _) => Kind::of("kubernetes.Semver"),
            ("url", _) => Kind::of("kubernetes.URL"),
            ("ip", _) => Kind::of("net.IP"),
            ("cidr" | "masked", _) => Kind::of("net.CIDR"),
            ("asApproximateFloat", _) => Kind::of("double"),
            (
                "size" | "int" | "indexOf" | "lastIndexOf" | "asInteger" | "sign" | "compareTo" | "family" | "prefixLength" | "major"
                | "minor" | "patch",
                _,
            ) => Kind::of("int"),
            (
                "format" | "strings.quote" | "jsonpatch.escapeKey" | "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath",
                _,
            ) => Kind::of("string"),
            ("getQuery", _) => Kind::of("map"),
            ("allowed" | "errored", _) => Kind::of("bool"),
            ("reason" | "error", _) => Kind::of("string"),
            ("distinct" | "flatten" | "slice" | "sort" | "lists.range", _) => Kind::of("list"),
            ("string" | "lowerAscii" | "upperAscii" | "trim" | "substring" | "replace" | "join" | "charAt" | "find", _) => {
                Kind::of("string")
            }
            ("double", _) => Kind::of("double"),
            ("split" | "findAll", _) => Kind::of("list"),
            (
                "bool"
                | "contains"
                | "startsWith"
                | "endsWith"
                | "matches"
                | "isSorted"
                | "isURL"
                | "isIP"
                | "hasValue"
                | "sets.contains"
                | "sets.intersects"
                | "sets.equivalent"
                | "isQuantity"
                | "isCIDR"
                | "isSemver"
                | "isInteger"
                | "isLessThan"
                | "isGreaterThan"
                | "containsIP"
                | "containsCIDR"
                | "includes"
                | "ip.isCanonical"
                | "isUnspecified"
                | "isLoopback"
                | "isLinkLocalMulticast"
                | "isLinkLocalUnicast"
                | "isGlobalUnicast",
                _,
            ) => Kind::of("bool"),
            _ => Kind::ANY,
        })
    }
}

/// The kind of a field, if the schema can tell that there is one.
fn field<'s>(operand: Kind<'s>, name: &str) -> Result<Kind<'s>, String> {
    let schema = operand.schema;
    if matches!(operand.name, "int" | "double" | "bool" | "string" | "list") {
        return Err(format!("type '{}' does not support field selection", operand.name));
    }
    let plain = unescape(name);
    let known = [name, plain.as_str()].into_iter().map(|name| below(schema, name)).find(|found| found.is_object());
    let closed = operand.name == "map" && schema["properties"].is_object() && schema["x-kubernetes-preserve-unknown-fields"] != true;
    match known {
        Some(found) => Ok(of_schema(found)),
        None if closed && !matches!(name, "metadata" | "apiVersion" | "kind") => Err(format!("undefined field '{name}'")),
        None => Ok(Kind::ANY),
    }
}
