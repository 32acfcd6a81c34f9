//! Compares the public interface with a snapshot in `tests/house/snapshots`, so that every change of it is visible.
//!
//! The interface is read from the sources, with every feature on. After an intended change run
//! `INSTA_UPDATE=always cargo test --test house`, and read the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use quote::ToTokens;
use syn::punctuated::Punctuated;
use syn::{Attribute, Fields, ImplItem, Item, TraitItem, UseTree, Visibility};

/// A module with its sub-modules; tests are left out.
#[derive(Default)]
struct Module {
    is_public: bool,
    items: Vec<Item>,
    children: BTreeMap<String, Module>,
}

impl Module {
    /// `directory` is where the files of its sub-modules are.
    fn read(file: &Path, directory: &Path) -> Self {
        let text =
            std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut module = Self::default();
        for item in parsed.items {
            let Item::Mod(inner) = item else {
                module.items.push(item);
                continue;
            };
            if is_test(&inner.attrs) || inner.content.is_some() {
                continue;
            }
            let name = inner.ident.to_string();
            let beside = directory.join(format!("{name}.rs"));
            let file = if beside.exists() { beside } else { directory.join(&name).join("mod.rs") };
            let mut child = Self::read(&file, &directory.join(&name));
            child.is_public = is_public(&inner.vis) && !is_hidden(&inner.attrs);
            module.children.insert(name, child);
        }
        module
    }

    fn at(&self, path: &[String]) -> Option<&Self> {
        path.iter().try_fold(self, |module, name| module.children.get(name))
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = text(attribute);
        text.starts_with("# [cfg") && (text.contains("test") && !text.contains("feature"))
    })
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| text(attribute) == "# [doc (hidden)]")
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn text(tokens: &impl ToTokens) -> String {
    tokens.to_token_stream().to_string()
}

/// Keeps the attributes that a caller can notice.
fn keep_attributes(attributes: &mut Vec<Attribute>) {
    attributes.retain(|attribute| {
        ["derive", "non_exhaustive", "must_use", "repr"].iter().any(|name| attribute.path().is_ident(name))
    });
}

fn public_fields(fields: &mut Fields) {
    let all = match fields {
        Fields::Named(named) => &mut named.named,
        Fields::Unnamed(unnamed) => &mut unnamed.unnamed,
        Fields::Unit => return,
    };
    let kept: Punctuated<_, _> =
        std::mem::take(all).into_iter().filter(|field| is_public(&field.vis)).collect();
    *all = kept;
    all.iter_mut().for_each(|field| field.attrs.clear());
}

/// The text of the item as a caller sees it, if it is public.
fn signature(item: &Item) -> Option<(String, String)> {
    let mut item = item.clone();
    let (name, shown) = match &mut item {
        Item::Fn(function) if is_public(&function.vis) => {
            (function.sig.ident.to_string(), format!("pub {}", text(&function.sig)))
        }
        Item::Const(constant) if is_public(&constant.vis) => {
            let (name, kind, value) = (&constant.ident, text(&constant.ty), text(&constant.expr));
            (name.to_string(), format!("pub const {name} : {kind} = {value}"))
        }
        Item::Type(alias) if is_public(&alias.vis) => {
            alias.attrs.clear();
            (alias.ident.to_string(), text(alias))
        }
        Item::Struct(given) if is_public(&given.vis) => {
            keep_attributes(&mut given.attrs);
            public_fields(&mut given.fields);
            (given.ident.to_string(), text(given))
        }
        Item::Enum(given) if is_public(&given.vis) => {
            keep_attributes(&mut given.attrs);
            for variant in &mut given.variants {
                keep_attributes(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| field.attrs.clear());
            }
            (given.ident.to_string(), text(given))
        }
        Item::Trait(given) if is_public(&given.vis) => {
            keep_attributes(&mut given.attrs);
            for item in &mut given.items {
                if let TraitItem::Fn(function) = item {
                    function.attrs.clear();
                    if let Some(body) = &mut function.default {
                        body.stmts.clear();
                    }
                }
            }
            (given.ident.to_string(), text(given))
        }
        _ => return None,
    };
    Some((name, shown))
}

struct Interface<'m> {
    root: &'m Module,
    lines: Vec<String>,
    /// Room and name of every exported type.
    types: BTreeSet<(String, String)>,
}

impl Interface<'_> {
    fn export(&mut self, path: &[String]) {
        let module = self.root.at(path).unwrap();
        for item in &module.items {
            if let Item::Use(used) = item {
                if is_public(&used.vis) {
                    self.reexport(path, &mut Vec::new(), &used.tree);
                }
            } else if let Some((name, shown)) = signature(item) {
                self.add(path, &name, &shown);
            }
        }
        for (name, child) in &module.children {
            if child.is_public {
                self.export(&[path, std::slice::from_ref(name)].concat());
            }
        }
    }

    fn add(&mut self, path: &[String], name: &str, shown: &str) {
        self.types.insert((path.first().cloned().unwrap_or_default(), name.to_owned()));
        self.lines.push(format!("{}: {shown}", path.join("::")));
    }

    fn reexport(&mut self, at: &[String], from: &mut Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                from.push(path.ident.to_string());
                self.reexport(at, from, &path.tree);
                from.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.reexport(at, from, tree);
                }
            }
            UseTree::Name(used) => self.resolve(at, from, &used.ident.to_string()),
            UseTree::Rename(used) => {
                self.lines.push(format!("{}: pub use {} as {}", at.join("::"), used.ident, used.rename));
                self.resolve(at, from, &used.ident.to_string());
            }
            UseTree::Glob(_) => panic!("{}: a glob exports whatever comes", at.join("::")),
        }
    }

    fn resolve(&mut self, at: &[String], from: &[String], name: &str) {
        let (base, rest): (Vec<String>, &[String]) = match from.first().map(String::as_str) {
            Some("crate") => (Vec::new(), &from[1..]),
            Some("super") => (at[..at.len() - 1].to_vec(), &from[1..]),
            Some("self") => (at.to_vec(), &from[1..]),
            _ => (at.to_vec(), from),
        };
        let path = [&base, rest].concat();
        let Some(module) = self.root.at(&path) else {
            self.lines.push(format!("{}: pub use {}::{name}", at.join("::"), from.join("::")));
            return;
        };
        if let Some((name, shown)) =
            module.items.iter().filter_map(signature).find(|(found, _)| found == name)
        {
            self.add(at, &name, &shown);
            return;
        }
        // The item is exported from an inner module.
        let inner = module.items.iter().find_map(|item| match item {
            Item::Use(used) => find_use(&used.tree, &mut Vec::new(), name),
            _ => None,
        });
        match inner {
            Some(from) => {
                let mut deeper = Interface { root: self.root, lines: Vec::new(), types: BTreeSet::new() };
                deeper.resolve(&path, &from, name);
                for line in deeper.lines {
                    let shown = line.split_once(": ").unwrap().1.to_owned();
                    self.add(at, name, &shown);
                }
            }
            None => panic!("{}: {name} is not found in {}", at.join("::"), path.join("::")),
        }
    }

    /// The methods and traits of exported types, from anywhere in their module.
    fn implementations(&mut self, module_name: &str, module: &Module) {
        for item in &module.items {
            let Item::Impl(given) = item else { continue };
            let syn::Type::Path(of) = &*given.self_ty else { continue };
            let name = of.path.segments.last().unwrap().ident.to_string();
            if !self.types.contains(&(module_name.to_owned(), name)) {
                continue;
            }
            let (generics, of) = (text(&given.generics), text(&given.self_ty));
            if let Some((_, of_trait, _)) = &given.trait_ {
                self.lines.push(format!("{module_name}: impl {generics} {} for {of}", text(of_trait)));
                continue;
            }
            for item in &given.items {
                match item {
                    ImplItem::Fn(function) if is_public(&function.vis) => {
                        self.lines.push(format!(
                            "{module_name}: impl {generics} {of} : pub {}",
                            text(&function.sig)
                        ));
                    }
                    ImplItem::Const(constant) if is_public(&constant.vis) => {
                        self.lines.push(format!(
                            "{module_name}: impl {generics} {of} : pub const {}",
                            constant.ident
                        ));
                    }
                    _ => {}
                }
            }
        }
        module.children.values().for_each(|child| self.implementations(module_name, child));
    }
}

fn find_use(tree: &UseTree, from: &mut Vec<String>, name: &str) -> Option<Vec<String>> {
    match tree {
        UseTree::Path(path) => {
            from.push(path.ident.to_string());
            let found = find_use(&path.tree, from, name);
            from.pop();
            found
        }
        UseTree::Group(group) => group.items.iter().find_map(|tree| find_use(tree, from, name)),
        UseTree::Name(used) => (used.ident == name).then(|| from.clone()),
        _ => None,
    }
}

/// Removes spaces between tokens that people do not write.
fn tidy(line: &str) -> String {
    let mut line = line.replace(" :: ", "::");
    for (from, to) in [
        (" ,", ","),
        ("& ", "&"),
        (" : ", ": "),
        (" (", "("),
        ("( ", "("),
        (" )", ")"),
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        ("# [", "#["),
        (" ;", ";"),
        (" .. ", ".."),
        ("' ", "'"),
        ("[ ", "["),
        (" ]", "]"),
    ] {
        line = line.replace(from, to);
    }
    line.replace("->", " -> ").replace("  ", " ")
}

#[test]
fn the_public_interface_is_the_one_that_was_agreed_upon() {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let root = Module::read(&source.join("lib.rs"), &source);
    let mut interface = Interface { root: &root, lines: Vec::new(), types: BTreeSet::new() };
    interface.export(&[]);
    for (module_name, module) in &root.children {
        interface.implementations(module_name, module);
    }
    let mut lines: Vec<String> = interface.lines.iter().map(|line| tidy(line)).collect();
    lines.sort();
    lines.dedup();
    assert!(lines.len() > 500, "{} items: something is not read", lines.len());
    insta::assert_snapshot!("public-api", lines.join("\n"));
}
