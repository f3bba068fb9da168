//! What is on the wire never changes: every id and ordinal of the schemas is in `frozen.txt`, one a line.
//!
//! A module or a machine built against an older tree keeps working as long as no line of that list changes or vanishes. Growing is allowed: the
//! test prints the new lines, and adding them to the list is the promise to keep them.

use std::{collections::BTreeSet, fs, path::Path};

/// Turns the text of one schema into lines: what is declared, under which id or ordinal, and with which type.
struct Reader<'a> {
    file: &'a str,
    scope: Vec<Scope>,
    lines: BTreeSet<String>,
}

/// A pair of braces: those of a union or group add no name.
enum Scope {
    Named(String),
    Unnamed,
}

impl Reader<'_> {
    fn read(mut self, text: &str) -> BTreeSet<String> {
        let code: String = text.lines().map(|line| line.split('#').next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
        let mut statement = String::new();
        for c in code.chars() {
            match c {
                ';' => self.declares(&std::mem::take(&mut statement)),
                '{' => self.opens(&std::mem::take(&mut statement)),
                '}' => drop(self.scope.pop()),
                c => statement.push(c),
            }
        }
        assert!(self.scope.is_empty() && statement.trim().is_empty(), "{} ends in the middle of {statement:?}", self.file);
        self.lines
    }

    fn opens(&mut self, statement: &str) {
        let words: Vec<&str> = statement.split_whitespace().collect();
        match words[..] {
            ["union"] => self.scope.push(Scope::Unnamed),
            [kind @ ("struct" | "enum" | "interface"), name, id] => {
                self.note(&format!("{name} {kind} {id}"));
                self.scope.push(Scope::Named(name.to_owned()));
            }
            _ => panic!("{}: a declaration without an id, or of a shape this test does not know: {statement:?}", self.file),
        }
    }

    fn declares(&mut self, statement: &str) {
        let words: Vec<&str> = statement.split_whitespace().collect();
        match words[..] {
            ["using", ..] => {}
            [id] if id.starts_with("@0x") => self.note(&format!("file {id}")),
            ["annotation", name, id, ..] => self.note(&format!("{name} annotation {id} {}", words[3..].join(" "))),
            [name, ordinal, ..] if ordinal.starts_with('@') => match words[2..].join(" ") {
                signature if signature.starts_with('(') => self.method(name, ordinal, &signature),
                kind => self.note(format!("{name} {ordinal} {kind}").trim()),
            },
            _ => panic!("{}: a declaration without an ordinal, or of a shape this test does not know: {statement:?}", self.file),
        }
    }

    /// Parameters and results have their places as ordinals.
    fn method(&mut self, name: &str, ordinal: &str, signature: &str) {
        let (call, tail) = signature.split_once('$').unwrap_or((signature, ""));
        self.note(format!("{name} {ordinal} {}", if tail.is_empty() { String::new() } else { format!("${tail}") }).trim());
        let (takes, gives) = call.split_once("->").unwrap_or((call, ""));
        for (list, direction) in [(takes, "takes"), (gives, "gives")] {
            let inside = list.trim().trim_start_matches('(');
            let inside = inside.strip_suffix(')').unwrap_or(inside);
            for (place, one) in inside.split(',').map(str::trim).filter(|one| !one.is_empty()).enumerate() {
                self.note(&format!("{name} {direction} {place} {one}"));
            }
        }
    }

    fn note(&mut self, what: &str) {
        let scope: Vec<&str> = self.scope.iter().filter_map(|s| if let Scope::Named(name) = s { Some(&**name) } else { None }).collect();
        let within = if scope.is_empty() { String::new() } else { format!("{}.", scope.join(".")) };
        assert!(self.lines.insert(format!("{}: {within}{what}", self.file)), "{}: {what} is there twice", self.file);
    }
}

fn schemas() -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("the folder of the schemas") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "capnp") {
            let file = path.file_name().and_then(|n| n.to_str()).expect("a name");
            let reader = Reader { file, scope: Vec::new(), lines: BTreeSet::new() };
            lines.extend(reader.read(&fs::read_to_string(&path).expect("text")));
        }
    }
    lines
}

#[test]
fn no_id_or_ordinal_of_a_schema_changes_or_vanishes() {
    let golden = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen.txt")).expect("the list");
    let golden: BTreeSet<String> = golden.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).map(str::to_owned).collect();
    let now = schemas();
    let text = |lines: Vec<&String>| lines.into_iter().map(|l| format!("\n{l}")).collect::<String>();
    let gone = text(golden.difference(&now).collect());
    assert!(gone.is_empty(), "changed or vanished, which breaks modules and machines that are out there:{gone}");
    let new = text(now.difference(&golden).collect());
    assert!(new.is_empty(), "new; to freeze them, add these lines to wit/tests/frozen.txt:{new}");
}

#[test]
fn the_reader_sees_every_kind_of_declaration() {
    let schema = "@0xaa; # a comment; with @9 :Things\nusing C = import \"c.capnp\";\nannotation hot @0xab (method) :Void;\n\
        struct S @0xac {\n a @0 :Int64 = -1;\n union {\n  b @1 :Void;\n  c @2 :List(Text);\n }\n enum E @0xad { x @0; }\n}\n\
        interface I @0xae { m @0 (p :UInt64, q :List(S)) -> (r :Bool) $C.hot; n @1 (); }";
    let lines = Reader { file: "f", scope: Vec::new(), lines: BTreeSet::new() }.read(schema);
    let expected = [
        "f: I interface @0xae",
        "f: I.m @0 $C.hot",
        "f: I.m gives 0 r :Bool",
        "f: I.m takes 0 p :UInt64",
        "f: I.m takes 1 q :List(S)",
        "f: I.n @1",
        "f: S struct @0xac",
        "f: S.E enum @0xad",
        "f: S.E.x @0",
        "f: S.a @0 :Int64 = -1",
        "f: S.b @1 :Void",
        "f: S.c @2 :List(Text)",
        "f: file @0xaa",
        "f: hot annotation @0xab (method) :Void",
    ];
    assert_eq!(lines.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}
