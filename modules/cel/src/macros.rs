//! Macros that the parser leaves as calls: those with two variables, `sortBy`, and of optional values.

use std::sync::Arc;

use cel::common::ast::{CallExpr, Expr, IdedExpr};

use crate::Error;
use crate::eval::{Result, Run, Scope, fail};
use crate::libraries::sorted;
use crate::value::Value;

/// A macro's target, the names of its variables, and its other arguments.
pub(crate) struct Macro<'c> {
    pub(crate) name: &'c str,
    pub(crate) target: &'c IdedExpr,
    pub(crate) variables: Vec<&'c str>,
    pub(crate) arguments: &'c [IdedExpr],
}

/// The macros: their names, how many variables they have, and how many arguments beside them, at least and at most.
const MACROS: [(&str, usize, usize, usize); 9] = [
    ("all", 2, 1, 1),
    ("exists", 2, 1, 1),
    ("existsOne", 2, 1, 1),
    ("transformList", 2, 1, 2),
    ("transformMap", 2, 1, 2),
    ("transformMapEntry", 2, 1, 2),
    ("sortBy", 1, 1, 1),
    ("optMap", 1, 1, 1),
    ("optFlatMap", 1, 1, 1),
];

impl<'c> Macro<'c> {
    /// The call as a macro, if it is one.
    pub(crate) fn of(call: &'c CallExpr) -> Option<Macro<'c>> {
        let (target, name) = (call.target.as_ref()?, call.func_name.as_str());
        let (_, count, least, most) = *MACROS.iter().find(|(known, count, ..)| *known == name && call.args.len() > *count)?;
        let (variables, arguments) = call.args.split_at(count);
        let name_of = |expr: &'c IdedExpr| if let Expr::Ident(name) = &expr.expr { Some(name.as_str()) } else { None };
        let variables: Vec<&str> = variables.iter().map(name_of).collect::<Option<_>>()?;
        (least..=most).contains(&arguments.len()).then_some(Macro { name, target, variables, arguments })
    }
}

impl<'a> Run<'_, 'a> {
    /// The value of a macro.
    pub(crate) fn macro_value(&self, call: &Macro<'_>, scope: Option<&Scope<'_, 'a>>) -> Result<Value<'a>> {
        let target = self.eval(call.target, scope)?;
        if call.name.starts_with("opt") {
            let Value::Optional(value) = target else { return fail(format!("{} is for optional values", call.name)) };
            let Some(value) = value else { return Ok(Value::Optional(None)) };
            let inner = Scope { name: call.variables[0], value: Arc::unwrap_or_clone(value), outer: scope };
            let made = self.eval(&call.arguments[0], Some(&inner))?;
            return Ok(if call.name == "optMap" { Value::Optional(Some(Arc::new(made))) } else { made });
        }
        let Some(items) = target.elements(self.budget)? else { return fail(format!("{} cannot be gone through", target.type_name())) };
        if call.name == "sortBy" {
            let key = |item: &Value<'a>| {
                self.eval(&call.arguments[0], Some(&Scope { name: call.variables[0], value: item.clone(), outer: scope }))
            };
            let keys = items.iter().map(key).collect::<Result<Vec<_>>>()?;
            return Ok(Value::list(sorted(items, &keys, self.budget)?));
        }
        let is_map = target.type_name() == "map";
        let pairs = items.into_iter().enumerate().map(|(index, item)| match is_map {
            true => (item.clone(), target.at(&item).unwrap_or(Value::Null)),
            false => (Value::Int(index as i64), item),
        });
        let mut sum = Sum::new(call.name);
        for (key, value) in pairs {
            self.budget.pay(1)?;
            let outer = Scope { name: call.variables[0], value: key.clone(), outer: scope };
            let inner = Scope { name: call.variables[1], value, outer: Some(&outer) };
            let (filter, body) = match call.arguments {
                [filter, body] => (Some(filter), body),
                [body, ..] => (None, body),
                [] => return fail("a macro without arguments"),
            };
            if let Some(filter) = filter
                && !self.truth(filter, Some(&inner))?
            {
                continue;
            }
            if sum.add(key, self.eval(body, Some(&inner)), self)? {
                break;
            }
        }
        sum.value()
    }
}

/// What a macro with two variables has made so far.
enum Sum<'a> {
    /// Whether all are true (`false`) or one is (`true`) decides; what failed may be made good by what decides.
    Decide(bool, Option<Error>, bool),
    Count(usize),
    List(Vec<Value<'a>>),
    /// The entries, and whether each body is a map of its own.
    Map(Vec<(Value<'a>, Value<'a>)>, bool),
}

impl<'a> Sum<'a> {
    fn new(name: &str) -> Self {
        match name {
            "all" => Sum::Decide(false, None, false),
            "exists" => Sum::Decide(true, None, false),
            "existsOne" => Sum::Count(0),
            "transformList" => Sum::List(Vec::new()),
            name => Sum::Map(Vec::new(), name == "transformMapEntry"),
        }
    }

    /// Takes the body's value for one element; whether it decides.
    fn add(&mut self, key: Value<'a>, value: Result<Value<'a>>, run: &Run<'_, 'a>) -> Result<bool> {
        let unfit = |value: Value<'a>| Error::Evaluation(format!("no such overload: {} is not a bool", value.type_name()));
        match self {
            Sum::Decide(by, failure, decided) => match value {
                Ok(Value::Bool(value)) => *decided = value == *by,
                Err(Error::Cost) => return Err(Error::Cost),
                Ok(other) => *failure = Some(unfit(other)),
                Err(error) => *failure = Some(error),
            },
            Sum::Count(count) => match value? {
                Value::Bool(value) => *count += usize::from(value),
                other => return Err(unfit(other)),
            },
            Sum::List(items) => items.push(value?),
            Sum::Map(entries, false) => entries.push((key, value?)),
            Sum::Map(entries, true) => {
                let made = value?;
                for key in made.elements(run.budget)?.filter(|_| made.type_name() == "map").ok_or_else(|| unfit(made.clone()))? {
                    for (known, _) in entries.iter() {
                        if known.same(&key, run.budget)? {
                            return fail("insert failed: key already exists");
                        }
                    }
                    let value = made.at(&key).unwrap_or(Value::Null);
                    entries.push((key, value));
                }
            }
        }
        Ok(matches!(self, Sum::Decide(_, _, true)))
    }

    fn value(self) -> Result<Value<'a>> {
        match self {
            Sum::Decide(by, _, true) => Ok(Value::Bool(by)),
            Sum::Decide(_, Some(failure), _) => Err(failure),
            Sum::Decide(by, None, _) => Ok(Value::Bool(!by)),
            Sum::Count(count) => Ok(Value::Bool(count == 1)),
            Sum::List(items) => Ok(Value::list(items)),
            Sum::Map(entries, _) => Ok(Value::Map(Arc::new(entries))),
        }
    }
}
