//! `resources.rows`: what is known of each resource beyond the type of its objects, and the Rust table that is made of it.
//!
//! `groups GROUP...` is the order of groups in discovery. Another line that is not indented names a resource, `plural` (of the core group) or `group/plural`; the indented lines below are its facts:
//!
//! ```text
//! short NAME...                   abbreviations               in CATEGORY...             groups of resources, such as `all`
//! verbs VERB...                   when not all                stored [GROUP/]VERSION     the face that is stored, when it is another
//! named FORMAT                    of names and their prefixes is FACT...                 of `Is` in kernel/api/src/resource.rs, in lower case with dashes
//! status JSON                     of a new object             deprecated TEXT            what its users are told
//! selectable FIELD...             as kernel/registry/src/selectable.rs reads them
//! fixed POINTER...                never change                once-set POINTER...        never change once they have a value
//! update MODULE::FUNCTION [TEXT]  what else an update is held to                         update-status MODULE::FUNCTION   or a write to the status
//! part NAME VERB,VERB [kind=[GROUP/]VERSION/KIND] [writes=POINTER,POINTER] [check=FUNCTION]   a subresource; `status` needs no row
//! name, age                       the two columns that most tables have
//! column NAME TYPE CELL           a column of tables          wide NAME TYPE CELL        one that `-o wide` shows
//! ```
//!
//! A cell is one of
//!
//! ```text
//! at POINTER [ELSE]       what is there; else ELSE, or <none>     count POINTER          a number, or 0
//! since POINTER           the time since then                     length POINTER         of a list or a map
//! flag POINTER            true or false                           list POINTER FIELD     a list's texts, or their field's; or <none>
//! path ELSE POINTER...    texts with slashes between, or ELSE     of FUNCTION [TEXT]     anything else
//! now FUNCTION            anything else that is about time
//! ```
//!
//! Resources must exist: a slip of the pen stops the build, with its line.

use std::fmt::Write as _;
use std::path::Path;

use crate::model::Model;
use crate::rules::{list, words};

#[derive(Default)]
struct Facts {
    /// Fields that are written as they are.
    fields: String,
    /// What is added to line by line.
    selectable: Vec<String>,
    parts: Vec<String>,
    columns: Vec<String>,
}

/// Writes the table `FACTS` of the rows at `path` to `out`.
pub(crate) fn write(model: &Model, path: &Path, out: &Path) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut all: Vec<(String, String, Facts)> = Vec::new();
    let mut order = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let at = format!("{}:{}", path.display(), index + 1);
        if let Some(groups) = line.strip_prefix("groups ") {
            order.extend(words(groups, &at));
        } else if line.starts_with(' ') {
            let (_, _, facts) = all.last_mut().unwrap_or_else(|| panic!("{at}: a fact of no resource"));
            fact(facts, &words(line, &at), &at);
        } else {
            let (group, plural) = line.split_once('/').unwrap_or(("", line));
            assert!(model.kinds.iter().any(|kind| kind.group == group && kind.plural == plural), "{at}: no resource {line}");
            assert!(all.iter().all(|(g, p, _)| (g.as_str(), p.as_str()) != (group, plural)), "{at}: {line} for the second time");
            all.push((group.to_owned(), plural.to_owned(), Facts::default()));
        }
    }
    let mut table = String::from("static FACTS: &[(&str, &str, Facts)] = &[\n");
    for (group, plural, facts) in all {
        let Facts { mut fields, selectable, parts, columns } = facts;
        if !selectable.is_empty() {
            let _ = write!(fields, "selectable: {}, ", list(&selectable));
        }
        for (name, rows) in [("parts", parts), ("columns", columns)].iter().filter(|(_, rows)| !rows.is_empty()) {
            let _ = write!(fields, "{name}: &[\n        {},\n    ], ", rows.join(",\n        "));
        }
        let _ = writeln!(table, "    ({group:?}, {plural:?}, Facts {{ {fields}..PLAIN }}),");
    }
    let _ = writeln!(table, "];\npub(crate) static GROUP_ORDER: &[&str] = {};", list(&order));
    std::fs::write(out, table).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
}

fn fact(facts: &mut Facts, words: &[String], at: &str) {
    let (kind, rest) = words.split_first().unwrap_or_else(|| panic!("{at}: an empty fact"));
    let field = match (kind.as_str(), rest) {
        ("short", names) => format!("short_names: {}", list(names)),
        ("in", categories) => format!("categories: {}", list(categories)),
        ("verbs", all) => format!("verbs: {}", verbs(all, at)),
        ("stored", [face]) => format!("stored_as: Some({:?})", face.split_once('/').unwrap_or(("", face))),
        ("named", [format]) => format!("named: {}", function("names", format)),
        ("is", all) => format!("is: &[{}]", all.iter().map(|word| format!("Is::{}", camel(word))).collect::<Vec<_>>().join(", ")),
        ("status", [json]) => format!("status: {json:?}"),
        ("deprecated", [text]) => format!("deprecated: {text:?}"),
        ("fixed", pointers) => format!("fixed: {}", list(pointers)),
        ("once-set", pointers) => format!("once_set: {}", list(pointers)),
        ("update", [check]) => format!("update: Some({check})"),
        ("update", [check, text]) => format!("update: Some(|new, old, failures| {check}(new, old, {text:?}, failures))"),
        ("update-status", [check]) => format!("update_status: Some({check})"),
        ("selectable", fields) => return facts.selectable.extend_from_slice(fields),
        ("part", [name, verbs, further @ ..]) => return facts.parts.push(part(name, verbs, further, at)),
        ("name", []) => return facts.columns.push("Column::NAME".to_owned()),
        ("age", []) => return facts.columns.push("Column::AGE".to_owned()),
        ("column" | "wide", [name, of_type, shown @ ..]) => {
            let (priority, cell) = (u8::from(kind == "wide"), cell(shown, at));
            let column = format!("Column {{ name: {name:?}, kind: {of_type:?}, priority: {priority}, cell: Cell::{cell} }}");
            return facts.columns.push(column);
        }
        _ => panic!("{at}: no fact is written like this"),
    };
    let name = field.split(':').next().unwrap_or_default();
    assert!(!format!(" {}", facts.fields).contains(&format!(" {name}: ")), "{at}: {kind} for the second time");
    let _ = write!(facts.fields, "{field}, ");
}

fn part(name: &str, allowed: &str, further: &[String], at: &str) -> String {
    let allowed = allowed.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut part = format!("Part {{ name: {name:?}, verbs: {}, ", verbs(&allowed, at));
    for (key, value) in further.iter().map(|word| word.split_once('=').unwrap_or_else(|| panic!("{at}: not KEY=VALUE: {word}"))) {
        let field = match key {
            "kind" => match value.split('/').collect::<Vec<_>>()[..] {
                [version, kind] => format!("target: Some({:?})", ("", version, kind)),
                [group, version, kind] => format!("target: Some({:?})", (group, version, kind)),
                _ => panic!("{at}: not [GROUP/]VERSION/KIND: {value}"),
            },
            "writes" => format!("writes: {}", list(&value.split(',').map(str::to_owned).collect::<Vec<_>>())),
            "check" => format!("check: Some({})", function("immutable", value)),
            _ => panic!("{at}: parts have no {key}"),
        };
        let _ = write!(part, "{field}, ");
    }
    part + "..PART }"
}

fn cell(words: &[String], at: &str) -> String {
    let (kind, rest) = words.split_first().unwrap_or_else(|| panic!("{at}: an empty cell"));
    match (kind.as_str(), rest) {
        ("at", [pointer]) => format!("At({pointer:?}, \"<none>\")"),
        ("at", [pointer, otherwise]) => format!("At({pointer:?}, {otherwise:?})"),
        ("count", [pointer]) => format!("Count({pointer:?})"),
        ("since", [pointer]) => format!("Since({pointer:?})"),
        ("length", [pointer]) => format!("Length({pointer:?})"),
        ("flag", [pointer]) => format!("Flag({pointer:?})"),
        ("list", [pointer, field]) => format!("List({pointer:?}, {field:?})"),
        ("path", [otherwise, pointers @ ..]) => format!("Path({otherwise:?}, {})", list(pointers)),
        ("of", [name]) => format!("Of(|object, _| {}(object))", function("cells", name)),
        ("of", [name, text]) => format!("Of(|object, _| {}(object, {text:?}))", function("cells", name)),
        ("now", [name]) => format!("Of({})", function("cells", name)),
        _ => panic!("{at}: no cell is written like this"),
    }
}

fn verbs(words: &[String], at: &str) -> String {
    let verb = |word: &String| match word.as_str() {
        "deletecollection" => "Verb::DeleteCollection".to_owned(),
        "create" | "delete" | "get" | "list" | "patch" | "update" | "watch" => format!("Verb::{}", camel(word)),
        other => panic!("{at}: no verb {other}"),
    };
    format!("Verbs::of(&[{}])", words.iter().map(verb).collect::<Vec<_>>().join(", "))
}

fn function(module: &str, name: &str) -> String {
    if name.contains("::") { name.to_owned() } else { format!("{module}::{name}") }
}

fn camel(word: &str) -> String {
    word.split('-').map(|part| part[..1].to_ascii_uppercase() + &part[1..]).collect()
}
