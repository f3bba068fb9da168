//! What all expressions of a policy share: the variables that they may read, those that the policy itself defines, and what is wrong
//! with them when they are written.

use std::cell::RefCell;
use std::collections::HashMap;

use pintle_cel::{Access, Around, Authorize, Budget, Environment, Error, Members, Program, Value as Cel, Variable};
use pintle_structural::FieldError;
use serde_json::{Value as Json, json};

use crate::Question;

/// How deep expressions of a policy may nest together, through the variables that they read: each level is some calls on the stack.
const DEPTH_MAX: usize = 384;
/// Words that no variable can be called.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// An expression, compiled, or why it cannot be.
#[derive(Debug)]
pub(crate) struct Expression {
    pub(crate) source: String,
    program: Result<Program, String>,
}

/// What the expressions of one policy may read, and the variables among it that the policy defines.
#[derive(Debug)]
pub(crate) struct Scope {
    params: bool,
    messages: bool,
    /// The schemas of objects and parameters; null: unknown.
    object: Json,
    params_schema: Json,
    variables: Vec<(String, Expression)>,
    /// The schema of `variables`.
    schema: Json,
    /// How deep each variable nests with those that it reads.
    depths: HashMap<String, usize>,
}

/// The values of what a question brings.
pub(crate) fn inputs<'a>(question: Question<'a>) -> [(&'static str, Cel<'a>); 6] {
    let (request, resource) = (question.request, &question.request["resource"]);
    let asked = Access {
        group: text(resource, "group").to_owned(),
        resource: text(resource, "resource").to_owned(),
        subresource: text(request, "subResource").to_owned(),
        namespace: text(request, "namespace").to_owned(),
        name: text(request, "name").to_owned(),
        ..Access::default()
    };
    [
        ("object", Cel::free(question.object)),
        ("oldObject", Cel::free(question.old_object)),
        ("request", Cel::free(question.request)),
        ("params", Cel::free(question.params)),
        ("namespaceObject", Cel::free(question.namespace)),
        ("authorizer", Access::authorizer(asked)),
    ]
}

impl Scope {
    /// Of a policy's `spec`; `messages` if its expressions make parts of objects.
    pub(crate) fn new(spec: &Json, messages: bool) -> Scope {
        Scope::made(spec, messages, &Json::Null, &Json::Null)
    }

    /// The same where the types of objects and parameters are known.
    pub(crate) fn typed(spec: &Json, object: &Json, params: &Json) -> Scope {
        Scope::made(spec, false, object, params)
    }

    fn made(spec: &Json, messages: bool, object: &Json, params: &Json) -> Scope {
        let schema = json!({"type": "object", "properties": {}});
        let mut scope = Scope {
            params: spec["paramKind"].is_object(),
            messages,
            object: object.clone(),
            params_schema: params.clone(),
            variables: Vec::new(),
            schema,
            depths: HashMap::new(),
        };
        for variable in list(spec, "variables") {
            let name = text(variable, "name");
            let expression = scope.compile(text(variable, "expression"), "");
            if let Ok(program) = &expression.program {
                scope.depths.insert(name.to_owned(), scope.depth(program));
            }
            scope.schema["properties"][name] = expression.program.as_ref().map_or(json!({}), |program| program.schema().clone());
            scope.variables.push((name.to_owned(), expression));
        }
        scope
    }

    /// An expression whose value is of the type `wanted` (empty: of any).
    pub(crate) fn compile(&self, source: &str, wanted: &str) -> Expression {
        self.compile_with(source, wanted, &[("authorizer", &Json::Null)])
    }

    /// An expression that makes a message: it may not ask the authorizer.
    pub(crate) fn compile_message(&self, source: &str) -> Expression {
        self.compile_with(source, "string", &[])
    }

    fn compile_with(&self, source: &str, wanted: &str, more: &[Variable<'_>]) -> Expression {
        let mut variables = vec![
            ("object", &self.object),
            ("oldObject", &self.object),
            ("request", &Json::Null),
            ("namespaceObject", &Json::Null),
            ("variables", &self.schema),
        ];
        variables.extend(more);
        if self.params {
            variables.push(("params", &self.params_schema));
        }
        let environment = Environment { variables: &variables, messages: self.messages };
        let program = Program::compile_in(source, environment, wanted).map_err(|error| error.to_string());
        let program = program.and_then(|program| match self.depth(&program) {
            depth if depth > DEPTH_MAX => Err(format!("compilation failed: the expression and its variables nest deeper than {DEPTH_MAX}")),
            _ => Ok(program),
        });
        Expression { source: source.to_owned(), program }
    }

    /// How deep an expression nests, the deepest variable that it may read included.
    fn depth(&self, program: &Program) -> usize {
        let below = program.members("variables").into_iter().filter_map(|name| self.depths.get(name).copied()).max();
        program.depth() + below.unwrap_or_default()
    }

    /// What is wrong with the variables; `at` is the place of `spec`.
    pub(crate) fn failures(&self, at: &str, failures: &mut Vec<FieldError>) {
        for (index, (name, expression)) in self.variables.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let is_name = name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) && !RESERVED.contains(&name.as_str());
            if !is_name {
                failures.push(FieldError::invalid(
                    format!("{at}.variables[{index}].name"),
                    name.as_str(),
                    "must be a valid CEL identifier",
                ));
            }
            expression.failure(&format!("{at}.variables[{index}].expression"), failures);
        }
    }
}

impl Expression {
    /// Why it does not compile.
    pub(crate) fn wrong(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }

    /// What is wrong with it; `at` is its place.
    pub(crate) fn failure(&self, at: &str, failures: &mut Vec<FieldError>) {
        match &self.program {
            _ if self.source.trim().is_empty() => failures.push(FieldError::required(at, "expression is not specified")),
            Err(why) => failures.push(FieldError::invalid(at, self.source.as_str(), why.as_str())),
            Ok(_) => {}
        }
    }
}

/// One evaluation of a policy: its variables are made once, when they are first read.
pub(crate) struct Evaluation<'p, 'a> {
    scope: &'p Scope,
    inputs: [(&'static str, Cel<'a>); 6],
    authorize: Option<Authorize<'a>>,
    budget: Budget,
    made: RefCell<HashMap<String, Result<Cel<'a>, Error>>>,
}

impl<'p, 'a> Evaluation<'p, 'a> {
    pub(crate) fn new(scope: &'p Scope, question: Question<'a>) -> Self {
        Evaluation { scope, inputs: inputs(question), authorize: question.authorize, budget: Budget::default(), made: RefCell::default() }
    }

    /// The value of an expression, or what to tell about it.
    pub(crate) fn value(&self, expression: &Expression) -> Result<Cel<'a>, String> {
        let program = expression.program.as_ref().map_err(|why| format!("compilation error: {why}"))?;
        self.run(program).map_err(|error| match error {
            Error::Cost => "validation failed due to running out of cost budget, no further validation rules will be run".to_owned(),
            error => format!("expression '{}' resulted in error: {error}", expression.source),
        })
    }

    fn run(&self, program: &Program) -> Result<Cel<'a>, Error> {
        let around = Around { late: Some(("variables", self)), authorize: self.authorize };
        program.run_with(&self.inputs, around, &self.budget)
    }
}

impl<'a> Members<'a> for Evaluation<'_, 'a> {
    fn member(&self, name: &str) -> Result<Cel<'a>, Error> {
        if let Some(known) = self.made.borrow().get(name) {
            return known.clone();
        }
        let found = self.scope.variables.iter().find(|(known, _)| known == name);
        let (_, expression) = found.ok_or_else(|| Error::Evaluation(format!("no such key: {name}")))?;
        let failed = |why: &str| Error::Evaluation(format!("composited variable {name:?} fails to evaluate: {why}"));
        let value = match &expression.program {
            Ok(program) => self.run(program).map_err(|error| if error == Error::Cost { error } else { failed(&error.to_string()) }),
            Err(why) => Err(failed(why)),
        };
        self.made.borrow_mut().insert(name.to_owned(), value.clone());
        value
    }
}

pub(crate) fn text<'a>(value: &'a Json, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

pub(crate) fn list<'a>(value: &'a Json, key: &str) -> &'a [Json] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}
