//! Tests that a module uses only the modules that this table allows. docs/architecture.md has the same table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use quote::ToTokens;
use syn::{Item, UseTree};

/// A module and the modules that it may use, which come earlier in the table.
const MODULES: &[(&str, &[&str])] = &[
    ("scan", &[]),
    ("disk", &[]),
    ("home", &[]),
    ("interrupt", &[]),
    ("printable", &[]),
    ("dev", &[]),
    ("store", &["disk"]),
    ("lock", &["disk", "interrupt"]),
    ("record", &["scan"]),
    ("sqlite_file", &["disk", "interrupt"]),
    ("publish", &["disk", "interrupt"]),
    ("archive", &["record", "sqlite_file", "publish", "scan", "disk", "home", "interrupt", "lock"]),
    ("ledger", &["archive", "record", "scan", "disk", "home", "interrupt", "lock"]),
    ("journal", &["store", "scan", "disk", "home", "interrupt"]),
    ("session", &["store", "scan", "disk", "interrupt"]),
    ("book", &["store", "scan", "disk", "interrupt"]),
    ("ingest", &["journal", "ledger", "store", "disk", "home", "interrupt", "lock"]),
    ("usage", &["archive", "record", "scan", "home", "interrupt"]),
    ("report", &["usage", "archive", "record", "interrupt", "printable"]),
    ("export", &["archive", "record", "disk", "home", "interrupt", "lock"]),
    ("agents", &["ledger", "record", "scan", "disk", "home", "interrupt", "lock"]),
    (
        "cli",
        &[
            "scan",
            "disk",
            "home",
            "interrupt",
            "dev",
            "store",
            "lock",
            "record",
            "archive",
            "ledger",
            "journal",
            "session",
            "book",
            "ingest",
            "agents",
            "usage",
            "report",
            "export",
            "printable",
        ],
    ),
];

pub fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.extend(path.extension().is_some_and(|end| end == "rs").then(|| path.to_owned()));
    } else if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| sources(&entry.unwrap().path(), found));
    }
}

/// Returns the module that a file under `src` is.
pub fn module_of(root: &Path, file: &Path) -> Vec<String> {
    let inside = file.strip_prefix(root).unwrap().with_extension("");
    let names = inside.components().map(|part| match part {
        Component::Normal(name) => name.to_str().unwrap().to_owned(),
        other => panic!("{other:?} in {}", file.display()),
    });
    names.filter(|name| name != "mod").collect()
}

/// The path `name` after the absolute path `place`; none if the path does not begin in this crate.
fn step(place: Option<Vec<String>>, at_start: bool, name: &str, module: &[String]) -> Option<Vec<String>> {
    match (name, place) {
        ("crate", _) if at_start => Some(Vec::new()),
        ("self", _) if at_start => Some(module.to_vec()),
        ("super", place) => {
            let mut place = if at_start { module.to_vec() } else { place? };
            place.pop();
            Some(place)
        }
        (_, _) if at_start => None,
        (name, place) => place.map(|place| [place, vec![name.to_owned()]].concat()),
    }
}

/// Adds the first names of the paths in a `use`.
fn used_by_tree(
    tree: &UseTree,
    place: Option<Vec<String>>,
    at_start: bool,
    module: &[String],
    used: &mut BTreeSet<String>,
) {
    let mut add = |name: &str| {
        used.extend(step(place.clone(), at_start, name, module).and_then(|path| path.into_iter().next()))
    };
    match tree {
        UseTree::Path(path) => {
            let name = path.ident.to_string();
            used_by_tree(&path.tree, step(place, at_start, &name, module), false, module, used);
        }
        UseTree::Name(name) => add(&name.ident.to_string()),
        UseTree::Rename(rename) => add(&rename.ident.to_string()),
        UseTree::Glob(_) => used.extend(place.and_then(|path| path.into_iter().next())),
        UseTree::Group(group) => {
            group.items.iter().for_each(|tree| used_by_tree(tree, place.clone(), at_start, module, used))
        }
    }
}

/// The first names of all paths in `items` that begin in this crate: by `crate` or by `super`, in a `use` or anywhere else.
fn used_names(items: &[Item], module: &[String], used: &mut BTreeSet<String>) {
    for item in items {
        match item {
            Item::Use(import) => used_by_tree(&import.tree, None, true, module, used),
            Item::Mod(inner) if inner.content.is_some() => {
                let (_, items) = inner.content.as_ref().unwrap();
                used_names(items, &[module, &[inner.ident.to_string()]].concat(), used);
            }
            other => {
                // A path is names with `::` between. Paths in texts and documentation count like code.
                let text = other.to_token_stream().to_string();
                let text = text.replace("::", " :: ");
                let text = text.replace(
                    |c: char| !(c.is_alphanumeric() || c.is_whitespace() || "_:".contains(c)),
                    " ; ",
                );
                let tokens: Vec<&str> = text.split_whitespace().collect();
                for start in 0..tokens.len() {
                    if !["crate", "super"].contains(&tokens[start])
                        || (start > 0 && tokens[start - 1] == "::")
                    {
                        continue;
                    }
                    let (mut place, mut at) = (None, start);
                    loop {
                        place = step(place, at == start, tokens[at], module);
                        if tokens.get(at + 1) != Some(&"::") || at + 2 >= tokens.len() {
                            break;
                        }
                        at += 2;
                    }
                    used.extend(place.and_then(|path| path.into_iter().next()));
                }
            }
        }
    }
}

fn names_used_in(text: &str, module: &[String]) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    used_names(&syn::parse_file(text).unwrap().items, module, &mut used);
    used
}

/// The canary: each way to name another module is found, and paths inside a module are not.
#[test]
fn every_way_to_name_a_module_is_found() {
    let module = ["session", "recovery", "plan"].map(str::to_owned);
    for (text, wanted) in [
        ("use crate::ledger;", &["ledger"][..]),
        ("use crate::ledger::*;", &["ledger"]),
        ("use crate::{disk, ledger::{self, Batch}};", &["disk", "ledger"]),
        ("use super::super::super::ledger::Batch;", &["ledger"]),
        ("use super::super::{super::ledger, index};", &["ledger", "session"]),
        ("use super::super::ledger;", &["session"]),
        ("mod inner { use super::super::super::super::ledger; }", &["ledger"]),
        ("fn f() { let x = crate::ledger::Batch::new(); }", &["ledger"]),
        ("fn f() -> super::super::super::ledger::Batch { g(super::h()) }", &["ledger", "session"]),
        ("use self::inner::crate_like; use std::fs;", &["session"]),
    ] {
        let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(names_used_in(text, &module), wanted, "{text}");
    }
}

#[test]
fn a_module_uses_only_modules_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (place, (module, allowed)) in MODULES.iter().enumerate() {
        assert!(
            allowed.iter().all(|used| MODULES[..place].iter().any(|(above, _)| above == used)),
            "{module}"
        );
        let mut files = Vec::new();
        sources(&root.join(module), &mut files);
        sources(&root.join(format!("{module}.rs")), &mut files);
        assert!(!files.is_empty(), "no file of {module}");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let mut used = names_used_in(&text, &module_of(&root, &file));
            used.retain(|name| name != module && MODULES.iter().any(|(other, _)| other == name));
            for used in used {
                assert!(allowed.contains(&used.as_str()), "{} uses {used}", file.display());
            }
        }
    }
    // The table has every module.
    for entry in fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let is_known = ["lib", "main"].contains(&name) || MODULES.iter().any(|(module, _)| *module == name);
        assert!(is_known, "{name} is no module of the table");
    }
}
