//! No ring of modules: a module imports only modules that do not import it, directly or through others.
//!
//! A module is a file. It imports the modules whose items it names, by `use` or by a path in its code; where the name is
//! re-exported, the module that has the item counts. What a module re-exports from modules inside it does not count, because a
//! `mod.rs` that declares its modules and re-exports their items needs nothing of them. Tests do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use quote::ToTokens as _;
use syn::{Attribute, Item, UseTree, Visibility};

use crate::modules::{module_of, sources};

pub type ModulePath = Vec<String>;

#[derive(Debug, Default)]
struct Module {
    /// Names of the items that the file has itself.
    items: BTreeSet<String>,
    /// Imports of a `use`: the name, its path from the crate's root, and whether it is re-exported.
    imports: Vec<(String, ModulePath, bool)>,
    /// Paths in code, from the crate's root.
    named: Vec<ModulePath>,
    /// Modules in separate files that are compiled only for tests.
    for_tests: Vec<ModulePath>,
}

pub fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = attribute.meta.to_token_stream().to_string();
        text.starts_with("cfg") && text.contains("test") && !text.contains("not (test")
    })
}

pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name_of(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Macro(item) => item.ident.as_ref()?.to_string(),
        Item::Mod(item) if item.content.is_some() => item.ident.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        Item::Union(item) => item.ident.to_string(),
        _ => return None,
    })
}

/// A written path, resolved from the crate's root; none for paths that begin elsewhere. `here` is the module of the
/// path.
fn from_root(written: &[String], here: &[String]) -> Option<ModulePath> {
    let mut path = match written.first()?.as_str() {
        "crate" => Vec::new(),
        "self" => here.to_vec(),
        "super" => here.split_last()?.1.to_vec(),
        _ => return None,
    };
    for name in &written[1..] {
        match name.as_str() {
            "self" => {}
            "super" => drop(path.pop()),
            _ => path.push(name.clone()),
        }
    }
    Some(path)
}

/// All names that a `use` imports, each with its written path.
fn leaves(tree: &UseTree, before: &[String], found: &mut Vec<(String, ModulePath)>) {
    let path = |name: &dyn ToString| [before, &[name.to_string()]].concat();
    match tree {
        UseTree::Path(tree) => leaves(&tree.tree, &path(&tree.ident), found),
        UseTree::Name(tree) if tree.ident == "self" => {
            found.push((before.last().cloned().unwrap_or_default(), before.to_vec()));
        }
        UseTree::Name(tree) => found.push((tree.ident.to_string(), path(&tree.ident))),
        UseTree::Rename(tree) => found.push((tree.rename.to_string(), path(&tree.ident))),
        UseTree::Glob(_) => found.push(("*".to_owned(), before.to_vec())),
        UseTree::Group(tree) => tree.items.iter().for_each(|tree| leaves(tree, before, found)),
    }
}

/// Code without the texts in it, documentation among them.
pub fn without_texts(code: &str) -> String {
    let (mut left, mut rest) = (String::new(), code.replace("'\"'", ""));
    while let Some(start) = rest.find('"') {
        let before = &rest[..start];
        let hashes = before.len() - before.trim_end_matches('#').len();
        let is_raw = before.trim_end_matches('#').ends_with('r');
        left.push_str(before);
        let text = &rest[start + 1..];
        let end = if is_raw {
            text.find(&format!("\"{}", "#".repeat(hashes))).unwrap()
        } else {
            let mut is_escaped = false;
            let is_end = |c: char| {
                let is_end = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                is_end
            };
            text.find(is_end).unwrap()
        };
        rest = text[end + 1..].to_owned();
    }
    left + &rest
}

/// The paths of two names or more in code.
fn paths(code: &str) -> Vec<ModulePath> {
    // A path in `pub(in crate::…)` names the modules that may see an item, and not a module that this one needs.
    let code = without_texts(code).replace("::", " :: ");
    let words: String = code
        .split("pub (in ")
        .enumerate()
        .map(|(at, part)| if at == 0 { part } else { part.split_once(')').map_or(part, |(_, rest)| rest) })
        .collect();
    let words =
        words.replace(|c: char| !(c.is_alphanumeric() || c.is_whitespace() || "_:".contains(c)), " ; ");
    let (mut found, mut path, mut joins) = (Vec::new(), Vec::<String>::new(), false);
    for word in words.split_whitespace().chain([";"]) {
        if word == "::" {
            joins = !path.is_empty();
        } else {
            if !joins {
                found.push(std::mem::take(&mut path));
            }
            if word.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                path.push(word.to_owned());
            }
            joins = false;
        }
    }
    found.retain(|path| path.len() > 1);
    found
}

impl Module {
    fn read(text: &str, here: &[String]) -> Self {
        let mut module = Self::default();
        module.add(&syn::parse_file(text).unwrap().items, here, true);
        module
    }

    /// Adds items of the module `here`: the file's own, or one inside it.
    fn add(&mut self, items: &[Item], here: &[String], is_file: bool) {
        for item in items {
            let for_tests = is_for_tests(attributes(item));
            match item {
                Item::Mod(inner) if inner.content.is_none() => {
                    if for_tests {
                        self.for_tests.push([here, &[inner.ident.to_string()]].concat());
                    }
                }
                _ if for_tests => {}
                Item::Mod(inner) => {
                    let (_, items) = inner.content.as_ref().unwrap();
                    self.add(items, &[here, &[inner.ident.to_string()]].concat(), false);
                }
                Item::Use(import) => {
                    let mut found = Vec::new();
                    leaves(&import.tree, &[], &mut found);
                    let is_public = !matches!(import.vis, Visibility::Inherited);
                    for (name, written) in found {
                        if let Some(path) = from_root(&written, here) {
                            self.imports.push((name, path, is_public));
                        } else if is_file {
                            // `mod store; pub use store::Store;` names a module inside this one, or another crate.
                            self.imports.push((name, [here, &written].concat(), is_public));
                        }
                    }
                }
                other => {
                    for written in paths(&other.to_token_stream().to_string()) {
                        let path = from_root(&written, here).or_else(|| {
                            // A function and a module may share a name, so the import of the module counts as well.
                            let named = self.imports.iter().filter(|(name, ..)| *name == written[0]);
                            let imported = named.min_by_key(|(.., is_public)| *is_public);
                            let start = imported
                                .map_or_else(|| [here, &written[..1]].concat(), |(_, path, _)| path.clone());
                            Some([&start, &written[1..]].concat())
                        });
                        self.named.extend(path);
                    }
                }
            }
            self.items.extend(name_of(item).filter(|_| is_file));
        }
    }
}

/// The module that has the item which `path` leads to, through re-exports; none outside the crate.
fn owner(modules: &BTreeMap<ModulePath, Module>, path: &[String], steps: usize) -> Option<ModulePath> {
    let len = (1..=path.len()).rev().find(|len| modules.contains_key(&path[..*len]))?;
    let (module, rest) = (&path[..len], &path[len..]);
    let Some((name, rest)) = rest.split_first() else { return Some(module.to_vec()) };
    let found = &modules[module];
    let imported = found.imports.iter().find(|(imported, ..)| imported == name);
    match imported {
        Some((_, import, _)) if steps > 0 && !found.items.contains(name) => {
            owner(modules, &[import, rest].concat(), steps - 1)
        }
        _ => Some(module.to_vec()),
    }
}

/// The modules that each module imports.
fn graph(files: &[(ModulePath, String)]) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let mut modules: BTreeMap<ModulePath, Module> =
        files.iter().map(|(path, text)| (path.clone(), Module::read(text, path))).collect();
    let for_tests: Vec<ModulePath> =
        modules.values().flat_map(|module| module.for_tests.iter().cloned()).collect();
    let is_for_tests = |path: &ModulePath| for_tests.iter().any(|tests| path.starts_with(tests));
    modules.retain(|path, _| !is_for_tests(path));
    let imported = |path: &ModulePath, module: &Module| {
        let used = module.imports.iter().filter_map(|(name, import, is_public)| {
            let of = owner(&modules, import, 8).filter(|_| !is_for_tests(import))?;
            (!(*is_public && of.starts_with(path)) && name != "_").then_some(of)
        });
        let named = module
            .named
            .iter()
            .filter(|named| !is_for_tests(named))
            .filter_map(|named| owner(&modules, named, 8));
        used.chain(named).filter(|of| of != path).collect()
    };
    modules.iter().map(|(path, module)| (path.clone(), imported(path, module))).collect()
}

/// Every module that a module imports, directly or through others.
fn reached(graph: &BTreeMap<ModulePath, BTreeSet<ModulePath>>, start: &ModulePath) -> BTreeSet<ModulePath> {
    let (mut found, mut ahead) = (BTreeSet::new(), vec![start]);
    while let Some(next) = ahead.pop() {
        for import in graph.get(next).into_iter().flatten() {
            if found.insert(import.clone()) {
                ahead.push(import);
            }
        }
    }
    found
}

/// The modules on rings, each with its imports on the same ring.
fn rings(graph: &BTreeMap<ModulePath, BTreeSet<ModulePath>>) -> Vec<String> {
    let all: BTreeMap<_, _> = graph.keys().map(|module| (module, reached(graph, module))).collect();
    let mut lines = Vec::new();
    for (module, imports) in graph {
        let on_ring = imports.iter().filter(|import| all.get(import).is_some_and(|of| of.contains(module)));
        let on_ring: Vec<String> = on_ring.map(|import| import.join("::")).collect();
        if !on_ring.is_empty() {
            lines.push(format!("{} imports {}", module.join("::"), on_ring.join(", ")));
        }
    }
    lines
}

fn files(given: &[(&str, &str)]) -> Vec<(ModulePath, String)> {
    given
        .iter()
        .map(|(path, text)| (path.split("::").map(str::to_owned).collect(), (*text).to_owned()))
        .collect()
}

/// The canary: every way to name a module is found in a ring, and imports without a ring are not reported.
#[test]
fn a_ring_is_found_however_its_modules_are_named() {
    let parent = ("log", "mod read; mod write; pub use read::Reader;");
    for (read, write) in [
        ("use super::write::Writer; pub struct Reader;", "use super::read::Reader; pub struct Writer;"),
        ("use super::write::Writer; pub struct Reader;", "use super::Reader; pub struct Writer;"),
        ("use super::write; pub struct Reader; fn f() { write::g() }", "pub fn g() -> crate::log::Reader {}"),
        ("mod inner { use super::super::write::W; } pub struct Reader;", "fn f() { super::read::Reader; }"),
    ] {
        let found = rings(&graph(&files(&[parent, ("log::read", read), ("log::write", write)])));
        assert_eq!(found.len(), 2, "{read} {write} {found:?}");
    }
    for (read, write) in [
        ("pub struct Reader;", "use super::Reader;"),
        ("#[cfg(test)] mod t { use super::super::write::W; } pub struct Reader;", "use super::Reader;"),
        ("#[cfg(not(test))] pub struct Reader;", "use crate::log::Reader as R; use std::fs;"),
    ] {
        let found = rings(&graph(&files(&[parent, ("log::read", read), ("log::write", write)])));
        assert!(found.is_empty(), "{read} {write} {found:?}");
    }
    let parent = ("log", "mod read; fn f() { read::g() } pub const C: u8 = 1;");
    let found = rings(&graph(&files(&[parent, ("log::read", "use super::C;")])));
    assert_eq!(found, ["log imports log::read", "log::read imports log"]);
}

#[test]
fn modules_import_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let files: Vec<(ModulePath, String)> = found
        .iter()
        .map(|file| (module_of(&root, file), fs::read_to_string(file).unwrap()))
        .filter(|(path, _)| !["lib", "main"].contains(&path[0].as_str()))
        .collect();
    let found = rings(&graph(&files));
    assert!(found.is_empty(), "modules that import each other:\n{}", found.join("\n"));
}
