//! CEL, the language of rules in Kubernetes, over JSON, inside a budget.
//!
//! [`Program::compile`] parses an expression and holds it against the variables that it may use, [`Program::run`]
//! evaluates it. Every step of an evaluation is paid for out of a [`Budget`], memory that it makes included, so a hostile
//! expression costs its author an error and nobody else anything. Parsing is the `cel` crate's; what values are, what
//! they cost and which functions there are is decided here.
//!
//! Functions: the standard ones, and Kubernetes' libraries: strings, lists, sets, regex, URLs, quantities, addresses and networks, semantic versions,
//! named formats, optional values, macros with two variables, the authorizer.
//!
//! Not here: what a rule means (`custom` of the API, admission). Knows nothing of Pintle, so modules may use it too.

mod authorizer;
mod estimate;
mod eval;
mod format;
mod functions;
mod libraries;
mod macros;
mod opaque;
mod types;
mod url;
mod value;

use std::cell::Cell;
use std::collections::HashMap;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::parser::PrattParser;
use regex::Regex;
use serde_json::Value as Json;

pub use authorizer::{Access, Authorize, Stage};
pub use estimate::{EXPRESSION_COST_MAX, SCHEMA_COST_MAX, occurrences};
pub use opaque::{Format, Opaque};
pub use url::Url;
pub use value::Value;

/// Longest expression, bytes.
pub const SOURCE_BYTES_MAX: usize = 16 * 1024;
/// Most nodes of a parsed expression, and how deep they nest.
const NODES_MAX: usize = 4096;
const DEPTH_MAX: usize = 192;
/// What one evaluation may cost, in upstream's units.
pub const CALL_COST_MAX: u64 = 1_000_000;
/// What all evaluations for one request may cost.
pub const REQUEST_COST_MAX: u64 = 10_000_000;

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The expression is wrong, whatever it is given.
    #[error("compilation failed: {0}")]
    Compile(String),
    /// It went wrong with what it was given.
    #[error("{0}")]
    Evaluation(String),
    /// It cost too much.
    #[error("actual cost limit exceeded")]
    Cost,
}

/// A variable of an expression: its name, and the schema of what it will hold (null: anything).
pub type Variable<'a> = (&'a str, &'a Json);

/// What an expression may speak of.
#[derive(Debug, Clone, Copy)]
pub struct Environment<'a> {
    /// Its variables.
    pub variables: &'a [Variable<'a>],
    /// Whether it may make parts of objects (`Object{...}`, `Object.spec{...}`) and patches (`JSONPatch{...}`).
    pub messages: bool,
}

/// A variable whose members are made when they are asked for.
pub trait Members<'a> {
    /// The member's value. It should be made once.
    ///
    /// # Errors
    /// There is none of this name, or making it went wrong.
    fn member(&self, name: &str) -> Result<Value<'a>, Error>;
}

/// Its name, and what makes its members.
pub type Late<'p, 'a> = (&'p str, &'p dyn Members<'a>);

/// What is around an evaluation beside its variables.
#[derive(Clone, Copy, Default)]
pub struct Around<'p, 'a> {
    /// A variable whose members are made late.
    pub late: Option<Late<'p, 'a>>,
    /// Who knows what is allowed.
    pub authorize: Option<Authorize<'p>>,
}

/// What is left to spend.
#[derive(Debug)]
pub struct Budget {
    request: Cell<u64>,
    call: Cell<u64>,
}

impl Default for Budget {
    /// For one request.
    fn default() -> Self {
        Budget::new(REQUEST_COST_MAX)
    }
}

impl Budget {
    /// With this much to spend in all.
    pub fn new(cost: u64) -> Self {
        Budget { request: Cell::new(cost), call: Cell::new(0) }
    }

    /// Pay for `cost` units of work.
    fn pay(&self, cost: usize) -> Result<(), Error> {
        let left = self.call.get().checked_sub(cost as u64).ok_or(Error::Cost)?;
        self.call.set(left);
        Ok(())
    }

    /// Pay for going through `bytes` of text: a tenth of a unit each, as upstream counts.
    fn pay_text(&self, bytes: usize) -> Result<(), Error> {
        self.pay(1 + bytes / 10)
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    expr: IdedExpr,
    /// Patterns that stand in the expression as text.
    patterns: HashMap<String, Regex>,
    /// Variables that it reads.
    names: Vec<String>,
    /// What is known of its value.
    schema: Json,
    depth: usize,
}

impl Program {
    /// Parses `source` and checks it: variables, fields where their schema is known, functions, and that it can give a value
    /// of type `wanted` (`bool` or `string`).
    ///
    /// # Errors
    /// [`Error::Compile`].
    pub fn compile(source: &str, variables: &[Variable<'_>], wanted: &str) -> Result<Program, Error> {
        Program::compile_in(source, Environment { variables, messages: false }, wanted)
    }

    /// The same in any environment; without a type `wanted`, every type will do.
    ///
    /// # Errors
    /// [`Error::Compile`].
    pub fn compile_in(source: &str, environment: Environment<'_>, wanted: &str) -> Result<Program, Error> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Error::Compile(format!("the expression is longer than {SOURCE_BYTES_MAX} bytes")));
        }
        let parser = PrattParser::new().max_expression_node_count(NODES_MAX).enable_optional_syntax(true).enable_ident_escape_syntax(true);
        // The parser is not ours: whatever it may stumble over is the expression's fault, and nobody else's.
        let parsed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| parser.parse(source)));
        let parsed = parsed.map_err(|_| Error::Compile("the expression cannot be parsed".to_owned()))?;
        let expr = parsed.map_err(|err| Error::Compile(err.to_string()))?;
        let depth = depth(&expr);
        if depth > DEPTH_MAX {
            return Err(Error::Compile(format!("the expression nests deeper than {DEPTH_MAX}")));
        }
        let mut check = types::Check::new(environment);
        let kind = check.kind(&expr).map_err(|why| Error::Compile(format!("ERROR: <input>:1:1: {why}")))?;
        if !wanted.is_empty() && !kind.may_be(wanted) {
            return Err(Error::Compile(format!("cel expression must evaluate to a {wanted}")));
        }
        let schema = kind.schema();
        let (patterns, names) = check.found();
        Ok(Program { expr, patterns, names, schema, depth })
    }

    /// Whether it reads the variable.
    pub fn reads(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// The members that it reads of the variable, as `variable.member`.
    pub fn members<'p>(&'p self, variable: &str) -> Vec<&'p str> {
        let (mut found, mut open) = (Vec::new(), vec![&self.expr]);
        while let Some(expr) = open.pop() {
            if let Expr::Select(select) = &expr.expr
                && matches!(&select.operand.expr, Expr::Ident(name) if name == variable)
            {
                found.push(select.field.as_str());
            }
            open.extend(below(&expr.expr));
        }
        found
    }

    /// The schema of its value, as far as it is known.
    pub fn schema(&self) -> &Json {
        &self.schema
    }

    /// How deep the expression nests: evaluating it takes as many calls on the stack.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The value of the expression. Variables that it does not find are errors of the evaluation.
    ///
    /// # Errors
    /// [`Error::Evaluation`] and [`Error::Cost`].
    pub fn run<'a>(&self, variables: &[(&str, Value<'a>)], budget: &Budget) -> Result<Value<'a>, Error> {
        self.run_with(variables, Around::default(), budget)
    }

    /// The same, with more around it. Expressions that make late members are paid for like any other.
    ///
    /// # Errors
    /// [`Error::Evaluation`] and [`Error::Cost`].
    pub fn run_with<'a>(&self, variables: &[(&str, Value<'a>)], around: Around<'_, 'a>, budget: &Budget) -> Result<Value<'a>, Error> {
        let allowed = budget.request.get().min(CALL_COST_MAX);
        let outer = budget.call.replace(allowed);
        let outcome = eval::run(self, variables, around, budget);
        let spent = allowed - budget.call.replace(outer);
        budget.request.set(budget.request.get().saturating_sub(spent));
        outcome
    }
}

/// The expressions directly below one.
fn below(expr: &Expr) -> Vec<&IdedExpr> {
    match expr {
        Expr::Call(call) => call.target.iter().map(AsRef::as_ref).chain(&call.args).collect(),
        Expr::Comprehension(c) => vec![&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Struct(made) => made.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// How deep an expression nests, found without recursion: it may be deeper than the stack.
fn depth(expr: &IdedExpr) -> usize {
    let (mut deepest, mut open) = (0, vec![(expr, 1)]);
    while let Some((expr, depth)) = open.pop() {
        deepest = deepest.max(depth);
        open.extend(below(&expr.expr).into_iter().map(|inner| (inner, depth + 1)));
    }
    deepest
}
