//! Evaluation: one walk over the expression. Recursion is bounded by the depth that compiling allows.

use std::sync::Arc;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators as op};

use crate::authorizer;
use crate::functions;
use crate::macros::Macro;
use crate::value::Value;
use crate::{Around, Budget, Error, Program};

pub(crate) type Result<T> = std::result::Result<T, Error>;

pub(crate) fn fail<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Evaluation(why.into()))
}

/// A variable, and those around it.
pub(crate) struct Scope<'s, 'a> {
    pub(crate) name: &'s str,
    pub(crate) value: Value<'a>,
    pub(crate) outer: Option<&'s Scope<'s, 'a>>,
}

pub(crate) struct Run<'p, 'a> {
    program: &'p Program,
    variables: &'p [(&'p str, Value<'a>)],
    around: Around<'p, 'a>,
    pub(crate) budget: &'p Budget,
}

pub(crate) fn run<'a>(program: &Program, variables: &[(&str, Value<'a>)], around: Around<'_, 'a>, budget: &Budget) -> Result<Value<'a>> {
    Run { program, variables, around, budget }.eval(&program.expr, None)
}

impl<'a> Run<'_, 'a> {
    pub(crate) fn eval(&self, expr: &IdedExpr, scope: Option<&Scope<'_, 'a>>) -> Result<Value<'a>> {
        self.budget.pay(1)?;
        match &expr.expr {
            Expr::Literal(literal) => self.literal(literal),
            Expr::Ident(name) => self.variable(name, scope),
            Expr::Select(select) => {
                let member = match self.late(&select.operand, &select.field) {
                    Some(made) => Some(made?),
                    None => self.eval(&select.operand, scope)?.member(&select.field),
                };
                if select.test {
                    let there = !matches!(member, None | Some(Value::Optional(None)));
                    return Ok(Value::Bool(there && !matches!(member, Some(Value::Null))));
                }
                member.map_or_else(|| fail(format!("no such key: {}", select.field)), Ok)
            }
            Expr::List(list) => {
                self.budget.pay(list.elements.len())?;
                let mut items = Vec::with_capacity(list.elements.len());
                for (index, element) in list.elements.iter().enumerate() {
                    match self.eval(element, scope)? {
                        Value::Optional(inner) if list.optional_indices.contains(&index) => items.extend(inner.map(Arc::unwrap_or_clone)),
                        value => items.push(value),
                    }
                }
                Ok(Value::list(items))
            }
            Expr::Map(map) => {
                let mut entries: Vec<(Value<'a>, Value<'a>)> = Vec::new();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { return fail("unsupported map entry") };
                    let key = self.eval(&entry.key, scope)?;
                    for (have, _) in &entries {
                        if have.same(&key, self.budget)? {
                            return fail("duplicate map key");
                        }
                    }
                    entries.push((key, self.eval(&entry.value, scope)?));
                }
                Ok(Value::Map(Arc::new(entries)))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, scope),
            Expr::Call(call) => self.call(call, scope),
            Expr::Struct(made) => {
                let mut fields = Vec::with_capacity(made.entries.len());
                for entry in &made.entries {
                    let EntryExpr::StructField(field) = &entry.expr else { return fail("unsupported field") };
                    match self.eval(&field.value, scope)? {
                        Value::Optional(inner) if field.optional => {
                            fields.extend(inner.map(|value| (Value::text(&field.field), Arc::unwrap_or_clone(value))));
                        }
                        value => fields.push((Value::text(&field.field), value)),
                    }
                }
                Ok(Value::Message(made.type_name.as_str().into(), Arc::new(fields)))
            }
            Expr::Unspecified => fail("unsupported expression"),
        }
    }

    /// The member of what makes its members late, if that is what is asked for. No variable of a macro may have its name.
    fn late(&self, operand: &IdedExpr, field: &str) -> Option<Result<Value<'a>>> {
        let (name, members) = self.around.late?;
        matches!(&operand.expr, Expr::Ident(ident) if ident == name).then(|| members.member(field))
    }

    fn literal(&self, literal: &LiteralValue) -> Result<Value<'a>> {
        Ok(match literal {
            LiteralValue::Null => Value::Null,
            LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
            LiteralValue::Int(value) => Value::Int(*value.inner()),
            LiteralValue::UInt(value) => Value::Uint(*value.inner()),
            LiteralValue::Double(value) => Value::Double(*value.inner()),
            LiteralValue::Bytes(value) => Value::Bytes(value.inner().into()),
            LiteralValue::String(value) => {
                self.budget.pay_text(value.inner().len())?;
                Value::text(value.inner())
            }
        })
    }

    fn variable(&self, name: &str, mut scope: Option<&Scope<'_, 'a>>) -> Result<Value<'a>> {
        while let Some(here) = scope {
            if here.name == name {
                return Ok(here.value.clone());
            }
            scope = here.outer;
        }
        if let Some((_, value)) = self.variables.iter().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        match crate::types::type_named(name) {
            Some(name) => Ok(Value::Type(name)),
            None => fail(format!("no such variable: {name}")),
        }
    }

    fn comprehension(&self, c: &ComprehensionExpr, scope: Option<&Scope<'_, 'a>>) -> Result<Value<'a>> {
        let range = self.eval(&c.iter_range, scope)?;
        let Some(items) = range.elements(self.budget)? else { return fail(format!("{} cannot be gone through", range.type_name())) };
        let mut accumulated = self.eval(&c.accu_init, scope);
        for item in items {
            self.budget.pay(1)?;
            let inner = Scope { name: &c.iter_var, value: item, outer: scope };
            // What a step failed with may be made good by a later one: `exists` is true if one element says so.
            if let Err(Error::Cost) = accumulated {
                return accumulated;
            }
            if let Ok(value) = &accumulated {
                let around = Scope { name: &c.accu_var, value: value.clone(), outer: Some(&inner) };
                if let Ok(Value::Bool(false)) = self.eval(&c.loop_cond, Some(&around)) {
                    break;
                }
            }
            accumulated = self.step(&c.loop_step, &c.accu_var, accumulated, &inner);
        }
        let around = Scope { name: &c.accu_var, value: accumulated?, outer: scope };
        self.eval(&c.result, Some(&around))
    }

    /// The next accumulated value. Lists that macros build grow in place: copying them at each step would be quadratic.
    fn step(&self, expr: &IdedExpr, name: &str, accumulated: Result<Value<'a>>, scope: &Scope<'_, 'a>) -> Result<Value<'a>> {
        if let Expr::Ident(ident) = &expr.expr
            && ident == name
        {
            return accumulated;
        }
        if let Expr::Call(call) = &expr.expr {
            let is_accumulated = |expr: &IdedExpr| matches!(&expr.expr, Expr::Ident(ident) if ident == name);
            match (call.func_name.as_str(), call.args.as_slice()) {
                (op::CONDITIONAL, [test, yes, no]) => {
                    let chosen = if self.truth(test, Some(scope))? { yes } else { no };
                    return self.step(chosen, name, accumulated, scope);
                }
                (op::ADD, [left, right]) if is_accumulated(left) => {
                    if let (Expr::List(more), Value::List(mut items)) = (&right.expr, accumulated.clone()?) {
                        drop(accumulated);
                        for element in &more.elements {
                            let value = self.eval(element, Some(scope))?;
                            Arc::make_mut(&mut items).push(value);
                        }
                        return Ok(Value::List(items));
                    }
                }
                (op::LOGICAL_AND | op::LOGICAL_OR, [left, right]) if is_accumulated(left) => {
                    return self.either(call.func_name == op::LOGICAL_OR, accumulated, || self.eval(right, Some(scope)));
                }
                _ => {}
            }
        }
        let around = Scope { name, value: accumulated?, outer: Some(scope) };
        self.eval(expr, Some(&around))
    }

    pub(crate) fn truth(&self, expr: &IdedExpr, scope: Option<&Scope<'_, 'a>>) -> Result<bool> {
        match self.eval(expr, scope)? {
            Value::Bool(value) => Ok(value),
            other => fail(format!("no such overload: {} is not a bool", other.type_name())),
        }
    }

    /// `&&` and `||`: one side may decide although the other fails.
    fn either(&self, decides: bool, left: Result<Value<'a>>, right: impl FnOnce() -> Result<Value<'a>>) -> Result<Value<'a>> {
        let truth = |value: Result<Value<'a>>| match value {
            Ok(Value::Bool(value)) => Ok(value),
            Ok(other) => fail(format!("no such overload: {} is not a bool", other.type_name())),
            Err(err) => Err(err),
        };
        match truth(left) {
            Ok(value) if value == decides => Ok(Value::Bool(value)),
            Err(Error::Cost) => Err(Error::Cost),
            left => match (left, truth(right())) {
                (_, Err(Error::Cost)) => Err(Error::Cost),
                (_, Ok(value)) if value == decides => Ok(Value::Bool(value)),
                (Err(err), _) | (_, Err(err)) => Err(err),
                (Ok(_), Ok(value)) => Ok(Value::Bool(value)),
            },
        }
    }

    fn call(&self, call: &CallExpr, scope: Option<&Scope<'_, 'a>>) -> Result<Value<'a>> {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (name @ (op::LOGICAL_AND | op::LOGICAL_OR), [left, right]) => {
                return self.either(name == op::LOGICAL_OR, self.eval(left, scope), || self.eval(right, scope));
            }
            (op::CONDITIONAL, [test, yes, no]) => {
                let chosen = if self.truth(test, scope)? { yes } else { no };
                return self.eval(chosen, scope);
            }
            (op::NOT_STRICTLY_FALSE, [inner]) => {
                return match self.eval(inner, scope) {
                    Err(Error::Cost) => Err(Error::Cost),
                    value => Ok(Value::Bool(!matches!(value, Ok(Value::Bool(false))))),
                };
            }
            (op::OPT_SELECT, [operand, field]) => {
                let (operand, field) = (self.eval(operand, scope)?, self.eval(field, scope)?);
                let Value::String(name) = field else { return fail("a field's name is text") };
                let found = operand.member(&name);
                return Ok(match found {
                    Some(Value::Optional(found)) if matches!(operand, Value::Optional(_)) => Value::Optional(found),
                    found => Value::Optional(found.map(Arc::new)),
                });
            }
            (op::OPT_INDEX, [operand, key]) => {
                let (operand, key) = (self.eval(operand, scope)?, self.eval(key, scope)?);
                let inner = match &operand {
                    Value::Optional(None) => return Ok(operand),
                    Value::Optional(Some(inner)) => inner.as_ref(),
                    plain => plain,
                };
                return Ok(Value::Optional(inner.at(&key).map(Arc::new)));
            }
            _ => {}
        }
        if let Some(call) = Macro::of(call) {
            return self.macro_value(&call, scope);
        }
        // `sets.contains(...)`: the target is the name of a library.
        let library = functions::library(call);
        let target = match &call.target {
            Some(target) if library.is_none() => Some(self.eval(target, scope)?),
            _ => None,
        };
        let args = call.args.iter().map(|arg| self.eval(arg, scope)).collect::<Result<Vec<_>>>()?;
        let name = library.as_deref().unwrap_or(&call.func_name);
        if name == "check"
            && let Some(answer) = authorizer::check(target.as_ref(), &args, self.around.authorize, self.budget)?
        {
            return Ok(answer);
        }
        functions::call(name, target, args, &self.program.patterns, self.budget)
    }
}
