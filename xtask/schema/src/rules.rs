//! `validation.rows`: what the server refuses, and the Rust table that is made of it.
//!
//! `prefix P` goes before the names of types that follow, unless they are written whole. A line that is not indented names one type or several; the indented
//! lines below are its rules. Words with spaces stand in double quotes. A rule is one of
//!
//! ```text
//! required FIELD...            not empty; OUTER.INNER too   one-of FIELD TEXT...           one of these texts, if present
//! format FIELD FORMAT          the text, or each of a list  keys FIELD FORMAT              each key of a map
//! labels FIELD                 keys and values of labels    amounts FIELD FORMAT           names and quantities
//! not-negative FIELD...        numbers from 0               range FIELD MIN MAX            both included; `..`: no end
//! port FIELD                   a port, or a port's name     unique FIELD KEY               no two elements with the same key
//! distinct FIELD               no text twice                at-most FIELD N                elements of a list
//! longest FIELD N              bytes of a text              at-most-one FIELD...           of the fields
//! exactly-one FIELD... WHY     of the fields                at-least-one FIELD... WHY      of the fields
//! only F,F BY VALUE,VALUE WHY  may be set while BY is so    needs F,F BY VALUE,VALUE WHY   required while BY is so (`*`: set)
//! text FIELD FORMAT            empty text is held to it too union BY VALUE=FIELD...        by BY, one is required
//! check MODULE::FUNCTION [TEXT...]                          anything else; the texts are its third argument
//! ```
//!
//! Some have a sister that calls the same a plain `Invalid`, because upstream does: `either` (`exactly-one`), `few` (`at-most`), `unlike` (`unique`),
//! `fits-only` (`only`); and `each-of` is a `one-of` that tells of the list rather than of its element.
//!
//! Types and fields must exist: a slip of the pen stops the build, with its line.

use std::fmt::Write as _;
use std::path::Path;

use crate::model::Model;

/// Writes the table `RULES` of the rows at `path` to `out`.
pub(crate) fn write(model: &Model, path: &Path, out: &Path) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut table = String::from("static RULES: &[(&[&str], &[Rule])] = &[");
    let (mut prefix, mut types, mut open) = (String::new(), Vec::<String>::new(), false);
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let at = format!("{}:{}", path.display(), index + 1);
        let words = words(line, &at);
        if let [first, name] = &words[..]
            && first == "prefix"
        {
            prefix.clone_from(name);
        } else if line.starts_with(' ') {
            assert!(open, "{at}: a rule of no type");
            let rule = rule(&words, &at, &|field| model.assert_field(&types, field, &at));
            let _ = writeln!(table, "    Rule::{rule},");
        } else {
            types = words.iter().map(|name| model.full_name(&prefix, name, &at)).collect();
            let _ = writeln!(table, "{}({}, &[", if open { "]),\n" } else { "\n" }, list(&types));
            open = true;
        }
    }
    table.push_str("])];\n");
    std::fs::write(out, table).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
}

pub(crate) fn words(line: &str, at: &str) -> Vec<String> {
    let (mut words, mut rest) = (Vec::new(), line.trim());
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or_else(|| panic!("{at}: a quote is not closed")),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

pub(crate) fn list(items: &[String]) -> String {
    format!("&{items:?}")
}

/// The rule as an expression; `known` stops the build at a field that none of the types has.
fn rule(words: &[String], at: &str, known: &dyn Fn(&str)) -> String {
    let fields = |fields: &[String]| {
        fields.iter().for_each(|field| known(field.split('.').next().unwrap_or(field)));
        list(fields)
    };
    let field = |field: &String| {
        known(field);
        format!("{field:?}")
    };
    let split = |text: &String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let function = |name: &String| if name.contains("::") { name.clone() } else { format!("names::{name}") };
    let end = |text: &String, none: &str| if text == ".." { none.to_owned() } else { text.clone() };
    let (kind, rest) = words.split_first().unwrap_or_else(|| panic!("{at}: an empty rule"));
    match (kind.as_str(), rest) {
        ("required", all) => format!("Required({})", fields(all)),
        ("not-negative", all) => format!("NonNegative({})", fields(all)),
        ("at-most-one", all) => format!("AtMostOne({})", fields(all)),
        ("exactly-one", [all @ .., why]) => format!("ExactlyOne({}, {why:?}, FieldErrorKind::Required)", fields(all)),
        ("either", [all @ .., why]) => format!("ExactlyOne({}, {why:?}, FieldErrorKind::Invalid)", fields(all)),
        ("at-least-one", [all @ .., why]) => format!("AtLeastOne({}, {why:?})", fields(all)),
        ("one-of", [name, texts @ ..]) => format!("OneOf({}, {}, true)", field(name), list(texts)),
        ("each-of", [name, texts @ ..]) => format!("OneOf({}, {}, false)", field(name), list(texts)),
        ("format", [name, format]) => format!("Format({}, {})", field(name), function(format)),
        ("text", [name, format]) => format!("Text({}, {})", field(name), function(format)),
        ("keys", [name, format]) => format!("Keys({}, {})", field(name), function(format)),
        ("labels", [name]) => format!("Labels({})", field(name)),
        ("amounts", [name, format]) => format!("Amounts({}, {})", field(name), function(format)),
        ("port", [name]) => format!("Port({})", field(name)),
        ("distinct", [name]) => format!("Distinct({})", field(name)),
        ("at-most", [name, most]) => format!("AtMost({}, {most}, FieldErrorKind::TooMany)", field(name)),
        ("few", [name, most]) => format!("AtMost({}, {most}, FieldErrorKind::Invalid)", field(name)),
        ("longest", [name, most]) => format!("Longest({}, {most})", field(name)),
        ("range", [name, min, max]) => format!("Range({}, {}, {})", field(name), end(min, "i64::MIN"), end(max, "i64::MAX")),
        ("unique", [name, key]) => format!("Unique({}, {key:?}, FieldErrorKind::Duplicate)", field(name)),
        ("unlike", [name, key]) => format!("Unique({}, {key:?}, FieldErrorKind::Invalid)", field(name)),
        ("only" | "fits-only", [all, by, values, why]) => {
            let kind = if kind == "only" { "Forbidden" } else { "Invalid" };
            format!("Only({}, {}, {}, {why:?}, FieldErrorKind::{kind})", fields(&split(all)), field(by), list(&split(values)))
        }
        ("needs", [all, by, values, why]) => format!("Needs({}, {}, {}, {why:?})", fields(&split(all)), field(by), list(&split(values))),
        ("union", [by, members @ ..]) => {
            let pairs = members.iter().map(|pair| pair.split_once('=').unwrap_or_else(|| panic!("{at}: not VALUE=FIELD")));
            let pairs: Vec<(&str, &str)> = pairs.inspect(|(_, field)| known(field)).collect();
            format!("Union({}, &{pairs:?})", field(by))
        }
        ("check", [function]) => format!("Check({function})"),
        ("check", [function, text]) => format!("Check(|map, path, failures| {function}(map, path, {text:?}, failures))"),
        ("check", [function, texts @ ..]) => format!("Check(|map, path, failures| {function}(map, path, {}, failures))", list(texts)),
        _ => panic!("{at}: no rule is written like this"),
    }
}
